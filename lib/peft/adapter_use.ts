/** The adapters of a forward pass of a model: one for all rows of its batch, or those of each row. */
import type { Linear } from '../linear/linear';
import type { LinearPhase } from '../native/binding';
import type { Tensor } from '../tensor/tensor';
import type { Adapter } from './adapter';

/** The adapter of one forward pass, and the number its dropout masks are drawn with (undefined: no dropout). */
export interface AdapterUse {
  readonly adapter: Adapter | null;
  readonly dropoutForward?: number | undefined;
  /** Adapters of the rows of the batch, in the place of one for all. */
  readonly rows?: RowDeltas | undefined;
  /** What the call is part of, where its bits may not depend on the number of its rows. */
  readonly phase?: LinearPhase | undefined;
}

/** The changes that the rows of a batch make to layers. */
export interface RowDeltas {
  /** The adapters whose changes are recorded for backward(), each once. */
  readonly distinct: readonly Adapter[];
  /** x [b, .., in] → y [b, .., out] of each layer. */
  forward(x: Tensor, linears: readonly Linear[]): Tensor[];
  /** x [b, ..] → y [b, ..], which f makes of the neighboring rows of each adapter. */
  each(x: Tensor, f: (part: Tensor, use: AdapterUse) => Tensor): Tensor;
}
