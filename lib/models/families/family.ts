/** What a family of models is: a file beside this one, read from top to bottom, and a line in index.ts. */
import type { Tensor } from '../../tensor/tensor';
import type { ConfigJson } from '../config/config_json';
import type { ModelConfig } from '../config/model_config';
import type { HeadRows, HeadWeights, Rows, StemRows, StemWeights, Weights } from '../config/rows';
import type { GgufLayout } from './gguf_layout';
import type { Residual, Run } from './parts';

/** Numbers that a block works with for each token, from which memory is estimated. */
export interface BlockNumbers {
  /** What the backward pass needs again, in the dtype of the activations. */
  readonly kept: number;
  /** And in f32. */
  readonly keptFloats: number;
  /** Of `kept`, what other blocks read too, which stays with gradient checkpointing. Absent: 0. */
  readonly crossing?: number;
  /** The most that a forward and a backward pass hold beside, in the dtype of the activations. */
  readonly working: number;
  /** The widths of what the linear layers read: those of one call in one list. */
  readonly inputs: readonly (readonly number[])[];
  /** The widths of their gradients. */
  readonly gradients: readonly (readonly number[])[];
}

/** C: the configuration of the family, which has all that its mathematics depends on. */
export interface Family<C extends ModelConfig = ModelConfig> {
  /** The class of transformers, for `architectures` of a config.json that is made of other values. */
  readonly className: string;
  /** The class of transformers with a head of classes, where it is not called as the one above is. */
  readonly classifierName?: string;
  /** What that class takes for keys that config.json lacks, where families differ. */
  readonly defaults?: Readonly<Record<string, unknown>>;
  /**
   * Keys of config.json that change the mathematics of some model, with the values that change none of this family's: instead of the common
   * ones (config/neutral.ts). 'read': the family has a use for every value.
   */
  readonly neutral?: Readonly<Record<string, readonly unknown[] | 'read'>>;
  /** @throws ERR_UNSUPPORTED for a value that models of this family do not have, ERR_FILE for one of the wrong kind. */
  config(json: ConfigJson): C;

  /** The name that a tensor of a file has in the rows, where some writers used another one; null for one that no model needs. */
  nameInModel?(name: string, c: C): string | null;
  /** The name that a tensor of the rows has in files that are written; absent: the same. */
  nameInFile?(this: void, name: string): string;
  /** The tensors before the blocks, of each block, and behind them, by the names that the functions below give them. */
  stem(c: C): StemRows;
  layer(c: C, index: number): Rows;
  head(c: C): HeadRows;
  /** Where the blocks are: the path of block i is `${blocks}.${i}`. */
  readonly blocks: string;

  /** Embeddings of ids [b, s] → [b, s, hidden] in f32. */
  embed(run: Run<C>, stem: StemWeights, ids: Tensor): Tensor;
  /** What enters the first block: x is the embeddings with noise and the vectors of adapters among them, and is consumed. Absent: x itself. */
  enter?(run: Run<C>, stem: StemWeights, x: Tensor): Tensor;
  /**
   * What each block reads beside the residual stream, of ids [b, s] and of what enters the first block. A family with it says `readsIds` in its
   * configurations. undefined: the blocks of this model read nothing else.
   */
  layerInputs?(run: Run<C>, stem: StemWeights, ids: Tensor, x: Tensor): Tensor[] | undefined;
  /** What block `index` makes of the residual stream, which it consumes. */
  block(run: Run<C>, layer: Weights, index: number, x: Residual): Residual;
  /** The last norm, [..., hidden] in f32 → the activation dtype. Consumes x. */
  norm(run: Run<C>, head: HeadWeights, x: Tensor): Tensor;

  /** What block `index` works with. */
  numbers(c: C, index: number): BlockNumbers;
  /** Its GGUF files. */
  readonly gguf: GgufLayout<C>;
}
