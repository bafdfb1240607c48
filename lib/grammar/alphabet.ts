/**
 * The alphabet that grammars and vocabularies are written in. Tokens hold any bytes, also single ones of a character of several, and
 * web-xgrammar takes characters; so each byte from 0x80 is written as two ASCII control characters, which JSON never has as they are:
 * one for its high four bits and one for its low four.
 */

const highOf = (nibble: number): number => 0x01 + nibble - 8; // 0x01 to 0x08
const lowOf = (nibble: number): number => 0x0e + nibble; // 0x0e to 0x1d

/** A byte in the alphabet; undefined for control characters that JSON does not have. */
export function spellByte(byte: number): string | undefined {
  if (byte >= 0x80) return String.fromCharCode(highOf(byte >> 4), lowOf(byte & 15));
  const spaces = byte === 0x09 || byte === 0x0a || byte === 0x0d;
  return byte >= 0x20 || spaces ? String.fromCharCode(byte) : undefined;
}

/** The UTF-8 bytes of a text in the alphabet; undefined where one cannot be written. */
export function spell(text: string): string | undefined {
  if (/^[\x20-\x7f]*$/.test(text)) return text;
  let spelled = '';
  for (const byte of Buffer.from(text)) {
    const one = spellByte(byte);
    if (one === undefined) return undefined;
    spelled += one;
  }
  return spelled;
}

/** The text that is spelled so, without an unfinished character at its end. */
export function unspell(spelled: string): string {
  const bytes: number[] = [];
  for (let i = 0; i < spelled.length; i++) {
    const high = spelled.charCodeAt(i);
    const beyond = high >= highOf(8) && high <= highOf(15);
    if (beyond && i + 1 === spelled.length) break;
    bytes.push(beyond ? ((high - highOf(0)) << 4) | (spelled.charCodeAt(++i) - lowOf(0)) : high);
  }
  return new TextDecoder().decode(Uint8Array.from(bytes), { stream: true });
}

/** With four digits: xgrammar reads as many after \x as there are. */
const code = (value: number): string => `\\u${value.toString(16).padStart(4, '0')}`;

/** A string literal of EBNF for a text, which has no control characters. */
export function literal(text: string): string {
  const escaped = spell(text)!.replaceAll(/["\\]|[^\x20-\x7e]/g, (c) =>
    c === '"' || c === '\\' ? `\\${c}` : code(c.charCodeAt(0)),
  );
  return `"${escaped}"`;
}

const range = (of: (nibble: number) => number, from: number, to: number): string =>
  from === to ? `"${code(of(from))}"` : `[${code(of(from))}-${code(of(to))}]`;
/** The bytes with these high and low four bits. */
const bytes = (high: readonly [number, number], low: readonly [number, number] = [0, 15]): string =>
  `${range(highOf, ...high)} ${range(lowOf, ...low)}`;
const tail = 'utf8_tail';

/** Rules for one character beyond ASCII, `utf8`, as Table 3-7 of the Unicode Standard lists its well-formed bytes. */
export const utf8Rules = [
  `utf8_tail ::= ${bytes([8, 11])}`,
  `utf8 ::= ${[
    `${bytes([12, 12], [2, 15])} ${tail}`,
    `${bytes([13, 13])} ${tail}`,
    `${bytes([14, 14], [0, 0])} ${bytes([10, 11])} ${tail}`,
    `${bytes([14, 14], [1, 12])} ${tail} ${tail}`,
    `${bytes([14, 14], [13, 13])} ${bytes([8, 9])} ${tail}`,
    `${bytes([14, 14], [14, 15])} ${tail} ${tail}`,
    `${bytes([15, 15], [0, 0])} ${bytes([9, 11])} ${tail} ${tail}`,
    `${bytes([15, 15], [1, 3])} ${tail} ${tail} ${tail}`,
    `${bytes([15, 15], [4, 4])} ${bytes([8, 8])} ${tail} ${tail}`,
  ].join(' | ')}`,
];

/** Any byte of a range beyond ASCII. */
function byteRange([from, to]: readonly [number, number]): string {
  const [high, last] = [from >> 4, to >> 4];
  const [low, end] = [from & 15, to & 15];
  if (high === last) return bytes([high, high], [low, end]);
  const whole = [high + (low > 0 ? 1 : 0), last - (end < 15 ? 1 : 0)] as const;
  const parts = [
    ...(low > 0 ? [bytes([high, high], [low, 15])] : []),
    ...(whole[0] <= whole[1] ? [bytes(whole)] : []),
    ...(end < 15 ? [bytes([last, last], [0, end])] : []),
  ];
  return `(${parts.join(' | ')})`;
}

/** Any byte of the first range, then any of the second, and so on. */
export const byteSequence = (ranges: readonly (readonly [number, number])[]): string =>
  ranges.map(byteRange).join(' ');
