/** OLMo 3: OLMo 2 with a sliding window in three of four layers, which do not stretch their rope. */
import { decoderConfig } from '../config/common';
import type { AttentionShape } from '../config/model_config';
import { parseRope, ropeOfType, yarnMagnitude } from '../config/rope';
import { slidingWindows } from '../config/windows';
import type { Family } from './family';
import { decoderFields, windowOfPattern } from './gguf_layout';
import { type LlamaConfig } from './llama';
import { olmo2 } from './olmo2';

/** The layers that slide where config.json does not say it. */
const slides = (index: number): boolean => (index + 1) % 4 !== 0;

export const olmo3: Family<LlamaConfig> = {
  ...olmo2,
  className: 'Olmo3ForCausalLM',
  defaults: { ...olmo2.defaults, rope_theta: 5e5 },

  config(json) {
    const { raw } = json;
    const decoder = decoderConfig(json);
    const { numKeyValueHeads: kvHeads, headDim, maxPositionEmbeddings: context } = decoder;
    const attentionBias = json.flag('attention_bias');
    const full = ropeOfType(raw, context, 'full_attention') ?? parseRope(raw, context);
    const sliding = ropeOfType(raw, context, 'sliding_attention') ?? {
      ...full,
      scaling: { type: 'default' },
    };
    const layers = slidingWindows(json, decoder.numHiddenLayers, slides).map((window): AttentionShape => ({
      ...{ kind: 'attention', kvHeads, headDim, window },
      rope: window > 0 ? sliding : full,
    }));
    const shape = { qkvBias: attentionBias, outputBias: attentionBias, mlpBias: false, qkNorm: true };
    return { ...decoder, ...shape, layers };
  },

  // llama.cpp has a window in three of four layers of any olmo2 that has one, and knows no other pattern.
  gguf: {
    ...olmo2.gguf,
    slides: true,
    neutral: { 'attention.sliding_window_pattern': 'read', 'rope.scaling.attn_factor': 'read' },
    fields(c) {
      const pattern = 'three of four layers, which is what llama.cpp computes an olmo3 by';
      const window = windowOfPattern(c, slides, pattern);
      const full = c.layers.find((one) => one.window === 0) ?? c.layers[0]!;
      return decoderFields(c, 'olmo2', full.rope).set('olmo2.attention.sliding_window', { u32: window });
    },
    configJson({ values, key }) {
      const pattern = values.get(key('attention.sliding_window_pattern'));
      if (
        typeof pattern === 'object' &&
        Array.from(pattern, Number).some((one, i) => (one !== 0) !== slides(i))
      )
        values.fail(
          'has sliding windows in other layers than three of four, which is not supported',
          'ERR_UNSUPPORTED',
        );
      // Writers say what yarn takes by itself.
      const [given, factor] = ['attn_factor', 'factor'].map((name) =>
        values.number(key(`rope.scaling.${name}`)),
      );
      if (given !== undefined && given !== 1 && !(Math.abs(given - yarnMagnitude(factor ?? 1, 1)) < 1e-4))
        values.fail(
          `has ${key('rope.scaling.attn_factor')} = ${given}, which is not supported`,
          'ERR_UNSUPPORTED',
        );
      return {};
    },
  },
};
