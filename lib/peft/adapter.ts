/** A LoRA adapter of a model: its parameters, how it enters the forward pass, and its files. */
import { inspect } from 'node:util';
import { LoRAError } from '../errors';
import { isRecord } from '../formats/json';
import type { SafetensorsTensor } from '../formats/safetensors';
import { inSlices, Pace } from '../tensor/pace';
import type { Delta, DeltaKind, DeltaSpec } from '../linear/delta';
import type { AppliedDelta, Linear } from '../linear/linear';
import { deltaKinds } from '../linear/kinds';
import type { NativeGuard } from '../native/binding';
import { binding } from '../native/calls';
import type { Device } from '../native/device';
import { adoptParameter } from '../tensor/create';
import { noGrad, runUntracked } from '../tensor/scope';
import { checkForwards, checkSaved, prepare, restore, type StateDict } from '../tensor/state';
import type { Parameter, Tensor } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOptions, describe } from '../validate';
import { writeAdapterWith } from './adapter_files';
import { adapterTensor, canonicalKeys, checkAdapterTensors, tensorKey } from './adapter_tensors';
import { isAllLinear, toPeftJson, type LoRAConfig } from './config';
import { resolveTargets, unmatchedTargets } from './matching';

const TAG = 'adapter';

export interface AdapterSource {
  name: string;
  config: LoRAConfig;
  /** adapter_config.json as it was read, whose further fields are kept. */
  raw?: Record<string, unknown>;
  /** The name of the base model on the hub, or where it lies; written to adapter_config.json when it says nothing. */
  base: string;
  trainable: boolean;
  seed: number;
  device: Device;
}

const modulePaths = (linears: readonly Linear[]): { path: string; isOutputEmbedding: boolean }[] =>
  linears.map(({ path }) => ({ path, isOutputEmbedding: path === 'lm_head' }));

/** The layers that a configuration changes, and how. Their numbers within the model name random streams and masks. */
function changedLayers(
  config: LoRAConfig,
  linears: readonly Linear[],
): { linear: Linear; kind: DeltaKind; spec: DeltaSpec }[] {
  const targets = resolveTargets(config, modulePaths(linears));
  return linears.flatMap((linear, layer) => {
    const target = targets.get(linear.path);
    if (!target) return [];
    const { r, scale } = target;
    const kind: DeltaKind = deltaKinds[target.kind];
    const why = kind.refuses?.(linear);
    if (why !== undefined)
      throw new LoRAError('ERR_UNSUPPORTED', `[${TAG}] ${linear.path} cannot be trained: ${why}`, {
        op: TAG,
      });
    return [{ linear, kind, spec: { r, scale, stream: 2 * layer, layer } }];
  });
}

const lastPart = (path: string): string => path.slice(path.lastIndexOf('.') + 1);

/**
 * What a LoRA configuration changes in the layers of a model, such as W·x + scale·α/r·A·(B·x). Made by `model.addAdapter` and
 * `model.loadAdapter`.
 *
 * @example
 * const adapter = model.addAdapter({ r: 8 }, { name: 'sql' });
 * adapter.scale = 0.5; // half of its effect
 * await adapter.save('sql-adapter');
 */
export class Adapter {
  /** What calls name it by. */
  readonly name: string;
  /** Its LoRA configuration, complete. */
  readonly config: LoRAConfig;
  /** Whether its parameters get gradients. */
  readonly trainable: boolean;
  /** @internal An own property that cannot be cloned, so that structuredClone fails loudly. */
  readonly handle: NativeGuard = binding().createGuard();
  readonly #deltas = new Map<string, Delta>();
  readonly #source: AdapterSource;
  #scale = 1;
  #rescalings = 0;
  #uses = 0;
  #forwards = 0;
  #disposed = false;

  private constructor(source: AdapterSource) {
    this.#source = source;
    this.name = source.name;
    this.config = source.config;
    this.trainable = source.trainable;
  }

  /** @internal A new adapter, initialised as PEFT's init_lora_weights says; every layer draws from streams of its own. */
  static create(source: AdapterSource, linears: readonly Linear[]): Adapter {
    const adapter = new Adapter(source);
    const { config, seed, device } = source;
    const strangers = unmatchedTargets(config, modulePaths(linears));
    if (strangers.length)
      throw new LoRAError(
        'ERR_ADAPTER',
        `[${TAG}] targetModules ${strangers.join(', ')} match no linear layer of the model; its layers are ${[...new Set(linears.map(({ path }) => lastPart(path)))].join(', ')}`,
        { op: TAG },
      );
    const { initLoraWeights } = config;
    for (const { linear, kind, spec } of changedLayers(config, linears))
      adapter.#add(linear, kind, spec, () => kind.initial(linear, spec, { seed, device, initLoraWeights }));
    return adapter;
  }

