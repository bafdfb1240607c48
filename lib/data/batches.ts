import { LoRAError } from '../errors';
import { check, checkBoolean, checkOptions, checkSignal, describe } from '../validate';
import type { DataSource } from './example';
import { FileDataset } from './file_dataset';
import { lengthGroupedOrder } from './length_groups';
import { MemoryDataset } from './memory_dataset';
import { Packer, type PackedRow } from './packing';
import { numbers, Random } from './random';
import { exampleRows, type RowGroup, type RowKind } from './row_groups';
import type { SequencePlan } from './sequence_plan';
import { inSlices, Pace } from '../tensor/pace';

/** Rows of a batch; each keeps its own length. */
export interface Batch {
  /** Token ids, [batch][length of the row]. */
  inputIds: number[][];
  /** As `inputIds`, −100 where nothing counts. */
  labels: number[][];
  /** With `packing`, the number of the example that each token is of, from 1: what `model.forward` takes. */
  segmentIds?: number[][];
  /** @internal For rows of several texts, which of the texts above are of one row: each group is the next of them. */
  groups?: RowGroup[];
}

/** How {@link batches} cuts a source. */
export interface BatchesOptions {
  /** Examples per batch. Default 1. */
  batchSize?: number | undefined;
  /** A new order, decided by `seed`. A source that says its `length` is read into memory whole. Default false. */
  shuffle?: boolean | undefined;
  /** Decides the order with `shuffle`. Default 0. */
  seed?: number | undefined;
  /**
   * With `shuffle`, how many examples are held at a time, from which the next one is drawn; 1 keeps their order. Default: all of a source with a
   * `length`, and 1000 of another one, which may be endless.
   */
  shuffleWindow?: number | undefined;
  /** An abort rejects with its reason, also while the source gives nothing. */
  signal?: AbortSignal | undefined;
  /** Several examples in a row, as many as fit into `packLength` tokens. Default false. */
  packing?: boolean | undefined;
  /** Tokens of a row with `packing`; a longer example has a row of its own. Default: the `maxLength` of the data set, else 2048. */
  packLength?: number | undefined;
  /**
   * Batches of examples of similar lengths, so that little of them is padding; with `shuffle`, in an order decided by `seed`. For data that says its
   * `length`. Default false.
   */
  groupByLength?: boolean | undefined;
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
  yield* batchesOf(exampleRows, data, options);
}

/** @internal The same for rows of any kind. */
export async function* batchesOf(
  kind: RowKind,
  data: DataSource<unknown>,
  options: BatchesOptions,
): AsyncGenerator<Batch, void, void> {
  checkOptions('batches', options, [
    'batchSize',
    'shuffle',
    'seed',
    'shuffleWindow',
    'signal',
    'packing',
    'packLength',
    'groupByLength',
    'dropLast',
  ]);
  const {
    batchSize = 1,
    shuffle = false,
    seed = 0,
    shuffleWindow,
    signal,
    packing = false,
    packLength = (data as { maxLength?: number } | null)?.maxLength ?? 2048,
    groupByLength = false,
    dropLast = false,
  } = options;
  for (const [name, value] of Object.entries({ batchSize, shuffleWindow: shuffleWindow ?? 1, packLength }))
    check(
      Number.isInteger(value) && value > 0,
      'batches',
      `expected ${name} to be a positive whole number but received ${describe(value)}`,
    );
  checkBoolean('batches', 'packing', packing);
  checkBoolean('batches', 'groupByLength', groupByLength);
  checkSignal('batches', signal);
  const opened = open(data, kind);
  if (groupByLength) checkGroupable('batches', opened, packing);
  const source = inOrder(kind, opened, { batchSize, shuffle, seed, shuffleWindow, groupByLength, signal });
  let index = 0;
  const read = (row: unknown): RowGroup => kind.read('batches', row, `example ${index++}`);
  const pace = new Pace(); // a source in memory never leaves a turn of the event loop by itself
  if (packing) {
    const packer = new Packer(batchSize, packLength);
    for await (const row of source) {
      if (pace.due) await pace.rest(signal);
      for (const example of read(row).examples) {
        const full = packer.add(example);
        if (full) yield ofRows(full);
      }
    }
    const rest = packer.rest();
    if (rest.length > 0 && !(dropLast && rest.length < batchSize)) yield ofRows(rest);
    return;
  }
  let groups: RowGroup[] = [];
  for await (const row of source) {
    if (pace.due) await pace.rest(signal);
    groups.push(read(row));
    if (groups.length === batchSize) {
      yield batchOf(kind, groups);
      groups = [];
    }
  }
  if (groups.length > 0 && !dropLast) yield batchOf(kind, groups);
}

