/** Ranks that live in one process: what they send each other goes through memory, in the order and with the arithmetic of native/mpi/lora_mpi.c. */
import { createHash } from 'node:crypto';
import { ProcessGroup } from '../../lib/distributed/process_group';
import type { Transport } from '../../lib/distributed/transport';

/** The nearest value of bf16, ties to even. */
function toBf16(value: number): number {
  const [bits] = new Uint32Array(Float32Array.of(value).buffer);
  const rounded = ((bits! + 0x7fff + ((bits! >>> 16) & 1)) >>> 16) * 2 ** 16;
  return new Float32Array(Uint32Array.of(rounded).buffer)[0]!;
}

/** A place where all ranks leave something, and get everything. */
class Meeting<T> {
  readonly #given: (T | undefined)[];
  #missing: number;
  #open!: (all: T[]) => void;
  #fail!: (error: Error) => void;
  readonly #all = new Promise<T[]>((resolve, reject) => {
    this.#open = resolve;
    this.#fail = reject;
  });

  constructor(size: number) {
    this.#given = Array<T | undefined>(size).fill(undefined);
    this.#missing = size;
    this.#all.catch(() => undefined);
  }

  give(rank: number, value: T): Promise<T[]> {
    this.#given[rank] = value;
    if (--this.#missing === 0) this.#open(this.#given as T[]);
    return this.#all;
  }

  lacks(rank: number): boolean {
    return this.#missing > 0 && this.#given[rank] === undefined;
  }

  fail(): void {
    this.#fail(new Error('given up'));
  }
}

/** Groups of the ranks of one run. `sent`: the bytes that rank 0 has sent for sums. */
export function ranksInMemory(size: number): {
  groups: ProcessGroup[];
  calls: string[][];
  sent: () => number;
} {
  const meetings: Meeting<Uint8Array | Float32Array>[] = [];
  const calls = Array.from({ length: size }, (): string[] => []);
  const progressed = Array<number>(size).fill(performance.now());
  let sent = 0;
  const groups = calls.map((own, rank) => {
    let at = 0;
    const meet = (kind: string, value: Uint8Array | Float32Array) => {
      own.push(kind);
      meetings[at] ??= new Meeting(size);
      return meetings[at++]!.give(rank, value);
    };
    const transport: Transport = {
      rank,
      size,
      localRank: rank,
      localSize: size,
      host: 'memory',
      async exchange(bytes) {
        return (await meet('exchange', bytes.slice())) as Uint8Array[];
      },
      async sum(values, wire) {
        const rounded = wire === 'bf16' ? toBf16 : (value: number) => value;
        const all = (await meet('sum', values.map(rounded))) as Float32Array[];
        if (rank === 0) sent += ((wire === 'bf16' ? 1 : 2) * values.byteLength * (size - 1)) / size;
        for (let i = 0; i < values.length; i++)
          values[i] = rounded(Math.fround(all.reduce((total, one) => total + one[i]!, 0)));
      },
      digest: (bytes, seed) =>
        Promise.resolve(
          createHash('sha256').update(seed.toString()).update(bytes).digest().readBigUInt64LE(),
        ),
      setProgress: () => {
        progressed[rank] = performance.now();
      },
      peers: () =>
        progressed.map((when, other) => ({
          waiting: at > 0 && meetings[at - 1]!.lacks(other),
          quiet: (performance.now() - when) / 1000,
          stalled: (performance.now() - when) / 1000,
        })),
      giveUp: () => meetings[at - 1]!.fail(),
      finish: () => Promise.resolve(),
    };
    return new ProcessGroup(transport);
  });
  return { groups, calls, sent: () => sent };
}
