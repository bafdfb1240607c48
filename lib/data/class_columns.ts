/** Rows of texts with labels in files. Labels stay as they are written: which there are, the head of the model says. */
import { describe, isListOf } from '../validate';
import type { ClassLabel, ClassRow } from './class_rows';
import { Column } from './columns';
import type { RowColumns } from './memory_dataset';
import type { RowShape } from './row_shapes';
import { RowError, RowKind, text, type Row } from './rows';

/** A row whose tokens are known. */
export interface KnownClass extends ClassRow {
  readonly inputIds: readonly number[];
  readonly label: ClassLabel | readonly ClassLabel[];
}

const isLabel = (value: unknown): value is ClassLabel =>
  typeof value === 'string' || (typeof value === 'number' && Number.isFinite(value));

function labelOf(row: Row): KnownClass['label'] {
  const label = row['label'] ?? row['labels'];
  if (isLabel(label) || isListOf(label, isLabel)) return label;
  throw new RowError(
    `expected "label" to be a name, a number or a list of these but received ${describe(label)}`,
  );
}

class ClassTexts extends RowKind<KnownClass> {
  async read(row: Row): Promise<KnownClass> {
    const label = labelOf(row);
    const inputIds = await this.encode(text(row, 'text'));
    if (inputIds.length === 0) throw new RowError('expected a text of at least one token but received none');
    return { inputIds, label };
  }
}

class ClassIds extends RowKind<KnownClass> {
  read(row: Row): Promise<KnownClass> {
    const { inputIds } = row;
    if (!isListOf(inputIds, Number.isInteger) || inputIds.length === 0)
      throw new RowError(`expected "inputIds" to be token ids but received ${describe(inputIds)}`);
    return Promise.resolve({ inputIds: inputIds as number[], label: labelOf(row) });
  }
}

/** 4 bytes for each token, and the labels. */
class ClassColumns implements RowColumns<KnownClass> {
  readonly #ids: Column;
  readonly #ends: Column;
  readonly #labels: KnownClass['label'][] = [];

  constructor(path: string) {
    this.#ids = new Column('i32', path);
    this.#ends = new Column('f64', path);
  }

  get length(): number {
    return this.#labels.length;
  }

  get lengths(): number[] {
    return this.#labels.map((_, i) => this.#ends.at(i) - this.#start(i));
  }

  add({ inputIds, label }: KnownClass): void {
    for (const id of inputIds) this.#ids.push(id);
    this.#ends.push(this.#ids.length);
    this.#labels.push(label);
  }

  at(index: number): KnownClass {
    return {
      inputIds: this.#ids.slice(this.#start(index), this.#ends.at(index)),
      label: this.#labels[index]!,
    };
  }

  #start(index: number): number {
    return index === 0 ? 0 : this.#ends.at(index - 1);
  }
}

export const classShape: RowShape<KnownClass> = {
  kinds: {
    kinds: [
      [['inputIds', 'label'], '{ inputIds, label }', ClassIds],
      [['inputIds', 'labels'], '{ inputIds, labels }', ClassIds],
      [['text', 'label'], '{ text, label }', ClassTexts],
      [['text', 'labels'], '{ text, labels }', ClassTexts],
    ],
    furtherKeys: [],
  },
  ofText: false,
  keepsFields: false,
  dropped: () => 'without tokens',
  columns: (path) => new ClassColumns(path),
  misfit: ({ inputIds }) => inputIds.find((id) => id !== (id | 0)),
  lengthOf: ({ inputIds }) => inputIds.length,
  numbers: ({ inputIds, label }) => [inputIds, [...Buffer.from(JSON.stringify(label))]],
  fit({ inputIds, label }, maxLength) {
    const kept = inputIds.slice(0, maxLength);
    return { row: { inputIds: kept, label }, truncated: inputIds.length > maxLength, tokens: kept.length };
  },
};
