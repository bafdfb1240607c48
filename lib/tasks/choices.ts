/** Questions with several choices: the shapes in which data sets have them, and their tokens. */
import { failAt, parseRow, type RowPlace } from '../data/json_rows';
import { readLines, type LineOptions } from '../data/lines';
import { ignoredLabel, type Example } from '../data/example';
import { loraError } from '../errors';
import { Pace } from '../tensor/pace';
import type { Tokenizer } from '../text/tokenizer';
import { describe, isListOf, isRecord } from '../validate';

/** A question with several choices, in the words of lm-evaluation-harness. */
export interface ChoiceRow {
  /** What is before each choice; a space comes between them. */
  readonly query: string;
  /** At least two texts. */
  readonly choices: readonly string[];
  /** The index of the right one, from 0. */
  readonly gold: number;
}

type Row = Readonly<Record<string, unknown>>;

/** What a row lacks to be a question. */
class ShapeError extends Error {}

const isText = (value: unknown): value is string => typeof value === 'string';

function textAt(row: Row, key: string): string {
  const value = row[key];
  if (isText(value)) return value;
  throw new ShapeError(`expected ${JSON.stringify(key)} to be a string but received ${describe(value)}`);
}

function textsAt(value: unknown, name: string): string[] {
  if (isListOf(value, isText)) return value;
  throw new ShapeError(`expected ${name} to be a list of strings but received ${describe(value)}`);
}

/** An index, which some data sets write as a text. */
function indexAt(row: Row, key: string): number {
  const value = row[key];
  const index = isText(value) && /^\d+$/.test(value) ? Number(value) : value;
  if (typeof index === 'number') return index;
  throw new ShapeError(`expected ${JSON.stringify(key)} to be an index but received ${describe(value)}`);
}

/** A text without what stands in brackets on one line. An expression would look through the rest of the text at each bracket. */
function withoutBrackets(text: string): string {
  let kept = '';
  let from = 0;
  for (let open = text.indexOf('['); open >= 0; open = text.indexOf('[', from)) {
    const close = text.indexOf(']', open);
    if (close < 0) break;
    const line = text.indexOf('\n', open);
    const inLine = line < 0 || line > close;
    kept += text.slice(from, inLine ? open : line + 1);
    from = inLine ? close + 1 : line + 1;
  }
  return kept + text.slice(from);
}

/** HellaSwag's texts without what WikiHow's articles left in them. */
const cleaned = (text: string): string =>
  withoutBrackets(text.trim().replaceAll(' [title]', '. ')).replaceAll('  ', ' ');
const capitalized = (text: string): string => text.slice(0, 1).toUpperCase() + text.slice(1).toLowerCase();

/** By the keys that a row has; the first that fits. The prompts are those of lm-evaluation-harness's tasks of that name. */
const shapes: readonly (readonly [keys: readonly string[], name: string, read: (row: Row) => ChoiceRow])[] = [
  [
    ['query', 'choices', 'gold'],
    '{ query, choices, gold }',
    (row) => ({
      query: textAt(row, 'query'),
      choices: textsAt(row['choices'], '"choices"'),
      gold: indexAt(row, 'gold'),
    }),
  ],
  [
    ['question', 'choices', 'answerKey'],
    'ARC: { question, choices: { text, label }, answerKey }',
    (row) => {
      const { choices } = row;
      if (!isRecord(choices))
        throw new ShapeError(`expected "choices" to be { text, label } but received ${describe(choices)}`);
      const labels = textsAt(choices['label'], 'the labels of "choices"');
      const gold = labels.indexOf(textAt(row, 'answerKey'));
      if (gold < 0)
        throw new ShapeError(
          `expected "answerKey" to be one of ${labels.join(', ')} but received ${describe(row['answerKey'])}`,
        );
      const texts = textsAt(choices['text'], 'the texts of "choices"');
      return { query: `Question: ${textAt(row, 'question')}\nAnswer:`, choices: texts, gold };
    },
  ],
  [
    ['activity_label', 'ctx_a', 'ctx_b', 'endings', 'label'],
    'HellaSwag: { activity_label, ctx_a, ctx_b, endings, label }',
    (row) => {
      const context = `${textAt(row, 'ctx_a')} ${capitalized(textAt(row, 'ctx_b'))}`;
      return {
        query: cleaned(`${textAt(row, 'activity_label')}: ${context}`),
        choices: textsAt(row['endings'], '"endings"').map(cleaned),
        gold: indexAt(row, 'label'),
      };
    },
  ],
  [
    ['goal', 'sol1', 'sol2', 'label'],
    'PIQA: { goal, sol1, sol2, label }',
    (row) => ({
      query: `Question: ${textAt(row, 'goal')}\nAnswer:`,
      choices: [textAt(row, 'sol1'), textAt(row, 'sol2')],
      gold: indexAt(row, 'label'),
    }),
  ],
];

const shapeOf = (row: Row) => shapes.find(([keys]) => keys.every((key) => key in row));

