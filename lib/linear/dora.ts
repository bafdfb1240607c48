/**
 * DoRA: W' = c ⊙ (W + s·up·down) by rows, c = m/‖W + s·up·down‖, with the magnitude m [out] trained beside up and down. The norm is a
 * constant for the gradient, computed once for each version of up and down. Under dropout, x_d = drop(x):
 *   y = W·x + bias + (c − 1)⊙W·x_d + c⊙s·up·down·x_d,  which is c⊙z + bias without, z = W·x + s·up·down·x.
 * The fused op multiplies by c and rounds y once. It does not keep z, which the gradient of m needs: a call whose gradient is wanted
 * computes z, and y from it.
 * Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024).
 */
import { dropout as drop } from '../ops/dropout';
import { loraLinear, loraLinearGroup } from '../ops/lora_linear';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { rawBinary, rawReduceSum, rawUnary, rawView } from '../tensor/raw';
import { computed, gradientIsWanted, moved } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import type { AddedOperands, CalledLayer, ComputedDelta, DeltaKind, DeltaSpec, DeltaUse } from './delta';
import { disposeKept, upToDate, type Kept } from './kept';
import { addProduct, lora } from './lora';

/** ‖W + s·up·down‖ of each row, [out] in f32. */
function rowNorms(weight: FrozenWeight, up: Tensor, down: Tensor, scale: number): Tensor {
  return computed(() => {
    const squares = rawUnary('square', 1, addProduct(weight, up, down, scale, 'f32'));
    const norms = rawUnary('sqrt', 1, rawReduceSum(squares, [weight.rows, 1], 'f32'));
    return rawView(norms, 0, [weight.rows]);
  });
}

class DoraDelta implements ComputedDelta {
  readonly #up: Parameter;
  readonly #down: Parameter;
  readonly #magnitude: Parameter;
  #norms: Kept | undefined;
  #factor: Kept | undefined;

  constructor(
    readonly spec: DeltaSpec,
    readonly parameters: ReadonlyMap<string, Parameter>,
  ) {
    this.#up = parameters.get('up')!;
    this.#down = parameters.get('down')!;
    this.#magnitude = parameters.get('magnitude')!;
  }

  #normsOf(weight: FrozenWeight, scale: number): Tensor {
    this.#norms = upToDate(this.#norms, [weight, this.#up.version, this.#down.version, scale], () => [
      rowNorms(weight, this.#up, this.#down, scale),
    ]);
    return this.#norms.values[0]!;
  }

  /** c [out] in f32, without a gradient. */
  #factorOf(weight: FrozenWeight, scale: number): Tensor {
    const norms = this.#normsOf(weight, scale);
    this.#factor = upToDate(this.#factor, [norms, this.#magnitude.version], () => [
      computed(() => rawBinary('div', this.#magnitude, norms, 'f32', [weight.rows])),
    ]);
    return this.#factor.values[0]!;
  }

  fused({ weight }: CalledLayer, use: DeltaUse): AddedOperands | undefined {
    if (use.dropout || (this.#magnitude.requiresGrad && gradientIsWanted())) return undefined;
    const scale = this.spec.scale * use.scale;
    return { up: this.#up, down: this.#down, scale, factor: this.#factorOf(weight, scale) };
  }

  forward({ weight, bias }: CalledLayer, x: Tensor, use: DeltaUse): Tensor {
    const scale = this.spec.scale * use.scale;
    const pair = { weight, up: this.#up, down: this.#down, scale };
    const factor = this.#magnitude.div(this.#normsOf(weight, scale));
    let y: Tensor;
    if (!use.dropout) {
      const z = loraLinear(x, pair);
      y = z.mul(factor);
      z.dispose();
      if (bias) y = moved(y, (t) => t.add(bias));
    } else {
      const dropped = drop(x, { ...use.dropout, layer: this.spec.layer });
      const [z, u] = loraLinearGroup(dropped, [pair, { weight }]) as [Tensor, Tensor];
      dropped.dispose();
      const frozen = loraLinear(x, { weight, bias });
      y = z.mul(factor);
      y = moved(y, (t) => t.sub(u));
      y = moved(y, (t) => t.add(frozen));
      for (const t of [z, u, frozen]) t.dispose();
    }
    factor.dispose();
    return moved(y, (t) => t.to({ dtype: x.dtype }));
  }

  merged(weight: FrozenWeight, factor: number): Tensor {
    const scale = this.spec.scale * factor;
    return computed(() => {
      const column = rawView(this.#factorOf(weight, scale), 0, [weight.rows, 1]);
      const sum = addProduct(weight, this.#up, this.#down, scale, 'f32');
      return rawBinary('mul', sum, column, weight.dtype, [weight.rows, weight.cols]);
    });
  }

  dispose(): void {
    for (const kept of [this.#norms, this.#factor]) disposeKept(kept);
    this.#norms = this.#factor = undefined;
  }
}

/** The kind. */
export const dora: DeltaKind = {
  names: { ...lora.names, magnitude: 'lora_magnitude_vector' },
  tensors: (layer, spec) => new Map([...lora.tensors(layer, spec), ['magnitude', [layer.outFeatures]]]),

  /** up and down as LoRA's, m the norms that they give: W' is W at first. */
  initial(layer, spec, init) {
    const pair = lora.initial(layer, spec, init);
    const magnitude = rowNorms(layer.base, pair.get('up')!, pair.get('down')!, spec.scale);
    return new Map([...pair, ['magnitude', magnitude]]);
  },

  make: (spec, parameters) => new DoraDelta(spec, parameters),
};
