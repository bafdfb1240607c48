/**
 * JSON with nothing lost: JSON.parse keeps only the last of two equal keys, turns 1e0 and −0 into integers
 * and cannot tell a key "__proto__" apart. Here objects are lists of entries and numbers keep their text.
 */
export type StrictJson = null | boolean | string | JsonNumber | JsonObject | StrictJson[];

export class JsonNumber {
  constructor(readonly text: string) {}

  /** The value when it is written as a plain non-negative integer that a double holds exactly. */
  get integer(): number | undefined {
    const value = Number(this.text);
    return /^(0|[1-9]\d*)$/.test(this.text) && Number.isSafeInteger(value) ? value : undefined;
  }
}

export class JsonObject {
  constructor(readonly entries: readonly (readonly [key: string, value: StrictJson])[]) {}
}

/** The same limit as the official reader's parser has; it also bounds our own recursion. */
const maxDepth = 127;
const numberSyntax = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const spaces = /[ \t\n\r]*/y;
const literals: readonly (readonly [string, null | boolean])[] = [
  ['null', null],
  ['true', true],
  ['false', false],
];

/** Parses one JSON value; throws a SyntaxError that says what is wrong and where. */
export function parseStrictJson(text: string): StrictJson {
  let at = 0;

  function fail(what: string): never {
    throw new SyntaxError(`${what} at character ${at}`);
  }
  function skipSpaces(): void {
    spaces.lastIndex = at;
    spaces.test(text);
    at = spaces.lastIndex;
  }
  function take(syntax: RegExp): string | undefined {
    syntax.lastIndex = at;
    const found = syntax.exec(text)?.[0];
    if (found !== undefined) at += found.length;
    return found;
  }
  /** Consumes `character` and the spaces around it, when it comes next. */
  function skip(character: string): boolean {
    skipSpaces();
    if (text[at] !== character) return false;
    at++;
    skipSpaces();
    return true;
  }

  function string(): string {
    const start = at++;
    while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
    if (at >= text.length) fail('unterminated string');
    at++;
    let value: string;
    try {
      value = JSON.parse(text.slice(start, at)) as string;
    } catch {
      return fail('bad escape or control character in the string that ends');
    }
    if (/\p{Surrogate}/u.test(value)) fail('half of a surrogate pair in the string that ends');
    return value;
  }

  function object(depth: number): JsonObject {
    const entries: [string, StrictJson][] = [];
    at++;
    if (skip('}')) return new JsonObject(entries);
    do {
      if (text[at] !== '"') fail('expected a name in double quotes');
      const key = string();
      if (!skip(':')) fail('expected ":"');
      entries.push([key, value(depth)]);
    } while (skip(','));
    if (!skip('}')) fail('expected "," or "}"');
    return new JsonObject(entries);
  }

  function array(depth: number): StrictJson[] {
    const items: StrictJson[] = [];
    at++;
    if (skip(']')) return items;
    do items.push(value(depth));
    while (skip(','));
    if (!skip(']')) fail('expected "," or "]"');
    return items;
  }

  function value(depth: number): StrictJson {
    if (depth > maxDepth) fail('nesting too deep');
    const first = text[at];
    if (first === '{') return object(depth + 1);
    if (first === '[') return array(depth + 1);
    if (first === '"') return string();
    for (const [word, meaning] of literals) {
      if (text.startsWith(word, at)) {
        at += word.length;
        return meaning;
      }
    }
    return new JsonNumber(take(numberSyntax) ?? fail('expected a value'));
  }

  skipSpaces();
  const result = value(0);
  skipSpaces();
  if (at !== text.length) fail('unexpected text after the value');
  return result;
}
