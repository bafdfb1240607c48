/**
 * The question whether a document answers a query, as Qwen3-Reranker asks it: Zhang et al., "Qwen3 Embedding" (2025), and the model card of
 * Qwen3-Reranker.
 */
import type { EncodeOptions } from './tokenizer_options';

/** What a document is judged by where nothing is said. */
export const rankInstruction = 'Given a web search query, retrieve relevant passages that answer the query';

const before =
  '<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n';
const behind = '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n';

/** What the prompt needs of a tokenizer. */
export interface PairEncoder {
  /** Ids of a text. */
  encode(text: string, options?: EncodeOptions): number[];
  /** Where no special token may be. */
  ordinaryPlaces?(text: string): number[];
}

/** The tokens of the question whether a document answers a query. Special tokens that either spells stay text. */
export function relevanceIds(
  tokenizer: PairEncoder,
  query: string,
  document: string,
  instruction = rankInstruction,
): number[] {
  const asked = `<Instruct>: ${instruction}\n<Query>: ${query}\n<Document>: ${document}`;
  const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });
  const ordinary = tokenizer.ordinaryPlaces?.(asked) ?? [];
  return [
    ...encode(before),
    ...tokenizer.encode(asked, { addSpecialTokens: false, ordinary }),
    ...encode(behind),
  ];
}
