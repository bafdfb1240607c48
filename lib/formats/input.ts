/**
 * Reading files that others made, or are changing: only regular ones, by position, into memory of this process. A mapping
 * would end the process when the file shrinks; a FIFO would hold a thread of the pool for ever.
 */
import { constants, type BigIntStats } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import { LoRAError } from '../errors';
import { endOfLinks, type Source } from './links';
import { systemReason } from './system_reason';

/** Bytes of one call of read. Smaller ones cost calls; larger ones hold a thread of the pool, and the event loop when they are copied. */
export const sliceBytes = 4 * 2 ** 20;

/** Nonblocking, so that a FIFO put in the place of a file between the check and the call cannot hold it. */
const flags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOCTTY ?? 0);
/** The same for a link. */
const noLink = constants.O_NOFOLLOW ?? 0;

/** What something that is no regular file is. */
function kindOf(stats: BigIntStats): string {
  if (stats.isDirectory()) return 'it is a directory';
  const what = stats.isFIFO()
    ? 'a FIFO'
    : stats.isSocket()
      ? 'a socket'
      : stats.isCharacterDevice() || stats.isBlockDevice()
        ? 'a device'
        : 'something else';
  return `it is ${what}, not a regular file`;
}

function checkRegular(path: string, stats: BigIntStats): void {
  if (!stats.isFile()) throw new LoRAError('ERR_FILE', `cannot read ${path}: ${kindOf(stats)}`);
}

function cannotRead(path: string, error: unknown): LoRAError {
  if (error instanceof LoRAError) return error;
  return new LoRAError('ERR_FILE', `cannot read ${path}: ${systemReason(error)}`, { cause: error });
}

/** Memory for what a file holds. @throws ERR_OUT_OF_MEMORY where the runtime has none. */
export function ownMemory(bytes: number, path: string): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(bytes);
  } catch (cause) {
    throw new LoRAError('ERR_OUT_OF_MEMORY', `${path}: there is no memory for ${bytes} bytes of it`, {
      cause,
    });
  }
}

/** Memory of a slice that nothing reads into. Each tensor of a model would leave such memory to the garbage collector, which lets many of them gather. */
let spare: WeakRef<Uint8Array<ArrayBuffer>> | undefined;

function takeSpare(): Uint8Array<ArrayBuffer> | undefined {
  const buffer = spare?.deref();
  spare = undefined;
  return buffer;
}

/** A regular file that is open for reading. */
export class InputFile {
  private constructor(
    readonly path: string,
    readonly size: number,
    readonly handle: FileHandle,
    readonly signal: AbortSignal | undefined,
    private readonly opened: BigIntStats,
  ) {}

  /**
   * Errors: ERR_FILE for what is missing, may not be read, is no regular file, or is a link that leads out of its folder; the reason of
   * the signal.
   */
  static async open(source: Source, signal?: AbortSignal): Promise<InputFile> {
    signal?.throwIfAborted();
    const named = typeof source === 'string';
    const path = named ? source : source.path;
    let handle: FileHandle | undefined;
    try {
      const end = named ? path : await endOfLinks(source);
      checkRegular(path, await stat(end, { bigint: true })); // opening a device can do harm
      handle = await open(end, named ? flags : flags | noLink);
      const stats = await handle.stat({ bigint: true });
      checkRegular(path, stats);
      return new InputFile(path, Number(stats.size), handle, signal, stats);
    } catch (error) {
      await handle?.close();
      throw cannotRead(path, error);
    }
  }

  /** Fills `into` with the bytes from `position` on. @throws ERR_FILE when the file has become shorter. */
  async read(into: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < into.length;) {
      const bytesRead = await this.readSome(into.subarray(done), position + done);
      if (bytesRead === 0) throw this.changed();
      done += bytesRead;
    }
  }

  /** Fills `into` as far as one call does; 0 at the end of the file, wherever that is by now. */
  async readSome(into: Uint8Array, position: number): Promise<number> {
    this.signal?.throwIfAborted();
    const reading = this.handle.read(into, 0, Math.min(into.length, sliceBytes), position);
    const { bytesRead } = await reading.catch((error: unknown) => {
      throw cannotRead(this.path, error);
    });
    return bytesRead;
  }

  /** The bytes from `position` on, in memory of their own. */
  async bytes(position: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = ownMemory(length, this.path);
    await this.read(bytes, position);
    return bytes;
  }

  /** The same in order, in slices that are overwritten by the next. */
  async *slices(position: number, length: number): AsyncGenerator<Uint8Array, void, void> {
    const whole = length >= sliceBytes;
    const buffer = (whole && takeSpare()) || ownMemory(Math.min(sliceBytes, length), this.path);
    try {
      for (let at = 0; at < length; at += sliceBytes) {
        const slice = buffer.subarray(0, Math.min(sliceBytes, length - at));
        await this.read(slice, position + at);
        yield slice;
      }
    } finally {
      if (whole) spare = new WeakRef(buffer);
    }
  }

  /**
   * Throws ERR_FILE when the file was written since it was opened; with `named`, also when its name has come to stand for
   * another file.
   */
  async checkUnchanged(named = false): Promise<void> {
    const now = await this.handle.stat({ bigint: true }).catch((error: unknown) => {
      throw cannotRead(this.path, error);
    });
    const same = (a: BigIntStats, b: BigIntStats): boolean => a.size === b.size && a.mtimeNs === b.mtimeNs;
    if (!same(now, this.opened)) throw this.changed();
    if (!named) return;
    const found = await stat(this.path, { bigint: true }).catch(() => undefined);
    if (found?.ino !== now.ino || found.dev !== now.dev) throw this.changed();
  }

  /** The error where it is not what was opened. */
  changed(): LoRAError {
    return new LoRAError(
      'ERR_FILE',
      `${this.path} was changed while it was read: try again when it is written`,
    );
  }

  /** Tells this content of the file from another: its inode, size and time of change. */
  get stamp(): string {
    const { ino, size, mtimeNs } = this.opened;
    return `${ino} ${size} ${mtimeNs}`;
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}
