/** What launchers tell a process about the run that it is part of, and its share of the machine. */
import { readFileSync } from 'node:fs';
import { availableParallelism, freemem } from 'node:os';

/** Variables that say how many processes were started together. */
const counts = ['OMPI_COMM_WORLD_SIZE', 'PMI_SIZE', 'MV2_COMM_WORLD_SIZE', 'SLURM_STEP_NUM_TASKS'] as const;

/** How many ranks the launcher promises, and the variable that says so; undefined where there is none, or one rank. */
export function promisedRanks(env: NodeJS.ProcessEnv): { ranks: number; variable: string } | undefined {
  for (const variable of counts) {
    const ranks = Number(env[variable]);
    if (Number.isInteger(ranks) && ranks > 1) return { ranks, variable };
  }
  return undefined;
}

/** What a rank tells the others about itself. */
export interface Introduction {
  readonly version: string;
  readonly pid: number;
  readonly host: string;
  /** The processors that it may use. */
  readonly processors: string;
}

/** The list of processors that the system lets this process use, as Linux writes it; '' where it says nothing. */
export function allowedProcessors(): string {
  try {
    return /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';
  } catch {
    return ''; // no Linux
  }
}

/** Threads of a rank: ranks with the same processors of the same host share them. */
export function threadShare(
  all: readonly Introduction[],
  rank: number,
  available = availableParallelism(),
): number {
  const own = all[rank]!;
  const sharing = all.filter(({ host, processors }) => host === own.host && processors === own.processors);
  return Math.max(1, Math.floor(available / sharing.length));
}

/** The memory that a rank may take for tensors, as LORA_MEMORY_LIMIT takes it. */
export function memoryShare(localSize: number, free = freeMemory()): string {
  return `${Math.floor((free * 15) / 16 / localSize / 2 ** 20)}MiB`;
}

/** Node.js 20.13 and later know the limit of a container. */
function freeMemory(): number {
  const { availableMemory } = process as { availableMemory?: () => number };
  return availableMemory?.() ?? freemem();
}
