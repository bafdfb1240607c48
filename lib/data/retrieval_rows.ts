/** Rows of what belongs together: a text with one that is like it, or a query with a document that answers it and one that does not. */
import { loraError } from '../errors';
import { relevanceIds, type PairEncoder } from '../text/relevance';
import { describe, isListOf, isRecord } from '../validate';
import { ignoredLabel, type Example } from './example';
import type { RowColumns } from './memory_dataset';
import type { RowKind as BatchRows } from './row_groups';
import type { RowShape } from './row_shapes';
import { RowError, RowKind, type Row } from './rows';

type Ids = readonly number[];

/**
 * A text, and one whose vector shall be near to it; as texts, or as tokens.
 *
 * @example
 * const row: ContrastiveRow = { anchor: 'reset my password', positive: 'Click on "Forgot password".', negative: 'Our offices are in Graz.' };
 */
export type ContrastiveRow =
  | {
      /** A text, such as a question. */
      readonly anchor: string;
      /** One that belongs to it. */
      readonly positive: string;
      /** One, or several, that seem to and do not. */
      readonly negative?: string | readonly string[] | undefined;
      /** What stands before the anchor, word for word. */
      readonly instruction?: string | undefined;
    }
  | {
      /** The tokens of the anchor. */
      readonly anchorIds: Ids;
      /** Those of the text that belongs to it. */
      readonly positiveIds: Ids;
      /** Those of texts that do not. */
      readonly negativeIds?: readonly Ids[] | undefined;
    };

/**
 * A query, and two documents, of which the first answers it better; or the tokens of the questions whether they do.
 *
 * @example
 * const row: RankRow = { query: 'capital of Styria', positive: 'Graz is the capital of Styria.', negative: 'Styria has many forests.' };
 */
export type RankRow =
  | {
      /** What is asked. */
      readonly query: string;
      /** A document that answers it. */
      readonly positive: string;
      /** One that answers it less. */
      readonly negative: string;
      /** What documents are judged by. Default: as of {@link CausalLM.rank}. */
      readonly instruction?: string | undefined;
    }
  | {
      /** The tokens of the question about the first document. */
      readonly positiveIds: Ids;
      /** Those of the question about the other one. */
      readonly negativeIds: Ids;
    };

/** A row whose tokens are known, as files give it; its texts stay beside them. */
export interface KnownContrastive {
  readonly anchorIds: Ids;
  readonly positiveIds: Ids;
  readonly negativeIds: readonly Ids[];
}
export interface KnownRank {
  readonly positiveIds: Ids;
  readonly negativeIds: Ids;
  /** The query, by which documents are ranked together; '' where nobody told it. */
  readonly query: string;
}

const contrastiveForm = '{ anchor, positive, negative? } or { anchorIds, positiveIds, negativeIds? }';
const rankForm = '{ query, positive, negative } or { positiveIds, negativeIds }';

/** What is wrong with a row; who knows its place says where. */
class Fault extends Error {}

function textIn(row: Row, key: string, fallback?: string): string {
  const value = row[key] ?? fallback;
  if (typeof value !== 'string')
    throw new Fault(`expected ${JSON.stringify(key)} to be a string but received ${describe(value)}`);
  return value;
}

function idsIn(row: Row, key: string): Ids {
  const value = row[key];
  if (!isListOf(value, Number.isInteger) || value.length === 0)
    throw new Fault(`expected ${JSON.stringify(key)} to be token ids but received ${describe(value)}`);
  return value as number[];
}

function encoded(row: Row, key: string, text: string, encode: (text: string) => number[]): Ids {
  const ids = encode(text);
  if (ids.length > 0) return ids;
  throw new Fault(
    `expected ${JSON.stringify(key)} to have at least one token but received ${describe(row[key])}`,
  );
}

function negativeTexts(row: Row): string[] {
  const value = row['negative'] ?? [];
  const list = typeof value === 'string' ? [value] : value;
  if (!isListOf(list, (text) => typeof text === 'string'))
    throw new Fault(
      `expected "negative" to be a string or a list of strings but received ${describe(value)}`,
    );
  return list;
}

function negativeIds(row: Row): Ids[] {
  const value = row['negativeIds'] ?? [];
  const isIds = (ids: unknown): boolean => isListOf(ids, Number.isInteger) && (ids as number[]).length > 0;
  if (!isListOf(value, isIds))
    throw new Fault(
      `expected "negativeIds" to be a list of lists of token ids but received ${describe(value)}`,
    );
  return value as Ids[];
}

function knownContrastive(row: Row, encoder: () => Pick<PairEncoder, 'encode'>): KnownContrastive {
  if (Object.hasOwn(row, 'anchorIds'))
    return {
      anchorIds: idsIn(row, 'anchorIds'),
      positiveIds: idsIn(row, 'positiveIds'),
      negativeIds: negativeIds(row),
    };
  const [anchor, positive, negatives] = [textIn(row, 'anchor'), textIn(row, 'positive'), negativeTexts(row)];
  const before = textIn(row, 'instruction', '');
  const tokenizer = encoder();
  const encode = (text: string): number[] => tokenizer.encode(text);
  return {
    anchorIds: encoded(row, 'anchor', before + anchor, encode),
    positiveIds: encoded(row, 'positive', positive, encode),
    negativeIds: negatives.map((text) => encoded(row, 'negative', text, encode)),
  };
}

