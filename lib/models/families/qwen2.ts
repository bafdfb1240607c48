/** Qwen2 and Qwen2.5: Llama whose q, k and v have biases, whatever config.json says. */
import { dividedHeadDim, ggufBlockNames, type Family } from './family';
import { qwenWindows } from './windows';

export const qwen2: Family = {
  className: 'Qwen2ForCausalLM',
  gguf: { architecture: 'qwen2', block: ggufBlockNames, pairedRows: false },
  headDim: dividedHeadDim,
  block(config, layers) {
    config.flag('attention_bias');
    config.flag('mlp_bias');
    return {
      qkvBias: true,
      outputBias: false,
      mlpBias: false,
      qkNorm: false,
      windows: qwenWindows(config, layers),
    };
  },
};