/** @internal The batch of some rows. */
export function batchOf(kind: RowKind, groups: RowGroup[]): Batch {
  const examples = groups.flatMap((group) => group.examples);
  return {
    inputIds: examples.map(({ inputIds }) => [...inputIds]),
    labels: examples.map(({ labels }) => [...labels]),
    ...(kind.grouped && { groups }),
  };
}

const ofRows = (rows: readonly PackedRow[]): Batch => ({
  inputIds: rows.map(({ inputIds }) => inputIds),
  labels: rows.map(({ labels }) => labels),
  segmentIds: rows.map(({ segmentIds }) => segmentIds),
});

type Source = Iterable<unknown> | AsyncIterable<unknown>;

/** The rows in the order that the options ask for. */
function inOrder(
  kind: RowKind,
  data: Source,
  {
    batchSize,
    shuffle,
    seed,
    shuffleWindow,
    groupByLength,
    signal,
  }: Pick<BatchesOptions, 'shuffle' | 'groupByLength' | 'signal'> & {
    batchSize: number;
    seed: number;
    shuffleWindow: number | undefined;
  },
): Source {
  const abortable = (source: Source): Source => (signal ? untilAborted(source, signal) : source);
  const random = shuffle ? new Random(seed) : undefined;
  if (data instanceof FileDataset || data instanceof MemoryDataset) {
    if (groupByLength)
      return abortable(rows(data, lengthGroupedOrder(data.lengths, batchSize, random), signal));
    if (random && shuffleWindow === undefined)
      return abortable(rows(data, shuffledOrder(data.length, random), signal));
  }
  const source = abortable(data);
  if (groupByLength) return grouped(kind, source, batchSize, random, signal);
  if (!random) return source;
  const window = shuffleWindow ?? (typeof lengthOf(data) === 'number' ? Infinity : 1000);
  return shuffled(source, window, random, signal);
}

function* shuffledOrder(n: number, random: Random): Generator<void, number[], void> {
  return yield* random.shuffleSteps(yield* numbers(n));
}

const lengthOf = (source: unknown): unknown => (source as { length?: unknown }).length;

/** Rows of a data set, each read or made when its turn comes. */
async function* rows(
  data: FileDataset | MemoryDataset,
  order: Generator<void, number[], void>,
  signal: AbortSignal | undefined,
): AsyncGenerator<unknown, void, void> {
  for (const i of await inSlices(order, signal)) yield await data.at(i);
}

