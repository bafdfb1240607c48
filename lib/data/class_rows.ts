/** Rows of texts with labels: what a head of classes learns from, and is measured on. */
import { loraError } from '../errors';
import type { ProblemType } from '../options/problem_types';
import type { Tokenizer } from '../text/tokenizer';
import { describe, isListOf, isRecord, listed, suggest } from '../validate';
import { ignoredLabel } from './example';
import type { RowGroup, RowKind } from './row_groups';

/** A label by its name or its index; of regression a number. */
export type ClassLabel = string | number;

/**
 * A text, as it is or as tokens, and its label: a name or an index; of several labels for a text a list of them; of regression a number, or a list of one for
 * each output.
 *
 * @example
 * const rows: ClassRow[] = [{ text: 'I want my money back', label: 'refund' }, { inputIds: [1, 306], label: 1 }];
 */
export interface ClassRow {
  /** The text, with the special tokens that the tokenizer puts around it. */
  readonly text?: string | undefined;
  /** Its tokens, where they are known; they are taken in place of `text`. */
  readonly inputIds?: readonly number[] | undefined;
  /** Its label, or the list of its labels. */
  readonly label?: ClassLabel | readonly ClassLabel[] | undefined;
  /** The same under the name that lists have. */
  readonly labels?: readonly ClassLabel[] | undefined;
}

/** The labels that a row may have. */
export interface LabelSet {
  readonly labels: readonly string[];
  readonly problemType: ProblemType;
}

/** A row with what it is to be: the index of its label; of several labels 1 for those that it has and 0 for others; of regression the numbers. */
export interface TargetRow {
  readonly inputIds: readonly number[];
  readonly target: readonly number[];
}

const form = '{ text | inputIds, label }';

function indexOf({ labels }: LabelSet, label: unknown): number | string {
  if (typeof label === 'string') {
    const index = labels.indexOf(label);
    if (index >= 0) return index;
    const near = suggest(label, labels);
    return `expected a label of ${listed(labels)} but received ${describe(label)}${near ? `; did you mean '${near}'?` : ''}`;
  }
  if (Number.isInteger(label) && (label as number) >= 0 && (label as number) < labels.length)
    return label as number;
  return `expected the name of a label or an index from 0 to ${labels.length - 1} but received ${describe(label)}`;
}

/** Numbers, which tables have as texts. */
function numberOf(value: unknown): number {
  return typeof value === 'string' && value.trim() !== '' ? Number(value) : (value as number);
}

/** What a row is to be, or what is wrong with its label. */
export function targetOf(set: LabelSet, { label: one, labels }: ClassRow): number[] | string {
  const label = one ?? labels;
  const list: readonly unknown[] = Array.isArray(label) ? label : [label];
  if (set.problemType === 'regression') {
    const numbers = list.map(numberOf);
    if (isListOf(numbers, Number.isFinite) && numbers.length === set.labels.length) return numbers;
    const count = set.labels.length;
    return `expected label to be ${count === 1 ? 'a number' : `${count} numbers`} but received ${describe(label)}`;
  }
  const single = set.problemType === 'single_label_classification';
  if (single === Array.isArray(label))
    return `expected ${single ? 'one label' : 'a list of labels'} but received ${describe(label)}`;
  const indices = list.map((each) => indexOf(set, each));
  const wrong = indices.find((index) => typeof index === 'string');
  if (wrong !== undefined) return wrong;
  return single ? (indices as number[]) : set.labels.map((_, i) => Number(indices.includes(i)));
}

/** Whole numbers that tell targets apart. */
const marksOf = (target: readonly number[]): number[] => [
  ...new Int32Array(Float64Array.from(target).buffer),
];

/** Rows of a model with these labels. `tokenizer`: of the model; asked for where a row is a text. */
export const classRows = (set: LabelSet, tokenizer: () => Tokenizer): RowKind => ({
  form,
  grouped: true,
  read(op, row, place): RowGroup {
    const fail = (why: string): never => {
      throw loraError(op, 'ERR_DATA', `${place}: ${why}`);
    };
    if (!isRecord(row)) return fail(`expected a row ${form} but received ${describe(row)}`);
    const { text, inputIds = typeof text === 'string' ? tokenizer().encode(text) : undefined } =
      row as ClassRow;
    if (!isListOf(inputIds, Number.isInteger) || inputIds.length === 0)
      return fail(`expected a row ${form} with at least one token but received ${describe(row)}`);
    const target = targetOf(set, row);
    if (typeof target === 'string') return fail(target);
    const own: TargetRow = { inputIds, target };
    return {
      row: own,
      marks: marksOf(target),
      examples: [{ inputIds: own.inputIds, labels: own.inputIds.map(() => ignoredLabel) }],
    };
  },
});
