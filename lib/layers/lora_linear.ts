/** A frozen linear layer with a trainable low-rank change. */
import { inspect } from 'node:util';
import { loraError } from '../errors';
import type { ReadLimits } from '../formats/limits';
import { checkF16, deviceName, type Device } from '../native/device';
import { randomUniform } from '../ops/random';
import { adoptParameter, tensor } from '../tensor/create';
import { dtypes, type DType, type FloatDType } from '../native/dtype';
import { FrozenWeight, quantizedFormats, type QuantizedFormat } from '../tensor/frozen_weight';
import { isRecording, temporaries } from '../tensor/scope';
import { checkForwards, checkSaved, prepare, restore, type StateDict } from '../tensor/state';
import { alias, handleOf, Tensor, type Parameter } from '../tensor/tensor';
import {
  check,
  checkBoolean,
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  describe,
  isDropout,
  shapeText,
} from '../validate';
import type { Delta } from '../linear/delta';
import { fingerprint, sameFingerprint } from '../linear/fingerprint';
import { Linear } from '../linear/linear';
import { lora } from '../linear/lora';
import { checkModule, loadPair, savePair } from './lora_files';

const op = 'LoRALinear';
const streams = { weight: 0, bias: 1, lora: 2 };

/** The name of a layer in PEFT's files, where nothing else names it. */
const defaultModule = 'linear';

/** Numbers of a weight: a tensor or a typed array. */
type Values = Tensor | Float32Array | Float64Array | Uint16Array;

/** Sizes, LoRA's settings and the frozen weight of a {@link LoRALinear}. */
export interface LoRALinearOptions {
  /** Length of an input row, `in`. */
  inFeatures: number;
  /** Length of an output row, `out`. */
  outFeatures: number;
  /** The rank of the change; default 16. */
  r?: number | undefined;
  /** α: the change is scaled by α/r. Default 2·r. */
  loraAlpha?: number | undefined;
  /** The probability with which an element of the LoRA path's input is dropped in training; default 0. */
  loraDropout?: number | undefined;
  /** α/√r in place of α/r. */
  useRslora?: boolean | undefined;
  /** W [out, in]; a Uint16Array holds the bits of bf16. Seeded, U(−1/√in, 1/√in), when absent. */
  weight?: Values | undefined;
  /** [out], or false for none. Absent: none for a given weight, seeded with a seeded one. */
  bias?: Values | false | null | undefined;
  /** Of activations and frozen weights; default: that of the weight (f16 → bf16), else f32. */
  dtype?: DType | undefined;
  /** Keeps the frozen weight in 4.5 ('nf4', 'fp4') or 8 ('int8') bits for each value, as `fromPretrained` does. Absent: as it is given. */
  quantize?: QuantizedFormat | undefined;
  /** Default: that of the weight, else 'cpu'. */
  device?: Device | undefined;
  /** Of what is seeded, and of the dropout; default 0. */
  seed?: number | undefined;
}

/** What a pair from a file is added to, for {@link LoRALinear.load}. */
export interface LoadLoRALinearOptions extends Pick<
  LoRALinearOptions,
  'bias' | 'dtype' | 'quantize' | 'device' | 'seed'
> {
  /** W [out, in], which the file does not have; a Uint16Array holds the bits of bf16. */
  weight: Values;
  /** The name of the layer in the file; default: the only one that it has. */
  module?: string | undefined;
  /** Bounds on what the file may ask for. */
  limits?: ReadLimits | undefined;
}

/**
 * y = W·x + bias + (α/r)·up·(down·x) with W frozen. up [out, r] starts at zero, down [r, in] at U(−1/√in, 1/√in), both f32.
 * Where the formula is written W + (α/r)·A·B, up is its A, which is PEFT's lora_B, and down is its B, PEFT's lora_A.
 * Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021); rsLoRA: Kalajdzievski (2023).
 *
 * @example
 * const layer = new LoRALinear({ inFeatures: 64, outFeatures: 32, r: 4, loraAlpha: 8 });
 * const y = layer.forward(tensor(new Float32Array(2 * 64), { shape: [2, 64] })); // [2, 32]
 */
