import { LoRAError } from '../errors';
import { check, checkOptions, describe } from '../validate';
import { checkExample, type DataSource, type Example } from './example';
import { Random } from './random';

/** Rows of a batch; each keeps its own length. */
export interface Batch {
  /** Token ids, [batch][length of the row]. */
  inputIds: number[][];
  /** As `inputIds`, −100 where nothing counts. */
  labels: number[][];
}

/** How {@link batches} cuts a source. */
export interface BatchesOptions {
  /** Examples per batch. Default 1. */
  batchSize?: number | undefined;
  /** A new order, decided by `seed`; reads the whole source into memory. Default false. */
  shuffle?: boolean | undefined;
  /** Decides the order with `shuffle`. Default 0. */
  seed?: number | undefined;
  /** Leaves out a last batch with fewer than `batchSize` examples. Default false. */
  dropLast?: boolean | undefined;
}

/**
 * One pass over `data` in batches, in order or shuffled. Rows keep their own lengths (the model pads inside).
 *
 * @example
 * for await (const { inputIds, labels } of batches(data, { batchSize: 4, shuffle: true, seed: 0 }))
 *   model.forward(inputIds, { labels });
 */
export async function* batches(
  data: DataSource,
  options: BatchesOptions = {},
): AsyncGenerator<Batch, void, void> {
  checkOptions('batches', options, ['batchSize', 'shuffle', 'seed', 'dropLast']);
  const { batchSize = 1, shuffle = false, seed = 0, dropLast = false } = options;
  check(
    Number.isInteger(batchSize) && batchSize > 0,
    'batches',
    `expected batchSize to be a positive whole number but received ${batchSize}`,
  );
  let source: Iterable<Example> | AsyncIterable<Example> = open(data);
  if (shuffle) {
    const all: Example[] = [];
    for await (const example of source) all.push(example);
    source = new Random(seed).shuffle(all);
  }
  let batch: Batch = { inputIds: [], labels: [] };
  let index = 0;
  for await (const example of source) {
    const { inputIds, labels } = checkExample('batches', example, `example ${index++}`);
    batch.inputIds.push([...inputIds]);
    batch.labels.push([...labels]);
    if (batch.inputIds.length === batchSize) {
      yield batch;
      batch = { inputIds: [], labels: [] };
    }
  }
  if (batch.inputIds.length > 0 && !dropLast) yield batch;
}

function open(data: DataSource): Iterable<Example> | AsyncIterable<Example> {
  const source: unknown = typeof data === 'function' ? data() : data;
  check(isSource(source), 'batches', expected('data', source));
  return source;
}

function isSource(value: unknown): value is Iterable<Example> | AsyncIterable<Example> {
  return (
    typeof value === 'object' && value !== null && (Symbol.iterator in value || Symbol.asyncIterator in value)
  );
}

const expected = (name: string, value: unknown): string =>
  `expected ${name} to be an Iterable or AsyncIterable of { inputIds, labels? }, or a function that returns one, but received ${describe(value)}`;

/** Throws unless examples can be asked of it. */
export function checkSource(op: string, name: string, value: unknown): asserts value is DataSource {
  check(typeof value === 'function' || isSource(value), op, expected(name, value));
}

/**
 * A generator (or any iterator that is its own iterable) is empty when it is read a second time; training
 * for several epochs on it would silently stop. A function gives a fresh one each time.
 */
export function checkRereadable(op: string, data: DataSource): void {
  if (typeof data === 'function') return;
  const iterator: unknown =
    Symbol.asyncIterator in data
      ? (data as AsyncIterable<Example> & { next?: unknown }).next
      : (data as Iterable<Example> & { next?: unknown }).next;
  check(
    typeof iterator !== 'function',
    op,
    'expected data that can be read more than once but received a one-shot iterator: pass a function that returns a new one',
  );
}

/** Examples of every epoch in turn, each in its own order. */
export async function* epochs(
  data: DataSource,
  options: Required<BatchesOptions>,
): AsyncGenerator<Batch & { epoch: number }, void, void> {
  for (let epoch = 0; ; epoch++) {
    let any = false;
    // Seeds of neighbouring epochs and runs must not coincide.
    for await (const batch of batches(data, { ...options, seed: options.seed * 1_000_003 + epoch })) {
      any = true;
      yield { ...batch, epoch };
    }
    if (!any)
      throw new LoRAError(
        'ERR_DATA',
        epoch === 0
          ? `[Trainer] expected data with at least one batch of ${options.batchSize} but received none`
          : '[Trainer] the data was empty when read again: pass a function that returns a new source each time',
        { op: 'Trainer' },
      );
  }
}
