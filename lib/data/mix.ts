/** Several data sets as one, in given proportions. */
import { atOnce } from '../tensor/pace';
import { check, checkInteger, checkOptions, describe, isListOf } from '../validate';
import type { Dataset, PreferenceDataset } from './dataset';
import type { DatasetCounts } from './example';
import { MemoryDataset, type RowColumns } from './memory_dataset';
import { numbers, Random } from './random';

const op = 'mixDatasets';

/** The options of {@link mixDatasets}. */
export interface MixDatasetsOptions {
  /** A weight above 0 for each data set, as numbers or as '7:2:1'. Default: all rows of all. */
  weights?: string | readonly number[] | undefined;
  /** Which rows of a data set are taken where not all are. Default 0. */
  seed?: number | undefined;
}

/** What a mix takes of one of its data sets. */
export interface MixedSource {
  /** What the data set was read from. */
  readonly path: string;
  /** Rows that are taken. */
  readonly rows: number;
  /** Rows that it has. */
  readonly of: number;
  /** Tokens of the rows that are taken that count. */
  readonly tokens: number;
}

/** What is known of a mix beside its counts. */
export interface Mix {
  /** Its data sets, in their order. */
  readonly sources: readonly MixedSource[];
}

/** Rows of several data sets by their places. */
class MixedRows implements RowColumns<unknown> {
  readonly length: number;

  constructor(private readonly parts: readonly (readonly [MemoryDataset<unknown>, Int32Array])[]) {
    this.length = parts.reduce((sum, [, rows]) => sum + rows.length, 0);
  }

  get lengths(): readonly number[] {
    return this.parts.flatMap(([{ lengths }, rows]) => Array.from(rows, (row) => lengths[row]!));
  }

  add(): never {
    throw new Error('a mix is complete');
  }

  at(index: number): unknown {
    return this.#of(index, (data, row) => data.at(row));
  }

  countedAt(index: number): number {
    return this.#of(index, (data, row) => data.counted.at(row));
  }

  #of<T>(index: number, give: (data: MemoryDataset<unknown>, row: number) => T): T {
    let at = index;
    for (const [data, rows] of this.parts) {
      if (at < rows.length) return give(data, rows[at]!);
      at -= rows.length;
    }
    throw new RangeError(`${index}`);
  }
}

/** The parts of a row that tell its objective. */
const formOf = (row: object): string =>
  ['inputIds', 'promptIds', 'chosenIds', 'completionIds', 'label', 'anchorIds', 'positiveIds']
    .filter((key) => key in row)
    .join(', ');

/** @throws ERR_ARGUMENT unless there is a weight above 0 for each of `count` data sets. */
export function checkedWeights(name: string, given: unknown, count: number, where = op): readonly number[] {
  const weights =
    typeof given === 'string'
      ? given.split(':').map((text) => (text.trim() === '' ? Number.NaN : Number(text)))
      : given;
  check(
    isListOf(weights, (value) => typeof value === 'number' && value > 0 && Number.isFinite(value)) &&
      weights.length === count,
    where,
    () =>
      `expected ${name} to be ${count} numbers above 0, one for each data set, such as '${Array.from({ length: count }, (_, i) => count - i).join(':')}', but received ${describe(given)}`,
  );
  return weights as readonly number[];
}

/**
 * How many rows of each are taken: as many as there can be in these proportions without any row twice, one at least.
 * n_i = round(w_i · min_j (N_j / w_j)).
 */
function shares(lengths: readonly number[], weights: readonly number[] | undefined): number[] {
  if (weights === undefined) return [...lengths];
  const unit = Math.min(...lengths.map((length, i) => length / weights[i]!));
  return lengths.map((length, i) => Math.min(length, Math.max(1, Math.round(weights[i]! * unit))));
}

/**
 * Several data sets of {@link loadDataset} as one. With weights, rows are left out of those that have more than their share, so that no row is
 * there twice: '7:2:1' of 700, 100 and 100 rows takes 350, 100 and 50. Which ones is drawn by `seed`. Training shuffles all of them together.
 * `truncated`, `dropped`, `duplicates` and `cutTokens` are those of the data sets as they were read.
 *
 * @throws ERR_ARGUMENT for a data set that is not in memory, of another objective than the first, and for weights that are none.
 *
 * @example
 * const code = await loadDataset('code.jsonl', { tokenizer });
 * const prose = await loadDataset('prose.parquet', { tokenizer });
 * const data = mixDatasets([code, prose], { weights: '7:3' });
 * console.log(data.sources); // [{ path: 'code.jsonl', rows: 700, of: 1000, tokens: 81234 }, …]
 */
export function mixDatasets(datasets: readonly Dataset[], options?: MixDatasetsOptions): Dataset & Mix;
export function mixDatasets<Row>(
  datasets: readonly PreferenceDataset<Row>[],
  options?: MixDatasetsOptions,
): PreferenceDataset<Row> & Mix;
export function mixDatasets(
  datasets: readonly (Dataset | PreferenceDataset<unknown>)[],
  options: MixDatasetsOptions = {},
): unknown {
  checkOptions(op, options, ['weights', 'seed']);
  const { weights: given, seed = 0 } = options;
  check(
    isListOf(datasets, (data) => data instanceof MemoryDataset) && datasets.length > 0,
    op,
    () => `expected a list of data sets of loadDataset, in memory, but received ${describe(datasets)}`,
  );
  checkInteger(op, 'seed', seed);
  const weights = given === undefined ? undefined : checkedWeights('weights', given, datasets.length);
  const all = datasets as unknown as readonly (DatasetCounts & MemoryDataset<unknown>)[];
  const forms = all.map((data) => formOf(data.at(0) as object));
  const other = forms.findIndex((form) => form !== forms[0]);
  check(
    other < 0,
    op,
    () =>
      `expected data sets of one objective but received rows of { ${forms[0]} } and of { ${forms[other]} }`,
  );
  const counts = shares(
    all.map(({ length }) => length),
    weights,
  );
  const parts = all.map((data, i) => {
    // A data set keeps its draw when others join it.
    const order = atOnce(numbers(data.length));
    if (counts[i]! < data.length) new Random(seed).shuffle(order);
    return [data, Int32Array.from(order.slice(0, counts[i])).sort()] as const;
  });
  const sources = parts.map(([data, rows]): MixedSource => ({
    path: data.path,
    rows: rows.length,
    of: data.length,
    tokens: rows.reduce((sum, row) => sum + data.counted.at(row), 0),
  }));
  const rows = new MixedRows(parts);
  const sum = (of: (data: DatasetCounts) => number): number =>
    all.reduce((total, data) => total + of(data), 0);
  const facts: Omit<DatasetCounts, 'length'> & Mix = {
    maxLength: Math.max(...all.map(({ maxLength }) => maxLength)),
    truncated: sum(({ truncated }) => truncated),
    dropped: sum(({ dropped }) => dropped),
    duplicates: sum(({ duplicates }) => duplicates),
    longest: Math.max(...all.map(({ longest }) => longest)),
    cutTokens: sum(({ cutTokens }) => cutTokens),
    tokens: sources.reduce((total, { tokens }) => total + tokens, 0),
    path: sources.map(({ path }) => path).join(' + '),
    sources,
  };
  return Object.assign(new MemoryDataset(rows, { at: (index) => rows.countedAt(index) }), facts);
}
