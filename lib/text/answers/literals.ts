/** Reads values as models write them outside JSON: Python's literals, and those of Gemma 4, whose texts stand between `<|"|>`. */

/** Gemma's quotation mark, which is one token. */
const gemmaQuote = '<|"|>';

/** Lists and objects within each other. */
const maxDepth = 64;

const words: Readonly<Record<string, unknown>> = {
  True: true,
  true: true,
  False: false,
  false: false,
  None: null,
  null: null,
};

const escapes: Readonly<Record<string, string>> = { n: '\n', t: '\t', r: '\r' };

/** What is read is not what was expected. Whoever begins to read catches it. */
export class NoLiteral extends Error {}

/** A place in a text, which moves over what is read. */
export class LiteralReader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** Whether only white space is left. */
  get ended(): boolean {
    return this.#text.slice(this.#at).trim() === '';
  }

  /** Passes a mark, and white space before it, if it is there. */
  takes(mark: string): boolean {
    this.#match(/\s*/y);
    if (!this.#text.startsWith(mark, this.#at)) return false;
    this.#at += mark.length;
    return true;
  }

  /** @throws NoLiteral where the mark is not there. */
  pass(mark: string): void {
    if (!this.takes(mark)) throw new NoLiteral();
  }

  /** A name of a function or an argument. */
  name(): string {
    this.#match(/\s*/y);
    const name = this.#match(/[\p{L}_][\p{L}\p{N}_.-]*/uy);
    if (name === undefined) throw new NoLiteral();
    return name;
  }

  /** What stands between commas, up to `close`, which is passed. */
  list<T>(close: string, item: () => T): T[] {
    const items: T[] = [];
    while (!this.takes(close)) {
      if (items.length > 0) this.pass(',');
      if (items.length > 0 && this.takes(close)) break; // Python allows a comma at the end
      items.push(item());
    }
    return items;
  }

  /** Names with values: `a=1, b=2` with '=', `a:1,b:2` with ':'. */
  named(separator: string, close: string): Record<string, unknown> {
    return Object.fromEntries(
      this.list(close, () => {
        const name = this.name();
        this.pass(separator);
        return [name, this.value()];
      }),
    );
  }

  value(depth = 0): unknown {
    if (depth > maxDepth) throw new NoLiteral();
    if (this.takes('[')) return this.list(']', () => this.value(depth + 1));
    if (this.takes('(')) return this.list(')', () => this.value(depth + 1));
    if (this.takes('{'))
      return Object.fromEntries(
        this.list('}', () => {
          const key = this.#quoted() ?? this.name();
          this.pass(':');
          return [key, this.value(depth + 1)];
        }),
      );
    const text = this.#quoted();
    if (text !== undefined) return text;
    const number = this.#match(/-?\d+(\.\d+)?([eE][+-]?\d+)?/y);
    if (number !== undefined) return Number(number);
    const word = this.#match(/[A-Za-z]+/y);
    if (word === undefined || !Object.hasOwn(words, word)) throw new NoLiteral();
    return words[word];
  }

  /** A text in quotation marks; undefined where none begins. */
  #quoted(): string | undefined {
    if (this.takes(gemmaQuote)) {
      const end = this.#text.indexOf(gemmaQuote, this.#at);
      if (end < 0) throw new NoLiteral();
      const text = this.#text.slice(this.#at, end);
      this.#at = end + gemmaQuote.length;
      return text;
    }
    const quote = this.takes("'") ? "'" : this.takes('"') ? '"' : undefined;
    return quote === undefined ? undefined : this.#unquoted(quote);
  }

  /** Templates write texts without escapes: a quotation mark ends one only where what follows could not be its text. */
  #unquoted(quote: string): string {
    let text = '';
    for (; this.#at < this.#text.length; this.#at++) {
      const char = this.#text[this.#at]!;
      if (char === '\\' && this.#at + 1 < this.#text.length) {
        const next = this.#text[++this.#at]!;
        const code =
          next === 'u' ? /^[\da-fA-F]{4}/.exec(this.#text.slice(this.#at + 1, this.#at + 5)) : null;
        if (code) this.#at += 4;
        text += code ? String.fromCharCode(Number.parseInt(code[0], 16)) : (escapes[next] ?? next);
      } else if (char === quote && this.#endsAt(this.#at + 1)) {
        this.#at++;
        return text;
      } else text += char;
    }
    throw new NoLiteral();
  }

  #endsAt(at: number): boolean {
    while (/\s/.test(this.#text[at] ?? '')) at++;
    return at >= this.#text.length || ',)]}:'.includes(this.#text[at]!);
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const [found] = pattern.exec(this.#text) ?? [];
    this.#at += found?.length ?? 0;
    return found;
  }
}
