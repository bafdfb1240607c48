/** What differs between families of models; everything else is configuration that they share (../config.ts). */
import type { ConfigJson } from '../config_json';

/** The parts of a block that differ between families. */
export interface BlockShape {
  /** Whether q, k and v have biases. */
  readonly qkvBias: boolean;
  /** Whether the output of the attention has a bias. */
  readonly outputBias: boolean;
  /** Whether the MLP has biases. */
  readonly mlpBias: boolean;
  /** RMSNorm over each head of q and k before the rotation. */
  readonly qkNorm: boolean;
  /** Per layer: how many keys a query sees, itself included; 0 for all. */
  readonly windows: readonly number[];
}

/** How llama.cpp names and orders what a family has. */
export interface GgufLayout {
  /** general.architecture. */
  readonly architecture: string;
  /** By the path of a module inside a block: what follows `blk.N.`. */
  readonly block: Readonly<Record<string, string>>;
  /** Whether files of this family, of several that are one architecture there, have attention.sliding_window. */
  readonly slides?: true;
  /** Whether the two numbers that rope turns together are neighbors: then row 2i + j of a head of q and k is row j·headDim/2 + i of Hugging Face's. */
  readonly pairedRows: boolean;
}

export interface Family {
  /** The class of transformers, for `architectures` of a config.json that is made of other values. */
  readonly className: string;
  /** Its GGUF files. */
  readonly gguf: GgufLayout;
  /** The width of a head where config.json does not say it. */
  headDim(hiddenSize: number, numAttentionHeads: number): number;
  /** @throws ERR_UNSUPPORTED for a value that models of this family do not have, ERR_FILE for one of the wrong kind. */
  block(config: ConfigJson, numHiddenLayers: number): BlockShape;
}

/** Heads that share the width of the residual stream. */
export const dividedHeadDim = (hiddenSize: number, numAttentionHeads: number): number =>
  Math.floor(hiddenSize / numAttentionHeads);

/** The names of the block that these families share. */
export const ggufBlockNames = {
  input_layernorm: 'attn_norm',
  post_attention_layernorm: 'ffn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
} as const;
