/** A LoRA adapter of a model: its parameters, how it enters the forward pass, and its files. */
import { inspect } from 'node:util';
import type { NativeGuard } from '../native/binding';
import { binding } from '../native/calls';
import { adoptParameter, filled } from '../tensor/create';
import type { Device } from '../native/device';
import { LoRAError } from '../errors';
import type { SafetensorsTensor } from '../formats/safetensors';
import { isAllLinear, toPeftJson, type LoRAConfig } from './config';
import { writeAdapter } from './adapter_files';
import { resolveTargets, unmatchedTargets } from './matching';
import { randomNormal, randomUniform, type LoraBranch } from '../ops';
import { noGrad, runUntracked } from '../tensor/scope';
import { checkSaved, restore, type StateDict } from '../tensor/state';
import type { Parameter, Tensor } from '../tensor/tensor';
import { adapterTensor, checkAdapterTensors, downKey, upKey } from './adapter_tensors';
import { checkInteger, checkNumber, checkOptions } from '../validate';
import type { FrozenLinear } from '../models/weights';

/** The LoRA pair of one linear layer: y += scale·up·(down·x). */
interface AdapterModule {
  readonly up: Parameter;
  readonly down: Parameter;
  /** α/r of this layer. */
  readonly scale: number;
  /** Number of the layer within the model: names its random streams. */
  readonly index: number;
}

const TAG = 'adapter';

export interface AdapterSource {
  name: string;
  config: LoRAConfig;
  /** adapter_config.json as it was read, whose further fields are kept. */
  raw?: Record<string, unknown>;
  /** Where the base model lies; written to adapter_config.json when it says nothing. */
  base: string;
  trainable: boolean;
  seed: number;
  device: Device;
}

const modulePaths = (linears: readonly FrozenLinear[]): { path: string; isOutputEmbedding: boolean }[] =>
  linears.map(({ path }) => ({ path, isOutputEmbedding: path === 'lm_head' }));

const lastPart = (path: string): string => path.slice(path.lastIndexOf('.') + 1);

