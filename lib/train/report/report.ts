/** report.html beside the adapter of a run. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../../formats/atomic';
import { InputFile } from '../../formats/input';
import type { FolderFile } from '../../formats/links';
import { memoryUsage } from '../../native/device';
import { peakProcessBytes } from '../../native/peak_memory';
import type { RunFacts } from '../facts';
import { generator } from './html';
import type { Memory } from './page';
import { makeSamples, type Samples } from './samples';

const reportFile = 'report.html';

/** Whether a file has the element that names what wrote it, in its head. */
async function isOurs(source: FolderFile, generator: string): Promise<boolean> {
  const file = await InputFile.open(source).catch(() => undefined);
  if (file === undefined) return false;
  try {
    const head = await file.bytes(0, Math.min(file.size, 4096));
    return Buffer.from(head).includes(generator);
  } catch {
    return false;
  } finally {
    await file.close();
  }
}

/** Where a report goes: to `name` in `dir`, or beside it where that is a file of somebody else. */
export async function reportPath(dir: string, name: string, generator: string): Promise<string> {
  const first = join(dir, name);
  if (!existsSync(first) || (await isOurs({ path: first, folder: dir }, generator))) return first;
  return join(dir, `lora-native-${name}`);
}

/** Who waits for the end of a run that was interrupted or failed does not wait for samples. */
const noSamples: Samples = { samples: [], heldOut: false, missing: 'the run did not reach its end' };

/** Writes the report of a run, once or again when more is known. */
export class Report {
  /** Where it lies, once it is written. */
  path: string | undefined;
  #samples: Samples | undefined;
  #memory: Memory | undefined;

  constructor(
    readonly dir: string,
    readonly run: RunFacts,
  ) {}

  /** Gives the path of the file. @throws ERR_FILE. */
  async write(withSamples: boolean, signal?: AbortSignal): Promise<string> {
    const { data, options } = this.run;
    const { evalData } = options;
    // Measured once: what the samples take is not what the training took.
    const memory = (this.#memory ??= {
      processBytes: peakProcessBytes(),
      tensorBytes: memoryUsage().peakBytes,
    });
    if (withSamples) this.#samples ??= await makeSamples(this.run, { data, evalData }, signal);
    const samples = this.#samples ?? noSamples;
    const path = await reportPath(this.dir, reportFile, generator);
    const { reportPage } = await import('./page'); // with uPlot, which only a run with a report needs
    await writeFileAtomic(path, reportPage({ ...this.run, samples, memory }));
    this.path = path;
    return path;
  }
}
