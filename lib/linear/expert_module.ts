/** Matrices of all experts of a block that PEFT knows as one parameter [experts, out, in], such as gate over up. */
import { roomInQueue } from '../native/device';
import type { ExpertChange } from '../ops/experts';
import { FrozenWeight } from '../tensor/frozen_weight';
import { moved } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import type { ExpertDelta, FrozenLayer } from './delta';
import type { PartOrder } from './expert_parts';
import type { AppliedDelta, PreparedMerge } from './linear';

/** For each part of the rows of an expert its matrices, one for each expert. */
type Parts = readonly (readonly FrozenWeight[])[];

/** The name of a parameter of experts as every block has it: mlp.experts.down_proj. */
export const parameterName = (path: string): string => path.replace(/^.*\.\d+\./, '');

/** Those of some modules, each once. */
export const parameterNames = (modules: readonly ExpertModule[]): string[] => [
  ...new Set(modules.map(({ path }) => parameterName(path))),
];

export const disposeChanges = (changes: readonly ExpertChange[]): void =>
  changes.forEach(({ up, down }) => [up, down].forEach((t) => t.dispose()));

const disposeParts = (parts: Parts): void => parts.flat().forEach((weight) => weight.dispose());

export class ExpertModule implements FrozenLayer {
  readonly fanInFanOut = false;
  #merged: Parts | null = null;

  /**
   * Takes over nothing: the model has the matrices, which are of one shape. `path`: as transformers names the parameter; `partNames`: what the modules of its parts are
   * called where experts are modules.
   */
  constructor(
    readonly path: string,
    readonly partNames: readonly string[],
    private readonly parts: Parts,
    readonly order: PartOrder = 'below',
  ) {}

  /** How many experts there are. */
  get count(): number {
    return this.parts[0]!.length;
  }

  get base(): FrozenWeight {
    return this.parts[0]![0]!;
  }

  get inFeatures(): number {
    return this.base.cols;
  }

  /** Of an expert, all parts of its rows. */
  get outFeatures(): number {
    return this.parts.length * this.base.rows;
  }

  /** The matrices that calls read: of each part those of all experts. */
  get weights(): Parts {
    return this.#merged ?? this.parts;
  }

  /** What a change adds to each part. The caller disposes of the tensors. */
  changes({ delta, use }: AppliedDelta): ExpertChange[] {
    return (delta as ExpertDelta).changes(use, this.parts.length, this.order);
  }

  /** The matrices of the model, each with what gives it as calls read it, with a change in it where one is given: row-major, owned by the caller. */
  *rowMajors(applied?: AppliedDelta): Generator<readonly [FrozenWeight, () => Tensor]> {
    for (const [part, weights] of this.parts.entries())
      for (const [expert, weight] of weights.entries())
        yield [
          weight,
          () => {
            const read = this.weights[part]![expert]!;
            if (!applied) return read.unpack();
            const place = { expert, part, parts: this.parts.length, order: this.order };
            return (applied.delta as ExpertDelta).mergedExpert(read, applied.use.scale, place);
          },
        ];
  }

  async prepareMerge(applied: AppliedDelta): Promise<PreparedMerge> {
    const merged: FrozenWeight[][] = this.parts.map(() => []);
    try {
      for (const [weight, make] of this.rowMajors(applied)) {
        await roomInQueue(weight.device);
        merged.find((part) => part.length < this.count)!.push(moved(make(), (t) => FrozenWeight.pack(t)));
      }
    } catch (error) {
      disposeParts(merged);
      throw error;
    }
    return {
      commit: () => {
        this.unmerge();
        this.#merged = merged;
      },
      dispose: () => disposeParts(merged),
    };
  }

  /** Puts the base back. */
  unmerge(): void {
    if (this.#merged) disposeParts(this.#merged);
    this.#merged = null;
  }
}
