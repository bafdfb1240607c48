/** An adapter of a model: its parameters, how it enters the forward pass, and its files. */
import { inspect } from 'node:util';
import { LoRAError } from '../errors';
import type { SafetensorsTensor } from '../formats/safetensors';
import { inSlices, Pace } from '../tensor/pace';
import type { Delta } from '../linear/delta';
import type { AppliedDelta } from '../linear/linear';
import type { NativeGuard } from '../native/binding';
import { binding } from '../native/calls';
import type { Device } from '../native/device';
import { adoptParameter } from '../tensor/create';
import { noGrad, runUntracked } from '../tensor/scope';
import { checkForwards, prepare, prepareParameters, type StateDict } from '../tensor/state';
import type { Parameter, Tensor } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOptions, describe, isRecord } from '../validate';
import { writeAdapterWith } from './adapter_files';
import { adapterTensor, checkAdapterTensors } from './adapter_tensors';
import { jsonOfConfig } from './config_values';
import type { AdaptedBase, AdapterMethod, PlannedDelta } from './method';
import {
  methodOf,
  type AdapterConfig,
  type AdapterConfigs,
  type AdapterMethodName,
  type MethodChoice,
} from './methods';

const TAG = 'adapter';

/** What it is made of; `raw`: adapter_config.json as it was read, whose further fields are kept. */
export interface AdapterSource extends MethodChoice {
  name: string;
  /** The name of the base model on the hub, or where it lies; written to adapter_config.json when it says nothing. */
  base: string;
  trainable: boolean;
  seed: number;
  device: Device;
}

/** What reports say of it. */
interface AdapterFacts {
  readonly title: string;
  readonly loadedByPeft: boolean;
  readonly settings: readonly (readonly [name: string, value: string])[];
}

/** The key of a delta's tensor in adapter_model.safetensors. */
const tensorKey = ({ prefix, kind }: PlannedDelta, name: string): string => `${prefix}.${kind.names[name]!}`;

/**
 * What a configuration changes in the layers of a model, such as W·x + scale·(α/r)·up·(down·x). Made by `model.addAdapter` and
 * `model.loadAdapter`.
 *
 * @example
 * const adapter = model.addAdapter({ r: 8 }, { name: 'sql' });
 * adapter.scale = 0.5; // half of its effect
 * await adapter.save('sql-adapter');
 */
export class Adapter<Name extends AdapterMethodName = AdapterMethodName> {
  /** What calls name it by. */
  readonly name: string;
  /** How it adapts the model: 'lora' (DoRA included), 'ia3', 'bottleneck' or 'prompt'. */
  readonly method: Name;
  /** Its configuration, complete. */
  readonly config: AdapterConfigs[Name];
  /** Whether its parameters get gradients. */
  readonly trainable: boolean;
  /** @internal An own property that cannot be cloned, so that structuredClone fails loudly. */
  readonly handle: NativeGuard = binding().createGuard();
  readonly #deltas = new Map<string, Delta>();
  #vectors: Parameter | undefined;
  readonly #source: AdapterSource;
  readonly #method: AdapterMethod<AdapterConfig>;
  #scale = 1;
  #rescalings = 0;
  #uses = 0;
  #forwards = 0;
  #disposed = false;

  private constructor(source: AdapterSource) {
    this.#source = source;
    this.#method = methodOf(source.method);
    this.name = source.name;
    this.method = source.method as Name;
    this.config = source.config as AdapterConfigs[Name];
    this.trainable = source.trainable;
  }

  /** @internal A new adapter, initialized as PEFT's init_lora_weights says; every layer draws from streams of its own. */
  static create(source: AdapterSource, base: AdaptedBase): Adapter {
    const adapter = new Adapter(source);
    const { config, seed, device } = source;
    for (const planned of adapter.#method.plan(config, base.linears, true)) {
      const { linear, kind, spec, initWeights } = planned;
      adapter.#add(planned, () => kind.initial(linear, spec, { seed, device, initWeights }));
    }
    const vectors = adapter.#method.vectors?.(config, base);
    if (vectors) adapter.#vectors = adapter.#parameter(vectors.key, () => vectors.initial({ seed, device }));
    return adapter;
  }

