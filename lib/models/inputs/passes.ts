/** Which texts go through a model together. */

/** Tokens of a forward pass, padding included, unless a text alone has more. */
const maxTokens = 2048;

/** The texts of each pass by their indices, the longest first, so that what stands in one pass has about one length. `lengths`: their tokens. */
export function* passesOf(lengths: readonly number[]): Generator<number[]> {
  const order = [...lengths.keys()].sort((a, b) => lengths[b]! - lengths[a]!);
  while (order.length > 0) yield order.splice(0, Math.max(1, Math.floor(maxTokens / lengths[order[0]!]!)));
}
