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

export interface Family {
  /** The width of a head where config.json does not say it. */
  headDim(hiddenSize: number, numAttentionHeads: number): number;
  /** @throws ERR_UNSUPPORTED for a value that models of this family do not have, ERR_FILE for one of the wrong kind. */
  block(config: ConfigJson, numHiddenLayers: number): BlockShape;
}

/** Heads that share the width of the residual stream. */
export const dividedHeadDim = (hiddenSize: number, numAttentionHeads: number): number =>
  Math.floor(hiddenSize / numAttentionHeads);
