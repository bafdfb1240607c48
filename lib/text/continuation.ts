/** How a text goes on, in tokens. */
import type { Tokenizer } from './tokenizer';

/** Tokens before a text that decide how it is split: more than the words that it may be part of. */
const contextTokens = 4;

/** The ids of `text` where it follows `before`: those that the tokenizer gives for both without those that it gives for what comes before. */
export function continuationIds(tokenizer: Tokenizer, before: readonly number[], text: string): number[] {
  const plain = { addSpecialTokens: false };
  const context = before.slice(-contextTokens).filter((id) => id >= 0);
  const shown = tokenizer.decode(context);
  const known = tokenizer.encode(shown, plain);
  const all = tokenizer.encode(shown + text, plain);
  // Where the two would have a token in common, the text has been split between them already.
  return known.every((id, i) => all[i] === id) ? all.slice(known.length) : tokenizer.encode(text, plain);
}
