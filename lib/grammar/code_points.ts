/** Sets of characters: ranges [from, to] of code points in order, none of which touch. Halves of surrogate pairs are no characters. */

export type CodePoints = readonly (readonly [from: number, to: number])[];

const last = 0x10ffff;
export const everyCodePoint: CodePoints = [
  [0, 0xd7ff],
  [0xe000, last],
];

/** The ranges of a list in order, as few as there can be. */
export function joined(ranges: CodePoints): CodePoints {
  const sorted = [...ranges].sort(([a], [b]) => a - b);
  const all: [number, number][] = [];
  for (const [from, to] of sorted) {
    const before = all.at(-1);
    if (before && from <= before[1] + 1) before[1] = Math.max(before[1], to);
    else if (from <= to) all.push([from, to]);
  }
  return all;
}

export function intersection(a: CodePoints, b: CodePoints): CodePoints {
  return joined(
    a.flatMap(([from, to]) =>
      b.map(([begin, end]): [number, number] => [Math.max(from, begin), Math.min(to, end)]),
    ),
  );
}

/** The characters that a set does not have. */
export function complement(set: CodePoints): CodePoints {
  const gaps: [number, number][] = [];
  let next = 0;
  for (const [from, to] of set) {
    gaps.push([next, from - 1]);
    next = to + 1;
  }
  return intersection(
    [...gaps, [next, last] as const].filter(([from, to]) => from <= to),
    everyCodePoint,
  );
}

export const hasCodePoint = (set: CodePoints, point: number): boolean =>
  set.some(([from, to]) => from <= point && point <= to);

export const countOf = (set: CodePoints): number => set.reduce((sum, [from, to]) => sum + to - from + 1, 0);

/** The set of the characters of a text. */
export const charactersOf = (text: string): CodePoints =>
  joined(Array.from(text, (c): [number, number] => [c.codePointAt(0)!, c.codePointAt(0)!]));

/** The bytes in UTF-8 of one character after another, as products of ranges of bytes. */
export type ByteRanges = readonly (readonly [from: number, to: number])[];

const lengths: readonly (readonly [most: number, bytes: number])[] = [
  [0x7f, 1],
  [0x7ff, 2],
  [0xffff, 3],
  [last, 4],
];

/** How the characters of a range are written in UTF-8: for each list, any byte of its first range, then any of its second, and so on. */
export function utf8Ranges(from: number, to: number): ByteRanges[] {
  for (const [most] of lengths)
    if (from <= most && most < to) return [...utf8Ranges(from, most), ...utf8Ranges(most + 1, to)];
  const [, bytes] = lengths.find(([most]) => to <= most)!;
  // Where two ends differ before their last bits, these have to run over all of their values.
  for (let i = 1; i < bytes; i++) {
    const mask = (1 << (6 * i)) - 1;
    if ((from & ~mask) === (to & ~mask)) continue;
    if ((from & mask) !== 0) return [...utf8Ranges(from, from | mask), ...utf8Ranges((from | mask) + 1, to)];
    if ((to & mask) !== mask) return [...utf8Ranges(from, (to & ~mask) - 1), ...utf8Ranges(to & ~mask, to)];
  }
  const [first, end] = [from, to].map((point) => Buffer.from(String.fromCodePoint(point)));
  return [[...first!].map((byte, i): [number, number] => [byte, end![i]!])];
}
