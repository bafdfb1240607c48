/** The folder of a comparison: its question, and what has been found out so far, a file each, so that a stopped one goes on. */
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LoRAError } from '../errors';
import { makeDirectory, writeFileAtomic } from '../formats/atomic';
import { isRecord, readJson } from '../formats/json';
import { refuseLink } from '../formats/links';
import { systemReason } from '../formats/system_reason';
import { difference } from '../train/resume';
import { describe } from '../validate';
import { op } from './options';

const questionFile = 'question.json';
const findings = 'findings';

/** What every finding of a kind has, so that a damaged or foreign file is told before its values are used. */
export type Shape = Readonly<Record<string, 'number' | 'string' | 'list' | 'number or null' | 'any'>>;

const fits = (kind: Shape[string], value: unknown): boolean => {
  if (kind === 'any') return true;
  if (kind === 'list') return Array.isArray(value);
  if (kind === 'number or null') return value === null || Number.isFinite(value);
  return kind === 'number' ? Number.isFinite(value) : typeof value === kind;
};

export class Study {
  private constructor(readonly dir: string) {}

  /**
   * Makes the folder, or opens that of the same question.
   * @throws ERR_ARGUMENT, naming what differs, for the folder of another question; ERR_FILE for one that holds something else.
   */
  static async open(dir: string, question: Readonly<Record<string, unknown>>): Promise<Study> {
    const study = new Study(dir);
    const file = study.path(questionFile);
    if (existsSync(file)) {
      const saved = await readJson({ path: file, folder: dir });
      // What JSON does not keep does not differ.
      const own = JSON.parse(JSON.stringify(question)) as Record<string, unknown>;
      const differs = isRecord(saved) ? difference(saved, own) : `it is ${describe(saved)}`;
      if (differs === undefined) return study;
      throw new LoRAError(
        'ERR_ARGUMENT',
        `[${op}] ${dir} holds the results of another question: ${differs}; choose another outDir, or ask as before`,
        { op },
      );
    }
    try {
      await makeDirectory(dir);
      const other = (await readdir(dir)).find((name) => !name.startsWith('.'));
      if (other !== undefined)
        throw new LoRAError(
          'ERR_FILE',
          `[${op}] ${dir} holds files but no comparison (${other}): choose another outDir`,
          { op },
        );
    } catch (cause) {
      if (cause instanceof LoRAError) throw cause;
      throw new LoRAError('ERR_FILE', `[${op}] cannot write to outDir ${dir}: ${systemReason(cause)}`, {
        op,
        cause,
      });
    }
    await writeFileAtomic(file, `${JSON.stringify(question, null, 2)}\n`);
    return study;
  }

  path(...names: readonly string[]): string {
    return join(this.dir, ...names);
  }

  /** A finding, where there is one. @throws ERR_FILE for a file that holds something else. */
  async find<T>(name: string, shape: Shape): Promise<T | undefined> {
    const path = this.path(findings, `${name}.json`);
    if (!existsSync(path)) return undefined;
    const value = await readJson({ path, folder: this.dir });
    const wrong = isRecord(value)
      ? Object.entries(shape).find(([key, kind]) => !fits(kind, value[key]))
      : (['', 'any'] as const);
    if (wrong === undefined) return value as T;
    const received = isRecord(value) ? describe(value[wrong[0]]) : describe(value);
    throw new LoRAError(
      'ERR_FILE',
      `[${op}] ${path} is no finding of a comparison: expected ${wrong[0] === '' ? 'an object' : `${wrong[0]} to be a ${wrong[1]}`} but received ${received}; remove it, and it is found again`,
      { op },
    );
  }

  /** Keeps a finding; it is on disk whole before the next one is looked for. */
  async keep(name: string, value: object): Promise<void> {
    const folder = this.path(findings);
    await refuseLink(folder);
    await makeDirectory(folder);
    await writeFileAtomic(this.path(findings, `${name}.json`), `${JSON.stringify(value)}\n`);
  }
}