  /**
   * @internal An adapter out of a file's tensors.
   * @throws ERR_ADAPTER that lists missing and unexpected tensors, wrong shapes and non-finite values.
   */
  static async fromTensors(
    source: AdapterSource,
    files: ReadonlyMap<string, SafetensorsTensor>,
    base: AdaptedBase,
  ): Promise<Adapter> {
    const adapter = new Adapter(source);
    const method = adapter.#method;
    const tensors = new Map(
      [...files].map(([key, value]) => [method.canonicalKey?.(key) ?? key, value] as const),
    );
    const plan = method.plan(source.config, base.linears, false);
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
        adapter.#vectors = adapter.#parameter(vectors.key, () => value);
      }
      for (const planned of plan) {
        for (const name of planned.kind.tensors(planned.linear, planned.spec).keys())
          values.set(name, await read(tensorKey(planned, name)));
        adapter.#add(planned, () => values);
        values.clear();
        if (pace.due) await pace.rest();
      }
      return adapter;
    } catch (error) {
      for (const value of values.values()) value.dispose();
      adapter.dispose();
      throw error;
    }
  }

  #add(planned: PlannedDelta, make: () => ReadonlyMap<string, Tensor>): void {
    const values = runUntracked(() => noGrad(make));
    const parameters = new Map<string, Parameter>();
    for (const [name, value] of values)
      parameters.set(
        name,
        this.#parameter(tensorKey(planned, name), () => value),
      );
    this.#deltas.set(planned.linear.path, planned.kind.make(planned.spec, parameters));
  }

  #parameter(key: string, make: () => Tensor): Parameter {
    const parameter = adoptParameter(
      runUntracked(() => noGrad(make)),
      key,
    );
    parameter.requiresGrad = this.trainable;
    return parameter;
  }

  get #parameters(): Parameter[] {
    const deltas = [...this.#deltas.values()].flatMap(({ parameters }) => [...parameters.values()]);
    return this.#vectors ? [this.#vectors, ...deltas] : deltas;
  }

  /** Trainable or not, its tensors in the order of adapter_model.safetensors; `.name` is the key there. */
  parameters(): Parameter[] {
    this.#checkAlive();
    return this.#parameters.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * How strongly the adapter acts, 1 at first. It multiplies α/r in every layer of LoRA, the distance of IA³'s vectors from 1, and what a bottleneck
   * adapter adds; prompt tuning allows no other value than 1 (ERR_UNSUPPORTED). save() does not write it.
   */
  get scale(): number {
    return this.#scale;
  }
  set scale(value: number) {
    checkNumber(TAG, 'scale', value);
    if (value === this.#scale) return;
    this.#refuse('cannot be scaled', this.#method.notScalable, TAG);
    this.#scale = value;
    this.#rescalings++;
  }

  /** Paths of the layers it changes. */
  get targets(): string[] {
    return [...this.#deltas.keys()];
  }

  /** How many vectors it puts before the tokens of every text: they take as many positions of the model's context. */
  get virtualTokens(): number {
    return this.#vectors?.shape[0] ?? 0;
  }

  /** @internal These vectors [n, hidden]; undefined: none. */
  get vectors(): Parameter | undefined {
    this.#checkAlive();
    return this.#vectors;
  }

  /** @internal Whether it changes any layer. */
  get changesLayers(): boolean {
    return this.#deltas.size > 0;
  }

  /** @internal What it changes in a layer, or undefined. */
  delta(path: string): Delta | undefined {
    this.#checkAlive();
    return this.#deltas.get(path);
  }

  /** @internal Its change of a layer in one call. `forward`: the number that its dropout mask is drawn with. */
  applied(path: string, forward?: number): AppliedDelta | undefined {
    const delta = this.delta(path);
    if (!delta) return undefined;
    const { scale } = this;
    if (forward === undefined) return { delta, use: { scale } };
    const p = this.#method.dropout(this.config);
    return { delta, use: { scale, dropout: { p, seed: this.#source.seed, forward } } };
  }

  /** @internal The number of the next forward pass, where `train` asks for dropout and it has some. */
  nextForward(train: boolean): number | undefined {
    if (!train || this.#method.dropout(this.config) === 0) return undefined;
    const next = this.#forwards;
    this.#forwards = (next + 1) % 2 ** 32;
    return next;
  }

  /** @internal Remembers the count of forward passes with dropout; the returned function goes back to it. */
  forwardMark(): () => void {
    const mark = this.#forwards;
    return () => {
      this.#forwards = mark;
    };
  }

  /** Parameters, the count of forward passes with dropout and the seed of its masks: what training continues from. */
  stateDict(): StateDict {
    const tensors = Object.fromEntries(this.parameters().map((p) => [p.name, p.detach()]));
    return { tensors, forwards: this.#forwards, seed: this.#source.seed };
  }

  /** Takes what stateDict() gave, bit for bit. @throws ERR_ARGUMENT when names or shapes differ. */
  loadStateDict(state: StateDict): void {
    this[prepare](state)();
  }

  /** @internal Checks a state, and gives what takes it. */
  [prepare](state: StateDict): () => void {
    checkOptions(TAG, state, ['tensors', 'forwards', 'seed']);
    const { tensors, forwards, seed } = state;
    checkForwards(TAG, forwards);
    checkInteger(TAG, 'seed of the state', seed);
    check(
      isRecord(tensors),
      TAG,
      () => `expected tensors of the state to be an object but received ${describe(tensors)}`,
    );
    const take = prepareParameters(TAG, 'the adapter', this.parameters(), tensors);
    return () => {
      take();
      this.#forwards = forwards;
      this.#source.seed = seed;
    };
  }

  /** @internal Counts the changes of its parameters since it was made. */
  get version(): number {
    return this.#parameters.reduce((sum, parameter) => sum + parameter.version, 0);
  }

  /** @internal Counts the changes of what it computes, by its parameters or its scale; one that is taken back is another one. */
  get revision(): number {
    return this.version + this.#rescalings;
  }

  /** Whether it can become part of the weights: bottleneck adapters and prompt tuning cannot. */
  get mergeable(): boolean {
    return this.#method.notMergeable === undefined;
  }

  /** @internal Its method in the words of reports, and its settings. */
  get facts(): AdapterFacts {
    const { title, loadedByPeft } = this.#method;
    return { title, loadedByPeft, settings: this.#method.facts(this.config) };
  }

  /** @internal @throws ERR_UNSUPPORTED where it cannot become part of the weights. */
  checkMergeable(op: string): void {
    this.#refuse('cannot be merged', this.#method.notMergeable, op);
  }

  #refuse(what: string, why: string | undefined, op: string): void {
    if (why !== undefined)
      throw new LoRAError('ERR_UNSUPPORTED', `[${op}] adapter '${this.name}' ${what}: ${why}`, { op });
  }

  /** Whether an optimizer has changed it since it was made. */
  get trained(): boolean {
    return this.version > 0;
  }

  /** @internal Marks it as used until the returned function is called: it cannot be removed meanwhile. */
  acquire(): () => void {
    this.#checkAlive();
    this.#uses++;
    let held = true;
    return () => {
      if (held) this.#uses--;
      held = false;
    };
  }
  /** Whether a run or a generation uses it. */
  get busy(): boolean {
    return this.#uses > 0;
  }

  /**
   * Writes adapter_config.json and adapter_model.safetensors into `dir`, as PEFT does. Whenever the process ends, the
   * old adapter is there or the new one; other files stay.
   *
   * @throws ERR_FILE when writing fails, ERR_DISPOSED for an adapter that was removed.
   * @example
   * await adapter.save('my-adapter');
   */
  async save(dir: string): Promise<void> {
    await this.saveWith(dir);
  }

  /** @internal The same; `more` puts further files into the folder, which appear together with those of the adapter. */
  async saveWith(dir: string, more?: (folder: string) => Promise<void>): Promise<void> {
    const { config, raw = {}, base } = this.#source;
    const json = jsonOfConfig(this.#method.file, this.#method.written(config, this.targets, base), raw);
    json['base_model_name_or_path'] ??= base;
    json['task_type'] ??= 'CAUSAL_LM';
    const release = this.acquire();
    try {
      // Every read is queued before the first await: training that goes on does not tear the file.
      const tensors = await Promise.all(
        this.parameters().map(async (p): Promise<[string, SafetensorsTensor]> => {
          return [p.name, { dtype: 'F32', shape: [...p.shape], bytes: await p.bytes() }];
        }),
      );
      await writeAdapterWith(dir, { config: json, tensors: new Map(tensors) }, more);
    } finally {
      release();
    }
  }

  /** Whether it was removed from its model. */
  get disposed(): boolean {
    return this.#disposed;
  }
  #checkAlive(): void {
    if (this.#disposed)
      throw new LoRAError('ERR_DISPOSED', `[${TAG}] adapter '${this.name}' was removed`, { op: TAG });
  }
  /** @internal Frees it: programs call model.removeAdapter(). */
  dispose(): void {
    if (this.#disposed) return;
    for (const parameter of this.parameters()) parameter.dispose();
    for (const delta of this.#deltas.values()) delta.dispose?.();
    this.#deltas.clear();
    this.#vectors = undefined;
    this.#disposed = true;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  /** A short description for logs. */
  toJSON(): object {
    const size = this.#method.size(this.config);
    return { name: this.name, ...size, trainable: this.trainable, layers: this.#deltas.size };
  }

  toString(): string {
    const size = Object.entries(this.#method.size(this.config)).map((entry) => entry.join(' '));
    const layers = this.#vectors ? [] : [`${this.#deltas.size} layers`];
    const state = this.#disposed ? ['removed'] : this.trainable ? ['trainable'] : [];
    return `Adapter('${this.name}', ${[...size, ...layers, ...state].join(', ')})`;
  }

  [inspect.custom](): string {
    return this.toString();
  }
}
