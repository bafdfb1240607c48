/** The processes of a run: what they tell each other, and how they end together. */
import { deserialize, serialize } from 'node:v8';
import { LoRAError, loraError } from '../errors';
import type { PeerState, Transport, WireDtype } from './transport';

const op = 'distributed';
/** Bytes of a message that needs no second one. */
const frame = 1024;
/** Seconds without a sign of life after which a rank that ends no longer waits for another one. */
const grace = 10;

/** What a rank sends in the place of a value when it ends. */
type Message =
  | { readonly value: unknown }
  | { readonly stopped: string }
  | { readonly failed: string }
  | { readonly bye: true };

/** Another rank has ended the run. */
export class PeerEnded extends LoRAError {
  /** `stopped`: why it was stopped from outside; undefined: it failed. */
  constructor(
    message: string,
    readonly stopped: string | undefined,
  ) {
    super('ERR_DISTRIBUTED', `[${op}] ${message}`, { op });
  }
}

/**
 * The processes that train one model together. Made by {@link mpi}.
 *
 * @example
 * const group = await mpi();
 * console.log(`rank ${group.rank} of ${group.size}`);
 * await new Trainer({ model, data, distributed: group, outDir: 'run' }).run();
 * await group.close();
 */
export class ProcessGroup {
  readonly #transport: Transport;
  readonly #timer: NodeJS.Timeout;
  #names: readonly string[];
  /** Why this rank has left its last run. */
  #told: unknown;
  /** What an abort left running. */
  #left: Promise<{ value: unknown } | { error: unknown }> | undefined;
  #state: 'open' | 'leaving' | 'broken' | 'closed' = 'open';
  #progress = 0;
  /** Whether only finished batches are progress. */
  #strict = false;
  /** @internal Seconds that another rank may make no progress. */
  timeout = 600;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
    this.#names = Array.from({ length: transport.size }, (_, rank) => `rank ${rank}`);
    this.#timer = setInterval(() => {
      if (!this.#strict) this.progress();
    }, 1000);
    this.#timer.unref();
  }

  /** Which process this is, from 0. Rank 0 writes the files. */
  get rank(): number {
    return this.#transport.rank;
  }

  /** How many processes there are. */
  get size(): number {
    return this.#transport.size;
  }

  /** Which of the processes on this host it is: that of GPU `cuda:${localRank}`. */
  get localRank(): number {
    return this.#transport.localRank;
  }

  /** How many processes there are on this host. */
  get localSize(): number {
    return this.#transport.localSize;
  }

  /** @internal Every rank with its process and host, for sentences. */
  nameOf(rank: number): string {
    return this.#names[rank]!;
  }

  /** @internal Takes the names that sentences use. */
  set names(names: readonly string[]) {
    this.#names = names;
  }

  /** @internal Something was done: this rank does not hang. */
  progress(): void {
    this.#progress = (this.#progress + 1) % 2 ** 30;
    if (this.#state !== 'closed') this.#transport.setProgress(this.#progress);
  }

  /** @internal Whether time alone is progress, as while files are read and written. */
  set strict(strict: boolean) {
    this.#strict = strict;
    this.progress();
  }
  /** @internal */
  get strict(): boolean {
    return this.#strict;
  }

  /**
   * @internal What every rank gave, in their order.
   * @throws PeerEnded where another rank ends the run.
   */
  async gather<T>(value: T): Promise<T[]> {
    const messages = await this.#exchange({ value });
    for (const [rank, message] of messages.entries()) {
      const name = this.nameOf(rank);
      if ('failed' in message) throw new PeerEnded(`${name} failed: ${message.failed}`, undefined);
      if ('stopped' in message)
        throw new PeerEnded(`${name} was stopped: ${message.stopped}`, message.stopped);
      if ('bye' in message) throw new PeerEnded(`${name} has ended its run`, undefined);
    }
    return messages.map((message) => (message as { value: T }).value);
  }

  /** @internal Replaces values by their sums over the ranks. */
  sum(values: Float32Array<ArrayBuffer>, wire: WireDtype): Promise<void> {
    return this.#watched(this.#transport.sum(values, wire));
  }

  /** @internal */
  digest(bytes: Uint8Array, seed = 0n): Promise<bigint> {
    return this.#transport.digest(bytes, seed);
  }

  /**
   * @internal Runs what all ranks do together. An abort rejects at once; what it left goes on, so that the others are not held up, and leave() waits for it.
   */
  async together<T>(run: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    signal?.throwIfAborted();
    const running = run();
    const settled = running.then(
      (value) => ({ value }),
      (error: unknown) => ({ error }),
    );
    let onAbort = (): void => undefined;
    const aborted = new Promise<'aborted'>((resolve) => {
      onAbort = () => resolve('aborted');
    });
    signal?.addEventListener('abort', onAbort);
    const first = await Promise.race([settled, aborted]);
    signal?.removeEventListener('abort', onAbort);
    if (first === 'aborted') {
      this.#left = settled;
      throw signal!.reason;
    }
    if ('error' in first) throw first.error;
    return first.value;
  }

  /**
   * @internal Ends the run of this rank, and tells the others why: `stopped` from outside, or because of an error. It resolves when all know and have saved what they
   * save, or when one of them gives no sign of life.
   */
  async leave(reason: unknown, stopped: boolean): Promise<void> {
    if (this.#state !== 'open' || this.#told === reason) return;
    this.#told = reason;
    this.#state = 'leaving';
    this.#strict = false;
    let know = reason instanceof PeerEnded;
    const nudge = setTimeout(() => this.#warnOfWaiting(), 2000);
    try {
      const left = await this.#left;
      if (left !== undefined && 'error' in left) know ||= left.error instanceof PeerEnded;
      const text = reason instanceof Error ? reason.message : String(reason);
      if (!know) await this.#exchange(stopped ? { stopped: text } : { failed: text });
      await this.#exchange({ bye: true });
      this.#state = 'open';
    } catch (error) {
      this.#state = 'broken';
      process.emitWarning(error as Error);
    } finally {
      clearTimeout(nudge);
    }
  }

  /** @internal Ends a run that every rank has finished: it resolves when all have. */
  async end(): Promise<void> {
    this.#strict = false;
    await this.gather('end');
  }

  /**
   * Ends the group when every rank calls it: then launchers see that the processes have ended well. After a failure it does nothing, because a rank that is gone would be
   * waited for.
   */
  async close(): Promise<void> {
    if (this.#state === 'closed') return;
    const works = this.#state === 'open';
    clearInterval(this.#timer);
    if (works) await this.#watched(this.#transport.finish());
    this.#state = 'closed';
  }

  #warnOfWaiting(): void {
    const waited = this.#waited(({ quiet }) => quiet > 1.5); // those that live say so every second
    if (waited.length > 0)
      process.emitWarning(`[${op}] this rank ends, and ${waited.join(' and ')} does not answer`, {
        code: 'LORA_RANK_SILENT',
      });
  }

  #waited(holds: (peer: PeerState) => boolean = () => true): string[] {
    const names = this.#transport
      .peers()
      .map((peer, rank) => (peer.waiting && holds(peer) ? this.nameOf(rank) : ''));
    return names.filter((name) => name !== '');
  }

  /** The messages of all ranks. */
  async #exchange(message: Message): Promise<Message[]> {
    const bytes = serialize(message);
    const first = new Uint8Array(frame);
    new DataView(first.buffer).setUint32(0, bytes.length);
    first.set(bytes.subarray(0, frame - 4), 4);
    const heads = await this.#watched(this.#transport.exchange(first));
    const lengths = heads.map((head) => new DataView(head.buffer, head.byteOffset).getUint32(0));
    const longest = Math.max(...lengths);
    let bodies = heads.map((head) => head.subarray(4));
    if (longest > frame - 4) {
      const whole = new Uint8Array(longest);
      whole.set(bytes);
      bodies = [...(await this.#watched(this.#transport.exchange(whole)))];
    }
    return bodies.map((body, rank) => deserialize(body.subarray(0, lengths[rank])) as Message);
  }

  /** Gives up when a rank that is waited for makes no progress, or while this one ends no longer lives. */
  async #watched<T>(operation: Promise<T>): Promise<T> {
    const began = performance.now();
    let given: string | undefined;
    const timer = setInterval(() => {
      const since = (performance.now() - began) / 1000;
      const leaving = this.#state === 'leaving';
      const limit = leaving ? grace : this.timeout;
      const late = this.#waited(({ quiet, stalled }) => Math.min(since, leaving ? quiet : stalled) > limit);
      if (late.length === 0) return;
      given = `${late.join(' and ')} made no progress for ${limit} s, while this rank waited`;
      this.#transport.giveUp();
    }, 250);
    try {
      return await operation;
    } catch (cause) {
      const waited = this.#waited();
      this.#state = 'broken';
      const lost = waited.length > 0 ? ` while ${waited.join(' and ')} was waited for` : '';
      throw loraError(op, 'ERR_DISTRIBUTED', given ?? `${(cause as Error).message}${lost}`, cause);
    } finally {
      clearInterval(timer);
    }
  }
}
