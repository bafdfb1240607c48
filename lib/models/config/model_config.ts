/** What is known of a model of any family. */
import type { DType } from '../../native/dtype';
import type { BlockFormat } from '../../native/block_formats';
import type { ModelHead } from '../../peft/head';
import type { RopeConfig } from './rope';

/** A layer with attention: what its cache holds, and which keys a query sees. */
export interface AttentionShape {
  /** Tells it from a layer with states. */
  readonly kind: 'attention';
  /** Heads of keys and values. */
  readonly kvHeads: number;
  /** Numbers of a head. */
  readonly headDim: number;
  /** How many keys a query sees, itself included; in both directions so many ahead, too; 0 for all. */
  readonly window: number;
  /** How queries and keys are rotated. */
  readonly rope: RopeConfig;
  /** The index of the earlier layer whose keys and values it reads; absent: it has its own. */
  readonly keysOf?: number;
}

/** A layer that keeps numbers for each sequence, as many for a long text as for a short one: the last inputs of a convolution, or matrices of a delta rule. */
export interface StateShape {
  /** Tells it from a layer with attention. */
  readonly kind: 'state';
  /** By name, the shape of what it keeps, in f32. */
  readonly states: Readonly<Record<string, readonly number[]>>;
}

/** What a layer keeps of the tokens before. */
export type LayerShape = AttentionShape | StateShape;

/** The layers with attention, in their order. */
export const attentionLayers = ({ layers }: Pick<ModelConfig, 'layers'>): AttentionShape[] =>
  layers.filter((layer) => layer.kind === 'attention');

/** Layer `index`, which has attention. */
export function attentionAt({ layers }: Pick<ModelConfig, 'layers'>, index: number): AttentionShape {
  const layer = layers[index];
  if (layer?.kind !== 'attention') throw new Error(`expected layer ${index} to have attention`);
  return layer;
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
  /** What each block keeps of a text. */
  readonly layers: readonly LayerShape[];
  /** The longest sequence that the model was trained on. */
  readonly maxPositionEmbeddings: number;
  /** Whether a token sees those behind it, too, so that the model embeds texts and continues none; absent: it does not. */
  readonly bothDirections?: boolean;
  /** What logits stay within: cap·tanh(logit / cap); absent: nothing bounds them. */
  readonly logitCap?: number;
  /** What stands behind the last norm; absent: the head of a language model, which gives logits over the vocabulary. */
  readonly head?: ModelHead;
  /** Whether blocks read the ids of their tokens, so that no vector without an id may stand among them; absent: they do not. */
  readonly readsIds?: boolean;
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
