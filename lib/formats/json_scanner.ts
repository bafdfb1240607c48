/**
 * A reader of JSON text that builds nothing of its own: the caller takes what it expects, piece by piece. Unlike JSON.parse it loses
 * nothing (equal keys, 1e0 and −0, a key "__proto__"), and a text that asks for millions of lists costs no memory.
 */
const characters = Buffer.from('"\\[]{},:');
const [quote, backslash] = characters;
/** The bytes that JSON is built with. */
export const [, , openList, closeList, openObject, closeObject, comma, colon] = characters;
const lineFeed = 10;
/** The same limit as the official reader's parser has; it also bounds our own recursion. */
const maxDepth = 127;
/** For the words and numbers, which are short: more than a double needs is not read. */
const longestNumber = 400;
const numberSyntax = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/;
const maxSkipped = 65_536;
const literals = ['null', 'true', 'false'];

/** Tells of the bytes of JSON, one after the other, which stand outside its strings: the text may come in pieces. */
export class JsonOutside {
  #inString = false;
  #escaped = false;

  get inString(): boolean {
    return this.#inString;
  }

  /** Whether the next byte does. */
  next(byte: number | undefined): boolean {
    if (this.#escaped) this.#escaped = false;
    else if (!this.#inString) return !(this.#inString = byte === quote);
    else if (byte === backslash) this.#escaped = true;
    else if (byte === quote) this.#inString = false;
    return false;
  }
}

/**
 * Reads UTF-8 text that is known to be well-formed. Every method throws a SyntaxError that says what is wrong and where, in words that
 * hold nothing of the text.
 */
export class JsonScanner {
  readonly #bytes: Buffer;
  #at = 0;
  #skipped = 0;

  constructor(
    bytes: Uint8Array,
    private readonly most = maxSkipped,
  ) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  fail(what: string): never {
    const before = this.#bytes.subarray(0, this.#at);
    let line = 1;
    for (const byte of before) if (byte === lineFeed) line++;
    const character = before.toString('utf8', before.lastIndexOf(lineFeed) + 1).length;
    throw new SyntaxError(`${what} at ${line > 1 ? `line ${line}, ` : ''}character ${character}`);
  }

  /** The first byte of the value that comes next, as a character. */
  peek(): string {
    const byte = this.#bytes[this.#at];
    return byte === undefined ? '' : String.fromCharCode(byte);
  }

  /** Passes white space. */
  spaces(): void {
    const bytes = this.#bytes;
    for (;;) {
      const byte = bytes[this.#at];
      if (byte !== 32 && byte !== 10 && byte !== 13 && byte !== 9) return;
      this.#at++;
    }
  }

  /** Passes a character and the white space around it, when it comes next. */
  #skip(byte: number | undefined): boolean {
    this.spaces();
    if (this.#bytes[this.#at] !== byte) return false;
    this.#at++;
    this.spaces();
    return true;
  }

  /** Throws unless the text is at its end. */
  end(): void {
    this.spaces();
    if (this.#at !== this.#bytes.length) this.fail('unexpected text after the value');
  }

  /** A string that comes next. */
  string(): string {
    const bytes = this.#bytes;
    const start = this.#at + 1;
    const outside = new JsonOutside();
    let escaped = false;
    do {
      const byte = bytes[this.#at];
      if (byte === undefined) this.fail('unterminated string');
      if (byte < 32) this.fail('control character in a string');
      escaped ||= byte === backslash;
      outside.next(byte);
      this.#at++;
    } while (outside.inString);
    const text = bytes.toString('utf8', start, this.#at - 1);
    if (!escaped) return text;
    let value: string;
    try {
      value = JSON.parse(`"${text}"`) as string;
    } catch {
      return this.fail('bad escape in the string that ends');
    }
    if (/\p{Surrogate}/u.test(value)) this.fail('half of a surrogate pair in the string that ends');
    return value;
  }

  /** The keys of an object that comes next; the caller takes the value after each. */
  *keys(): Generator<string, void, void> {
    this.#at++;
    if (this.#skip(closeObject)) return;
    do {
      if (this.#bytes[this.#at] !== quote) this.fail('expected a name in double quotes');
      const key = this.string();
      if (!this.#skip(colon)) this.fail('expected ":"');
      yield key;
    } while (this.#skip(comma));
    if (!this.#skip(closeObject)) this.fail('expected "," or "}"');
  }

  /** Calls `item` at each item of a list that comes next, which must take it. */
  list(item: () => void): void {
    this.#at++;
    if (this.#skip(closeList)) return;
    do item();
    while (this.#skip(comma));
    if (!this.#skip(closeList)) this.fail('expected "," or "]"');
  }

  /** Passes a number; its value when it is written as a plain non-negative integer that a double holds exactly. */
  integer(): number | undefined {
    const bytes = this.#bytes;
    const start = this.#at;
    let value = 0;
    let at = start;
    for (let byte = bytes[at]; byte !== undefined && byte >= 48 && byte <= 57; byte = bytes[++at])
      value = value * 10 + byte - 48;
    const after = bytes[at];
    const plain = at > start && !(bytes[start] === 48 && at > start + 1);
    if (plain && after !== 46 && after !== 101 && after !== 69 && at - start <= 16) {
      this.#at = at;
      return Number.isSafeInteger(value) ? value : undefined;
    }
    const found = numberSyntax.exec(bytes.toString('latin1', start, start + longestNumber))?.[0];
    if (found === undefined) return this.fail('expected a value');
    if (found.length === longestNumber) this.fail('a number of too many digits');
    this.#at += found.length;
    return undefined;
  }

  /** Passes null, true or false when one comes next, and says which. */
  literal(): string | undefined {
    const start = this.#at;
    const found = literals.find(
      (word) => this.#bytes.toString('latin1', start, start + word.length) === word,
    );
    this.#at += found?.length ?? 0;
    return found;
  }

  /** Passes a value of any kind. There may be only so many of these: nobody has an interest in what they hold. */
  skipValue(depth = 0): void {
    if (depth > maxDepth) this.fail('nesting too deep');
    if (++this.#skipped > this.most) this.fail(`more than ${this.most} values that the format does not know`);
    const first = this.#bytes[this.#at];
    if (first === openObject) {
      const keys = this.keys();
      while (!keys.next().done) this.skipValue(depth + 1);
    } else if (first === openList) this.list(() => this.skipValue(depth + 1));
    else if (first === quote) this.string();
    else if (this.literal() === undefined) this.integer();
  }
}

/** Of longer texts the place is not looked for: that would hold the event loop for longer than the parser did. */
const longestSearched = 2 ** 20;

/** What is wrong with a text that JSON.parse refuses, and where. The parser's own message quotes the text, which may be a secret. */
export function jsonFault(text: string): string {
  if (text.length > longestSearched) return 'it is too long to say where';
  try {
    const json = new JsonScanner(Buffer.from(text), Infinity);
    json.spaces();
    json.skipValue();
    json.end();
  } catch (error) {
    return (error as Error).message;
  }
  return 'the parser refuses it';
}
