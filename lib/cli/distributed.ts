/** A command that several processes run together, started by mpirun or srun. */
import { Writable } from 'node:stream';
import { promisedRanks } from '../distributed/launch';
import { mpi } from '../distributed/mpi';
import { PeerEnded, type ProcessGroup } from '../distributed/process_group';
import { devices } from '../native/device';
import { Interrupted, UsageError, type Console } from './command';

/** @throws UsageError where a launcher has started several processes, each of which would do all of the work. */
export function refuseRanks(command: string, advice: string): void {
  const promised = promisedRanks(process.env);
  if (promised !== undefined)
    throw new UsageError(
      `${command} runs in one process but a launcher has started ${promised.ranks} (${promised.variable}): ${advice}`,
    );
}

/**
 * Runs `body` as a rank of a group. Rank 0 prints; of the others only failures and warnings are seen, behind their number. They end together: a rank that fails
 * tells the others why.
 */
export async function inGroup(
  console: Console,
  body: (group: ProcessGroup, own: Console) => Promise<void>,
): Promise<void> {
  const group = await mpi();
  if (group.rank > 0) prefixLines(console.stderr, `[rank ${group.rank}] `);
  const own = group.rank > 0 ? { ...console, stdout: nowhere(), stderr: nowhere() } : console;
  try {
    await body(group, own);
  } catch (error) {
    const { signal } = console;
    await group.leave(error, signal.aborted && error === signal.reason);
    const by = error instanceof PeerEnded ? /SIG(?:INT|TERM|PIPE)/.exec(error.stopped ?? '')?.[0] : undefined;
    throw by === undefined ? error : new Interrupted(by as ConstructorParameters<typeof Interrupted>[0]);
  } finally {
    await group.close();
  }
}

/** The GPU of a rank, where GPUs are asked for and several ranks share a host. */
export function deviceOfRank(device: string, { localRank, localSize }: ProcessGroup): string {
  if (localSize === 1 || !['auto', 'cuda'].includes(device)) return device;
  const hasGpu = device === 'cuda' || devices().some(({ id }) => id === 'cuda');
  return hasGpu ? `cuda:${localRank}` : device;
}

const nowhere = (): Writable => new Writable({ write: (_chunk, _encoding, done) => done() });

/** Puts a prefix before every line that is written to the stream. */
function prefixLines(stream: Writable, prefix: string): void {
  const write = stream.write.bind(stream) as (text: string) => boolean;
  let fresh = true;
  stream.write = ((chunk: string | Uint8Array): boolean => {
    const text = typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString();
    const lines = (fresh ? prefix : '') + text.replace(/\n(?!$)/g, `\n${prefix}`);
    fresh = text.endsWith('\n');
    return write(lines);
  }) as typeof stream.write;
}
