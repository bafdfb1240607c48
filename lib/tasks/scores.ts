/** What an answer is worth, and how certain a mean of such scores is. */

/** Whether two texts are the same, white space around them apart. */
export const exactMatch = (text: string, expected: string): boolean => text.trim() === expected.trim();

/** As SQuAD compares words: in lower case, without ASCII punctuation, then without articles. */
function wordsOf(text: string): string[] {
  const plain = text.toLowerCase().replace(/[!-/:-@[-`{-~]/g, '');
  const words = plain.replace(/(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])/gu, ' ').split(/\s+/u);
  return words.filter((word) => word !== '');
}

/**
 * F1 of the words that two texts share, each as often as both have it (Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine
 * Comprehension of Text", 2016, as its official script computes it): 2·p·r / (p + r), p = shared / words of the text, r = shared / words
 * expected. 1 where neither has a word, as in the script of SQuAD 2.0.
 */
export function squadF1(text: string, expected: string): number {
  const given = wordsOf(text);
  const wanted = wordsOf(expected);
  if (given.length === 0 || wanted.length === 0) return given.length === wanted.length ? 1 : 0;
  const left = new Map<string, number>();
  for (const word of wanted) left.set(word, (left.get(word) ?? 0) + 1);
  let shared = 0;
  for (const word of given) {
    const count = left.get(word) ?? 0;
    if (count === 0) continue;
    left.set(word, count - 1);
    shared++;
  }
  return (2 * shared) / (given.length + wanted.length);
}

/** A mean, and its standard error √(Σ(x − mean)² / (n − 1) / n), which is 0 for a single score. */
export function meanOf(scores: readonly number[]): { mean: number; stderr: number } {
  const n = scores.length;
  const mean = scores.reduce((sum, score) => sum + score, 0) / n;
  const squares = scores.reduce((sum, score) => sum + (score - mean) ** 2, 0);
  return { mean, stderr: n < 2 ? 0 : Math.sqrt(squares / (n - 1) / n) };
}

/** The index of the largest number, the first one where several are. */
export function largest(numbers: readonly number[]): number {
  let best = 0;
  for (const [i, number] of numbers.entries()) if (number > numbers[best]!) best = i;
  return best;
}
