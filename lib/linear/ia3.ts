/**
 * IA³: vectors l [out] and l [in], 1 at first, scale what comes out of a layer, y = l ⊙ (W·x + bias), or what goes into it, y = W·(l ⊙ x) + bias.
 * With a factor s on the change, l becomes 1 + s·(l − 1).
 * Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning" (2022).
 */
import { randomNormal } from '../ops/random';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { rawBinary, rawFilled, rawView } from '../tensor/raw';
import { computed, moved } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import type { DeltaInit, DeltaKind, DeltaUse, InputDelta, OutputDelta } from './delta';

/** 1 + s·(l − 1) in the given shape, f32. */
function factors(l: Parameter, scale: number, shape: readonly number[]): Tensor {
  let out = l.reshape([...shape]);
  if (scale === 1) return out;
  out = moved(out, (t) => t.mul(scale));
  return moved(out, (t) => t.add(1 - scale));
}

/** l ⊙ x over the last dimension, in the dtype of x. */
function scaled(x: Tensor, l: Parameter, scale: number): Tensor {
  const vector = factors(l, scale, [l.numel]);
  const y = x.mul(vector);
  vector.dispose();
  return moved(y, (t) => t.to({ dtype: x.dtype }));
}

/** W with its rows or columns multiplied, rounded once to the dtype of W. */
const mergedWith = (weight: FrozenWeight, l: Parameter, scale: number, shape: readonly number[]): Tensor =>
  computed(() => {
    const vector = rawView(factors(l, scale, [l.numel]), 0, shape);
    return rawBinary('mul', weight.unpack(), vector, weight.dtype, [weight.rows, weight.cols]);
  });

class ScaledInput implements InputDelta {
  readonly #l: Parameter;

  constructor(readonly parameters: ReadonlyMap<string, Parameter>) {
    this.#l = parameters.get('l')!;
  }

  input(x: Tensor, { scale }: DeltaUse): Tensor {
    return scaled(x, this.#l, scale);
  }

  merged(weight: FrozenWeight, scale: number): Tensor {
    return mergedWith(weight, this.#l, scale, [1, weight.cols]);
  }
}

class ScaledOutput implements OutputDelta {
  readonly #l: Parameter;

  constructor(readonly parameters: ReadonlyMap<string, Parameter>) {
    this.#l = parameters.get('l')!;
  }

  output(y: Tensor, { scale }: DeltaUse): Tensor {
    return scaled(y, this.#l, scale);
  }

  merged(weight: FrozenWeight, scale: number): Tensor {
    return mergedWith(weight, this.#l, scale, [weight.rows, 1]);
  }

  mergedBias(bias: Tensor, scale: number): Tensor {
    return computed(() =>
      rawBinary('mul', bias, factors(this.#l, scale, bias.shape), bias.dtype, bias.shape),
    );
  }
}

const names = { l: 'ia3_l' };

/** Ones, or PEFT's normal numbers where init_ia3_weights is false. */
function initial(shape: readonly number[], stream: number, init: DeltaInit): Map<string, Tensor> {
  const { seed, device, initWeights } = init;
  const l = initWeights
    ? rawFilled(shape, 1, 'f32', device)
    : randomNormal([...shape], { seed, stream, mean: 0, std: 1, device });
  return new Map([['l', l]]);
}

/** The kind of layers of the feedforward part, whose input is scaled. */
export const ia3Input: DeltaKind = {
  names,
  tensors: ({ inFeatures }) => new Map([['l', [1, inFeatures]]]),
  initial: ({ inFeatures }, { stream }, init) => initial([1, inFeatures], stream, init),
  make: (_, parameters) => new ScaledInput(parameters),
};

/** The kind of other layers, whose output is scaled. */
export const ia3Output: DeltaKind = {
  names,
  tensors: ({ outFeatures }) => new Map([['l', [outFeatures, 1]]]),
  initial: ({ outFeatures }, { stream }, init) => initial([outFeatures, 1], stream, init),
  make: (_, parameters) => new ScaledOutput(parameters),
};
