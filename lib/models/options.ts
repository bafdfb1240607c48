/** The options of a model's calls. */
import type { Device } from '../device';
import type { Tensor } from '../tensor';
import type { Adapter } from './adapter';
import type { TokenRows } from './batch';
import type { SamplingOptions } from './generate';
import type { ModelDType } from './weights';

export interface FromPretrainedOptions {
  /** Of activations. 'auto' keeps what the files hold, f16 becoming bf16; 'f16' is for inference on GPUs. */
  dtype?: 'auto' | ModelDType;
  /** Default 'cpu'. */
  device?: Device | (string & {});
  signal?: AbortSignal;
  /** Of a model of the hub ('hf:org/name', not supported yet): a branch, a tag or a commit. */
  revision?: string;
  /** Of the hub, for private models. */
  token?: string;
  /** Called after every tensor with the bytes of weights loaded so far and in all. */
  onProgress?: (progress: { loaded: number; total: number }) => void;
}

export interface ForwardOptions {
  /** As ids; −100 counts nothing. Not shifted: position t predicts t + 1. */
  labels?: TokenRows;
  /** Over all labels of the batch that count. Default 'mean'. */
  reduction?: 'mean' | 'sum';
  /** Also return logits. Default: when there are no labels. */
  logits?: boolean;
  /** Default: the active adapter. */
  adapter?: string | Adapter | null;
  /** Dropout. Default: when gradients are being recorded for the adapter. */
  train?: boolean;
}

/** Options inferred as a type parameter escape the check for unknown names: this puts it back. */
export type NoOther<O> = string extends keyof O
  ? unknown
  : { [K in Exclude<keyof O, keyof ForwardOptions>]: never };

export interface ForwardOutput<O extends ForwardOptions> {
  /** Scalar, f32. */
  loss: O extends { labels: TokenRows } ? Tensor : Tensor | undefined;
  /** [batch, seq, vocab], f32. */
  logits: O extends { logits: true } ? Tensor : Tensor | undefined;
}

export interface AddAdapterOptions {
  /** Default 'default'. */
  name?: string;
  /** Of the initial weights and of dropout. Default 0. */
  seed?: number;
  /** Make it the active one although there are others. */
  activate?: boolean;
}
export interface LoadAdapterOptions extends AddAdapterOptions {
  /** Whether its parameters get gradients. Default false. */
  trainable?: boolean;
}

export interface GenerateOptions extends SamplingOptions {
  /** Default: the active adapter. */
  adapter?: string | Adapter | null;
}

