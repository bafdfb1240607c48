/** Qwen2 and Qwen2.5: Llama whose q, k and v have biases, whatever config.json says. */
import { decoderConfig } from '../config/common';
import { qwenWindows } from '../config/windows';
import type { Family } from './family';
import { decoderLayout } from './gguf_layout';
import { llama, llamaConfig, type LlamaConfig } from './llama';

export const qwen2: Family<LlamaConfig> = {
  ...llama,
  className: 'Qwen2ForCausalLM',
  config(json) {
    const decoder = decoderConfig(json);
    json.flag('attention_bias');
    json.flag('mlp_bias');
    return llamaConfig(json, decoder, {
      ...{ qkvBias: true, outputBias: false, mlpBias: false, qkNorm: false },
      windows: qwenWindows(json, decoder.numHiddenLayers),
    });
  },
  gguf: decoderLayout('qwen2', false),
};
