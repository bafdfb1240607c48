/** The options of a model's calls. */
import type { ReadLimits } from '../../formats/limits';
import type { LoadProgress } from '../../hub/progress';
import type { SourceOptions } from '../../hub/source';
import type { Device } from '../../native/device';
import type { Tensor } from '../../tensor/tensor';
import type { HeadInput } from '../../peft/head';
import type { Adapter } from '../../peft/adapter';
import type { AddAdapterOptions } from '../../peft/adapter_set';
import type { AdapterMethodName } from '../../peft/methods';
import type { TokenRows } from '../inputs/batch';
import type { LogProbsWanted } from './label_log_probs';
import type { SamplingOptions } from '../../engine/sampling';
import type { ChatVariables } from '../../text/chat';
import type { EmbeddingNoise } from '../inputs/noise';
import type { QuantizeOptions } from '../quantized/quantize_options';
import type { ModelDType } from './weights';

/** The options of {@link CausalLM.fromPretrained}. */
export interface FromPretrainedOptions extends SourceOptions {
  /** The dtype of activations; frozen weights are at most as wide. Default 'auto': as in the files, with f16 becoming bf16; 'f16' is for inference on GPUs. */
  dtype?: 'auto' | ModelDType | undefined;
  /**
   * What the model ends in, in the place of its own head: `{ type: 'classify', labels }` gives each text scores over labels, of its last token. A matrix that
   * the files do not hold begins with normal numbers. Default: as the files say, the head of a language model or of …ForSequenceClassification.
   */
  head?: HeadInput | undefined;
  /**
   * Quantizes the matrices while loading: 'nf4' to 4.5 bits per weight, 'int8' to 8. Default: as in the files. A base
   * that is already quantized needs no option.
   */
  quantize?: QuantizeOptions['format'] | QuantizeOptions | undefined;
  /**
   * 'int8': generation rounds what a quantized matrix is multiplied by to 8 bits, in groups of 32 values, and multiplies whole numbers: faster on the CPU,
   * within 1% of the exact product. For int8 and GGUF's Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K; other matrices, training, `forward` and losses stay
   * exact. Default 'exact'.
   */
  activations?: 'exact' | 'int8' | undefined;
  /** The device for weights and ops; 'auto' is the best available one, which {@link CausalLM.device} then names. Default 'cpu'. */
  device?: Device | 'auto' | (string & {}) | undefined;
  /** Limits for the files, to raise if the defaults refuse a model that you trust. */
  limits?: ReadLimits | undefined;
  /** Also checked between tensors; an abort rejects with its reason and frees what was loaded. */
  signal?: AbortSignal | undefined;
  /** Called while a name of the hub is resolved and downloaded, and after every tensor, with the bytes so far and in total. */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** The options of {@link CausalLM.forward}. */
export interface ForwardOptions {
  /** The label of each position, in rows like ids; −100 does not count. Do not shift them: position t predicts the label of t + 1. */
  labels?: TokenRows | undefined;
  /**
   * Several texts in one row: the number of the text of each token, 0 for padding; rows as ids. Attention and positions stay inside each text,
   * and no token is predicted from another text.
   */
  segmentIds?: readonly (readonly number[] | Int32Array)[] | undefined;
  /** How the losses of all counted labels are combined. Default 'mean'. */
  reduction?: 'mean' | 'sum' | undefined;
  /** Also return logits, which are large. Default: when there are no labels. */
  logits?: boolean | undefined;
  /**
   * A name, an Adapter, or null for the base alone; or a list with one of these per row, whose logits and gradients are then as in separate
   * calls. ERR_BUSY while an adapter is merged. Default: the active adapter, or the merged weights.
   */
  adapter?: string | Adapter | null | readonly (string | Adapter | null)[] | undefined;
  /** Keeps only the input of each block for backward(), which computes the block once more: less memory, more time, the same bits. Default false. */
  gradientCheckpointing?: boolean | undefined;
  /** @internal Sees the activations between the blocks. */
  watch?: ((module: string, x: Tensor) => void) | undefined;
  /** @internal Gives `rowLosses` in the place of `loss`. */
  rowLosses?: boolean | undefined;
  /** @internal Gives `logProbs` in the place of `loss`: see label_log_probs.ts. */
  logProbs?: LogProbsWanted | undefined;
  /** @internal Noise on the embeddings: see noise.ts. */
  noise?: EmbeddingNoise | undefined;
  /** Turns dropout on. Default: when gradients are being recorded for the adapter. */
  train?: boolean | undefined;
}

/** Options inferred as a type parameter escape the check for unknown names; this type checks them again. */
export type NoOther<O> = string extends keyof O
  ? unknown
  : { [K in Exclude<keyof O, keyof ForwardOptions>]: never };

/** What {@link CausalLM.forward} gives; a field is there when its option asks for it. */
export interface ForwardOutput<O extends ForwardOptions> {
  /** The loss over the labels, a scalar in f32, in nats. */
  loss: O extends { labels: TokenRows } ? Tensor : Tensor | undefined;
  /** log p up to a constant, [batch, seq, vocab], f32, or of a head of classes one row for each text, [texts, labels]; they carry gradient. */
  logits: O extends { logits: true }
    ? Tensor
    : Extract<keyof O, 'labels' | 'logits'> extends never
      ? Tensor
      : Tensor | undefined;
}

/** The options of {@link CausalLM.loadAdapter}. */
export interface LoadAdapterOptions<Name extends AdapterMethodName = AdapterMethodName>
  extends AddAdapterOptions, SourceOptions {
  /** The method that the adapter must have; others are refused. Default: any. */
  method?: Name | undefined;
  /** Whether its parameters get gradients. Default false. */
  trainable?: boolean | undefined;
  /** Limits for its files. */
  limits?: ReadLimits | undefined;
}

/** The options of {@link CausalLM.generate}; those of a conversation apply to a prompt of messages. */
export interface GenerateOptions extends SamplingOptions, ChatVariables {
  /** Continues the last message, which is the beginning of the assistant's answer; the text is the continuation. Default false. */
  continueAssistant?: boolean | undefined;
  /** A name, an Adapter, or null for the base alone; ERR_BUSY while an adapter is merged. Default: the active adapter, or the merged weights. */
  adapter?: string | Adapter | null | undefined;
}
