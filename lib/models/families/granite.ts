/** Granite: Llama with a factor on its embeddings, its scores and what each part adds, and logits that are divided. */
import { rmsNorm } from '../../ops';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { decoderConfig } from '../config/common';
import { fullAttention } from '../config/windows';
import type { Family } from './family';
import { decoderFields, decoderLayout } from './gguf_layout';
import {
  attentionOf,
  llama,
  llamaConfig,
  type LlamaConfig,
  type LlamaHead,
  type LlamaWeights,
} from './llama';
import { gatedMlp, normOf, scaled, type Residual, type Run } from './parts';

export interface GraniteConfig extends LlamaConfig {
  /** On the embeddings, and the vectors of adapters among them. */
  readonly embeddingMultiplier: number;
  /** On the scores, in the place of 1/√headDim. */
  readonly attentionMultiplier: number;
  /** On what attention and MLP add. */
  readonly residualMultiplier: number;
  /** Logits are divided by it. */
  readonly logitsScaling: number;
}

/** x + m·o(attention(norm(x))), then x + m·mlp(norm(x)). `mlp` consumes its input. */
export function graniteBlock(
  run: Run<GraniteConfig>,
  w: Pick<LlamaWeights, 'inputNorm' | 'postNorm' | 'qNorm' | 'kNorm' | 'q' | 'k' | 'v' | 'o'>,
  index: number,
  input: Residual,
  mlp: (x: Tensor) => Tensor,
): Residual {
  const { rmsNormEps: eps, attentionMultiplier: scale, residualMultiplier: m } = run.config;
  const [x, normed] = normOf(input, w.inputNorm, eps, run);
  const attended = scaled(attentionOf(run, w, index, normed, { scale }), m);
  const [middle, normed2] = normOf({ x, addend: attended }, w.postNorm, eps, run);
  return { x: middle, addend: scaled(mlp(normed2), m) };
}

export const granite: Family<GraniteConfig> = {
  ...llama,
  className: 'GraniteForCausalLM',
  neutral: {
    embedding_multiplier: 'read',
    attention_multiplier: 'read',
    residual_multiplier: 'read',
    logits_scaling: 'read',
    attention_dropout: 'read', // 0.1 in Granite 3; dropouts of a base are not applied
  },

  config(json) {
    const decoder = decoderConfig(json);
    const attentionBias = json.flag('attention_bias');
    const config = llamaConfig(json, decoder, {
      ...{ qkvBias: attentionBias, outputBias: attentionBias, mlpBias: json.flag('mlp_bias'), qkNorm: false },
      windows: fullAttention(decoder.numHiddenLayers),
    });
    return {
      ...config,
      embeddingMultiplier: json.factor('embedding_multiplier'),
      attentionMultiplier: json.factor('attention_multiplier'),
      residualMultiplier: json.factor('residual_multiplier'),
      logitsScaling: json.factor('logits_scaling'),
    };
  },

  enter: (run, _, x) => scaled(x, run.config.embeddingMultiplier),

  block: (run, w: LlamaWeights, index, input) =>
    graniteBlock(run, w, index, input, (x) => gatedMlp(run, x, w)),

  /** Divided here, since logits are linear in it, and wider; it is the logits of tokens that are. */
  norm(run, w: LlamaHead, x) {
    const { rmsNormEps: eps, logitsScaling } = run.config;
    const normed = moved(x, (t) => rmsNorm(t, w.norm, eps, run.dtype));
    return run.config.head ? normed : scaled(normed, 1 / logitsScaling);
  },

  gguf: {
    ...decoderLayout('granite', true),
    neutral: {
      'attention.scale': 'read',
      embedding_scale: 'read',
      residual_scale: 'read',
      logit_scale: 'read',
      'rope.scaling.finetuned': [true], // false: nothing is rotated
    },
    fields(c) {
      const fields = decoderFields(c, 'granite');
      const set = (name: string, f32: number): unknown => fields.set(`granite.${name}`, { f32 });
      set('attention.scale', c.attentionMultiplier);
      set('embedding_scale', c.embeddingMultiplier);
      set('residual_scale', c.residualMultiplier);
      set('logit_scale', c.logitsScaling);
      return fields;
    },
    /** Where a factor is absent or 0, llama.cpp multiplies by nothing, and scores by 1/√headDim. */
    configJson({ values, key, headDim }) {
      const factor = (name: string): number | undefined => values.number(key(name)) || undefined;
      return {
        attention_multiplier: factor('attention.scale') ?? 1 / Math.sqrt(headDim),
        embedding_multiplier: factor('embedding_scale'),
        residual_multiplier: factor('residual_scale'),
        logits_scaling: factor('logit_scale'),
      };
    },
  },
};
