/**
 * What a fragment of the documentation may use without declaring it. A fragment is a block without an import; it may
 * shadow any of these. Only types matter: fragments are checked, never run.
 */
import type {
  AdamW,
  Adapter,
  CausalLM,
  ChatMessage,
  Dataset,
  LoRALinear,
  Parameter,
  Tensor,
  Tokenizer,
  Trainer,
} from 'lora-native';

export declare const model: CausalLM;
export declare const tokenizer: Tokenizer;
export declare const adapter: Adapter;
export declare const trainer: Trainer;
export declare const data: Dataset;
export declare const evalData: Dataset;
export declare const train: Dataset;
export declare const valid: Dataset;
export declare const layer: LoRALinear;
export declare const optimizer: AdamW;
export declare const params: Parameter[];
/** Token ids: of one text, and of a batch. */
export declare const ids: number[][];
export declare const tokens: number[];
export declare const x: Tensor;
export declare const y: Tensor;
export declare const target: Tensor;
export declare const labels: Tensor;
export declare const loss: Tensor;
export declare const signal: AbortSignal;
export declare const controller: AbortController;
export declare const prompt: string;
export declare const question: string;
export declare const messages: ChatMessage[];
export declare const dir: string;
