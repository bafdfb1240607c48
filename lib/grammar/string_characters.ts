/** The characters of JSON strings in EBNF, as JSON.stringify() writes them. */
import { byteSequence, literal } from './alphabet';
import { intersection, utf8Ranges, type CodePoints } from './code_points';

const ascii: CodePoints = [
  [0x20, 0x21],
  [0x23, 0x5b],
  [0x5d, 0x7f],
];
const beyondAscii: CodePoints = [
  [0x80, 0xd7ff],
  [0xe000, 0x10ffff],
];
/** What stands behind a backslash. */
const escaped: CodePoints = [
  [0, 0x1f],
  [0x22, 0x22],
  [0x5c, 0x5c],
];

const code = (point: number): string => `\\u${point.toString(16).padStart(4, '0')}`;
const classOf = (set: CodePoints): string =>
  `[${set.map(([from, to]) => (from === to ? code(from) : `${code(from)}-${code(to)}`)).join('')}]`;

/** Expressions of which one matches any character of a set, and nothing else does. */
export function charactersOfString(set: CodePoints, named: (body: string) => string): string[] {
  const parts: string[] = [];
  const plain = intersection(set, ascii);
  if (plain.length > 0) parts.push(classOf(plain));
  const behind = intersection(set, escaped).flatMap(([from, to]) =>
    Array.from({ length: to - from + 1 }, (_, i) =>
      JSON.stringify(String.fromCharCode(from + i)).slice(2, -1),
    ),
  );
  if (behind.length > 0) parts.push(named(`"\\\\" (${behind.map(literal).join(' | ')})`));
  const wide = intersection(set, beyondAscii);
  if (wide.join() === beyondAscii.join()) parts.push('utf8');
  else if (wide.length > 0)
    parts.push(named(wide.flatMap(([from, to]) => utf8Ranges(from, to).map(byteSequence)).join(' | ')));
  return parts;
}
