/**
 * A bottleneck adapter behind a layer: y = f + s·(U·σ(D·f + d) + u), f = W·x + bias, with D = `downWeight` [m, out], d = `downBias` [m],
 * U = `upWeight` [out, m], u = `upBias` [out] and s a factor on the change, 1 at first. Dropout is on what is added.
 * Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019); Pfeiffer et al., "AdapterFusion" (2021).
 */
import { cast } from '../ops/cast';
import { dropout as drop } from '../ops/dropout';
import { matmulTransposed } from '../ops/matmul';
import { randomUniform } from '../ops/random';
import { rawFilled } from '../tensor/raw';
import { moved } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import { methodOptions } from '../options/table';
import type { DeltaKind, DeltaSpec, DeltaUse, OutputDelta } from './delta';

export const bottleneckActivations = methodOptions.bottleneck.activation.choices;
/** The activation σ of bottleneck adapters. */
export type BottleneckActivation = (typeof bottleneckActivations)[number];

/** x·wᵀ + b in f32 where b is, with w rounded to the dtype of x. */
function affine(x: Tensor, w: Parameter, b: Parameter): Tensor {
  const weight = cast(w, x.dtype);
  const y = matmulTransposed(x, weight);
  weight.dispose();
  return moved(y, (t) => t.add(b));
}

class BottleneckDelta implements OutputDelta {
  constructor(
    readonly spec: DeltaSpec,
    readonly activation: BottleneckActivation,
    readonly parameters: ReadonlyMap<string, Parameter>,
  ) {}

  output(y: Tensor, { scale, dropout }: DeltaUse): Tensor {
    const of = (name: string): Parameter => this.parameters.get(name)!;
    let z = affine(y, of('downWeight'), of('downBias'));
    z = moved(z, (t) => t[this.activation]());
    z = moved(z, (t) => t.to({ dtype: y.dtype }));
    let added = moved(z, (t) => affine(t, of('upWeight'), of('upBias')));
    if (dropout) added = moved(added, (t) => drop(t, { ...dropout, layer: this.spec.layer }));
    if (scale !== 1) added = moved(added, (t) => t.mul(scale));
    const sum = moved(added, (t) => t.add(y));
    return moved(sum, (t) => t.to({ dtype: y.dtype }));
  }
}

/** The kind with this activation; the rank of its spec is the size m. */
export const bottleneckKind = (activation: BottleneckActivation): DeltaKind => ({
  names: {
    downWeight: 'down.weight',
    downBias: 'down.bias',
    upWeight: 'up.weight',
    upBias: 'up.bias',
  },

  tensors: ({ outFeatures }, { r }) =>
    new Map([
      ['downWeight', [r, outFeatures]],
      ['downBias', [r]],
      ['upWeight', [outFeatures, r]],
      ['upBias', [outFeatures]],
    ]),

  /** D from U(−1/√out, 1/√out), everything else zero, so that nothing changes yet. */
  initial({ outFeatures }, { r, stream }, { seed, device }) {
    const bound = 1 / Math.sqrt(outFeatures);
    const zeros = (shape: number[]): Tensor => rawFilled(shape, 0, 'f32', device);
    return new Map([
      ['downWeight', randomUniform([r, outFeatures], { seed, stream, lo: -bound, hi: bound, device })],
      ['downBias', zeros([r])],
      ['upWeight', zeros([outFeatures, r])],
      ['upBias', zeros([outFeatures])],
    ]);
  },

  make: (spec, parameters) => new BottleneckDelta(spec, activation, parameters),
});
