/** What an adapter is made of: its trained parameters, initial ones or those of a file. */
import type { SafetensorsTensor } from '../formats/safetensors';
import type { Delta } from '../linear/delta';
import type { Device } from '../native/device';
import { adoptParameter } from '../tensor/create';
import { inSlices, Pace } from '../tensor/pace';
import { noGrad, runUntracked } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import { adapterTensor, checkAdapterTensors } from './adapter_tensors';
import type { ModelHead } from './head';
import { keyInTextModel, type AdaptedBase, type PlannedDelta } from './method';
import { methodOf, type MethodChoice } from './methods';

/** What an adapter follows from; `raw`: adapter_config.json as it was read, whose further fields are kept. */
export interface AdapterSource extends MethodChoice {
  name: string;
  /** The name of the base model on the hub, or where it lies; written to adapter_config.json when it says nothing. */
  base: string;
  /** What the base ends in; absent: the head of a language model. */
  head?: ModelHead | undefined;
  trainable: boolean;
  seed: number;
  device: Device;
}

/** The key of a delta's tensor in adapter_model.safetensors. */
const tensorKey = ({ prefix, kind }: PlannedDelta, name: string): string => `${prefix}.${kind.names[name]!}`;

export class AdapterParts {
  /** By the path of the layer. */
  readonly deltas = new Map<string, Delta>();
  /** The vectors [n, hidden] before the tokens of every text. */
  vectors: Parameter | undefined;
  /** Whether files hold the matrix of a layer that it changes as [in, out]. */
  fanInFanOut = false;

  constructor(private readonly trainable: boolean) {}

  get parameters(): Parameter[] {
    const deltas = [...this.deltas.values()].flatMap(({ parameters }) => [...parameters.values()]);
    return this.vectors ? [this.vectors, ...deltas] : deltas;
  }

  add(planned: PlannedDelta, make: () => ReadonlyMap<string, Tensor>): void {
    const values = runUntracked(() => noGrad(make));
    this.fanInFanOut ||= planned.linear.fanInFanOut;
    const parameters = new Map<string, Parameter>();
    for (const [name, value] of values)
      parameters.set(
        name,
        this.#parameter(tensorKey(planned, name), () => value),
      );
    this.deltas.set(planned.linear.path, planned.kind.make(planned.spec, parameters));
  }

  addVectors(key: string, make: () => Tensor): void {
    this.vectors = this.#parameter(key, make);
  }

  #parameter(key: string, make: () => Tensor): Parameter {
    const parameter = adoptParameter(
      runUntracked(() => noGrad(make)),
      key,
    );
    parameter.requiresGrad = this.trainable;
    return parameter;
  }

  dispose(): void {
    for (const parameter of this.parameters) parameter.dispose();
    for (const delta of this.deltas.values()) delta.dispose?.();
    this.deltas.clear();
    this.vectors = undefined;
  }
}

/** New ones, initialized as PEFT's init_lora_weights says; every layer draws from streams of its own. */
export function initialParts(source: AdapterSource, base: AdaptedBase): AdapterParts {
  const parts = new AdapterParts(source.trainable);
  const method = methodOf(source.method);
  const { config, seed, device } = source;
  for (const planned of method.plan(config, base, true)) {
    const { linear, kind, spec, initWeights } = planned;
    parts.add(planned, () => kind.initial(linear, spec, { seed, device, initWeights }));
  }
  const vectors = method.vectors?.(config, base);
  if (vectors) parts.addVectors(vectors.key, () => vectors.initial({ seed, device }));
  return parts;
}

/**
 * Those of a file's tensors.
 * @throws ERR_ADAPTER that lists missing and unexpected tensors, wrong shapes and non-finite values.
 */
export async function storedParts(
  source: AdapterSource,
  files: ReadonlyMap<string, SafetensorsTensor>,
  base: AdaptedBase,
): Promise<AdapterParts> {
  const parts = new AdapterParts(source.trainable);
  const method = methodOf(source.method);
  const tensors = new Map(
    [...files].map(([name, value]) => {
      const key = keyInTextModel(name);
      return [method.canonicalKey?.(key) ?? key, value];
    }),
  );
  const plan = method.plan(source.config, base, false);
  const vectors = method.vectors?.(source.config, base);
  const expected = new Map<string, readonly number[]>(vectors ? [[vectors.key, vectors.shape]] : []);
  for (const planned of plan)
    for (const [name, shape] of planned.kind.tensors(planned.linear, planned.spec))
      expected.set(tensorKey(planned, name), shape);
  await inSlices(
    checkAdapterTensors(source.name, source.raw?.['base_model_name_or_path'], expected, tensors),
  );
  const pace = new Pace();
  const values = new Map<string, Tensor>();
  const read = (key: string): Promise<Tensor> =>
    runUntracked(() => adapterTensor(tensors.get(key)!, source.device));
  try {
    if (vectors) {
      const value = await read(vectors.key);
      parts.addVectors(vectors.key, () => value);
    }
    for (const planned of plan) {
      for (const name of planned.kind.tensors(planned.linear, planned.spec).keys())
        values.set(name, await read(tensorKey(planned, name)));
      parts.add(planned, () => values);
      values.clear();
      if (pace.due) await pace.rest();
    }
    return parts;
  } catch (error) {
    for (const value of values.values()) value.dispose();
    parts.dispose();
    throw error;
  }
}
