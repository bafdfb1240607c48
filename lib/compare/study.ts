/** The folder of a comparison: its question, and what has been found out so far, a file each, so that a stopped one goes on. */
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LoRAError, loraError } from '../errors';
import { makeDirectory, writeFileAtomic } from '../formats/atomic';
import { readJson } from '../formats/json';
import { refuseLink } from '../formats/links';
import { systemReason } from '../formats/system_reason';
import { difference } from '../train/resume';
import { describe, isRecord } from '../validate';
import type { CompareOp } from './options';

const questionFile = 'question.json';
const findings = 'findings';

const isNumber = (value: unknown): boolean => Number.isFinite(value);
const isText = (value: unknown): boolean => typeof value === 'string';
const areAll = (value: unknown, fits: (item: unknown) => boolean): boolean =>
  Array.isArray(value) && value.every(fits);
const isPoint = (value: unknown): boolean =>
  Array.isArray(value) && value.length === 2 && value.every(isNumber);
const isSample = (value: unknown): boolean =>
  isRecord(value) && [value['prompt'], value['expected'], value['text']].every(isText);

const kinds = {
  number: ['a number', isNumber],
  'number or null': ['a number or null', (value) => value === null || isNumber(value)],
  'number or absent': ['a number', (value) => value === undefined || isNumber(value)],
  'string or absent': ['a string', (value) => value === undefined || isText(value)],
  points: ['a list of [step, loss]', (value) => areAll(value, isPoint)],
  samples: ['a list of objects of prompt, expected and text', (value) => areAll(value, isSample)],
  'samples or absent': [
    'a list of objects of prompt, expected and text',
    (value) => value === undefined || areAll(value, isSample),
  ],
} satisfies Record<string, readonly [words: string, fits: (value: unknown) => boolean]>;

/** What a finding holds, so that a damaged or foreign file is told before its values are used: the kind of each value, or the value. */
export type Shape = Readonly<Record<string, keyof typeof kinds | { readonly is: string | number | null }>>;

/** What is expected of the first value that does not fit. */
function misfit(shape: Shape, value: Readonly<Record<string, unknown>>): string | undefined {
  for (const [key, kind] of Object.entries(shape)) {
    const [words, fits] =
      typeof kind === 'string' ? kinds[kind] : [describe(kind.is), (own: unknown) => own === kind.is];
    if (!fits(value[key])) return `expected ${key} to be ${words} but received ${describe(value[key])}`;
  }
  return undefined;
}

export class Study {
  private constructor(
    readonly dir: string,
    private readonly op: CompareOp,
  ) {}

  /**
   * Makes the folder, or opens that of the same question.
   * @throws ERR_ARGUMENT, naming what differs, for the folder of another question; ERR_FILE for one that holds something else.
   */
  static async open(op: CompareOp, dir: string, question: Readonly<Record<string, unknown>>): Promise<Study> {
    const study = new Study(dir, op);
    const file = study.path(questionFile);
    if (existsSync(file)) {
      const saved = await readJson({ path: file, folder: dir });
      // What JSON does not keep does not differ.
      const own = JSON.parse(JSON.stringify(question)) as Record<string, unknown>;
      const differs = isRecord(saved) ? difference(saved, own) : `it is ${describe(saved)}`;
      if (differs === undefined) return study;
      throw loraError(
        op,
        'ERR_ARGUMENT',
        `${dir} holds the results of another question: ${differs}; choose another outDir, or ask as before`,
      );
    }
    try {
      await makeDirectory(dir);
      const other = (await readdir(dir)).find((name) => !name.startsWith('.'));
      if (other !== undefined)
        throw loraError(
          op,
          'ERR_FILE',
          `${dir} holds files but no comparison (${other}): choose another outDir`,
        );
    } catch (cause) {
      if (cause instanceof LoRAError) throw cause;
      throw loraError(op, 'ERR_FILE', `cannot write to outDir ${dir}: ${systemReason(cause)}`, cause);
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
      ? misfit(shape, value)
      : `expected an object but received ${describe(value)}`;
    if (wrong === undefined) return value as T;
    throw loraError(
      this.op,
      'ERR_FILE',
      `${path} is no finding of this comparison: ${wrong}; remove it, and it is found again`,
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