/** All rows, read into memory, in batches of similar lengths. */
async function* grouped(
  kind: RowKind,
  source: Source,
  batchSize: number,
  random: Random | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<unknown, void, void> {
  const pace = new Pace();
  const held: unknown[] = [];
  const lengths: number[] = [];
  for await (const row of source) {
    if (pace.due) await pace.rest(signal);
    const { examples } = kind.read('batches', row, `example ${held.length}`);
    held.push(row);
    lengths.push(Math.max(...examples.map(({ inputIds }) => inputIds.length)));
  }
  for (const i of await inSlices(lengthGroupedOrder(lengths, batchSize, random), signal)) yield held[i]!;
}

/** Draws each row from a window that moves over the source; what is left at the end is shuffled. */
async function* shuffled(
  source: Source,
  window: number,
  random: Random,
  signal: AbortSignal | undefined,
): AsyncGenerator<unknown, void, void> {
  const pace = new Pace();
  const held: unknown[] = [];
  for await (const row of source) {
    if (pace.due) await pace.rest(signal);
    if (held.length < window) {
      held.push(row);
      continue;
    }
    const drawn = random.below(window);
    yield held[drawn];
    held[drawn] = row;
  }
  yield* await inSlices(random.shuffleSteps(held), signal);
}

/** The same rows until the signal says otherwise, also while the next one does not come. */
async function* untilAborted(source: Source, signal: AbortSignal): AsyncGenerator<unknown, void, void> {
  const iterator =
    Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  let giveUp = (_: Error): void => {};
  const abort = (): void => giveUp(signal.reason as Error);
  signal.addEventListener('abort', abort);
  let ended = false;
  try {
    for (;;) {
      // Each wait has a promise of its own: one for all of them would hold what every example leaves there.
      const next = await new Promise<IteratorResult<unknown>>((resolve, reject) => {
        giveUp = reject;
        signal.throwIfAborted();
        Promise.resolve(iterator.next()).then(resolve, reject);
      });
      if (next.done) {
        ended = true;
        return;
      }
      yield next.value;
    }
  } finally {
    signal.removeEventListener('abort', abort);
    // A source that waits for its next example cannot end before that comes: nobody waits for it after an abort.
    const returned = ended ? undefined : Promise.resolve(iterator.return?.());
    if (signal.aborted) returned?.catch(() => undefined);
    else await returned;
  }
}

function open(data: DataSource<unknown>, kind: RowKind): Source {
  const source: unknown = typeof data === 'function' ? data() : data;
  check(isSource(source), 'batches', expected('data', source, kind));
  return source;
}

function isSource(value: unknown): value is Source {
  return (
    typeof value === 'object' && value !== null && (Symbol.iterator in value || Symbol.asyncIterator in value)
  );
}

const expected = (name: string, value: unknown, { form }: RowKind): string =>
  `expected ${name} to be an Iterable or AsyncIterable of ${form}, or a function that returns one, but received ${describe(value)}`;

/** Throws unless rows of the kind can be asked of it. */
export function checkSource(
  op: string,
  name: string,
  value: unknown,
  kind = exampleRows,
): asserts value is DataSource {
  check(typeof value === 'function' || isSource(value), op, expected(name, value, kind));
}

/** Throws unless examples can be sorted by length: all of them are looked at before the first batch, and packed rows have no padding. */
export function checkGroupable(op: string, data: DataSource<unknown>, packing: boolean): void {
  check(!packing, op, 'expected groupByLength or packing, not both: rows that are packed are not padded');
  check(
    typeof data === 'function' || typeof lengthOf(data) === 'number',
    op,
    `expected data that says its length, such as an array or what loadDataset gives, since groupByLength looks at all examples first, but received ${describe(data)}`,
  );
}

/**
 * Throws for an example that the context does not hold behind the vectors of an adapter, where a data set knows how long its examples are:
 * else the batch that holds it would fail.
 */
export function checkLengths(op: string, name: string, data: DataSource<unknown>, plan: SequencePlan): void {
  if (!(data instanceof FileDataset || data instanceof MemoryDataset)) return;
  const { lengths } = data;
  const { maxTextLength: room } = plan;
  const long = lengths.findIndex((length) => length > room);
  check(
    long < 0,
    op,
    () =>
      `expected examples of ${name} of at most ${room} tokens, since ${plan.reason}, but example ${long} has ${lengths[long]}: give loadDataset a maxLength of ${room}`,
  );
}

/**
 * A generator (or any iterator that is its own iterable) is empty when it is read a second time; training
 * for several epochs on it would silently stop. A function gives a fresh one each time.
 */
export function checkRereadable(op: string, data: DataSource<unknown>): void {
  if (typeof data === 'function') return;
  const iterator: unknown =
    Symbol.asyncIterator in data
      ? (data as AsyncIterable<unknown> & { next?: unknown }).next
      : (data as Iterable<unknown> & { next?: unknown }).next;
  check(
    typeof iterator !== 'function',
    op,
    'expected data that can be read more than once but received a one-shot iterator: pass a function that returns a new one',
  );
}

/** Rows of every epoch in turn, each in its own order. */
export async function* epochs(
  data: DataSource<unknown>,
  options: BatchesOptions & { batchSize: number; seed: number },
  kind = exampleRows,
): AsyncGenerator<Batch & { epoch: number }, void, void> {
  for (let epoch = 0; ; epoch++) {
    let any = false;
    // Seeds of neighboring epochs and runs must not coincide.
    for await (const batch of batchesOf(kind, data, { ...options, seed: options.seed * 1_000_003 + epoch })) {
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
