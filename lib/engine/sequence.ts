/** The positions of a sequence: the vectors that its adapter puts before the text, then the tokens of the text. */

/** Stands in the place of an id where a vector does. Which vector it is follows from its position. */
export const vectorMark = -1;

/** How many of the first `length` positions hold vectors; they come before all tokens. */
export function vectorsAmong(ids: ArrayLike<number>, length = ids.length): number {
  let count = 0;
  while (count < length && ids[count] === vectorMark) count++;
  return count;
}
