import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { saveCheckpoint } from '../formats/checkpoint';
import { LoRAError } from '../errors';
import { makeDirectory } from '../formats/atomic';
import { SavedFolder, saveTogether } from '../formats/file_group';
import { systemReason } from '../formats/system_reason';
import type { Adapter } from '../peft/adapter';
import type { AdamW } from '../optim/adamw';

/** The folder of a run: the final adapter in it, checkpoint-N (a PEFT directory and the training state) beside. */
export class OutputDirectory {
  constructor(readonly dir: string) {}

  /** Makes the folder; one that holds a run already is an error, so that no work is overwritten. */
  async open(): Promise<void> {
    await this.#refuse(() => makeDirectory(this.dir));
  }

  /** Refuses what open() refuses, and makes nothing. */
  async check(): Promise<void> {
    if (existsSync(this.dir)) await this.#refuse();
  }

  async #refuse(make?: () => Promise<unknown>): Promise<void> {
    try {
      await make?.();
      const { names } = await SavedFolder.open(this.dir);
      const earlier = [...names].find(
        (file) => file === 'adapter_config.json' || /^checkpoint-\d+$/.test(file),
      );
      if (earlier === undefined) return;
      throw new LoRAError(
        'ERR_FILE',
        `[Trainer] ${this.dir} holds a run already (${earlier}): choose another outDir, or remove it`,
        { op: 'Trainer' },
      );
    } catch (cause) {
      if (cause instanceof LoRAError) throw cause;
      throw new LoRAError(
        'ERR_FILE',
        `[Trainer] cannot write to outDir ${this.dir}: ${systemReason(cause)}`,
        {
          op: 'Trainer',
          cause,
        },
      );
    }
  }

  /** checkpoint-N appears whole or not at all. */
  async saveCheckpoint(step: number, adapter: Adapter, optimizer: AdamW): Promise<string> {
    const dir = join(this.dir, `checkpoint-${step}`);
    await saveTogether(dir, async (temporary) => {
      await adapter.save(temporary);
      await saveCheckpoint(temporary, { optimizer, step });
    });
    return dir;
  }

  async saveFinal(adapter: Adapter): Promise<void> {
    await adapter.save(this.dir);
  }
}
