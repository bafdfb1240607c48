/** Ministral: Mistral of which some layers slide. */
import type { Family } from './family';
import { decoderLayout } from './gguf_layout';
import type { LlamaConfig } from './llama';
import { mistral } from './mistral';

export const ministral: Family<LlamaConfig> = {
  ...mistral,
  className: 'MinistralForCausalLM',
  defaults: { num_key_value_heads: 8, max_position_embeddings: 131072 },
  /** llama.cpp has no architecture that slides in layers of such a list: a model without windows is a llama there. */
  gguf: decoderLayout('llama', true),
};
