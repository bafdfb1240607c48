/** What carries bytes between the processes of a run. */

/** What is known of another rank; times are in seconds. */
export interface PeerState {
  /** Whether the operation that runs lacks its message, or has one that it does not take. */
  readonly waiting: boolean;
  /** Since its process last gave a sign of life. */
  readonly quiet: number;
  /** Since its count of progress last changed. */
  readonly stalled: number;
}

/** The dtype in which numbers are sent. */
export type WireDtype = 'f32' | 'bf16';

/** Every rank calls exchange() and sum() in the same order, one at a time. */
export interface Transport {
  readonly rank: number;
  readonly size: number;
  /** Of the ranks on this host. */
  readonly localRank: number;
  readonly localSize: number;
  readonly host: string;
  /** The bytes of every rank, in their order; all give as many. */
  exchange(bytes: Uint8Array): Promise<readonly Uint8Array[]>;
  /**
   * Replaces the values by their sums over the ranks, which are added in the order of ranks: the bits repeat. With 'bf16' each value is rounded once before it is sent,
   * and so is each sum.
   */
  sum(values: Float32Array<ArrayBuffer>, wire: WireDtype): Promise<void>;
  /** A checksum of the bytes, computed on another thread. */
  digest(bytes: Uint8Array, seed: bigint): Promise<bigint>;
  /** Tells the others how far this rank is. */
  setProgress(count: number): void;
  peers(): PeerState[];
  /** Ends the operation that runs: it fails, and so does every later one. */
  giveUp(): void;
  /** Ends the connection. Every rank calls it. */
  finish(): Promise<void>;
}
