/** An adapter of a model: its parameters, how it enters the forward pass, and its files. */
import { inspect } from 'node:util';
import { loraError } from '../errors';
import type { SafetensorsTensor } from '../formats/safetensors';
import type { Delta } from '../linear/delta';
import type { AppliedDelta } from '../linear/linear';
import type { NativeGuard } from '../native/binding';
import { binding } from '../native/calls';
import { checkForwards, prepare, prepareParameters, type StateDict } from '../tensor/state';
import type { Parameter } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOptions, describe, isRecord } from '../validate';
import { writeAdapterWith } from './adapter_files';
import { initialParts, storedParts, type AdapterParts, type AdapterSource } from './adapter_parts';
import { jsonOfConfig } from './config_values';
import type { AdaptedBase, AdapterMethod } from './method';
import { methodOf, type AdapterConfig, type AdapterConfigs, type AdapterMethodName } from './methods';

const TAG = 'adapter';

/** What reports say of it. */
interface AdapterFacts {
  readonly title: string;
  readonly loadedByPeft: boolean;
  readonly settings: readonly (readonly [name: string, value: string])[];
}

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
  readonly #parts: AdapterParts;
  readonly #source: AdapterSource;
  readonly #method: AdapterMethod<AdapterConfig>;
  #scale = 1;
  #rescalings = 0;
  #uses = 0;
  #forwards = 0;
  #disposed = false;

  private constructor(source: AdapterSource, parts: AdapterParts) {
    this.#source = source;
    this.#parts = parts;
    this.#method = methodOf(source.method);
    this.name = source.name;
    this.method = source.method as Name;
    this.config = source.config as AdapterConfigs[Name];
    this.trainable = source.trainable;
  }

  /** @internal A new adapter, initialized as PEFT's init_lora_weights says; every layer draws from streams of its own. */
  static create(source: AdapterSource, base: AdaptedBase): Adapter {
    return new Adapter(source, initialParts(source, base));
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
    return new Adapter(source, await storedParts(source, files, base));
  }

  /** Trainable or not, its tensors in the order of adapter_model.safetensors; `.name` is the key there. */
  parameters(): Parameter[] {
    this.#checkAlive();
    return this.#parts.parameters.sort((a, b) => (a.name < b.name ? -1 : 1));
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
    this.#refuse('cannot be scaled', this.#method.scalingObstacle, TAG);
    this.#scale = value;
    this.#rescalings++;
  }

  /** Paths of the layers it changes. */
  get targets(): string[] {
    return [...this.#parts.deltas.keys()];
  }

  /** How many vectors it puts before the tokens of every text: they take as many positions of the model's context. */
  get virtualTokens(): number {
    return this.#parts.vectors?.shape[0] ?? 0;
  }

  /** @internal These vectors [n, hidden]; undefined: none. */
  get vectors(): Parameter | undefined {
    this.#checkAlive();
    return this.#parts.vectors;
  }

  /** @internal Whether it changes any layer. */
  get changesLayers(): boolean {
    return this.#parts.deltas.size > 0;
  }

  /** @internal Whether it changes the matrices of experts. */
  get changesExperts(): boolean {
    return [...this.#parts.deltas.values()].some((delta) => 'changes' in delta);
  }

  /** @internal What it changes in a layer, or undefined. */
  delta(path: string): Delta | undefined {
    this.#checkAlive();
    return this.#parts.deltas.get(path);
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
    return this.#parts.parameters.reduce((sum, parameter) => sum + parameter.version, 0);
  }

  /** @internal Counts the changes of what it computes, by its parameters or its scale; one that is taken back is another one. */
  get revision(): number {
    return this.version + this.#rescalings;
  }

  /** Whether it can become part of the weights: bottleneck adapters and prompt tuning cannot. */
  get mergeable(): boolean {
    return this.#method.mergingObstacle === undefined;
  }

  /** @internal Its method in the words of reports, and its settings. */
  get facts(): AdapterFacts {
    const { title, loadedByPeft } = this.#method;
    return { title, loadedByPeft, settings: this.#method.facts(this.config) };
  }

  /** @internal @throws ERR_UNSUPPORTED where it cannot become part of the weights. */
  checkMergeable(op: string): void {
    this.#refuse('cannot be merged', this.#method.mergingObstacle, op);
  }

  #refuse(what: string, why: string | undefined, op: string): void {
    if (why !== undefined) throw loraError(op, 'ERR_UNSUPPORTED', `adapter '${this.name}' ${what}: ${why}`);
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
    const { config, raw = {}, base, head } = this.#source;
    const json = jsonOfConfig(this.#method.file, this.#method.written(config, this.targets, base), raw);
    if ('fan_in_fan_out' in json) json['fan_in_fan_out'] = this.#parts.fanInFanOut;
    json['base_model_name_or_path'] ??= base;
    if ((raw['task_type'] ?? null) === null) json['task_type'] = head ? 'SEQ_CLS' : 'CAUSAL_LM';
    const release = this.acquire();
    try {
      // Every read is queued before the first await: training that goes on does not tear the file.
      const tensors = await Promise.all(
        this.parameters().map(async (p): Promise<[string, SafetensorsTensor]> => {
          return [p.name, { dtype: 'F32', shape: [...p.shape], bytes: await p.bytes() }];
        }),
      );
      await writeAdapterWith(dir, { config: json, tensors: new Map(tensors), head }, more);
    } finally {
      release();
    }
  }

  /** Whether it was removed from its model. */
  get disposed(): boolean {
    return this.#disposed;
  }
  #checkAlive(): void {
    if (this.#disposed) throw loraError(TAG, 'ERR_DISPOSED', `adapter '${this.name}' was removed`);
  }
  /** @internal Frees it: programs call model.removeAdapter(). */
  dispose(): void {
    if (this.#disposed) return;
    this.#parts.dispose();
    this.#disposed = true;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  /** A short description for logs. */
  toJSON(): object {
    const size = this.#method.size(this.config);
    return { name: this.name, ...size, trainable: this.trainable, layers: this.#parts.deltas.size };
  }

  toString(): string {
    const size = Object.entries(this.#method.size(this.config)).map((entry) => entry.join(' '));
    const layers = this.#parts.vectors ? [] : [`${this.#parts.deltas.size} layers`];
    const state = this.#disposed ? ['removed'] : this.trainable ? ['trainable'] : [];
    return `Adapter('${this.name}', ${[...size, ...layers, ...state].join(', ')})`;
  }

  [inspect.custom](): string {
    return this.toString();
  }
}
