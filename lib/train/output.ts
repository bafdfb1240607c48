import { existsSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { streamCheckpoint } from '../formats/checkpoint';
import { LoRAError, loraError } from '../errors';
import { makeDirectory, writeFileAtomic, writeNewFile } from '../formats/atomic';
import { SavedFolder, saveTogether } from '../formats/file_group';
import { refuseLink } from '../formats/links';
import { adapterConfigFile, cardFile, configFile } from '../formats/model_files';
import { systemReason } from '../formats/system_reason';
import type { Optimizer } from '../optim/optimizer';
import { temporaryBeside } from '../formats/temporary';
import { mayWriteCard } from '../formats/card';
import { checkpointsOf, type RunState } from './resume';
import type { TrainingSubject } from './subject';

interface CheckpointOptions {
  limit?: number | undefined;
  keep?: number | undefined;
  /** Its model card. */
  card?: string;
}

/** The folder of a run: the final adapter in it, checkpoint-N (a PEFT directory and the training state) beside. */
export class OutputDirectory {
  constructor(readonly dir: string) {}

  /** Makes the folder; one that holds a run already is an error unless it is continued, so that no work is overwritten. */
  async open(resume = false): Promise<void> {
    await this.#refuse(() => makeDirectory(this.dir), resume);
  }

  /** Refuses what open() refuses, and makes nothing. */
  async check(): Promise<void> {
    if (existsSync(this.dir)) await this.#refuse();
  }

  async #refuse(make?: () => Promise<unknown>, resume = false): Promise<void> {
    try {
      await make?.();
      const { names } = await SavedFolder.open(this.dir);
      const earlier = [...names].find(
        (file) => [adapterConfigFile, configFile].includes(file) || /^checkpoint-\d+$/.test(file),
      );
      if (earlier === undefined || resume) return;
      throw loraError(
        'Trainer',
        'ERR_FILE',
        `${this.dir} holds a run already (${earlier}): choose another outDir, or remove it${earlier.startsWith('checkpoint') ? ', or resume it' : ''}`,
      );
    } catch (cause) {
      if (cause instanceof LoRAError) throw cause;
      throw loraError(
        'Trainer',
        'ERR_FILE',
        `cannot write to outDir ${this.dir}: ${systemReason(cause)}`,
        cause,
      );
    }
  }

  /** checkpoint-N appears whole or not at all; then all but the newest `limit` are removed, and that of step `keep`. */
  async saveCheckpoint(
    state: RunState,
    subject: TrainingSubject,
    optimizer: Optimizer,
    { limit, keep, card }: CheckpointOptions = {},
  ): Promise<string> {
    const { step, settings, data, evaluations, command, objective } = state;
    const dir = this.checkpoint(step);
    await refuseLink(dir);
    await saveTogether(dir, async (temporary) => {
      await subject.save(temporary);
      await streamCheckpoint(temporary, {
        ...subject.states,
        optimizer,
        step,
        settings: JSON.stringify(settings),
        data,
        evaluations,
        ...(command === undefined ? {} : { command }),
        ...(objective === undefined ? {} : { objective }),
      });
      if (card !== undefined) await writeCard(dir, temporary, card);
    });
    await this.prune({ limit, keep });
    return dir;
  }

  /** Removes all but the newest `limit` checkpoints and that of step `keep`; each vanishes at once. */
  async prune({ limit, keep }: Pick<CheckpointOptions, 'limit' | 'keep'>): Promise<void> {
    if (limit === undefined) return;
    const older = (await checkpointsOf(this.dir)).slice(0, -limit);
    for (const { step, path } of older) {
      if (step === keep) continue;
      const doomed = temporaryBeside(path);
      try {
        await rename(path, doomed);
        await rm(doomed, { recursive: true, force: true });
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code === 'ENOENT') continue; // somebody has removed it
        throw loraError('Trainer', 'ERR_FILE', `cannot remove ${path}: ${systemReason(cause)}`, cause);
      }
    }
  }

  /** Where the checkpoint of a step lies. */
  checkpoint(step: number): string {
    return join(this.dir, `checkpoint-${step}`);
  }

  /** The subject as it is in memory, or that of the checkpoint `best`. */
  async saveFinal(subject: TrainingSubject, card: string, best?: string): Promise<void> {
    const more = (folder: string): Promise<void> => writeCard(this.dir, folder, card);
    if (best === undefined) await subject.save(this.dir, more);
    else await subject.copy(best, this.dir, more);
  }

  /** Brings the card of the final adapter up to date. */
  async saveCard(card: string): Promise<void> {
    if (await mayWriteCard(this.dir)) await writeFileAtomic(join(this.dir, cardFile), card);
  }
}

/** Puts the card into a folder whose files are about to appear in `dir`, unless that has one of somebody else. */
async function writeCard(dir: string, folder: string, card: string): Promise<void> {
  if (await mayWriteCard(dir)) await writeNewFile(join(folder, cardFile), card, join(dir, cardFile));
}
