/** Factors on queries that grow with their positions, for models that read texts longer than their rope was trained on (Ministral 3). */
import type { Device } from '../../native/device';
import { embedding } from '../../ops';
import { tensor } from '../../tensor/create';
import { FrozenWeight } from '../../tensor/frozen_weight';
import { moved, noGrad } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import type { QueryScale } from '../config/rope';
import { positionsOf, type Run } from '../families/parts';

/** A table [positions, 1], which grows when a longer sequence asks for it. */
export class QueryScales {
  #table: FrozenWeight | undefined;

  constructor(
    private readonly scale: QueryScale,
    private readonly device: Device,
  ) {}

  /** A table of at least so many positions. */
  upTo(positions: number): FrozenWeight {
    if (this.#table && positions <= this.#table.rows) return this.#table;
    this.dispose();
    const { beta, length } = this.scale;
    const rows = Math.max(256, 2 ** Math.ceil(Math.log2(positions)));
    const factors = Float32Array.from(
      { length: rows },
      (_, p) => 1 + beta * Math.log1p(Math.floor(p / length)),
    );
    return (this.#table = noGrad(() =>
      moved(tensor(factors, { shape: [rows, 1], device: this.device }), (t) => FrozenWeight.pack(t)),
    ));
  }

  /** Those of the tokens of x [b, s, hidden], in the dtype of the activations: [b or 1, s, 1, 1]. */
  of(run: Pick<Run, 'past' | 'segments' | 'dtype'>, x: Tensor): Tensor {
    const table = this.upTo(run.past?.maxPositions ?? x.shape[1]!);
    const factors = moved(positionsOf(run, x), (t) => embedding(table, t, run.dtype));
    return moved(factors, (t) => t.reshape([...t.shape, 1]));
  }

  dispose(): void {
    this.#table?.dispose();
    this.#table = undefined;
  }
}
