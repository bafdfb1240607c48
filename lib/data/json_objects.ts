/** The objects of a JSON file: those of one list, or one after the other. */
import { closeList, closeObject, comma, JsonOutside, openList, openObject } from '../formats/json_scanner';
import type { Line } from './sources';

const lineFeed = 0x0a;
const isSpace = (byte: number): boolean => byte === 0x20 || (byte >= 9 && byte <= 13);
const byteOrderMark = [0xef, 0xbb, 0xbf];

/** What a cutter of bytes needs of the file. */
export interface ObjectText {
  /** The text of an object that begins at a line. */
  decode(bytes: Buffer, line: number): string;
  /** Throws where an object has more bytes than it may. */
  checkLength(bytes: number, line: number): void;
  /** Throws what is wrong at a line. */
  fail(line: number, message: string): never;
}

/**
 * Cuts the bytes of a JSON file into its objects without reading it whole: only where each ends is looked for, and whoever takes one parses
 * it by itself.
 */
export class JsonObjects {
  #line = 1;
  #offset = 0;
  /** What may come where no object is open; `more`: behind a comma, where one has to. */
  #place: 'begin' | 'first' | 'next' | 'more' | 'after' | 'free' = 'begin';
  #depth = 0;
  readonly #outsideStrings = new JsonOutside();
  #begun = { line: 1, offset: 0 };
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(private readonly text: ObjectText) {}

  /** Lines before the one that it is at. */
  get number(): number {
    return this.#line - 1;
  }

  /** The objects that end in a chunk. */
  *split(chunk: Buffer): Generator<readonly Line[], void, void> {
    const lines: Line[] = [];
    const first = this.#offset === 0 && byteOrderMark.every((byte, i) => chunk[i] === byte) ? 3 : 0;
    let from = first;
    try {
      for (let i = first; i < chunk.length; i++) {
        const byte = chunk[i]!;
        if (byte === lineFeed) this.#line++;
        if (this.#depth === 0) {
          if (this.#outside(byte, this.#offset + i)) from = i;
        } else if (this.#inside(byte)) {
          this.#keep(chunk.subarray(from, i + 1));
          lines.push(this.#take());
        }
      }
      if (this.#depth > 0) this.#keep(chunk.subarray(from));
      this.#offset += chunk.length;
    } finally {
      if (lines.length > 0) yield lines;
    }
  }

  /** Throws unless the file may end here. */
  end(): void {
    if (this.#depth > 0) this.text.fail(this.#begun.line, 'expected the object that begins here to end');
    if (this.#place === 'first' || this.#place === 'next' || this.#place === 'more')
      this.text.fail(this.#line, 'expected the list to end with ]');
  }

  /** Reads a byte between objects; gives whether an object begins with it. */
  #outside(byte: number, offset: number): boolean {
    if (isSpace(byte)) return false;
    const place = this.#place;
    if (byte === openObject && place !== 'next' && place !== 'after') {
      this.#place = place === 'begin' || place === 'free' ? 'free' : 'next';
      this.#depth = 1;
      this.#begun = { line: this.#line, offset };
      return true;
    }
    if (byte === openList && place === 'begin') this.#place = 'first';
    else if (byte === closeList && (place === 'first' || place === 'next')) this.#place = 'after';
    else if (byte === comma && place === 'next') this.#place = 'more';
    else {
      const expected = {
        begin: 'a list of objects, or objects,',
        first: 'an object or the end of the list',
        next: 'a comma or the end of the list',
        more: 'an object behind the comma',
        after: 'nothing behind the list',
        free: 'another object',
      }[place];
      const received = byte < 0x80 ? JSON.stringify(String.fromCharCode(byte)) : `the byte ${byte}`;
      this.text.fail(this.#line, `expected ${expected} but received ${received}`);
    }
    return false;
  }

  /** Reads a byte of an object; gives whether it ends it. */
  #inside(byte: number): boolean {
    if (!this.#outsideStrings.next(byte)) return false;
    if (byte === openObject) this.#depth++;
    else if (byte === closeObject) this.#depth--;
    return this.#depth === 0;
  }

  #keep(part: Buffer): void {
    this.#bytes += part.length;
    this.text.checkLength(this.#bytes, this.#begun.line);
    this.#parts.push(part);
  }

  #take(): Line {
    const bytes = this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts, this.#bytes);
    const { line: number, offset } = this.#begun;
    this.#parts = [];
    this.#bytes = 0;
    return { line: this.text.decode(bytes, number), number, offset, bytes: bytes.length };
  }
}
