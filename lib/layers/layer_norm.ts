/** Layer normalization with a trained weight and bias. */
import { deviceName, type Device } from '../native/device';
import { layerNorm } from '../ops/layer_norm';
import { checkFloat, checkSameDevice } from '../tensor/arguments';
import { adoptParameter, filled } from '../tensor/create';
import { runUntracked } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import { check, checkInteger, checkNumber, checkOptions, shapeText } from '../validate';
import { Module } from './module';

const op = 'LayerNorm';

/** The size of a {@link LayerNorm}. */
export interface LayerNormOptions {
  /** The length of the last dimension, over which it normalizes. */
  normalizedShape: number;
  /** Keeps the denominator from 0. Default 1e-5. */
  eps?: number | undefined;
  /** Where the weights lie. Default 'cpu'. */
  device?: Device | undefined;
}

/**
 * y = (x − mean)/√(variance + eps)·weight + bias over the last dimension; the weight begins at 1, the bias at 0, both f32 and trained. Ba et
 * al., "Layer Normalization" (2016).
 *
 * @example
 * const norm = new LayerNorm({ normalizedShape: 4 });
 * const y = norm.forward(tensor([[1, 2, 3, 4]]));
 */
export class LayerNorm extends Module {
  /** The length of the last dimension. */
  readonly normalizedShape: number;
  /** Keeps the denominator from 0. */
  readonly eps: number;
  /** [normalizedShape]. */
  readonly weight: Parameter;
  /** [normalizedShape]. */
  readonly bias: Parameter;

  /** @throws ERR_ARGUMENT for an unknown option and a size below 1. */
  constructor(options: LayerNormOptions) {
    super();
    checkOptions(op, options, ['normalizedShape', 'eps', 'device']);
    const { normalizedShape, eps = 1e-5 } = options;
    checkInteger(op, 'normalizedShape', normalizedShape, 1);
    checkNumber(op, 'eps', eps, 0);
    const device = deviceName(op, options.device ?? 'cpu');
    this.normalizedShape = normalizedShape;
    this.eps = eps;
    const all = (value: number, name: string): Parameter =>
      runUntracked(() => adoptParameter(filled([normalizedShape], value, 'f32', device), name));
    this.weight = all(1, 'weight');
    this.bias = all(0, 'bias');
  }

  /**
   * x [..., normalizedShape] → the same shape and dtype.
   *
   * @throws ERR_ARGUMENT when x has another width or device than the layer.
   */
  forward(x: Tensor): Tensor {
    checkFloat(op, x, 'x');
    check(
      x.shape.at(-1) === this.normalizedShape,
      op,
      () => `expected x of shape [..., ${this.normalizedShape}] but received ${shapeText(x.shape)}`,
    );
    checkSameDevice(op, 'x', x.device, this.weight.device);
    return layerNorm(x, this.weight, this.bias, this.eps);
  }

  protected override get facts(): string {
    return `${this.normalizedShape}, eps ${this.eps}`;
  }
}