/**
 * The pair of factors per layer that a LoRA configuration adds to a model: W·x + scale·α/r·A·(B·x). Made by
 * `model.addAdapter` and `model.loadAdapter`.
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
  readonly #modules = new Map<string, AdapterModule>();
  readonly #source: AdapterSource;
  #scale = 1;
  #uses = 0;
  #forwards = 0;
  #disposed = false;

  private constructor(source: AdapterSource) {
    this.#source = source;
    this.name = source.name;
    this.config = source.config;
    this.trainable = source.trainable;
  }

  /** @internal A new adapter, initialised as PEFT's init_lora_weights says; every layer draws from a stream of its own. */
  static create(source: AdapterSource, linears: readonly FrozenLinear[]): Adapter {
    const adapter = new Adapter(source);
    const { config, seed, device } = source;
    const strangers = unmatchedTargets(config, modulePaths(linears));
    if (strangers.length)
      throw new LoRAError(
        'ERR_ADAPTER',
        `[${TAG}] targetModules ${strangers.join(', ')} match no linear layer of the model; its layers are ${[...new Set(linears.map(({ path }) => lastPart(path)))].join(', ')}`,
        { op: TAG },
      );
    adapter.#build(linears, (linear, index, r) => {
      const bound = 1 / Math.sqrt(linear.inFeatures); // Kaiming uniform with a = √5
      const draw = (shape: [number, number], stream: number, lim: number): Tensor =>
        randomUniform(shape, { seed, stream, lo: -lim, hi: lim, device });
      const down =
        config.initLoraWeights === 'gaussian'
          ? randomNormal([r, linear.inFeatures], { seed, stream: 2 * index, mean: 0, std: 1 / r, device })
          : draw([r, linear.inFeatures], 2 * index, bound);
      const up =
        config.initLoraWeights === false
          ? draw([linear.outFeatures, r], 2 * index + 1, 1 / Math.sqrt(r))
          : filled([linear.outFeatures, r], 0, 'f32', device);
      return { up, down };
    });
    return adapter;
  }

  /**
   * @internal An adapter out of a file's tensors.
   * @throws ERR_ADAPTER that lists missing and unexpected tensors, wrong shapes and non-finite values.
   */
  static fromTensors(
    source: AdapterSource,
    tensors: ReadonlyMap<string, SafetensorsTensor>,
    linears: readonly FrozenLinear[],
  ): Adapter {
    const adapter = new Adapter(source);
    const targets = resolveTargets(source.config, modulePaths(linears));
    const expected = new Map<string, [number, number]>();
    for (const linear of linears) {
      const target = targets.get(linear.path);
      if (!target) continue;
      expected.set(downKey(linear.path), [target.r, linear.inFeatures]);
      expected.set(upKey(linear.path), [linear.outFeatures, target.r]);
    }
    checkAdapterTensors(source.name, expected, tensors);
    adapter.#build(linears, (linear) => ({
      up: adapterTensor(tensors.get(upKey(linear.path))!, source.device),
      down: adapterTensor(tensors.get(downKey(linear.path))!, source.device),
    }));
    return adapter;
  }

  #build(
    linears: readonly FrozenLinear[],
    make: (linear: FrozenLinear, index: number, r: number) => { up: Tensor; down: Tensor },
  ): void {
    const targets = resolveTargets(this.config, modulePaths(linears));
    runUntracked(() =>
      noGrad(() => {
        for (const [index, linear] of linears.entries()) {
          const target = targets.get(linear.path);
          if (!target) continue;
          const { up, down } = make(linear, index, target.r);
          this.#modules.set(linear.path, {
            up: this.#parameter(up, upKey(linear.path)),
            down: this.#parameter(down, downKey(linear.path)),
            scale: target.scale,
            index,
          });
        }
      }),
    );
  }

  #parameter(x: Tensor, name: string): Parameter {
    const p = adoptParameter(x, name);
    p.requiresGrad = this.trainable;
    return p;
  }

  /** Trainable or not, its tensors in the order of adapter_model.safetensors; `.name` is the key there. */
  parameters(): Parameter[] {
    this.#checkAlive();
    const all = [...this.#modules.values()].flatMap(({ up, down }) => [up, down]);
    return all.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** A factor on the α/r of every layer; 1 at first. It is not part of what save() writes. */
  get scale(): number {
    return this.#scale;
  }
  set scale(value: number) {
    checkNumber(TAG, 'scale', value);
    this.#scale = value;
  }

  /** Paths of the layers it changes. */
  get targets(): string[] {
    return [...this.#modules.keys()];
  }

  /** Its pair on one layer with its effective scale, or undefined where it has none. */
  pair(path: string): { up: Parameter; down: Parameter; scale: number } | undefined {
    this.#checkAlive();
    const module = this.#modules.get(path);
    return module && { up: module.up, down: module.down, scale: module.scale * this.scale };
  }

  /** @internal What it adds to a layer's call. `forward`: the number that its dropout mask is drawn with. */
  branch(path: string, forward?: number): Partial<LoraBranch> {
    const pair = this.pair(path);
    if (!pair) return {};
    const p = this.config.loraDropout;
    if (forward === undefined || p === 0) return pair;
    const layer = this.#modules.get(path)!.index;
    return { ...pair, dropout: { p, seed: this.#source.seed, layer, forward } };
  }

  /** @internal The number of the next forward pass with dropout. */
  nextForward(): number {
    const next = this.#forwards;
    this.#forwards = (next + 1) % 2 ** 32;
    return next;
  }

  /** Parameters, the count of forward passes with dropout and the seed of its masks: what training continues from. */
  stateDict(): StateDict {
    const tensors = Object.fromEntries(this.parameters().map((p) => [p.name, p.detach()]));
    return { tensors, forwards: this.#forwards, seed: this.#source.seed };
  }

  /** Takes what stateDict() gave, bit for bit. @throws ERR_ARGUMENT when names or shapes differ. */
  loadStateDict(state: StateDict): void {
    checkOptions(TAG, state, ['tensors', 'forwards', 'seed']);
    const { tensors, forwards, seed } = state;
    checkInteger(TAG, 'forwards of the state', forwards);
    checkInteger(TAG, 'seed of the state', seed);
    const parameters = this.parameters();
    const saved = (tensors ?? {}) as Record<string, unknown>;
    for (const p of parameters) checkSaved(TAG, p.name, p.shape, saved[p.name]);
    for (const p of parameters) {
      restore(TAG, p.name, p, saved[p.name]);
      p.version++;
    }
    this.#forwards = forwards;
    this.#source.seed = seed;
  }

  /** Whether an optimizer has changed it since it was made. */
  get trained(): boolean {
    return [...this.#modules.values()].some(({ up, down }) => up.version > 0 || down.version > 0);
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
   * Writes adapter_config.json and adapter_model.safetensors into `dir`, as PEFT does; they appear whole or not at all.
   *
   * @throws ERR_FILE when writing fails, ERR_DISPOSED for an adapter that was removed.
   * @example
   * await adapter.save('my-adapter');
   */
  async save(dir: string): Promise<void> {
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
      await writeAdapter(dir, { config: json, tensors: new Map(tensors) });
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
    for (const { up, down } of this.#modules.values()) {
      up.dispose();
      down.dispose();
    }
    this.#modules.clear();
    this.#disposed = true;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  /** A short description for logs. */
  toJSON(): object {
    return { name: this.name, r: this.config.r, trainable: this.trainable, layers: this.#modules.size };
  }

  toString(): string {
    const state = this.#disposed ? ', removed' : this.trainable ? ', trainable' : '';
    return `Adapter('${this.name}', r ${this.config.r}, ${this.#modules.size} layers${state})`;
  }

  [inspect.custom](): string {
    return this.toString();
  }
}
