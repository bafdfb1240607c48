/**
 * DoRA: W' = c ⊙ (W + s·A·B) by rows, c = m/‖W + s·A·B‖, with the magnitude m [out] trained beside A and B. The norm is a constant for the
 * gradient, computed once for each version of A and B. Under dropout, x_d = drop(x):
 *   y = W·x + bias + (c − 1)⊙W·x_d + c⊙s·A·B·x_d,  which is c⊙(W·x + s·A·B·x) + bias without.
 * Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024).
 */
import { dropout as drop } from '../ops/dropout';
import { loraLinear, loraLinearGroup } from '../ops/lora_linear';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { rawBinary, rawReduceSum, rawUnary, rawView } from '../tensor/raw';
import { moved, runDetached } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import type { CalledLayer, ComputedDelta, DeltaKind, DeltaSpec, DeltaUse } from './delta';
import { addProduct, lora } from './lora';

/** ‖W + s·A·B‖ of each row, [out] in f32. */
function rowNorms(weight: FrozenWeight, up: Tensor, down: Tensor, scale: number): Tensor {
  return runDetached(null, () => {
    const sum = addProduct(weight, up, down, scale, 'f32');
    const squares = rawUnary('square', 1, sum);
    const sums = rawReduceSum(squares, [weight.rows, 1], 'f32');
    const norms = rawUnary('sqrt', 1, sums);
    const row = rawView(norms, 0, [weight.rows]);
    for (const t of [sum, squares, sums, norms]) t.dispose();
    return row;
  });
}

interface Norms {
  /** What they were computed from. */
  readonly of: readonly [FrozenWeight, number, number, number];
  readonly values: Tensor;
}

class DoraDelta implements ComputedDelta {
  readonly #up: Parameter;
  readonly #down: Parameter;
  readonly #magnitude: Parameter;
  #norms: Norms | undefined;

  constructor(
    readonly spec: DeltaSpec,
    readonly parameters: ReadonlyMap<string, Parameter>,
  ) {
    this.#up = parameters.get('up')!;
    this.#down = parameters.get('down')!;
    this.#magnitude = parameters.get('magnitude')!;
  }

  #normsOf(weight: FrozenWeight, scale: number): Tensor {
    const of = [weight, this.#up.version, this.#down.version, scale] as const;
    if (!this.#norms?.of.every((value, i) => value === of[i])) {
      const values = rowNorms(weight, this.#up, this.#down, scale);
      this.dispose();
      this.#norms = { of, values };
    }
    return this.#norms.values;
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
    return runDetached(null, () => {
      const sum = addProduct(weight, this.#up, this.#down, scale, 'f32');
      const c = rawBinary('div', this.#magnitude, this.#normsOf(weight, scale), 'f32', [weight.rows]);
      const column = rawView(c, 0, [weight.rows, 1]);
      const out = rawBinary('mul', sum, column, weight.dtype, [weight.rows, weight.cols]);
      for (const t of [sum, c, column]) t.dispose();
      return out;
    });
  }

  dispose(): void {
    this.#norms?.values.dispose();
    this.#norms = undefined;
  }
}

/** The kind. */
export const dora: DeltaKind = {
  tensors: (layer, spec) => new Map([...lora.tensors(layer, spec), ['magnitude', [layer.outFeatures]]]),

  /** A and B as LoRA's, m the norms that they give: W' is W at first. */
  initial(layer, spec, init) {
    const pair = lora.initial(layer, spec, init);
    const magnitude = rowNorms(layer.base, pair.get('up')!, pair.get('down')!, spec.scale);
    return new Map([...pair, ['magnitude', magnitude]]);
  },

  make: (spec, parameters) => new DoraDelta(spec, parameters),
};
