/**
 * A whole module: y = P·x with P [out, in] trained in the place of W, as PEFT's modules_to_save does. P is an f32 master that starts at W and is
 * rounded to the dtype of x in each call.
 */
import { cast } from '../ops/cast';
import { matmulTransposed } from '../ops/matmul';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { rawCast } from '../tensor/raw';
import { runDetached } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import type { CalledLayer, ComputedDelta, DeltaKind } from './delta';

class WholeDelta implements ComputedDelta {
  readonly #weight: Parameter;

  constructor(readonly parameters: ReadonlyMap<string, Parameter>) {
    this.#weight = parameters.get('weight')!;
  }

  /** A whole module has no size: `use.scale` does not change it, nor does dropout. */
  forward(_: CalledLayer, x: Tensor): Tensor {
    const weight = cast(this.#weight, x.dtype);
    const y = matmulTransposed(x, weight);
    weight.dispose();
    return y;
  }

  merged(weight: FrozenWeight): Tensor {
    return runDetached(null, () => rawCast(this.#weight, weight.dtype));
  }
}

/** The kind. */
export const whole: DeltaKind = {
  names: { weight: 'weight' },
  refuses: ({ bias }) => (bias ? 'it has a bias, and a bias is not trained here' : undefined),
  tensors: ({ inFeatures, outFeatures }) => new Map([['weight', [outFeatures, inFeatures]]]),
  initial({ base }) {
    const weight = base.unpack();
    const wide = rawCast(weight, 'f32');
    weight.dispose();
    return new Map([['weight', wide]]);
  },
  make: (_, parameters) => new WholeDelta(parameters),
};
