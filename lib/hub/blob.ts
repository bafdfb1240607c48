/** One file of the hub into the cache: resumed where a part is there, and checked before it gets its name. */
import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, rename, rm, statfs, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { LoRAError } from '../errors';
import { syncDirectory } from '../formats/atomic';
import { systemReason } from '../formats/system_reason';
import { Passing, passing, type Answer, type Connection } from './connection';

/** What the hub says of a file. */
export interface FileFacts {
  readonly name: string;
  /** Where it is asked for. */
  readonly address: string;
  /** The name of its blob, which is its hash: of git for small files, SHA-256 for those of LFS. */
  readonly etag: string;
  readonly size: number;
}

/** What a download needs to know of its surroundings. */
export interface Download {
  readonly connection: Connection;
  readonly facts: FileFacts;
  /** The path of the blob. */
  readonly blob: string;
  /** Bytes that came, or, below 0, that turned out to be of no use. */
  readonly onBytes: (bytes: number) => void;
  /** The error for an answer that is no file. */
  readonly refuse: (answer: Answer) => Error;
  /** The error for content that is not what it should be. */
  readonly wrong: (message: string) => Error;
}

const slice = 2 ** 20;
const openFlags = constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0);

/** A hash of git covers the kind and the size of the object, too. */
function newHash({ etag, size }: FileFacts): Hash {
  if (etag.length === 64) return createHash('sha256');
  return createHash('sha1').update(`blob ${size}\0`);
}

/** A file that is being filled, and the hash of what it holds. */
class Part {
  /** Bytes that it holds. */
  length = 0;
  #hash: Hash;

  constructor(
    private readonly handle: FileHandle,
    private readonly facts: FileFacts,
  ) {
    this.#hash = newHash(facts);
  }

  /** Takes what an earlier download has left. */
  async take(signal: AbortSignal | undefined): Promise<void> {
    const { size } = await this.handle.stat();
    if (size > this.facts.size) return this.empty();
    const bytes = Buffer.allocUnsafe(Math.min(slice, size));
    while (this.length < size) {
      signal?.throwIfAborted();
      const { bytesRead } = await this.handle.read(bytes, 0, bytes.length, this.length);
      if (bytesRead === 0) return this.empty();
      this.#hash.update(bytes.subarray(0, bytesRead));
      this.length += bytesRead;
    }
  }

  async add(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const { bytesWritten } = await this.handle.write(bytes, done, bytes.length - done, this.length + done);
      done += bytesWritten;
    }
    this.#hash.update(bytes);
    this.length += bytes.length;
  }

  async empty(): Promise<void> {
    await this.handle.truncate(0);
    this.length = 0;
    this.#hash = newHash(this.facts);
  }

  digest(): string {
    return this.#hash.copy().digest('hex');
  }
}

/** Throws where the disk has no room for what is to come. */
async function checkRoom(path: string, { name }: FileFacts, bytes: number): Promise<void> {
  const disk = await statfs(dirname(path)).catch(() => undefined);
  if (disk === undefined) return;
  const free = disk.bavail * disk.bsize;
  if (bytes > free)
    throw new LoRAError(
      'ERR_FILE',
      `${name} needs ${bytes} bytes in ${dirname(path)}, where ${free} are free: make room, or set HF_HUB_CACHE to a folder on another disk`,
    );
}

/** Where the range begins that an answer has; undefined for no range, or one of another size. */
function startOf({ headers }: Answer, { size }: FileFacts): number | undefined {
  const [, start, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get('content-range') ?? '') ?? [];
  return start === undefined || (total !== '*' && Number(total) !== size) ? undefined : Number(start);
}

/** Asks once for what is missing of a part. */
async function fill(
  { connection, facts, onBytes, refuse, wrong }: Download,
  part: Part,
  server: { etag?: string | undefined },
): Promise<void> {
  const begun = part.length > 0;
  const answer = await connection.ask(facts.address, {
    headers: {
      ...(begun ? { range: `bytes=${part.length}-` } : {}),
      ...(begun && server.etag !== undefined ? { 'if-range': server.etag } : {}),
    },
  });
  try {
    const later = passing(answer);
    if (later !== undefined) throw later;
    const { status } = answer;
    const elsewhere = status === 416 || (status === 206 && startOf(answer, facts) !== part.length);
    if (elsewhere || status === 200) {
      onBytes(-part.length);
      await part.empty();
    }
    if (elsewhere) throw new Passing('the server does not go on where the file was cut', {});
    if (status !== 200 && status !== 206) throw refuse(answer);
    const coming = answer.headers.get('content-length');
    if (coming !== null && part.length + Number(coming) !== facts.size)
      throw wrong(
        `the server has ${part.length + Number(coming)} bytes of it, and the hub says ${facts.size}`,
      );
    // A weak one does not promise the same bytes.
    const etag = answer.headers.get('etag');
    server.etag = etag?.startsWith('"') ? etag : undefined;
    for await (const piece of answer.pieces) {
      if (part.length + piece.length > facts.size) {
        await part.empty();
        throw wrong(`the server has more than the ${facts.size} bytes that the hub says`);
      }
      await part.add(piece);
      onBytes(piece.length);
    }
  } finally {
    answer.close();
  }
  if (part.length < facts.size)
    throw new Passing(`the connection was cut after ${part.length} of ${facts.size} bytes`, {});
}

/** Fills the part, and checks its hash; once more from the start where the beginning came from an earlier download. */
async function complete(download: Download, part: Part): Promise<void> {
  const { connection, facts, onBytes, wrong } = download;
  let resumed = part.length > 0;
  for (;;) {
    const server = {};
    let most = part.length;
    const progressed = (): boolean => {
      const more = part.length > most; // the same bytes once more are no progress
      most = Math.max(most, part.length);
      return more;
    };
    if (part.length < facts.size) await connection.persist(() => fill(download, part, server), progressed);
    const digest = part.digest();
    if (digest === facts.etag) return;
    onBytes(-part.length);
    await part.empty();
    if (!resumed)
      throw wrong(`its hash is ${digest}, and the hub says ${facts.etag}: nothing of it was kept`);
    resumed = false;
  }
}

/**
 * Downloads a blob that the caller has the lock of. What is there of it stays when the download is cut or aborted, in
 * `BLOB.incomplete`, and the next one goes on from there.
 *
 * Errors: ERR_FILE where the disk refuses; what `refuse` and `wrong` give; Passing; the reason of the signal.
 */
export async function downloadBlob(download: Download): Promise<void> {
  const { connection, facts, blob, onBytes } = download;
  const path = `${blob}.incomplete`;
  let handle: FileHandle | undefined;
  try {
    const there = await lstat(path).catch(() => undefined);
    if (there !== undefined && !there.isFile()) await rm(path, { recursive: true });
    handle = await open(path, openFlags);
    const part = new Part(handle, facts);
    await part.take(connection.signal);
    onBytes(part.length);
    await checkRoom(path, facts, facts.size - part.length);
    await complete(download, part);
    await handle.sync();
    await handle.close();
    handle = undefined;
    await rename(path, blob);
    await syncDirectory(dirname(blob));
  } catch (error) {
    if (typeof (error as NodeJS.ErrnoException).syscall === 'string' && !(error instanceof Passing))
      throw new LoRAError('ERR_FILE', `cannot write ${path}: ${systemReason(error)}`, { cause: error });
    throw error;
  } finally {
    await handle?.close();
  }
}
