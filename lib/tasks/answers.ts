/** The answers of examples: what a model is asked, and what it should say. */
import { ignoredLabel, type Example } from '../data/example';
import type { Tokenizer } from '../text/tokenizer';

export interface Answer {
  /** The tokens before it. */
  readonly prompt: number[];
  readonly expected: string;
  /** How many tokens it has in the data. */
  readonly tokens: number;
}

/** Each run of tokens that count is an answer to all before it. What begins an example, as plain text does, answers nothing. */
export function answersOf({ inputIds, labels }: Required<Example>, tokenizer: Tokenizer): Answer[] {
  const answers: Answer[] = [];
  const counts = (at: number): boolean => labels[at] !== ignoredLabel;
  for (let begin = 0; begin < labels.length; begin++) {
    if (!counts(begin)) continue;
    const first = begin;
    while (begin < labels.length && counts(begin)) begin++;
    if (first === 0) continue;
    const expected = tokenizer.decode(labels.slice(first, begin), { skipSpecialTokens: true });
    if (expected.trim() === '') continue; // an end-of-text token alone
    answers.push({ prompt: inputIds.slice(0, first), expected, tokens: begin - first });
  }
  return answers;
}