/** Whether a row is meant as a question with choices, and as no example. */
export const isChoiceShape = (row: unknown): boolean =>
  isRecord(row) && ['choices', 'endings', 'sol1'].some((key) => key in row);

/** The question of a row. @throws ShapeError */
function readShape(row: Row): ChoiceRow {
  const shape = shapeOf(row);
  if (shape === undefined)
    throw new ShapeError(
      `expected ${shapes.map(([, name]) => name).join(', or ')} but received the keys ${Object.keys(row).join(', ') || '(none)'}`,
    );
  const question = shape[2](row);
  const { choices, gold } = question;
  if (choices.length < 2)
    throw new ShapeError(`expected at least two choices but received ${choices.length}`);
  const empty = choices.indexOf('');
  if (empty >= 0) throw new ShapeError(`expected choices that are not empty but choice ${empty} is`);
  if (!Number.isInteger(gold) || gold < 0 || gold >= choices.length)
    throw new ShapeError(
      `expected the right choice to be an index from 0 to ${choices.length - 1} but received ${gold}`,
    );
  return question;
}

/** The questions of a list. @throws ERR_DATA that names the row. */
export function checkChoices(op: string, rows: readonly unknown[]): ChoiceRow[] {
  return rows.map((row, i) => {
    try {
      return readShape(isRecord(row) ? row : {});
    } catch (error) {
      if (!(error instanceof ShapeError)) throw error;
      throw loraError(op, 'ERR_DATA', `row ${i}: ${error.message}`);
    }
  });
}

/** What the readers of lines take by default. */
const lineOptions = { maxLineBytes: 64 * 2 ** 20, maxUnzippedBytes: 2 * 2 ** 30, maxUnzippedRatio: 100 };

/** The rows of a JSONL file with their places, up to `limit`. */
export async function* rowsOf(
  file: string,
  limit: number,
  signal?: AbortSignal,
): AsyncGenerator<{ row: Row; place: RowPlace }, void, void> {
  const options: LineOptions = { ...lineOptions, signal };
  const pace = new Pace();
  let count = 0;
  for await (const lines of readLines(file, options))
    for (const { line, number } of lines) {
      if (pace.due) await pace.rest(signal);
      if (line.trim() === '') continue;
      if (count++ === limit) return;
      const place = { file, line: number };
      yield { row: parseRow(line, place), place };
    }
}

/** The questions of a JSONL file. @throws ERR_DATA with file and line. */
export async function readChoices(file: string, limit: number, signal?: AbortSignal): Promise<ChoiceRow[]> {
  const questions: ChoiceRow[] = [];
  for await (const { row, place } of rowsOf(file, limit, signal))
    try {
      questions.push(readShape(row));
    } catch (error) {
      if (error instanceof ShapeError) failAt(place, error.message);
      throw error;
    }
  return questions;
}

/** How choices become tokens. */
export interface ChoiceEncoding {
  readonly tokenizer: Tokenizer;
  readonly addSpecialTokens: boolean;
  /** What stands for an empty query. */
  readonly prefixId: number;
  /** Tokens that the model reads. */
  readonly context: number;
  readonly signal?: AbortSignal | undefined;
}

/** One choice behind its query: only its own tokens count. */
export interface EncodedChoice extends Required<Example> {
  /** Whether tokens of the query were left out, since it is longer than the model's context. */
  readonly cut: boolean;
}

/**
 * The choices of a question, as lm-evaluation-harness encodes a context with a continuation: white space at the end of the query goes to
 * the choice, and the tokens of the choice are those of the whole behind as many as the query has alone. What is too long loses the
 * beginning of its query.
 *
 * @throws ERR_DATA for a choice without a token of its own, and one that is longer than the context.
 */
export async function encodeChoices(
  { query, choices }: ChoiceRow,
  { tokenizer, addSpecialTokens, prefixId, context, signal }: ChoiceEncoding,
): Promise<EncodedChoice[]> {
  const before = query.trimEnd();
  const encode = (text: string): Promise<number[]> =>
    tokenizer.encodeAsync(text, { addSpecialTokens, signal });
  const queryIds = before === '' ? [prefixId] : await encode(before);
  const encoded: EncodedChoice[] = [];
  for (const [i, choice] of choices.entries()) {
    const end = `${query.slice(before.length)} ${choice}`;
    const ids = before === '' ? await encode(end) : (await encode(before + end)).slice(queryIds.length);
    // The first token of a row is predicted by nothing.
    if (ids.length === 0 || ids.length >= context)
      throw loraError(
        'evaluateTask',
        'ERR_DATA',
        `expected choice ${i} of ${describe(query)} to have from 1 to ${context - 1} tokens behind it but it has ${ids.length}`,
      );
    const from = Math.max(0, queryIds.length + ids.length - context);
    const kept = queryIds.slice(from);
    encoded.push({
      inputIds: [...kept, ...ids],
      labels: [...kept.map(() => ignoredLabel), ...ids],
      cut: from > 0,
    });
  }
  return encoded;
}
