/** Text of strangers on a terminal: names in files may hold sequences that move its cursor, hide text or turn its direction. */

// Controls but tab and line feed, line and paragraph separators, and what turns the direction of text.
const unprintable = /(?![\t\n])[\p{Cc}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/gu;

const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;

/** The text with such characters spelt out, as JSON spells them. */
export const printable = (text: string): string => text.replace(unprintable, escaped);

/** The same in one line of at most `most` characters. */
export function printableLine(text: string, most: number): string {
  const line = printable(text.slice(0, most)).replace(/[\t\n]/g, (character) => escaped(character));
  return text.length > most ? `${line}…` : line;
}
