/**
 * LoRA on the matrices of all experts, as PEFT's target_parameters has it: y += s·up_e·(down_e·x) for the expert e of a row. Its tensors are flat, and those of
 * `experts` experts of rank r: down [experts·r, in], whose rows are expert-major, and up [out, r·experts], whose columns are rank-major.
 */
import { reshape, transpose } from '../ops/layout';
import type { ExpertChange } from '../ops/experts';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { rawView } from '../tensor/raw';
import { computed, gradientIsWanted, moved, track } from '../tensor/scope';
import { alias, type Parameter, type Tensor } from '../tensor/tensor';
import type { DeltaKind, DeltaSpec, DeltaUse, ExpertDelta, ExpertPlace } from './delta';
import { partsOfRows, type PartOrder } from './expert_parts';
import { disposeKept, upToDate, type Kept } from './kept';
import { addProduct, lora } from './lora';

/** Another reference to a tensor, which the current scope frees. */
function shared(tensor: Tensor): Tensor {
  const other = alias(tensor);
  track(other);
  return other;
}

class ExpertLoraDelta implements ExpertDelta {
  readonly #up: Parameter;
  readonly #down: Parameter;
  /** up as products read it, where no gradient of it is wanted: a step of generation turns nothing. */
  #turned: Kept | undefined;

  constructor(
    readonly spec: DeltaSpec,
    private readonly count: number,
    readonly parameters: ReadonlyMap<string, Parameter>,
  ) {
    this.#up = parameters.get('up')!;
    this.#down = parameters.get('down')!;
  }

  /** up of each part of the rows of the experts: [experts, out, r]. */
  #turn(parts: number, order: PartOrder): Tensor[] {
    const split = reshape(this.#up, [this.#up.shape[0]!, this.spec.r, this.count]);
    const turned = moved(split, (t) => transpose(t, [2, 0, 1]));
    return parts === 1 ? [turned] : moved(turned, (t) => partsOfRows(t, parts, order));
  }

  /** The same for the values that up has now. */
  #turnedOf(parts: number, order: PartOrder): readonly Tensor[] {
    const of = [this.#up.version, parts, order];
    this.#turned = upToDate(this.#turned, of, () => computed(() => this.#turn(parts, order)));
    return this.#turned.values;
  }

  changes({ scale }: DeltaUse, parts: number, order: PartOrder): ExpertChange[] {
    const wanted = this.#up.requiresGrad && gradientIsWanted();
    if (wanted) this.dispose(); // memory that training has a better use for
    const ups = wanted ? this.#turn(parts, order) : this.#turnedOf(parts, order).map(shared);
    const shape = [this.count, this.spec.r, this.#down.shape[1]!];
    return ups.map((up) => ({ up, down: reshape(this.#down, shape), scale: this.spec.scale * scale }));
  }

  mergedExpert(weight: FrozenWeight, scale: number, { expert, part, parts, order }: ExpertPlace): Tensor {
    const { r } = this.spec;
    const { rows, cols, dtype } = weight;
    return computed(() => {
      const up = rawView(this.#turnedOf(parts, order)[part]!, expert * rows * r, [rows, r]);
      const down = rawView(this.#down, expert * r * cols, [r, cols]);
      return addProduct(weight, up, down, this.spec.scale * scale, dtype);
    });
  }

  dispose(): void {
    disposeKept(this.#turned);
    this.#turned = undefined;
  }
}

/** The kind for so many experts. */
export const expertLora = (count: number): DeltaKind => ({
  names: lora.names,
  tensors: ({ inFeatures, outFeatures }, { r }) =>
    new Map([
      ['up', [outFeatures, r * count]],
      ['down', [count * r, inFeatures]],
    ]),
  /** LoRA's, of r·experts rows: their bounds depend on `in` alone. */
  initial: (layer, spec, init) => lora.initial(layer, { ...spec, r: spec.r * count }, init),
  make: (spec, parameters) => new ExpertLoraDelta(spec, count, parameters),
});
