/** Mistral: Llama with sliding windows; its class in transformers has no biases. */
import { refuse } from '../config_json';
import { dividedHeadDim, ggufBlockNames, type Family } from './family';
import { slidingWindows } from './windows';

export const mistral: Family = {
  className: 'MistralForCausalLM',
  gguf: { architecture: 'llama', block: ggufBlockNames, pairedRows: true, slides: true },
  headDim: dividedHeadDim,
  block(config, layers) {
    for (const key of ['attention_bias', 'mlp_bias'])
      if (config.flag(key))
        refuse('ERR_UNSUPPORTED', `config.json has ${key} = true, which a mistral model does not have`);
    return {
      qkvBias: false,
      outputBias: false,
      mlpBias: false,
      qkNorm: false,
      windows: slidingWindows(config, layers, () => 0),
    };
  },
};
