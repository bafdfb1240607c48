/** MPI as the transport: a shim that is compiled with the mpicc of the system, because implementations differ in their binary interface. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { version } from '../../package.json';
import { LoRAError, loraError } from '../errors';
import { setThreads } from '../native/device';
import { here, packageRoot } from '../native/loader';
import { allowedProcessors, memoryShare, promisedRanks, threadShare, type Introduction } from './launch';
import { ProcessGroup } from './process_group';
import type { PeerState, Transport } from './transport';

const op = 'mpi';
/** That of the shim beside this file, kForm there. */
const form = 2;

/** native/mpi/lora_mpi.c. */
interface Shim {
  /** Which functions it has: it may have been compiled for another version of this package. */
  readonly form?: number;
  /** The first line of what the library says of itself, which it may be asked at any time. */
  version(): string;
  start(): Promise<{
    rank: number;
    size: number;
    localRank: number;
    localSize: number;
    host: string;
  }>;
  exchange(bytes: Uint8Array, all: Uint8Array): Promise<void>;
  /** With `half` the values are sent in bf16. */
  sum(values: Float32Array, half: boolean): Promise<void>;
  digest(bytes: Uint8Array, seed: bigint): Promise<bigint>;
  setProgress(count: number): void;
  /** Four numbers for each rank. */
  peers(): Float64Array;
  giveUp(): void;
  finish(): Promise<void>;
}

/** Where the shim is, and whether it is there. */
export function mpiShim(): { path: string; exists: boolean } {
  const root = packageRoot(here);
  const path =
    process.env['LORA_MPI_SHIM'] || (root === undefined ? '' : join(root, 'build/mpi/lora_mpi.node'));
  return { path, exists: path !== '' && existsSync(path) };
}

/** What a bug report should say of it; nothing is started. */
export function mpiFacts(): string {
  const { path, exists } = mpiShim();
  if (!exists) return 'none: npx lora-native build --mpi';
  try {
    return `${loadShim().version()} (${path})`;
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * For UCX, on which MPIs of Linux stand, and which reads them when it is loaded: by default it patches mmap and brk while the threads of Node.js run them, which has
 * crashed processes at their start, and takes the SIGSEGV by which V8 finds WebAssembly that reads beyond its memory.
 */
function restrainUcx(): void {
  process.env['UCX_MEM_EVENTS'] ??= 'no';
  process.env['UCX_ERROR_SIGNALS'] ??= '';
}

function loadShim(): Shim {
  restrainUcx();
  const { path, exists } = mpiShim();
  if (!exists)
    throw loraError(
      op,
      'ERR_BINARY',
      `expected ${path || 'LORA_MPI_SHIM to name a file'}: npx lora-native build --mpi compiles it with the mpicc of this system`,
    );
  const compile = 'Compile it again on this system: npx lora-native build --mpi';
  try {
    const shim = createRequire(path)(path) as Shim;
    if (shim.form !== form)
      throw loraError(op, 'ERR_BINARY', `${path} is of another version of lora-native. ${compile}`);
    return shim;
  } catch (cause) {
    if (cause instanceof LoRAError) throw cause;
    throw loraError(
      op,
      'ERR_BINARY',
      `${path} does not load: ${(cause as Error).message}. ${compile}`,
      cause,
    );
  }
}

async function transportOf(shim: Shim): Promise<Transport> {
  const facts = await shim.start();
  return {
    ...facts,
    async exchange(bytes) {
      const all = new Uint8Array(bytes.length * facts.size);
      await shim.exchange(bytes, all);
      return Array.from({ length: facts.size }, (_, rank) =>
        all.subarray(rank * bytes.length, (rank + 1) * bytes.length),
      );
    },
    sum: (values, wire) => shim.sum(values, wire === 'bf16'),
    digest: (bytes, seed) => shim.digest(bytes, seed),
    setProgress: (count) => shim.setProgress(count),
    peers(): PeerState[] {
      const numbers = shim.peers();
      return Array.from({ length: facts.size }, (_, rank) => {
        const [waiting, quiet, stalled] = numbers.subarray(4 * rank, 4 * rank + 3);
        return { waiting: waiting === 1, quiet: quiet!, stalled: stalled! };
      });
    },
    giveUp: () => shim.giveUp(),
    finish: () => shim.finish(),
  };
}

let group: Promise<ProcessGroup> | undefined;

/**
 * The processes that mpirun or srun has started, for `distributed` of a {@link Trainer}. It sets the threads and the memory of this process to its share of the host, unless the environment does: call it before a model is loaded. A second call gives the same group.
 *
 * @throws ERR_BINARY without the shim, which `npx lora-native build --mpi` compiles; ERR_DISTRIBUTED where the launcher belongs to another MPI than the shim, and for
 * ranks with other versions of this package; ERR_UNSUPPORTED in a worker thread.
 * @example
 * const group = await mpi();
 * const model = await CausalLM.fromPretrained('model');
 * model.addAdapter({ r: 16 });
 * await new Trainer({ model, data, distributed: group, outDir: 'run' }).run();
 * await group.close();
 */
export function mpi(): Promise<ProcessGroup> {
  group ??= start();
  return group;
}

async function start(): Promise<ProcessGroup> {
  if (!isMainThread)
    throw loraError(op, 'ERR_UNSUPPORTED', 'MPI belongs to the main thread of a process: call mpi() there');
  const shim = loadShim();
  const transport = await transportOf(shim).catch((cause: unknown) => {
    throw cause instanceof LoRAError
      ? cause
      : loraError(op, 'ERR_DISTRIBUTED', `MPI does not start: ${(cause as Error).message}`, cause);
  });
  const promised = promisedRanks(process.env);
  if (promised !== undefined && promised.ranks > transport.size)
    throw loraError(
      op,
      'ERR_DISTRIBUTED',
      `expected ${promised.ranks} ranks, since ${promised.variable} says so, but the MPI of the shim (${shim.version()}) has ${transport.size}: ` +
        'start it with the mpirun of that MPI, or compile the shim with the mpicc of this launcher (lora-native build --mpi)',
    );
  const made = new ProcessGroup(transport);
  const own: Introduction = {
    version,
    pid: process.pid,
    host: transport.host,
    processors: allowedProcessors(),
  };
  const all = await made.gather(own);
  made.names = all.map(({ pid, host }, rank) => `rank ${rank} (process ${pid} on ${host})`);
  const other = all.findIndex((one) => one.version !== all[0]!.version);
  if (other > 0)
    throw loraError(
      op,
      'ERR_DISTRIBUTED',
      `expected one version of lora-native but ${made.nameOf(0)} has ${all[0]!.version} and ${made.nameOf(other)} has ${all[other]!.version}`,
    );
  if (transport.localSize > 1) process.env['LORA_MEMORY_LIMIT'] ??= memoryShare(transport.localSize);
  if (!process.env['LORA_THREADS']) setThreads(threadShare(all, transport.rank));
  return made;
}
