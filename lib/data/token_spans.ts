/** Which tokens of a text lie before its characters: linear in the text, however many characters are asked for. */

import { Pace } from '../tensor/pace';

/** So many characters are looked for one by one, by the text before each of them. */
const few = 8;
/** Characters that may be encoded again where neighbors do not tell: some seconds. */
const maxAgain = 2 ** 24;

/** What makes tokens of the part of the text between two places. */
export type Encode = (from: number, to: number) => Promise<number[]>;

const differsAt = (a: readonly number[], b: readonly number[]): number => {
  const at = a.findIndex((id, i) => id !== b[i]);
  return at < 0 ? a.length : at;
};

/**
 * For each character how many of the ids are those of the text before it. `characters` rise.
 *
 * The tokens of the text before the character tell, where they are those of the whole. Encoding it for each of many characters would be
 * quadratic: from the third on, the text since the last but one takes the place of that before. It is right where the whole has the same
 * tokens from the last character to this one, and the one behind; else the text before tells.
 *
 * Timers and I/O run meanwhile. @throws the reason of the signal.
 * @returns undefined where too much text would have to be encoded again.
 */
export async function tokensBefore(
  characters: readonly number[],
  text: { readonly length: number },
  ids: readonly number[],
  encode: Encode,
  signal?: AbortSignal,
): Promise<number[] | undefined> {
  const found: number[] = [];
  let again = 0;
  const pace = new Pace(); // each part is too short to let others run
  for (const [i, character] of characters.entries()) {
    if (pace.due) await pace.rest(signal);
    let count: number | undefined;
    if (character >= text.length) count = ids.length;
    else if (i >= 2 && characters.length > few) {
      const from = characters[i - 2]!;
      const part = await encode(from, characters[i + 1] ?? text.length);
      const last = differsAt(await encode(from, characters[i - 1]!), part);
      const here = differsAt(await encode(from, character), part);
      const between = part.slice(last, here + 1);
      const start = found[i - 1]!;
      if (here >= last && between.every((id, k) => id === ids[start + k])) count = start + here - last;
    }
    if (count === undefined) {
      if (characters.length > few && (again += character) > maxAgain) return undefined;
      count = differsAt(await encode(0, character), ids);
    }
    found.push(count);
  }
  return found;
}
