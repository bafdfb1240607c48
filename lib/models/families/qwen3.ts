/** Qwen3: Llama with a norm over each head of q and k, and heads of a width of their own. */
import { decoderConfig } from '../config/common';
import { qwenWindows } from '../config/windows';
import type { Family } from './family';
import { decoderLayout } from './gguf_layout';
import { llama, llamaConfig, type LlamaConfig } from './llama';

export const qwen3: Family<LlamaConfig> = {
  ...llama,
  className: 'Qwen3ForCausalLM',
  config(json) {
    const decoder = decoderConfig(json, () => 128);
    const attentionBias = json.flag('attention_bias');
    json.flag('mlp_bias');
    return llamaConfig(json, decoder, {
      ...{ qkvBias: attentionBias, outputBias: attentionBias, mlpBias: false, qkNorm: true },
      windows: qwenWindows(json, decoder.numHiddenLayers),
    });
  },
  gguf: decoderLayout('qwen3', false),
};