export class LoRALinear {
  /** Length of an input row. */
  readonly inFeatures: number;
  /** Length of an output row. */
  readonly outFeatures: number;
  /** The rank of the change. */
  readonly r: number;
  /** α of the scale. */
  readonly loraAlpha: number;
  /** The probability with which an element of the LoRA path's input is dropped in training. */
  readonly loraDropout: number;
  /** α/r, or α/√r. */
  readonly scale: number;
  /** Of activations and the frozen weight. */
  readonly dtype: DType;
  /** Where weights and parameters lie. */
  readonly device: Device;
  /** [out, r], f32, zero at first. */
  readonly up: Parameter;
  /** [r, in], f32. */
  readonly down: Parameter;
  readonly #useRslora: boolean;
  readonly #seed: number;
  readonly #linear: Linear;
  readonly #delta: Delta;
  readonly #fingerprint: Tensor;
  #forwards = 0;
  #disposed = false;

  /**
   * @throws ERR_ARGUMENT for an unknown option, a weight of the wrong shape, and one to quantize that is not finite; ERR_UNSUPPORTED for f16 on
   * the CPU, and where the device does not read the format for the dtype
   */
  constructor(options: LoRALinearOptions) {
    checkOptions(op, options, [
      'inFeatures',
      'outFeatures',
      'r',
      'loraAlpha',
      'loraDropout',
      'useRslora',
      'weight',
      'bias',
      'dtype',
      'quantize',
      'device',
      'seed',
    ]);
    const { quantize } = options;
    if (quantize !== undefined) checkOneOf(op, 'quantize', quantize, quantizedFormats);
    const { inFeatures, outFeatures, weight, bias, useRslora = false, seed = 0 } = options;
    const { r = 16, loraDropout = 0 } = options;
    const given = weight instanceof Tensor ? weight : undefined;
    const { dtype = given?.dtype === 'f16' ? 'bf16' : (given?.dtype ?? 'f32') } = options;
    checkInteger(op, 'inFeatures', inFeatures, 1);
    checkInteger(op, 'outFeatures', outFeatures, 1);
    checkInteger(op, 'r', r, 1);
    const { loraAlpha = 2 * r } = options;
    checkInteger(op, 'seed', seed);
    checkNumber(op, 'loraAlpha', loraAlpha);
    checkNumber(op, 'loraDropout', loraDropout, 0);
    check(isDropout(loraDropout), op, `expected loraDropout to be below 1 but received ${loraDropout}`);
    checkBoolean(op, 'useRslora', useRslora);
    checkOneOf(op, 'dtype', dtype, dtypes);
    check(dtype !== 'i32', op, "expected a float dtype but received 'i32'");
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    this.r = r;
    this.loraAlpha = loraAlpha;
    this.loraDropout = loraDropout;
    this.scale = loraAlpha / (useRslora ? Math.sqrt(r) : r);
    this.dtype = dtype;
    this.device = deviceName(op, options.device ?? given?.device ?? 'cpu');
    if (dtype === 'f16') checkF16(op, this.device);
    this.#useRslora = useRslora;
    this.#seed = seed;

    const bound = 1 / Math.sqrt(inFeatures);
    const seeded = (shape: number[], stream: number): Tensor =>
      randomUniform(shape, { seed, stream, lo: -bound, hi: bound, device: this.device });
    const shape = [outFeatures, inFeatures];
    const frozen = temporaries(() => {
      const w = weight === undefined ? seeded(shape, streams.weight) : this.#take('weight', weight, shape);
      let b: Tensor | undefined;
      if (bias) b = this.#take('bias', bias, [outFeatures]);
      else if (bias === undefined && weight === undefined) b = seeded([outFeatures], streams.bias);
      b &&= b.to({ dtype, device: this.device });
      const { packed, values: read } = this.#pack(w, quantize);
      return { linear: new Linear('weight', packed, b && alias(b)), print: alias(fingerprint(read, b)) };
    });
    this.#linear = frozen.linear;
    this.#fingerprint = frozen.print;
    const spec = { r, scale: this.scale, stream: streams.lora, layer: 0 };
    const parameters = temporaries(() => {
      const values = lora.initial(this.#linear, spec, { seed, device: this.device, initWeights: true });
      return new Map([...values].map(([name, value]) => [name, adoptParameter(alias(value), name)]));
    });
    this.#delta = lora.make(spec, parameters);
    this.up = parameters.get('up')!;
    this.down = parameters.get('down')!;
  }

  /**
   * A layer with the pair of a PEFT adapter: one that save() wrote, or one of PEFT's for a network that has the module.
   *
   * @throws ERR_FILE; ERR_ADAPTER for a file without the module, of another method than plain LoRA, or of another shape than the weight.
   * @example
   * const trained = new Linear({ inFeatures: 4, outFeatures: 3 });
   * const { weight, bias } = trained;
   * const layer = await LoRALinear.load('adapter', { weight, bias });
   */
  static async load(dir: string | URL, options: LoadLoRALinearOptions): Promise<LoRALinear> {
    const name = 'LoRALinear.load';
    checkOptions(name, options, [
      'weight',
      'bias',
      'dtype',
      'quantize',
      'device',
      'seed',
      'module',
      'limits',
    ]);
    const { module, limits, weight, ...rest } = options;
    check(
      weight !== undefined,
      name,
      'expected weight, which the file does not hold, but received undefined',
    );
    if (module !== undefined) checkModule(name, module);
    const given = weight instanceof Tensor ? weight.device : undefined;
    const device = deviceName(name, options.device ?? given ?? 'cpu');
    const { settings, up, down } = await loadPair(name, dir, module, device, limits);
    try {
      const [outFeatures, inFeatures] = [up.shape[0]!, down.shape[1]!];
      const layer = new LoRALinear({ ...rest, ...settings, weight, inFeatures, outFeatures });
      layer.up.copyFrom(up);
      layer.down.copyFrom(down);
      return layer;
    } finally {
      up.dispose();
      down.dispose();
    }
  }

  /** The frozen weight, and its values as calls read them. */
  #pack(w: Tensor, quantize: QuantizedFormat | undefined): { packed: FrozenWeight; values: Tensor } {
    const { dtype, device } = this;
    if (quantize === undefined) {
      const values = w.to({ dtype, device });
      return { packed: FrozenWeight.pack(values), values };
    }
    const packed = FrozenWeight.packQuantizing(op, w.to({ device }), quantize, dtype as FloatDType);
    return { packed, values: packed.unpack() };
  }

