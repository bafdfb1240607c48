/**
 * Spellings of special tokens in what people say. A template writes a conversation as one text, in which the spelling of a token and the token
 * are the same characters: a content with the token that ends a turn would end it. So a mark, a character of the private use area that the
 * conversation does not hold, goes through the template in each spelling. Where marks come out, no special token is recognized.
 */
import { unusedMarks, withMarks } from './marks';

interface Node {
  end?: true;
  readonly next: Map<number, Node>;
}

/** Where the last character of a text up to `end` begins: at the first half of a surrogate pair. */
const lastCharacter = (text: string, end: number): number => {
  const code = text.charCodeAt(end - 1);
  const before = end >= 2 ? text.charCodeAt(end - 2) : 0;
  return code >> 10 === 0x37 && before >> 10 === 0x36 ? end - 2 : end - 1;
};

/** All texts of a value of JSON, keys among them. Takes no stack. */
function* textsOf(value: unknown): Generator<string, void, void> {
  const open = [value];
  while (open.length > 0) {
    const next = open.pop();
    if (typeof next === 'string') yield next;
    else if (Array.isArray(next)) for (const item of next as unknown[]) open.push(item);
    else if (isPlain(next)) for (const [key, item] of Object.entries(next)) open.push(key, item);
  }
}

/** A character that marks places in the texts of some values: none of them holds it. */
export const unusedMark = (values: readonly unknown[]): string =>
  unusedMarks([...textsOf(values)].join(''))[0];

/** The tokens of a tokenizer whose spellings are not taken from contents. */
export class Spellings {
  readonly #tokens: readonly string[];
  #root: Node | undefined;
  /** 1 at the codes of first characters: most characters of a long text are looked up here alone. */
  readonly #first = new Uint8Array(2 ** 16);

  constructor(tokens: readonly string[] = []) {
    this.#tokens = tokens;
    for (const token of tokens) if (token !== '') this.#first[token.charCodeAt(0)] = 1;
  }

  /** The tokens by their characters: made for the first text that may hold one. */
  get #tree(): Node {
    if (this.#root) return this.#root;
    const root: Node = { next: new Map() };
    for (const token of this.#tokens) {
      let node = root;
      for (let i = 0; i < token.length; i++) {
        const code = token.charCodeAt(i);
        const next = node.next.get(code) ?? { next: new Map<number, Node>() };
        node.next.set(code, next);
        node = next;
      }
      node.end = true;
    }
    return (this.#root = root);
  }

  /**
   * Places in a text of which each spelling holds one: its last character. The beginning of a spelling at the end of the text has one too, since
   * the next text may complete it.
   */
  places(text: string): number[] {
    const found = new Set<number>();
    for (let at = 0; at < text.length; at++) {
      if (this.#first[text.charCodeAt(at)] === 0) continue;
      let node = this.#tree.next.get(text.charCodeAt(at))!;
      let covered = false;
      for (let end = at + 1; ; end++) {
        covered ||= found.has(end - 1);
        if ((node.end || end === text.length) && !covered) {
          found.add(lastCharacter(text, end));
          covered = true;
        }
        const next = node.next.get(text.charCodeAt(end));
        if (next === undefined) break;
        node = next;
      }
    }
    return [...found].sort((a, b) => a - b);
  }

  /** Whether a text of these values holds a spelling, or ends with the beginning of one. */
  occurIn(values: readonly unknown[]): boolean {
    for (const text of textsOf(values)) if (this.places(text).length > 0) return true;
    return false;
  }

  /** Whether a text ends with a spelling. */
  endsIn(text: string): boolean {
    return this.#tokens.some((token) => token !== '' && text.endsWith(token));
  }

  /** A value of JSON with `mark` in the spellings of its texts and keys; the value itself where there are none. */
  marked<T>(value: T, mark: string): T {
    if (typeof value === 'string') return this.#markedText(value, mark) as T;
    if (Array.isArray(value)) {
      const items = value.map((item: unknown) => this.marked(item, mark));
      return items.some((item, i) => item !== value[i]) ? (items as T) : value;
    }
    if (!isPlain(value)) return value;
    let changed = false;
    const entries = Object.entries(value).map(([key, item]): [string, unknown] => {
      const entry: [string, unknown] = [this.#markedText(key, mark), this.marked(item, mark)];
      changed ||= entry[0] !== key || entry[1] !== item;
      return entry;
    });
    return changed ? (Object.fromEntries(entries) as T) : value;
  }

  #markedText(text: string, mark: string): string {
    return withMarks(text, this.places(text), mark);
  }
}

/** Objects with other prototypes (dates, maps) are no values of JSON. */
function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
