/** What the model writes without the adapter and with it, for the first prompts of the data. */
import { ignoredLabel, type DataSource, type Example } from '../../data/example';
import { exampleRows, type RowGroup, type RowKind } from '../../data/row_groups';
import { SequencePlan } from '../../data/sequence_plan';
import type { CausalLM } from '../../models/causal_lm';
import type { Adapter } from '../../peft/adapter';
import type { RunFacts } from '../facts';
import type { Written } from '../objectives/objective';

export interface Sample {
  readonly prompt: string;
  /** What the data says; absent where it holds prompts alone. */
  readonly expected?: string;
  /** Without the adapter; absent where the weights themselves are trained. */
  readonly before?: Written;
  readonly after: Written;
}

export interface Samples {
  readonly samples: readonly Sample[];
  /** Where the prompts are from. */
  readonly heldOut: boolean;
  /** Why there are fewer than there could be. */
  readonly missing?: string;
}

/** A report of a run shows so many. */
const samplesOfRun = 3;
/** Data that asks each question several times is looked through so far for other ones. */
const maxExamples = 100;
const maxNewTokens = 64;
/** A large model on a small machine should not take longer for its samples than for its training. */
const maxSeconds = 30;

/** The tokens before the first that counts, all where none does; of plain text, where all count, the beginning. */
export function promptLength({ inputIds, labels }: Example): number {
  const first = labels?.findIndex((label) => label !== ignoredLabel) ?? 0;
  if (first < 0) return inputIds.length;
  return first > 1 ? first : Math.min(32, Math.ceil(inputIds.length / 2));
}

/** A row, and its first text, of whose prompt nothing counts. */
interface Question {
  readonly row: RowGroup;
  readonly example: Example;
}

function questionIn(rows: RowKind, given: unknown): Question {
  const row = rows.read('report', given, 'a row');
  const { inputIds, labels } = row.examples[0]!;
  const [prompt = 0] = row.marks ?? [];
  const counted = labels.map((label, t) => (t < prompt ? ignoredLabel : label));
  return { row, example: { inputIds, labels: counted } };
}

/** The first `count` examples of different prompts, where the source can be read once more. */
export async function firstExamples(
  source: DataSource<unknown>,
  count: number,
  rows = exampleRows,
): Promise<Example[]> {
  return (await firstQuestions(source, count, rows)).map(({ example }) => example);
}

async function firstQuestions(
  source: DataSource<unknown>,
  count: number,
  rows: RowKind,
): Promise<Question[]> {
  const items = typeof source === 'function' ? source() : source;
  if ('next' in items && typeof source !== 'function') return []; // it was read in the training
  const found = new Map<string, Question>();
  let seen = 0;
  for await (const row of items) {
    const question = questionIn(rows, row);
    const { example } = question;
    const prompt = String(example.inputIds.slice(0, promptLength(example)));
    if (!found.has(prompt)) found.set(prompt, question);
    if (found.size === count || ++seen === maxExamples) break;
  }
  return [...found.values()];
}

/** What an example asks, and what the data says to it. */
export function questionOf(
  example: Example,
  { tokenizer }: CausalLM,
): { ids: number[]; prompt: string; expected: string } {
  const end = promptLength(example);
  const ids = [...example.inputIds.slice(0, end)];
  return {
    ids,
    prompt: tokenizer.decode(ids),
    expected: tokenizer.decode([...example.inputIds.slice(end)]),
  };
}

/** What the model writes after a prompt, greedily; it ends at the deadline, of performance.now(), at the latest. */
export async function writtenText(
  model: CausalLM,
  prompt: readonly number[],
  {
    adapter,
    deadline,
    signal,
  }: { adapter: Adapter | null; deadline: number; signal?: AbortSignal | undefined },
): Promise<string> {
  let written = '';
  const sequence = new SequencePlan(adapter, model.config.maxPositionEmbeddings);
  const limit = sequence.tokensAfter(prompt.length, undefined, maxNewTokens);
  const options = { maxNewTokens: limit ?? 1, temperature: 0, adapter, signal };
  for await (const { text } of model.generate([...prompt], options)) {
    written += text;
    if (performance.now() > deadline) return `${written}…`;
  }
  return written;
}

/** Writes the samples; what goes wrong in them is told, and harms nothing. */
export async function makeSamples(
  { model, subject: { adapter }, objective }: Pick<RunFacts, 'model' | 'subject' | 'objective'>,
  sources: { data: DataSource<unknown>; evalData: DataSource<unknown> | undefined },
  signal: AbortSignal | undefined,
): Promise<Samples> {
  const samples: Sample[] = [];
  const heldOut = sources.evalData !== undefined;
  if (!model.hasTokenizer) return { samples, heldOut, missing: 'the model has no tokenizer' };
  const deadline = performance.now() + 1000 * maxSeconds;
  try {
    const questions = await firstQuestions(sources.evalData ?? sources.data, samplesOfRun, objective.rows);
    if (questions.length === 0) return { samples, heldOut, missing: 'the data can be read only once' };
    for (const { row, example } of questions) {
      if (performance.now() > deadline)
        return { samples, heldOut, missing: `the first ones took ${maxSeconds} seconds` };
      const question = questionOf(example, model);
      const { ids, prompt } = question;
      const expected = objective.expected?.(row) ?? question.expected;
      const write = async (adapter: Adapter | null): Promise<Written | undefined> =>
        objective.write
          ? objective.write(model, row, { adapter, signal })
          : { text: await writtenText(model, ids, { adapter, deadline, signal }) };
      const before = adapter === null ? undefined : await write(null);
      const after = (await write(adapter))!;
      samples.push({ prompt, ...(expected !== '' && { expected }), ...(before && { before }), after });
    }
    return { samples, heldOut };
  } catch (error) {
    return { samples, heldOut, missing: error instanceof Error ? error.message : String(error) };
  }
}
