/** What a row of data is to a batch: one text, or several that belong together. */
import { checkExample, type Example } from './example';

/** The texts of a row. */
export interface RowGroup {
  readonly examples: readonly Required<Example>[];
  /** The row itself, where its objective asks for more than its texts. */
  readonly row?: unknown;
  /** What of the row steps depend on beside its texts: it enters the digest by which a resumed run knows its data. */
  readonly marks?: readonly number[];
}

/** A kind of rows. */
export interface RowKind {
  /** What a row is, in error sentences: { inputIds, labels? }. */
  readonly form: string;
  /** Whether a batch says which of its texts belong together. */
  readonly grouped: boolean;
  /** @throws ERR_DATA, with the place of the row, for one of another kind. */
  read(op: string, row: unknown, place: string): RowGroup;
}

/** A row is a text. */
export const exampleRows: RowKind = {
  form: '{ inputIds, labels? }',
  grouped: false,
  read: (op, row, place) => ({ examples: [checkExample(op, row, place)] }),
};
