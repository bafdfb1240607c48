/** Rows of preferences: a prompt with a better and a worse answer, or with an answer that is good or bad. */
import { loraError } from '../errors';
import { describe, isListOf, isRecord } from '../validate';
import { Column } from './columns';
import { ignoredLabel, type Example } from './example';
import type { RowColumns } from './memory_dataset';
import type { RowGroup, RowKind } from './row_groups';

/**
 * A prompt, and two answers to it.
 *
 * @example
 * const row: PreferenceRow = { promptIds: [1, 306], chosenIds: [29, 2], rejectedIds: [31, 7, 2] };
 */
export interface PreferenceRow {
  /** The tokens before the answers. */
  readonly promptIds: readonly number[];
  /** The better answer, with the token that ends it. */
  readonly chosenIds: readonly number[];
  /** The worse one. */
  readonly rejectedIds: readonly number[];
}

/**
 * A prompt, an answer to it, and whether that is a good one.
 *
 * @example
 * const row: LabeledRow = { promptIds: [1, 306], completionIds: [29, 2], label: true };
 */
export interface LabeledRow {
  /** The tokens before the answer. */
  readonly promptIds: readonly number[];
  /** The answer, with the token that ends it. */
  readonly completionIds: readonly number[];
  /** Whether answers like this one are wanted. */
  readonly label: boolean;
}

/** A kind of such rows. */
export interface AnswerRows<Row> {
  /** What a row is, in error sentences. */
  readonly form: string;
  /** Its answers. */
  readonly answers: readonly (keyof Row & string)[];
  readonly labeled: boolean;
}

export const pairRows: AnswerRows<PreferenceRow> = {
  form: '{ promptIds, chosenIds, rejectedIds }',
  answers: ['chosenIds', 'rejectedIds'],
  labeled: false,
};
export const labeledRows: AnswerRows<LabeledRow> = {
  form: '{ promptIds, completionIds, label }',
  answers: ['completionIds'],
  labeled: true,
};

const isIds = (value: unknown): value is number[] => isListOf(value, Number.isInteger);

/** What is wrong with a row of ids; undefined: nothing. */
export function rowFault<Row>({ form, answers, labeled }: AnswerRows<Row>, row: unknown): string | undefined {
  if (!isRecord(row)) return `expected a row ${form} but received ${describe(row)}`;
  for (const key of ['promptIds', ...answers]) {
    const ids = row[key];
    if (!isIds(ids)) return `expected ${key} of a row ${form} to be token ids but received ${describe(ids)}`;
    if (ids.length === 0)
      return `expected ${key} to have at least one token${key === 'promptIds' ? ', after which the answer begins' : ''}`;
  }
  if (!labeled || typeof row['label'] === 'boolean') return undefined;
  return `expected label of a row ${form} to be true or false but received ${describe(row['label'])}`;
}

/** A prompt with an answer, of which the answer counts; `whole`: of which all tokens do. */
export function answered(
  promptIds: readonly number[],
  answerIds: readonly number[],
  whole = false,
): Required<Example> {
  const inputIds = [...promptIds, ...answerIds];
  return { inputIds, labels: whole ? inputIds : [...promptIds.map(() => ignoredLabel), ...answerIds] };
}

/** Rows as batches hold them, a text for each answer; `wholeFirst`: of the first of them the prompt counts too. */
export function answerKind<Row>(rows: AnswerRows<Row>, wholeFirst = false): RowKind {
  return {
    form: rows.form,
    grouped: true,
    read(op, value, place): RowGroup {
      const fault = rowFault(rows, value);
      if (fault !== undefined) throw loraError(op, 'ERR_DATA', `${place}: ${fault}`);
      const row = value as Record<string, readonly number[]> & { label?: boolean };
      return {
        row: value,
        marks: [row['promptIds']!.length, ...(rows.labeled ? [Number(row.label)] : [])],
        examples: rows.answers.map((key, i) => answered(row['promptIds']!, row[key], wholeFirst && i === 0)),
      };
    },
  };
}

/** Such rows as columns: 4 bytes for each token. */
export class AnswerColumns<Row> implements RowColumns<Row> {
  readonly #ids: Column;
  /** Where each part of a row ends: the prompt, then its answers. */
  readonly #ends: Column;
  readonly #labels: Column;
  readonly #keys: readonly string[];

  constructor(
    path: string,
    private readonly rows: AnswerRows<Row>,
  ) {
    this.#ids = new Column('i32', path);
    this.#ends = new Column('f64', path);
    this.#labels = new Column('i32', path);
    this.#keys = ['promptIds', ...rows.answers];
  }

  get length(): number {
    return this.#ends.length / this.#keys.length;
  }

  get lengths(): number[] {
    return Array.from({ length: this.length }, (_, row) => {
      const [prompt, ...answers] = this.#keys.map(
        (_, part) => this.#end(row, part) - this.#end(row, part - 1),
      );
      return prompt! + Math.max(...answers);
    });
  }

  add(row: Row): void {
    const parts = row as Record<string, readonly number[]> & { label?: boolean };
    for (const key of this.#keys) {
      for (const id of parts[key]!) this.#ids.push(id);
      this.#ends.push(this.#ids.length);
    }
    if (this.rows.labeled) this.#labels.push(Number(parts.label));
  }

  at(index: number): Row {
    const parts = this.#keys.map((key, part) => [
      key,
      this.#ids.slice(this.#end(index, part - 1), this.#end(index, part)),
    ]);
    const label = this.rows.labeled && { label: this.#labels.at(index) === 1 };
    return { ...Object.fromEntries(parts), ...label } as Row;
  }

  #end(row: number, part: number): number {
    const at = row * this.#keys.length + part;
    return at < 0 ? 0 : this.#ends.at(at);
  }
}
