/** What a model is worth on a data set: the loss, the answers that it writes, or the choices that it prefers. */
import { batches, checkSource } from '../data/batches';
import { loadDataset, type LoadDatasetOptions } from '../data/dataset';
import type { DataSource, Example } from '../data/example';
import { loraError } from '../errors';
import { toPath } from '../formats/paths';
import { isValidJson, schemaCheck, type SchemaCheck } from '../grammar/schema_check';
import type { Adapter } from '../peft/adapter';
import type { Tokenizer } from '../text/tokenizer';
import { check } from '../validate';
import { answersOf, type Answer } from './answers';
import {
  checkChoices,
  encodeChoices,
  isChoiceShape,
  readChoices,
  rowsOf,
  type ChoiceRow,
  type EncodedChoice,
} from './choices';
import { inLanes } from './lanes';
import type {
  AnswerSample,
  ChoiceSample,
  EvaluateTaskOptions,
  TaskData,
  TaskEvaluation,
  TaskProgress,
  TaskResult,
  TaskScores,
} from './options';
import { exactMatch, largest, meanOf, squadF1 } from './scores';

const op = 'evaluateTask';

/** What is evaluated: the parts of a model. */
export interface TaskSubject {
  readonly tokenizer: () => Tokenizer;
  readonly hasTokenizer: boolean;
  /** Tokens that it reads. */
  readonly context: number;
  /** What stands for an empty text. */
  readonly prefixId: number;
  /** Sequences that are generated at once. */
  readonly lanes: number;
  evaluate(
    data: Iterable<Example>,
    options: { adapter: Adapter | null; batchSize: number; signal?: AbortSignal | undefined },
  ): Promise<{ loss: number; perplexity: number; tokens: number }>;
  generate(
    prompt: number[],
    options: {
      adapter: Adapter | null;
      maxNewTokens: number;
      temperature: number;
      stop?: string | readonly string[] | undefined;
      signal: AbortSignal;
    },
  ): PromiseLike<{ text: string; finishReason: 'stop' | 'length' }>;
  /** The summed loss of each row. */
  rowLosses(rows: readonly Required<Example>[], adapter: Adapter | null): Promise<number[]>;
}

/** Rows that were read. */
type Rows =
  | { readonly kind: 'examples'; readonly examples: Required<Example>[]; readonly truncated: number }
  | { readonly kind: 'choices'; readonly questions: ChoiceRow[] };

/** An evaluation that is under way. The adapters and the weights are held by the caller. */
export class TaskRun {
  readonly #validity: SchemaCheck | undefined;
  readonly #batchSize: number;
  readonly #limit: number;

  /** @throws ERR_ARGUMENT and ERR_UNSUPPORTED for a schema that cannot be checked. */
  constructor(
    private readonly subject: TaskSubject,
    private readonly adapters: readonly (Adapter | null)[],
    private readonly options: EvaluateTaskOptions,
  ) {
    this.#validity = options.jsonSchema === undefined ? undefined : schemaCheck(options.jsonSchema);
    this.#batchSize = options.batchSize ?? 4;
    this.#limit = options.limit ?? Infinity;
  }

  async of(data: TaskData): Promise<TaskEvaluation> {
    const rows = await this.#read(data);
    return rows.kind === 'choices' ? this.#choices(rows.questions) : this.#examples(rows);
  }