  /**
   * @internal An adapter out of a file's tensors.
   * @throws ERR_ADAPTER that lists missing and unexpected tensors, wrong shapes and non-finite values.
   */
  static async fromTensors(
    source: AdapterSource,
    files: ReadonlyMap<string, SafetensorsTensor>,
    linears: readonly Linear[],
  ): Promise<Adapter> {
    const tensors = canonicalKeys(files);
    const layers = changedLayers(source.config, linears);
    const expected = new Map<string, readonly number[]>();
    for (const { linear, kind, spec } of layers)
      for (const [name, shape] of kind.tensors(linear, spec))
        expected.set(tensorKey(linear.path, name), shape);
    await inSlices(
      checkAdapterTensors(source.name, source.raw?.['base_model_name_or_path'], expected, tensors),
    );
    const adapter = new Adapter(source);
    const pace = new Pace();
    const values = new Map<string, Tensor>();
    try {
      for (const { linear, kind, spec } of layers) {
        for (const name of kind.tensors(linear, spec).keys()) {
          const stored = tensors.get(tensorKey(linear.path, name))!;
          values.set(name, await runUntracked(() => adapterTensor(stored, source.device)));
        }
        adapter.#add(linear, kind, spec, () => values);
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

  #add({ path }: Linear, kind: DeltaKind, spec: DeltaSpec, make: () => ReadonlyMap<string, Tensor>): void {
    const values = runUntracked(() => noGrad(make));
    const parameters = new Map<string, Parameter>();
    for (const [name, value] of values) {
      const parameter = adoptParameter(value, tensorKey(path, name));
      parameter.requiresGrad = this.trainable;
      parameters.set(name, parameter);
    }
    this.#deltas.set(path, kind.make(spec, parameters));
  }

  /** Trainable or not, its tensors in the order of adapter_model.safetensors; `.name` is the key there. */
  parameters(): Parameter[] {
    this.#checkAlive();
    const all = [...this.#deltas.values()].flatMap(({ parameters }) => [...parameters.values()]);
    return all.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** A factor on the α/r of every layer; 1 at first. It is not part of what save() writes. */
  get scale(): number {
    return this.#scale;
  }
  set scale(value: number) {
    checkNumber(TAG, 'scale', value);
    if (value === this.#scale) return;
    this.#scale = value;
    this.#rescalings++;
  }

  /** Paths of the layers it changes. */
  get targets(): string[] {
    return [...this.#deltas.keys()];
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
    const p = this.config.loraDropout;
    if (forward === undefined || p === 0) return { delta, use: { scale } };
    return { delta, use: { scale, dropout: { p, seed: this.#source.seed, forward } } };
  }

  /** @internal The number of the next forward pass with dropout. */
  nextForward(): number {
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
    const parameters = this.parameters();
    const known = new Set(parameters.map(({ name }) => name));
    check(
      isRecord(tensors),
      TAG,
      () => `expected tensors of the state to be an object but received ${describe(tensors)}`,
    );
    const saved: Record<string, unknown> = tensors;
    for (const name of Object.keys(saved))
      check(
        known.has(name),
        TAG,
        () => `the state has the tensor ${describe(name)}, which the adapter has not`,
      );
    for (const p of parameters) checkSaved(TAG, p.name, p, saved[p.name]);
    return () => {
      for (const p of parameters) {
        restore(TAG, p.name, p, saved[p.name]);
        p.version++;
      }
      this.#forwards = forwards;
      this.#source.seed = seed;
    };
  }

  /** @internal Counts the changes of its parameters since it was made. */
  get version(): number {
    let version = 0;
    for (const { parameters } of this.#deltas.values())
      for (const parameter of parameters.values()) version += parameter.version;
    return version;
  }

  /** @internal Counts the changes of what it computes, by its parameters or its scale; one that is taken back is another one. */
  get revision(): number {
    return this.version + this.#rescalings;
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
    const { config, raw, base } = this.#source;
    // PEFT stores the names that a shorthand stood for.
    const names = isAllLinear(config.targetModules)
      ? [...new Set(this.targets.map(lastPart))].sort()
      : config.targetModules;
    const json = toPeftJson({ ...config, targetModules: names }, raw);
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
    this.#disposed = true;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  /** A short description for logs. */
  toJSON(): object {
    return { name: this.name, r: this.config.r, trainable: this.trainable, layers: this.#deltas.size };
  }

  toString(): string {
    const state = this.#disposed ? ', removed' : this.trainable ? ', trainable' : '';
    return `Adapter('${this.name}', r ${this.config.r}, ${this.#deltas.size} layers${state})`;
  }

  [inspect.custom](): string {
    return this.toString();
  }
}
