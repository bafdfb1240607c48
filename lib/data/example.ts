import { loraError } from '../errors';
import { ignoredLabel } from '../native/constants';
import { describe, isListOf } from '../validate';

/** One training example: token ids, and per position the id it must be predicted as, or −100 for "does not count". */
export interface Example {
  /** The tokens, in order. */
  inputIds: readonly number[];
  /** Same length as `inputIds` and not shifted; absent: every token counts. */
  labels?: readonly number[] | undefined;
}

/** Examples, or a function that gives them afresh each time (for sources that can be read only once). */
export type DataSource<Row = Example> =
  Iterable<Row> | AsyncIterable<Row> | (() => Iterable<Row> | AsyncIterable<Row>);

/** What a data set tells of itself. */
export interface DatasetCounts {
  /** How many examples there are. */
  readonly length: number;
  /** The most tokens of an example. */
  readonly maxLength: number;
  /** How many examples were cut to `maxLength`. */
  readonly truncated: number;
  /** How many rows were left out, because none of their tokens within `maxLength` counts, or they have one token. */
  readonly dropped: number;
  /** How many rows were left out because an earlier one has the same tokens; 0 unless `deduplicate` asks for it. */
  readonly duplicates: number;
  /** The most tokens that a row had before it was cut. */
  readonly longest: number;
  /** Tokens that were cut off. */
  readonly cutTokens: number;
  /** Tokens of all examples that count. The first of each is left out, which prompt tuning alone predicts. */
  readonly tokens: number;
  /** The file it was read from; of several files, what names them. */
  readonly path: string;
}

export { ignoredLabel };

const isIds = (value: unknown): value is number[] => isListOf(value, Number.isInteger);

/** Throws ERR_DATA, naming the example's place, unless `value` is a well-formed example; gives its labels too. */
export function checkExample(op: string, value: unknown, place: string): Required<Example> {
  const fail = (message: string): never => {
    throw loraError(op, 'ERR_DATA', `${place}: ${message}`);
  };
  if (typeof value !== 'object' || value === null)
    return fail(`expected an example { inputIds, labels? } but received ${describe(value)}`);
  const { inputIds, labels = inputIds } = value as Partial<Example>;
  if (!isIds(inputIds) || inputIds.length === 0)
    return fail(`expected inputIds to be token ids but received ${describe(inputIds)}`);
  if (!isIds(labels))
    return fail(`expected labels to be token ids or ${ignoredLabel} but received ${describe(labels)}`);
  if (labels.length !== inputIds.length)
    return fail(`expected ${inputIds.length} labels, one per token, but received ${labels.length}`);
  return { inputIds, labels };
}
