/** A file of a push: read in pieces, hashed, and held to what it was when it was hashed. */
import { createHash } from 'node:crypto';
import { InputFile } from '../formats/input';
import type { Source } from '../formats/links';
import { breathe } from '../tensor/pace';
import type { StreamedBody } from './connection';

/** What is pushed under a name: a file of this machine, or a text. */
export type PushContent = { readonly from: Source } | { readonly text: string };

export interface PushFile {
  /** Its path in the repository, with slashes. */
  readonly name: string;
  readonly content: PushContent;
}

/** Bytes of a piece. */
const pieceBytes = 2 ** 20;
/** By its beginning, among others, the hub decides where a file goes. */
const sampleBytes = 512;

/** Where the bytes of a pushed file come from. */
interface Reader {
  readonly size: number;
  bytes(position: number, length: number): Promise<Uint8Array>;
  checkUnchanged(): Promise<void>;
  close(): Promise<void>;
}

function textReader(text: string): Reader {
  const bytes = Buffer.from(text, 'utf8');
  return {
    size: bytes.length,
    bytes: (position, length) => Promise.resolve(bytes.subarray(position, position + length)),
    checkUnchanged: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}

/** An open file of a push. */
export class PushedFile {
  private constructor(
    readonly name: string,
    private readonly reader: Reader,
  ) {}

  /** @throws ERR_FILE for what is missing or no regular file. */
  static async open({ name, content }: PushFile, signal: AbortSignal | undefined): Promise<PushedFile> {
    return new PushedFile(
      name,
      'text' in content ? textReader(content.text) : await InputFile.open(content.from, signal),
    );
  }

  get size(): number {
    return this.reader.size;
  }

  /** The beginning, in base64. */
  async sample(): Promise<string> {
    return Buffer.from(await this.reader.bytes(0, Math.min(sampleBytes, this.size))).toString('base64');
  }

  /** SHA-256, as large storage names it, or git's hash of a blob. */
  async hash(kind: 'sha256' | 'git', onBytes: (bytes: number) => void): Promise<string> {
    const hash = kind === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${this.size}\0`);
    for await (const piece of this.#pieces(0, this.size)) {
      hash.update(piece);
      onBytes(piece.length);
      await breathe();
    }
    await this.reader.checkUnchanged();
    return hash.digest('hex');
  }

  /** The bytes from `start` on as the body of a request. `onBytes`: of each piece that is given away. */
  body(start: number, length: number, onBytes: (bytes: number) => void): StreamedBody {
    return { length, pieces: () => this.#told(start, length, onBytes) };
  }

  /** The whole file in base64. */
  async *base64(): AsyncGenerator<string> {
    const step = 3 * 2 ** 18; // whole groups of three bytes have no padding
    for (let at = 0; at < this.size; at += step)
      yield Buffer.from(await this.reader.bytes(at, Math.min(step, this.size - at))).toString('base64');
  }

  /** @throws ERR_FILE when the file was written since it was opened. */
  async checkUnchanged(): Promise<void> {
    await this.reader.checkUnchanged();
  }

  async close(): Promise<void> {
    await this.reader.close();
  }

  async *#told(start: number, length: number, onBytes: (bytes: number) => void): AsyncGenerator<Uint8Array> {
    for await (const piece of this.#pieces(start, length)) {
      yield piece;
      onBytes(piece.length); // it was taken
    }
    await this.reader.checkUnchanged();
  }

  /** Each in memory of its own: a connection keeps what it got until it is sent. */
  async *#pieces(start: number, length: number): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < length; at += pieceBytes)
      yield await this.reader.bytes(start + at, Math.min(pieceBytes, length - at));
  }
}
