/** Qwen3: Llama with a norm over each head of q and k, and heads of a width of their own. */
import { ggufBlockNames, type Family } from './family';
import { qwenWindows } from './windows';

export const qwen3: Family = {
  className: 'Qwen3ForCausalLM',
  gguf: { architecture: 'qwen3', block: ggufBlockNames, pairedRows: false },
  headDim: () => 128,
  block(config, layers) {
    const attentionBias = config.flag('attention_bias');
    config.flag('mlp_bias');
    return {
      qkvBias: attentionBias,
      outputBias: attentionBias,
      mlpBias: false,
      qkNorm: true,
      windows: qwenWindows(config, layers),
    };
  },
};
