/** Mistral: Llama with sliding windows; its class in transformers has no biases. */
import { decoderConfig } from '../config/common';
import { refuse } from '../config/config_json';
import { slidingWindows } from '../config/windows';
import type { Family } from './family';
import { llama, llamaConfig, type LlamaConfig } from './llama';

export const mistral: Family<LlamaConfig> = {
  ...llama,
  className: 'MistralForCausalLM',
  config(json) {
    const decoder = decoderConfig(json);
    for (const key of ['attention_bias', 'mlp_bias'])
      if (json.flag(key))
        refuse('ERR_UNSUPPORTED', `config.json has ${key} = true, which a mistral model does not have`);
    return llamaConfig(json, decoder, {
      ...{ qkvBias: false, outputBias: false, mlpBias: false, qkNorm: false },
      windows: slidingWindows(json, decoder.numHiddenLayers, () => true),
    });
  },
  gguf: { ...llama.gguf, slides: true },
};
