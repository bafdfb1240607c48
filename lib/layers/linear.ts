/** A linear layer that is trained. */
import { deviceName, type Device } from '../native/device';
import { binary } from '../ops/binary';
import { cast } from '../ops/cast';
import { matmulTransposed } from '../ops/matmul';
import { randomUniform } from '../ops/random';
import { checkFloat, checkSameDevice } from '../tensor/arguments';
import { adoptParameter } from '../tensor/create';
import { moved, runUntracked } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import { check, checkBoolean, checkInteger, checkOptions, shapeText } from '../validate';
import { Module } from './module';
import { nextSeed } from './seeds';

const op = 'Linear';

/** Sizes of a {@link Linear}, and how it begins. */
export interface LinearOptions {
  /** Length of an input row, `in`. */
  inFeatures: number;
  /** Length of an output row, `out`. */
  outFeatures: number;
  /** Whether a bias is added. Default true. */
  bias?: boolean | undefined;
  /** Where the weights lie. Default 'cpu'. */
  device?: Device | undefined;
  /** Of the initial weights. Default: the number of layers that were made before. */
  seed?: number | undefined;
}

/**
 * y = W·x + bias with W [out, in] and bias [out], both f32 and trained; they begin at U(−1/√in, 1/√in), as PyTorch's do. For LoRA on it,
 * pass them on: `new LoRALinear({ inFeatures, outFeatures, weight: linear.weight, bias: linear.bias })`.
 *
 * @example
 * const layer = new Linear({ inFeatures: 4, outFeatures: 3 });
 * const y = layer.forward(tensor([[1, 2, 3, 4]])); // [1, 3]
 */
export class Linear extends Module {
  /** Length of an input row. */
  readonly inFeatures: number;
  /** Length of an output row. */
  readonly outFeatures: number;
  /** [out, in]. */
  readonly weight: Parameter;
  /** [out], or null for none. */
  readonly bias: Parameter | null;

  /** @throws ERR_ARGUMENT for an unknown option and a size below 1. */
  constructor(options: LinearOptions) {
    super();
    checkOptions(op, options, ['inFeatures', 'outFeatures', 'bias', 'device', 'seed']);
    const { inFeatures, outFeatures, bias = true } = options;
    checkInteger(op, 'inFeatures', inFeatures, 1);
    checkInteger(op, 'outFeatures', outFeatures, 1);
    checkBoolean(op, 'bias', bias);
    if (options.seed !== undefined) checkInteger(op, 'seed', options.seed);
    const device = deviceName(op, options.device ?? 'cpu');
    const { seed = nextSeed() } = options;
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    const bound = 1 / Math.sqrt(inFeatures);
    const seeded = (shape: number[], stream: number, name: string): Parameter =>
      runUntracked(() =>
        adoptParameter(randomUniform(shape, { seed, stream, lo: -bound, hi: bound, device }), name),
      );
    this.weight = seeded([outFeatures, inFeatures], 0, 'weight');
    this.bias = bias ? seeded([outFeatures], 1, 'bias') : null;
  }

  /**
   * x [..., in] → y [..., out] in f32.
   *
   * @throws ERR_ARGUMENT when x has another width or device than the layer.
   */
  forward(x: Tensor): Tensor {
    const { weight, bias, inFeatures } = this;
    checkFloat(op, x, 'x');
    check(
      x.shape.at(-1) === inFeatures,
      op,
      () => `expected x of shape [..., ${inFeatures}] (in) but received ${shapeText(x.shape)}`,
    );
    checkSameDevice(op, 'x', x.device, weight.device);
    const wide = x.dtype === 'f32' ? x : cast(x, 'f32');
    const product = matmulTransposed(wide, weight);
    if (wide !== x) wide.dispose();
    return bias === null ? product : moved(product, (t) => binary('add', t, bias));
  }

  protected override get facts(): string {
    return `${this.inFeatures} → ${this.outFeatures}${this.bias ? '' : ', no bias'}`;
  }
}
