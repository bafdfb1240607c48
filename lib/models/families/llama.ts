/** Llama, and SmolLM2, which is one. */
import { refuse } from '../config_json';
import { dividedHeadDim, ggufBlockNames, type Family } from './family';
import { fullAttention, layerTypes } from './windows';

export const llama: Family = {
  className: 'LlamaForCausalLM',
  gguf: { architecture: 'llama', block: ggufBlockNames, pairedRows: true },
  headDim: dividedHeadDim,
  block(config, layers) {
    const attentionBias = config.flag('attention_bias');
    if (layerTypes(config, layers)?.includes('sliding_attention'))
      refuse(
        'ERR_UNSUPPORTED',
        'config.json has sliding_attention in layer_types, which a llama model does not have',
      );
    return {
      qkvBias: attentionBias,
      outputBias: attentionBias,
      mlpBias: config.flag('mlp_bias'),
      qkNorm: false,
      windows: fullAttention(layers),
    };
  },
};
