/** Whether the disk holds what a run will write: a checkpoint of a whole model is as large as several models. */
import { statfs } from 'node:fs/promises';
import { loraError } from '../errors';

/** What a run writes. */
export interface DiskNeed {
  /** Bytes of the final files. */
  readonly files: number;
  /** Bytes of a checkpoint: the files, and the state of the training. */
  readonly checkpoint: number;
  /** How many checkpoints there are at once, at most. */
  readonly checkpoints: number;
}

/** Below this, nobody's disk is in question. */
const fewBytes = 2 ** 28;

const gigabytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(bytes < 2 ** 30 ? 2 : 1)} GiB`;

/** @throws ERR_FILE where less is free than the run will write, before it begins. */
export async function checkDisk(dir: string, { files, checkpoint, checkpoints }: DiskNeed): Promise<void> {
  const need = files + checkpoint * checkpoints;
  if (need < fewBytes) return;
  const { bavail, bsize } = await statfs(dir);
  const free = bavail * bsize;
  if (free >= need) return;
  const parts = `${checkpoints} checkpoints of ${gigabytes(checkpoint)} and the final files of ${gigabytes(files)}`;
  throw loraError(
    'Trainer',
    'ERR_FILE',
    `the run writes ${gigabytes(need)} into ${dir} (${parts}) but only ${gigabytes(free)} are free: give saveLimit, a larger saveEvery, or another outDir`,
  );
}