  async #read(data: TaskData): Promise<Rows> {
    if (typeof data === 'string' || data instanceof URL) return this.#readFile(toPath(data, op));
    if (Array.isArray(data) && isChoiceShape(data[0]))
      return { kind: 'choices', questions: checkChoices(op, data.slice(0, this.#limit)) };
    const source = data as DataSource;
    checkSource(op, 'data', source);
    return { kind: 'examples', examples: await this.#take(source), truncated: 0 };
  }

  async #readFile(file: string): Promise<Rows> {
    const { signal, maxLength = this.subject.context } = this.options;
    const { trainOn, chatTemplate, allowSpecialTokens } = this.options;
    if (/\.(jsonl|ndjson)(\.gz)?$/i.test(file)) {
      for await (const { row } of rowsOf(file, 1, signal)) {
        if (isChoiceShape(row))
          return { kind: 'choices', questions: await readChoices(file, this.#limit, signal) };
      }
    }
    const tokenizer = this.subject.hasTokenizer ? this.subject.tokenizer() : undefined;
    const rows = { trainOn, chatTemplate, allowSpecialTokens };
    const options: LoadDatasetOptions = { tokenizer, maxLength, ...rows, signal };
    const data = await loadDataset(file, options);
    return { kind: 'examples', examples: await this.#take(data), truncated: data.truncated };
  }

  /** The examples, checked, up to the limit. */
  async #take(source: DataSource): Promise<Required<Example>[]> {
    const examples: Required<Example>[] = [];
    for await (const { inputIds, labels } of batches(source, { signal: this.options.signal })) {
      examples.push({ inputIds: inputIds[0]!, labels: labels[0]! });
      if (examples.length === this.#limit) break;
    }
    if (examples.length > 0) return examples;
    throw loraError(op, 'ERR_DATA', 'expected data with at least one example but received none');
  }

  /** A function that tells of a row that is done. */
  #progress(phase: TaskProgress['phase'], total: number): () => void {
    const { onProgress } = this.options;
    let done = 0;
    return () => onProgress?.({ phase, done: ++done, total });
  }

  // ---- examples ------------------------------------------------------------------------------

  async #examples({ examples, truncated }: Extract<Rows, { kind: 'examples' }>): Promise<TaskEvaluation> {
    const { generate = true, jsonSchema, signal } = this.options;
    check(
      generate || jsonSchema === undefined,
      op,
      'expected generate to be true, since jsonSchema is about the answers that are written',
    );
    const writes = generate && (this.subject.hasTokenizer || jsonSchema !== undefined);
    const answers = writes ? examples.flatMap((one) => answersOf(one, this.subject.tokenizer())) : [];
    if (jsonSchema !== undefined && answers.length === 0)
      throw loraError(
        op,
        'ERR_DATA',
        'expected rows with a prompt and an answer, since jsonSchema is given, but all of their tokens count',
      );
    const tick = this.#progress('loss', examples.length * this.adapters.length);
    const results: TaskResult[] = [];
    for (const adapter of this.adapters) {
      const counted = function* (): Generator<Example, void, void> {
        for (const example of examples) {
          yield example;
          tick();
        }
      };
      const loss = await this.subject.evaluate(counted(), { adapter, batchSize: this.#batchSize, signal });
      results.push({ adapter: adapter?.name ?? null, ...loss, stderr: {} });
    }
    if (answers.length > 0) await this.#write(answers, results);
    return { kind: 'examples', rows: examples.length, answers: answers.length, truncated, results };
  }

  /** Writes all answers with all adapters, which share the batches of the engine. */
  async #write(answers: readonly Answer[], results: TaskResult[]): Promise<void> {
    const tick = this.#progress('answers', answers.length * this.adapters.length);
    const samples: AnswerSample[][] = this.adapters.map(() => []);
    const cut = this.adapters.map(() => 0);
    const jobs = answers.flatMap((answer, row) =>
      this.adapters.map((adapter, i) => ({ answer, row, adapter, i })),
    );
    await inLanes(
      jobs,
      this.subject.lanes,
      this.options.signal,
      async ({ answer, row, adapter, i }, signal) => {
        const { text, finishReason } = await this.#answer(answer, adapter, signal);
        samples[i]![row] = this.#score(answer, text);
        if (finishReason === 'length') cut[i]!++;
        tick();
      },
    );
    for (const [i, result] of results.entries()) {
      const own = samples[i]!;
      score(
        result,
        'exactMatch',
        own.map((sample) => Number(sample.exactMatch)),
      );
      score(
        result,
        'f1',
        own.map(({ f1 }) => f1),
      );
      if (this.#validity)
        score(
          result,
          'validJson',
          own.map((sample) => Number(sample.validJson)),
        );
      result.cut = cut[i]!;
      if (this.options.samples) result.samples = own;
    }
  }

  #answer({ prompt, tokens }: Answer, adapter: Adapter | null, signal: AbortSignal) {
    const { maxNewTokens = Math.max(32, 2 * tokens), stop } = this.options;
    const room = Math.max(1, this.subject.context - prompt.length);
    const most = Math.min(maxNewTokens, room);
    return this.subject.generate(prompt, { adapter, maxNewTokens: most, temperature: 0, stop, signal });
  }

  #score({ prompt, expected }: Answer, text: string): AnswerSample {
    return {
      prompt: this.subject.tokenizer().decode(prompt).slice(-2000),
      expected,
      text,
      exactMatch: exactMatch(text, expected),
      f1: squadF1(text, expected),
      ...(this.#validity && { validJson: isValidJson(text, this.#validity) }),
    };
  }

  // ---- choices -------------------------------------------------------------------------------

  async #choices(questions: readonly ChoiceRow[]): Promise<TaskEvaluation> {
    const { jsonSchema, addSpecialTokens = false, signal } = this.options;
    check(jsonSchema === undefined, op, 'expected no jsonSchema, since the rows are questions with choices');
    const { context, prefixId } = this.subject;
    const tokenizer = this.subject.tokenizer();
    const encoded: EncodedChoice[][] = [];
    for (const question of questions)
      encoded.push(await encodeChoices(question, { tokenizer, addSpecialTokens, prefixId, context, signal }));
    const tick = this.#progress('choices', questions.length * this.adapters.length);
    const results: TaskResult[] = [];
    for (const adapter of this.adapters) {
      const samples = await this.#compare(questions, encoded, adapter, tick);
      const result: TaskResult = { adapter: adapter?.name ?? null, stderr: {} };
      const right = (by: (text: string) => number): number[] =>
        samples.map(({ choices, gold, logLikelihoods }) =>
          Number(largest(logLikelihoods.map((sum, i) => sum / by(choices[i]!))) === gold),
        );
      score(
        result,
        'acc',
        right(() => 1),
      );
      score(
        result,
        'accNorm',
        right((text) => [...text].length),
      );
      score(
        result,
        'accBytes',
        right((text) => Buffer.byteLength(text)),
      );
      if (this.options.samples) result.samples = samples;
      results.push(result);
    }
    const truncated = encoded.filter((choices) => choices.some(({ cut }) => cut)).length;
    return { kind: 'choices', rows: questions.length, truncated, results };
  }

  /** The log-likelihoods of all choices, in batches across questions. */
  async #compare(
    questions: readonly ChoiceRow[],
    encoded: readonly (readonly EncodedChoice[])[],
    adapter: Adapter | null,
    tick: () => void,
  ): Promise<ChoiceSample[]> {
    const samples = questions.map((question): ChoiceSample => ({ ...question, logLikelihoods: [] }));
    const all = encoded.flatMap((choices, row) => choices.map((choice) => ({ choice, row })));
    for (let from = 0; from < all.length; from += this.#batchSize) {
      this.options.signal?.throwIfAborted();
      const batch = all.slice(from, from + this.#batchSize);
      const losses = await this.subject.rowLosses(
        batch.map(({ choice }) => choice),
        adapter,
      );
      for (const [i, { row }] of batch.entries()) {
        const { logLikelihoods, choices } = samples[row]!;
        logLikelihoods.push(-losses[i]!);
        if (logLikelihoods.length === choices.length) tick();
      }
    }
    return samples;
  }
}

function score(result: TaskResult, name: keyof TaskScores, scores: readonly number[]): void {
  const { mean, stderr } = meanOf(scores);
  result[name] = mean;
  result.stderr[name] = stderr;
}
