/** The bytes of a file, or of what is no file: a FIFO, a terminal, a device. */
import { constants, createReadStream, open as openCallback } from 'node:fs';
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { isatty, ReadStream } from 'node:tty';
import { promisify } from 'node:util';
import { LoRAError } from '../errors';
import { InputFile } from '../formats/input';
import { systemReason } from '../formats/system_reason';

/** Bytes in their order. close() is called once, whether they were all read or not. */
export interface ByteSource {
  readonly bytes: AsyncIterable<Buffer>;
  close(): Promise<void>;
}

/** A line of these bytes, or an object of a JSON file. */
export interface Line {
  readonly line: string;
  /** From 1. */
  readonly number: number;
  /** Where its bytes begin in the (unzipped) content. */
  readonly offset: number;
  /** How many bytes it has, without the line feed. */
  readonly bytes: number;
}

const chunkBytes = 2 ** 18;

/** A regular file, to the end that it has when that is reached. */
export function fileSource(path: string, signal: AbortSignal | undefined): ByteSource {
  async function* read(): AsyncGenerator<Buffer, void, void> {
    const file = await InputFile.open(path, signal);
    try {
      for (let at = 0; ;) {
        const chunk = Buffer.allocUnsafe(chunkBytes);
        const length = await file.readSome(chunk, at);
        if (length === 0) return;
        yield chunk.subarray(0, length);
        at += length;
      }
    } finally {
      await file.close();
    }
  }
  const bytes = read();
  // The file is closed when this resolves, not some time later.
  return { bytes, close: async () => void (await bytes.return()) };
}

const openDescriptor = promisify(openCallback);

/**
 * Whatever a path names, to its end. A FIFO is waited for by the event loop: a thread of the pool, of which there are four,
 * would be held by each one whose writer does not come.
 */
export async function streamSource(path: string, signal: AbortSignal | undefined): Promise<ByteSource> {
  signal?.throwIfAborted();
  let descriptor: number;
  try {
    descriptor = await openDescriptor(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (cause) {
    throw new LoRAError('ERR_FILE', `cannot read ${path}: ${systemReason(cause)}`, { cause });
  }
  const bytes = readableOf(descriptor);
  const abort = (): void => void bytes.destroy(signal?.reason as Error);
  signal?.addEventListener('abort', abort, { once: true });
  if (signal?.aborted) abort();
  return {
    bytes,
    async close() {
      signal?.removeEventListener('abort', abort);
      bytes.on('error', () => undefined); // one that nobody reads any more
      bytes.destroy();
    },
  };
}

function readableOf(descriptor: number): Readable {
  if (isatty(descriptor)) return new ReadStream(descriptor);
  try {
    return new Socket({ fd: descriptor, readable: true, writable: false });
  } catch {
    // Neither a FIFO nor a socket: a file, or a device that gives what it has at once.
    return createReadStream('', { fd: descriptor });
  }
}
