/** What of config.json would change the mathematics of a model in ways that are not implemented. */
import { refuse } from './config_json';
import { refusedQuantization } from './quantization';

/** Keys that change the mathematics, with the only values that leave it as implemented. Absent and null always do. */
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  hidden_act: ['silu', 'swish'],
  hidden_activation: ['silu', 'swish'],
  pretraining_tp: [0, 1],
  partial_rotary_factor: [1],
  rotary_pct: [1],
  attn_logit_softcapping: [],
  final_logit_softcapping: [],
  logit_softcapping: [],
  query_pre_attn_scalar: [],
  attention_multiplier: [1],
  embedding_multiplier: [1],
  residual_multiplier: [1],
  logits_scaling: [1],
  logit_scale: [1],
  scale_embeddings: [false],
  no_rope_layer_interval: [0],
  use_qk_norm: [false],
  attention_sinks: [false],
  attention_chunk_size: [],
  num_experts: [0, 1],
  num_local_experts: [0, 1],
  num_nextn_predict_layers: [0],
  add_cross_attention: [false],
  is_encoder_decoder: [false],
  use_bidirectional_attention: [false],
  alibi: [false],
  attention_dropout: [0],
  hidden_dropout: [0],
  resid_pdrop: [0],
};

/**
 * Refuses what changes the mathematics of a model and is not implemented.
 * @param own what a family says of keys, in the place of the common values
 * @throws ERR_UNSUPPORTED naming key and value
 */
export function refuseUnsupported(
  raw: Readonly<Record<string, unknown>>,
  own: Readonly<Record<string, readonly unknown[] | 'read'>> = {},
): void {
  for (const [key, allowed] of Object.entries({ ...neutral, ...own })) {
    const value = raw[key];
    if (value === undefined || value === null || allowed === 'read' || allowed.includes(value)) continue;
    const shown = JSON.stringify(value).slice(0, 120);
    refuse(
      'ERR_UNSUPPORTED',
      `config.json has ${key} = ${shown}, which is not supported${allowed.length ? `; supported ${allowed.length > 1 ? 'are' : 'is'} ${allowed.map((one) => JSON.stringify(one)).join(', ')}` : ''}`,
    );
  }
  const quantization = raw['quantization_config'] ?? undefined;
  const refused = quantization === undefined ? undefined : refusedQuantization(quantization);
  if (refused !== undefined)
    refuse(
      'ERR_UNSUPPORTED',
      `config.json has quantization_config = ${JSON.stringify(quantization).slice(0, 120)}, which is not supported: ${refused}`,
    );
  // One entry per layer, 1 where the layer rotates (SmolLM3).
  const noRope = raw['no_rope_layers'];
  if (own['no_rope_layers'] !== 'read' && Array.isArray(noRope) && noRope.some((uses) => uses !== 1))
    refuse(
      'ERR_UNSUPPORTED',
      `config.json has no_rope_layers = ${JSON.stringify(noRope).slice(0, 120)}; supported is rope in every layer`,
    );
}
