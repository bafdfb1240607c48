/** Granite 4 without experts and recurrent layers: Granite whose gate and up are one layer. */
import { refuse } from '../config/config_json';
import { noRope } from '../config/rope';
import { linear, vector, type WeightsOf } from '../config/rows';
import type { Family } from './family';
import { unsupported } from './gguf_layout';
import { granite, graniteBlock, type GraniteConfig } from './granite';
import { attentionRows } from './llama';
import { fusedMlp } from './parts';

const layer = (c: GraniteConfig) => {
  const { hiddenSize: d, intermediateSize: ff } = c;
  return {
    inputNorm: vector('input_layernorm', d),
    postNorm: vector('post_attention_layernorm', d),
    ...attentionRows(c),
    gateUp: linear('gateUp', 'shared_mlp.input_linear', 2 * ff, d),
    down: linear('mlpOutput', 'shared_mlp.output_linear', d, ff),
  };
};

export const granitemoehybrid: Family<GraniteConfig> = {
  ...granite,
  className: 'GraniteMoeHybridForCausalLM',
  defaults: { intermediate_size: 11008, num_local_experts: 8, shared_intermediate_size: 1024 },
  neutral: { ...granite.neutral, num_local_experts: [0], mlp_bias: [false] },

  config(json) {
    const kinds = json.get('layer_types');
    // Without a list all layers are recurrent.
    if (!Array.isArray(kinds) || kinds.some((kind) => kind !== 'attention'))
      refuse(
        'ERR_UNSUPPORTED',
        `config.json has layer_types = ${JSON.stringify(kinds)?.slice(0, 120)}; supported in a granitemoehybrid model is attention in every layer`,
      );
    const config = { ...granite.config(json), intermediateSize: json.width('shared_intermediate_size') };
    if (json.get('position_embedding_type') === 'rope') return config;
    return { ...config, layers: config.layers.map((shape) => ({ ...shape, rope: noRope })) };
  },

  layer,

  block: (run, w: WeightsOf<ReturnType<typeof layer>>, index, input) =>
    graniteBlock(run, w, index, input, (x) => fusedMlp(run, x, w, run.config.intermediateSize)),

  numbers(c, index) {
    const alone = granite.numbers(c, index);
    const { intermediateSize: ff } = c;
    // The output of the fused layer, beside its parts.
    return {
      ...alone,
      working: alone.working + 2 * ff,
      gradients: [...alone.gradients.slice(0, 2), [2 * ff]],
    };
  },

  gguf: {
    ...granite.gguf,
    fields: () =>
      unsupported('gate and up of a granitemoehybrid model are one layer, which llama.cpp keeps as two'),
  },
};
