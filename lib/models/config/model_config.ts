/** What is known of a model of any family. */
import type { DType } from '../../native/dtype';
import type { BlockFormat } from '../../native/block_formats';
import type { RopeConfig } from './rope';

/** The attention of a layer: what its cache holds, and which keys a query sees. */
export interface LayerShape {
  /** Heads of keys and values. */
  readonly kvHeads: number;
  /** Numbers of a head. */
  readonly headDim: number;
  /** How many keys a query sees, itself included; 0 for all. */
  readonly window: number;
  /** How queries and keys are rotated. */
  readonly rope: RopeConfig;
}

/** What is known of a model, whatever its family; each family adds values of its own. */
export interface ModelConfig {
  /** The family: model_type of config.json. */
  readonly modelType: string;
  /** How many ids there are: logits are as wide. */
  readonly vocabSize: number;
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  /** How many blocks there are. */
  readonly numHiddenLayers: number;
  /** Heads of the queries. */
  readonly numAttentionHeads: number;
  /** The attention of each block. */
  readonly layers: readonly LayerShape[];
  /** The longest sequence that the model was trained on. */
  readonly maxPositionEmbeddings: number;
  /** Whether the output embedding is the input embedding. */
  readonly tieWordEmbeddings: boolean;
  /** The id that opens a text, where there is one. */
  readonly bosTokenId: number | null;
  /** The ids that end a text. */
  readonly eosTokenIds: readonly number[];
  /** The formats of matrices that a GGUF file keeps in blocks, by the paths of their modules; absent: there are none. */
  readonly packed?: ReadonlyMap<string, BlockFormat>;
  /** What the file says its weights are kept in, where it says so. */
  readonly fileDType: DType | null;
  /** model_type of the model that sees images too, of which this is the text model; absent: the files have no other. */
  readonly textOf?: string;
  /** config.json as it was read; of a text model, what that would be alone. */
  readonly raw: Readonly<Record<string, unknown>>;
}

/** What a model is, for people: 'mistral, the text model of mistral3', whose images nothing reads. */
export const kindOf = ({ modelType, textOf }: ModelConfig): string =>
  textOf === undefined ? modelType : `${modelType}, the text model of ${textOf}`;
