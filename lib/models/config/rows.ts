/** The tensors of a model as rows, from which loading, saving, training, adapters, GGUF and estimates follow. */
import type { ExpertModule } from '../../linear/expert_module';
import type { PartOrder } from '../../linear/expert_parts';
import type { Linear, LinearRole } from '../../linear/linear';
import type { FrozenWeight } from '../../tensor/frozen_weight';
import type { Tensor } from '../../tensor/tensor';

/** The tensor of a file that holds a matrix, or bias, of all experts of a block, and where in it one of them stands. */
export interface StackedPlace {
  /** Inside of the block. */
  readonly tensor: string;
  /**
   * 'below': [experts, parts·out, in], the parts of an expert below one another. 'interleaved': [experts, in, out·parts], whose column i is of
   * part i % parts; of biases [experts, out·parts].
   */
  readonly layout: PartOrder;
  readonly expert: number;
  readonly experts: number;
  readonly part: number;
  readonly parts: number;
}

/** A vector, or what is kept like one: `module` and `tensor` make its name in files, `tensor` alone that of one which a block itself has. */
export interface VectorRow {
  readonly kind: 'vector';
  readonly module: string;
  /** 'weight', 'bias', or what else its file calls it. */
  readonly tensor: string;
  readonly shape: readonly number[];
  /** Whether full fine-tuning leaves it as it is. */
  readonly fixed: boolean;
  /** Where files hold it together with those of other experts; absent: alone, by its name. */
  readonly stacked?: StackedPlace;
}

/** A table of embeddings [rows, cols]. */
export interface TableRow {
  readonly kind: 'table';
  readonly module: string;
  /** 'weight', or what else its file calls it. */
  readonly tensor: string;
  /** In its file: [rows, cols], or [rows] where it has one column. */
  readonly shape: readonly number[];
  /** Whether its rows are those of tokens; others, as of positions, stay whole where a model is quantized. */
  readonly ofTokens: boolean;
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

/** The matrix [out, in] of one of the experts that a router chooses among, with a module of its own. */
export interface ExpertRow {
  readonly kind: 'expert';
  readonly module: string;
  /** The parameter of all experts that transformers has in memory, under which the weights of the block have them too. */
  readonly stack: string;
  /** What of the rows of that parameter it is: 'gate' or 'up'. */
  readonly part: string;
  readonly out: number;
  readonly in: number;
  /** Where files of whole weights hold it together with those of other experts; absent: alone, by its name. */
  readonly stacked?: StackedPlace;
}

/** `module` is a path inside of the block (empty: the block itself), or inside of the model for what stands before and behind the blocks. */
export type Row = VectorRow | TableRow | LinearRow | ExpertRow;

/** Rows by the names that the code of a family gives their weights; undefined: a model of this configuration has none. */
export type Rows = Readonly<Record<string, Row | undefined>>;

/** What stands before the blocks. */
export type StemRows = Rows & { readonly embedding: TableRow };
/** What stands behind them. */
export type HeadRows = Rows & { readonly output: LinearRow };

type WeightOf<R> = R extends VectorRow
  ? Tensor
  : R extends TableRow | ExpertRow
    ? FrozenWeight
    : R extends LinearRow
      ? Linear
      : undefined;

/** The weights that rows describe, under the same names. */
export type WeightsOf<R> = { readonly [K in keyof R]: WeightOf<R[K]> };

/** The weights of any rows. */
export type Weights = Readonly<Record<string, Tensor | FrozenWeight | Linear | ExpertModule | undefined>>;
export type StemWeights = Weights & { readonly embedding: FrozenWeight };
export type HeadWeights = Weights & { readonly output: Linear };

export const vector = (module: string, size: number, tensor = 'weight', trained?: 'fixed'): VectorRow => ({
  kind: 'vector',
  module,
  tensor,
  shape: [size],
  fixed: trained === 'fixed',
});

/** The taps of a convolution of each channel, as PyTorch's Conv1d keeps them. */
export const taps = (module: string, channels: number, count: number): VectorRow => ({
  ...vector(module, channels),
  shape: [channels, 1, count],
});

export const table = (module: string, rows: number, cols: number, ofTokens = true): TableRow => ({
  kind: 'table',
  module,
  tensor: 'weight',
  shape: [rows, cols],
  ofTokens,
});

/** A number for each of some rows, which its file has as a vector. */
export const column = (module: string, rows: number, tensor: string): TableRow => ({
  ...table(module, rows, 1, false),
  tensor,
  shape: [rows],
});

export const linear = (
  role: LinearRole,
  module: string,
  out: number,
  inside: number,
  bias = false,
): LinearRow => ({ kind: 'linear', role, module, out, in: inside, bias, fanInFanOut: false });

export const expert = (
  stack: string,
  part: string,
  module: string,
  out: number,
  inside: number,
  stacked?: StackedPlace,
): ExpertRow => ({
  kind: 'expert',
  module,
  stack,
  part,
  out,
  in: inside,
  ...(stacked && { stacked }),
});

/** A Conv1D of transformers: a linear layer with a bias whose matrix stands as [in, out] in files. */
export const conv1d = (role: LinearRole, module: string, out: number, inside: number): LinearRow => ({
  ...linear(role, module, out, inside, true),
  fanInFanOut: true,
});
