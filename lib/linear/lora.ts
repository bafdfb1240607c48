/**
 * LoRA: y += s·up·(down·x), W' = W + s·up·down, with up [out, r] and down [r, in].
 * Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021); s = α/√r: Kalajdzievski (2023).
 */
import { randomNormal, randomUniform } from '../ops/random';
import type { DType } from '../native/dtype';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { rawBinary, rawFilled, rawMatmul, rawUnary } from '../tensor/raw';
import { computed, tidy } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import type {
  AddedOperands,
  DeltaInit,
  DeltaKind,
  DeltaSpec,
  DeltaUse,
  FrozenLayer,
  FusedDelta,
} from './delta';

class LoraDelta implements FusedDelta {
  readonly #up: Parameter;
  readonly #down: Parameter;

  constructor(
    readonly spec: DeltaSpec,
    readonly parameters: ReadonlyMap<string, Parameter>,
  ) {
    this.#up = parameters.get('up')!;
    this.#down = parameters.get('down')!;
  }

  branch({ scale, dropout }: DeltaUse): AddedOperands {
    const pair = { up: this.#up, down: this.#down, scale: this.spec.scale * scale };
    return dropout ? { ...pair, dropout: { ...dropout, layer: this.spec.layer } } : pair;
  }

  merged(weight: FrozenWeight, scale: number): Tensor {
    const factor = this.spec.scale * scale;
    return computed(() => addProduct(weight, this.#up, this.#down, factor, weight.dtype));
  }
}

/** W + s·up·down, row-major, computed in f32 and rounded once to `dtype`. */
export function addProduct(
  weight: FrozenWeight,
  up: Tensor,
  down: Tensor,
  scale: number,
  dtype: DType,
): Tensor {
  const shape = [weight.rows, weight.cols];
  return tidy(() => {
    const product = rawMatmul(up, down, false, false, 'f32', shape);
    return rawBinary('add', weight.unpack(), rawUnary('scale', scale, product), dtype, shape);
  });
}

/** The kind. */
export const lora: DeltaKind = {
  names: { up: 'lora_B.weight', down: 'lora_A.weight' },
  tensors: ({ inFeatures, outFeatures }, { r }) =>
    new Map([
      ['up', [outFeatures, r]],
      ['down', [r, inFeatures]],
    ]),

  /** down from U(−1/√in, 1/√in) (Kaiming uniform with a = √5) or N(0, 1/r²), up zero unless init_lora_weights is false. */
  initial({ inFeatures, outFeatures }: FrozenLayer, { r, stream }: DeltaSpec, init: DeltaInit) {
    const { seed, device, initWeights } = init;
    const uniform = (shape: number[], from: number, bound: number): Tensor =>
      randomUniform(shape, { seed, stream: from, lo: -bound, hi: bound, device });
    const down =
      initWeights === 'gaussian'
        ? randomNormal([r, inFeatures], { seed, stream, mean: 0, std: 1 / r, device })
        : uniform([r, inFeatures], stream, 1 / Math.sqrt(inFeatures));
    const up =
      initWeights === false
        ? uniform([outFeatures, r], stream + 1, 1 / Math.sqrt(r))
        : rawFilled([outFeatures, r], 0, 'f32', device);
    return new Map([
      ['up', up],
      ['down', down],
    ]);
  },

  make: (spec, parameters) => new LoraDelta(spec, parameters),
};
