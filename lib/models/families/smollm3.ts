/** SmolLM3: Llama of which every fourth layer rotates nothing. */
import { decoderConfig } from '../config/common';
import { refuse, type ConfigJson } from '../config/config_json';
import { noRope } from '../config/rope';
import { layerTypes } from '../config/windows';
import type { Family } from './family';
import { decoderLayout, unsupported } from './gguf_layout';
import { llama, llamaConfig, type LlamaConfig } from './llama';

/** Which layers rotate: 1 in no_rope_layers; without that list all but each `no_rope_layer_interval`th. */
function rotatingLayers(json: ConfigJson, layers: number): boolean[] {
  const list = json.get('no_rope_layers');
  if (list === undefined) {
    const interval = json.positiveInteger('no_rope_layer_interval');
    return Array.from({ length: layers }, (_, i) => (i + 1) % interval !== 0);
  }
  if (!Array.isArray(list) || list.length < layers || list.some((one) => one !== 0 && one !== 1))
    refuse(
      'ERR_FILE',
      `expected no_rope_layers of config.json to be 0 or 1 for each of ${layers} layers but received ${JSON.stringify(list).slice(0, 120)}`,
    );
  return list.slice(0, layers).map((one) => one === 1);
}

/** By layer: `sliding_window` where layer_types says so, without that list where nothing rotates. */
function windowsOf(json: ConfigJson, rotates: readonly boolean[]): number[] {
  const kinds = layerTypes(json, rotates.length);
  const window = json.flag('use_sliding_window') ? json.integer('sliding_window', 0) : 0;
  if (window === 0 && kinds?.includes('sliding_attention'))
    refuse(
      'ERR_UNSUPPORTED',
      'config.json has sliding_attention in layer_types, which needs use_sliding_window and sliding_window in a smollm3 model',
    );
  return rotates.map((one, i) => ((kinds ? kinds[i] === 'sliding_attention' : !one) ? window : 0));
}

const layout = decoderLayout('smollm3', true);

export const smollm3: Family<LlamaConfig> = {
  ...llama,
  className: 'SmolLM3ForCausalLM',
  defaults: {
    num_key_value_heads: 4,
    max_position_embeddings: 32768,
    rope_theta: 2e6,
    no_rope_layer_interval: 4,
    tie_word_embeddings: true,
  },
  // SmolLM3-3B has pretraining_tp = 2, which its class does not read.
  neutral: { no_rope_layers: 'read', no_rope_layer_interval: 'read', pretraining_tp: 'read' },

  config(json) {
    const decoder = decoderConfig(json);
    const attentionBias = json.flag('attention_bias');
    const rotates = rotatingLayers(json, decoder.numHiddenLayers);
    const config = llamaConfig(json, decoder, {
      ...{ qkvBias: attentionBias, outputBias: attentionBias, mlpBias: json.flag('mlp_bias'), qkNorm: false },
      windows: windowsOf(json, rotates),
    });
    return { ...config, layers: config.layers.map((l, i) => (rotates[i] ? l : { ...l, rope: noRope })) };
  },

  gguf: {
    ...layout,
    fields(c) {
      if (c.layers.some(({ rope }, i) => (rope.scaling.type === 'none') !== ((i + 1) % 4 === 0)))
        unsupported(
          'layers without rope are not every fourth, which is what llama.cpp computes a smollm3 by',
        );
      return layout.fields(c);
    },
  },
};
