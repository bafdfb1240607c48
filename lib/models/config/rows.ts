/** The tensors of a model as rows, from which loading, saving, training, adapters, GGUF and estimates follow. */
import type { Linear, LinearRole } from '../../linear/linear';
import type { FrozenWeight } from '../../tensor/frozen_weight';
import type { Tensor } from '../../tensor/tensor';

/** A vector: `module` and `tensor` make its name in files. */
export interface VectorRow {
  readonly kind: 'vector';
  readonly module: string;
  readonly tensor: 'weight' | 'bias';
  readonly size: number;
}

/** A table of embeddings [rows, cols]. */
export interface TableRow {
  readonly kind: 'table';
  readonly module: string;
  readonly rows: number;
  readonly cols: number;
}

/** A linear layer: W [out, in], and its bias [out]. */
export interface LinearRow {
  readonly kind: 'linear';
  readonly module: string;
  readonly role: LinearRole;
  readonly out: number;
  readonly in: number;
  readonly bias: boolean;
  /** Whether Hugging Face's files hold W as [in, out]: a Conv1D of transformers. */
  readonly fanInFanOut: boolean;
}

/** `module` is a path inside of the block, or inside of the model for what stands before and behind the blocks. */
export type Row = VectorRow | TableRow | LinearRow;

/** Rows by the names that the code of a family gives their weights; undefined: a model of this configuration has none. */
export type Rows = Readonly<Record<string, Row | undefined>>;

/** What stands before the blocks. */
export type StemRows = Rows & { readonly embedding: TableRow };
/** What stands behind them. */
export type HeadRows = Rows & { readonly output: LinearRow };

type WeightOf<R> = R extends VectorRow
  ? Tensor
  : R extends TableRow
    ? FrozenWeight
    : R extends LinearRow
      ? Linear
      : undefined;

/** The weights that rows describe, under the same names. */
export type WeightsOf<R> = { readonly [K in keyof R]: WeightOf<R[K]> };

/** The weights of any rows. */
export type Weights = Readonly<Record<string, Tensor | FrozenWeight | Linear | undefined>>;
export type StemWeights = Weights & { readonly embedding: FrozenWeight };
export type HeadWeights = Weights & { readonly output: Linear };

export const vector = (module: string, size: number, tensor: VectorRow['tensor'] = 'weight'): VectorRow => ({
  kind: 'vector',
  module,
  tensor,
  size,
});

export const table = (module: string, rows: number, cols: number): TableRow => ({
  kind: 'table',
  module,
  rows,
  cols,
});

export const linear = (
  role: LinearRole,
  module: string,
  out: number,
  inside: number,
  bias = false,
): LinearRow => ({ kind: 'linear', role, module, out, in: inside, bias, fanInFanOut: false });

/** A Conv1D of transformers: a linear layer with a bias whose matrix stands as [in, out] in files. */
export const conv1d = (role: LinearRole, module: string, out: number, inside: number): LinearRow => ({
  ...linear(role, module, out, inside, true),
  fanInFanOut: true,
});
