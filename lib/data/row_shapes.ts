/** What a data set makes of the rows of a file: the kinds that it reads, how they are cut, where they are kept. */
import { ExampleColumns } from './columns';
import type { Example } from './example';
import type { RowColumns } from './memory_dataset';
import { labeledKinds, pairKinds } from './preference_kinds';
import { AnswerColumns, labeledRows, pairRows, type AnswerRows } from './preference_rows';
import { exampleKinds, type RowKinds } from './rows';
import { SequencePlan } from './sequence_plan';

export interface FittedRow<Row> {
  /** Absent: within the length there is nothing of it to learn from. */
  readonly row: Row | undefined;
  readonly truncated: boolean;
  /** How many tokens count. */
  readonly tokens: number;
}

export interface RowShape<Row> {
  readonly kinds: RowKinds<Row>;
  /** Whether plain text is cut into such rows. */
  readonly ofText: boolean;
  /** Whether rows keep fields beside those of their kind. */
  readonly keepsFields: boolean;
  /** Why there may be no row left, in error sentences: only rows of which …. */
  readonly dropped: (maxLength: number) => string;
  columns(path: string): RowColumns<Row>;
  /** An id or a label that 32 bits do not hold. */
  misfit(row: Row): number | undefined;
  /** Tokens of the longest of its texts. */
  lengthOf(row: Row): number;
  fit(row: Row, maxLength: number): FittedRow<Row>;
  /** The numbers that tell a row from others; those of its texts are apart. */
  numbers(row: Row): readonly (readonly number[])[];
}

export const exampleShape: RowShape<Required<Example>> = {
  kinds: exampleKinds,
  ofText: true,
  keepsFields: false,
  dropped: (maxLength) => `of which no token counts within ${maxLength} tokens`,
  columns: (path) => new ExampleColumns(path),
  misfit: (example) => ExampleColumns.misfit(example),
  lengthOf: ({ inputIds }) => inputIds.length,
  fit({ inputIds, labels }, maxLength) {
    const example = { inputIds: inputIds.slice(0, maxLength), labels: labels.slice(0, maxLength) };
    const tokens = new SequencePlan().countedLabels([example.labels]); // a single token predicts nothing
    return { row: tokens > 0 ? example : undefined, truncated: inputIds.length > maxLength, tokens };
  },
  numbers: ({ inputIds, labels }) => [inputIds, labels],
};

/** A prompt stays whole, and an answer loses its end. */
function answerShape<Row extends object>(rows: AnswerRows<Row>, kinds: RowKinds<Row>): RowShape<Row> {
  type Parts = Record<string, readonly number[]>;
  return {
    kinds,
    ofText: false,
    keepsFields: false,
    dropped: (maxLength) => `whose prompt fills ${maxLength} tokens`,
    columns: (path) => new AnswerColumns(path, rows),
    misfit: (row) =>
      ['promptIds', ...rows.answers].flatMap((key) => (row as Parts)[key]!).find((id) => id !== (id | 0)),
    lengthOf: (row) =>
      (row as Parts)['promptIds']!.length +
      Math.max(...rows.answers.map((key) => (row as Parts)[key]!.length)),
    fit(row, maxLength) {
      const parts = row as Parts;
      const room = maxLength - parts['promptIds']!.length;
      if (room < 1) return { row: undefined, truncated: false, tokens: 0 };
      const cut = rows.answers.map((key) => [key, parts[key]!.slice(0, room)] as const);
      return {
        row: { ...row, ...Object.fromEntries(cut) },
        truncated: rows.answers.some((key) => parts[key]!.length > room),
        tokens: cut.reduce((sum, [, ids]) => sum + ids.length, 0),
      };
    },
    numbers: (row) => [
      ...['promptIds', ...rows.answers].map((key) => (row as Parts)[key]!),
      [Number((row as { label?: unknown }).label)],
    ],
  };
}

export const pairShape = answerShape(pairRows, pairKinds);
export const labeledShape = answerShape(labeledRows, labeledKinds);