function knownRank(row: Row, encoder: () => PairEncoder): KnownRank {
  if (Object.hasOwn(row, 'positiveIds'))
    return {
      positiveIds: idsIn(row, 'positiveIds'),
      negativeIds: idsIn(row, 'negativeIds'),
      query: textIn(row, 'query', ''),
    };
  const [query, positive, negative] = [
    textIn(row, 'query'),
    textIn(row, 'positive'),
    textIn(row, 'negative'),
  ];
  const instruction = row['instruction'] == null ? undefined : textIn(row, 'instruction');
  const tokenizer = encoder();
  const ask = (document: string): number[] => relevanceIds(tokenizer, query, document, instruction);
  return { positiveIds: ask(positive), negativeIds: ask(negative), query };
}

const uncounted = (ids: Ids): Required<Example> => ({ inputIds: ids, labels: ids.map(() => ignoredLabel) });

/** Rows as batches hold them, all texts of a row one after the other. */
function batchRows<Known>(
  form: string,
  known: (row: Row) => Known,
  textsOf: (row: Known) => readonly Ids[],
): BatchRows {
  return {
    form,
    grouped: true,
    read(op, value, place) {
      try {
        if (!isRecord(value)) throw new Fault(`expected a row ${form} but received ${describe(value)}`);
        const row = known(value);
        const examples = textsOf(row).map(uncounted);
        return { row, examples, marks: examples.map(({ inputIds }) => inputIds.length) };
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        throw loraError(op, 'ERR_DATA', `${place}: ${error.message}`);
      }
    },
  };
}

const contrastiveTexts = ({ anchorIds, positiveIds, negativeIds: others }: KnownContrastive): Ids[] => [
  anchorIds,
  positiveIds,
  ...others,
];
const rankTexts = ({ positiveIds, negativeIds: other }: KnownRank): Ids[] => [positiveIds, other];

/** `tokenizer`: of the model; asked for where rows are texts. */
export const contrastiveRows = (tokenizer: () => PairEncoder): BatchRows =>
  batchRows(contrastiveForm, (row) => knownContrastive(row, tokenizer), contrastiveTexts);
export const rankRows = (tokenizer: () => PairEncoder): BatchRows =>
  batchRows(rankForm, (row) => knownRank(row, tokenizer), rankTexts);

/** A kind of rows of files, which are texts or tokens. */
const fileKind = <Known>(known: (row: Row, encoder: () => PairEncoder) => Known) =>
  class extends RowKind<Known> {
    read(row: Row): Promise<Known> {
      try {
        return Promise.resolve(known(row, () => this.tokenizer as PairEncoder));
      } catch (error) {
        return Promise.reject(error instanceof Fault ? new RowError(error.message) : (error as Error));
      }
    }
  };

/** Rows as they are. */
class ListedRows<Known> implements RowColumns<Known> {
  readonly #rows: Known[] = [];

  constructor(private readonly longest: (row: Known) => number) {}

  get length(): number {
    return this.#rows.length;
  }

  get lengths(): number[] {
    return this.#rows.map(this.longest);
  }

  add(row: Known): void {
    this.#rows.push(row);
  }

  at(index: number): Known {
    return this.#rows[index]!;
  }
}

function shapeOf<Known>(
  kinds: RowShape<Known>['kinds'],
  textsOf: (row: Known) => readonly Ids[],
  rest: Pick<RowShape<Known>, 'dropped' | 'fit'>,
): RowShape<Known> {
  const lengthOf = (row: Known): number => Math.max(...textsOf(row).map(({ length }) => length));
  return {
    ...{ kinds, lengthOf, ofText: false, keepsFields: false, numbers: textsOf },
    columns: () => new ListedRows(lengthOf),
    misfit: (row) =>
      textsOf(row)
        .flat()
        .find((id) => id !== (id | 0)),
    ...rest,
  };
}

const tokensIn = (texts: readonly Ids[]): number => texts.reduce((sum, { length }) => sum + length, 0);

const Contrastive = fileKind(knownContrastive);
/** A text that is too long keeps its last token, by which it ends, and which may be its vector. */
export const contrastiveShape = shapeOf<KnownContrastive>(
  {
    kinds: [
      [['anchorIds', 'positiveIds'], '{ anchorIds, positiveIds, negativeIds? }', Contrastive],
      [['anchor', 'positive'], '{ anchor, positive, negative? }', Contrastive],
    ],
    furtherKeys: ['negative', 'negativeIds', 'instruction'],
  },
  contrastiveTexts,
  {
    dropped: () => 'that have no tokens',
    fit(row, maxLength) {
      const cut = (ids: Ids): Ids =>
        ids.length <= maxLength ? ids : [...ids.slice(0, maxLength - 1), ids.at(-1)!];
      const texts = contrastiveTexts(row);
      const [anchorIds, positiveIds, ...others] = texts.map(cut) as [Ids, Ids, ...Ids[]];
      return {
        row: { ...row, anchorIds, positiveIds, negativeIds: others },
        truncated: texts.some(({ length }) => length > maxLength),
        tokens: tokensIn([anchorIds, positiveIds, ...others]),
      };
    },
  },
);

const Rank = fileKind(knownRank);
/** Nothing is cut: a question would lose its end. */
export const rankShape = shapeOf<KnownRank>(
  {
    kinds: [
      [['positiveIds', 'negativeIds'], '{ positiveIds, negativeIds }', Rank],
      [['query', 'positive', 'negative'], '{ query, positive, negative }', Rank],
    ],
    furtherKeys: ['instruction', 'query'],
  },
  rankTexts,
  {
    dropped: (maxLength) => `of which a document has more than ${maxLength} tokens with its query`,
    fit(row, maxLength) {
      const texts = rankTexts(row);
      const fits = texts.every(({ length }) => length <= maxLength);
      return { row: fits ? row : undefined, truncated: false, tokens: fits ? tokensIn(texts) : 0 };
    },
  },
);