  #take(name: string, values: Values, shape: readonly number[]): Tensor {
    check(
      values instanceof Tensor || ArrayBuffer.isView(values),
      op,
      `expected ${name} to be a tensor or a typed array but received ${describe(values)}`,
    );
    const words = name === 'weight' ? ' (out, in)' : ' (out)';
    if (values instanceof Tensor) {
      handleOf(values, op, name);
      check(
        shapeText(values.shape) === shapeText(shape),
        op,
        `expected ${name} of shape ${shapeText(shape)}${words} but received ${shapeText(values.shape)}`,
      );
      check(values.dtype !== 'i32', op, `expected ${name} to hold floats but received i32`);
      return values;
    }
    const numel = shape.reduce((a, b) => a * b, 1);
    check(
      values.length === numel,
      op,
      `expected ${name} of shape ${shapeText(shape)}${words}, ${numel} numbers, but received ${values.length}`,
    );
    const dtype = Object.prototype.toString.call(values) === '[object Uint16Array]' ? 'bf16' : 'f32';
    return tensor(values, { shape, dtype, device: this.device });
  }

  /**
   * x [..., in] of the layer's dtype → y [..., out]. `train` turns dropout on; default: whether gradients
   * are being recorded. Each training forward draws the next mask.
   *
   * @throws ERR_ARGUMENT when x has another width, dtype or device than the layer.
   * @example
   * const loss = layer.forward(x).sub(target).square().mean();
   */
  forward(x: Tensor, options: { train?: boolean | undefined } = {}): Tensor {
    this.#check('forward');
    checkOptions(op, options, ['train']);
    const { train = isRecording() } = options;
    checkBoolean(op, 'train', train);
    if (this.merged) return this.#linear.forward(x);
    const active = train && this.loraDropout > 0;
    const dropout = active && { p: this.loraDropout, seed: this.#seed, forward: this.#forwards };
    const y = this.#linear.forward(x, { delta: this.#delta, use: { scale: 1, ...(dropout && { dropout }) } });
    if (active) this.#forwards = (this.#forwards + 1) % 2 ** 32;
    return y;
  }

  /** `[up, down]`, the weights to train. */
  parameters(): Parameter[] {
    return [this.up, this.down];
  }

  /** Whether the change is in the weight. */
  get merged(): boolean {
    return this.#linear.merged;
  }

  /**
   * Adds (α/r)·up·down into the weight, rounded once to its dtype: forward is then one product. Merging a merged
   * layer does nothing. Training needs unmerge() first.
   */
  merge(): this {
    this.#check('merge');
    if (this.merged) return this;
    this.#linear.setMerged(this.#linear.packMerged({ delta: this.#delta, use: { scale: 1 } }));
    return this;
  }

  /** Puts the original weight back, bit for bit. */
  unmerge(): this {
    this.#check('unmerge');
    this.#linear.unmerge();
    return this;
  }

  /**
   * Writes the pair as a PEFT adapter: adapter_config.json and adapter_model.safetensors, which appear together. The frozen weight is not in
   * it. `module` is its name there, that of the layer in a network of PyTorch's; default 'linear'.
   *
   * @throws ERR_FILE when writing fails.
   * @example
   * await layer.save('adapter', { module: 'encoder.query' });
   */
  async save(dir: string | URL, options: { module?: string | undefined } = {}): Promise<void> {
    this.#check('save');
    checkOptions(op, options, ['module']);
    const { module = defaultModule } = options;
    checkModule(op, module);
    const { r, loraAlpha, loraDropout } = this;
    await savePair(dir, module, { r, loraAlpha, loraDropout, useRslora: this.#useRslora }, this);
  }

  /** The trained weights, the count of training forwards, and four numbers by which loading knows the frozen weight. */
  stateDict(): StateDict {
    this.#check('stateDict');
    const frozen = this.#fingerprint.detach();
    return { up: this.up.detach(), down: this.down.detach(), forwards: this.#forwards, frozen };
  }

  /**
   * Copies what stateDict() gave into the parameters, bit for bit; `frozen` may be absent from a state made by hand.
   *
   * @throws ERR_BUSY while merged, ERR_ARGUMENT for the state of a layer with another frozen weight.
   */
  loadStateDict(state: StateDict): void {
    this[prepare](state)();
  }

  /** @internal Checks a state, and gives what takes it. */
  [prepare](state: StateDict): () => void {
    this.#check('loadStateDict');
    if (this.merged) {
      throw loraError(op, 'ERR_BUSY', 'the layer is merged; unmerge() it before loading a state');
    }
    checkOptions(op, state, ['up', 'down', 'forwards', 'frozen']);
    const { up, down, forwards, frozen } = state;
    checkForwards(op, forwards);
    checkSaved(op, 'up', this.up, up);
    checkSaved(op, 'down', this.down, down);
    if (frozen !== undefined) {
      checkSaved(op, 'frozen', this.#fingerprint, frozen);
      check(
        sameFingerprint(frozen, this.#fingerprint),
        op,
        'expected the state of a layer with this frozen weight but received that of another: the sum would be neither',
      );
    }
    return () => {
      restore(op, 'up', this.up, up);
      restore(op, 'down', this.down, down);
      for (const p of this.parameters()) p.version++;
      this.#forwards = forwards;
    };
  }

  /** Whether dispose() was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** Frees the weights and the parameters; what a recorded graph needs lives on until backward(). */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#linear.dispose();
    this.#fingerprint.dispose();
    this.up.dispose();
    this.down.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    return `LoRALinear(${this.inFeatures} → ${this.outFeatures}, r ${this.r}, ${this.dtype} on ${this.device})`;
  }

  toJSON(): string {
    return this.toString();
  }

  [inspect.custom](): string {
    return this.toString();
  }

  #check(name: string): void {
    if (!this.#disposed) return;
    throw loraError(op, 'ERR_DISPOSED', `${name}: the layer has been disposed`);
  }
}
