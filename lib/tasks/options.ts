/** What an evaluation on a data set is asked for, and what it gives. */
import type { DataSource } from '../data/example';
import type { JsonSchema } from '../grammar/json_schema';
import type { Adapter } from '../peft/adapter';
import { check, checkBoolean, checkInteger, checkOptions, checkSignal, describe } from '../validate';
import type { ClassRow } from '../data/class_rows';
import type { ChoiceRow } from './choices';
import type { Confusion } from './class_scores';

const op = 'evaluateTask';

/** How far an evaluation is. */
export interface TaskProgress {
  /** What is being done: the loss of examples, writing answers, comparing choices, or reading texts for their labels. */
  phase: 'loss' | 'answers' | 'choices' | 'labels';
  /** Examples, answers, questions or texts that are done, of all adapters. */
  done: number;
  /** Of so many. */
  total: number;
}

/** The options of {@link CausalLM.evaluateTask}. */
export interface EvaluateTaskOptions {
  /** Names or Adapters; null: the base alone. Each is measured on the same rows. Default: the active adapter, or what is merged. */
  adapters?: readonly (string | Adapter | null)[] | undefined;
  /** Rows per forward pass; it changes speed and memory only. Default 4. */
  batchSize?: number | undefined;
  /** Only so many rows, from the first on. Default: all. */
  limit?: number | undefined;
  /** Of a file: longer examples are cut to this many tokens. Default: what the model reads. */
  maxLength?: number | undefined;
  /** Of a file, as in {@link loadDataset}. */
  trainOn?: 'all' | 'completion' | undefined;
  /** Of a file, as in {@link loadDataset}. */
  chatTemplate?: string | null | undefined;
  /** Of a file: special tokens that messages spell become tokens, as in {@link loadDataset}. Default false. */
  allowSpecialTokens?: boolean | undefined;
  /** Whether answers are written, where examples have prompts; false: only their loss. Default true. */
  generate?: boolean | undefined;
  /** Most tokens of a written answer. Default: twice those of the one in the data, and at least 32. */
  maxNewTokens?: number | undefined;
  /** Texts that end an answer, as in {@link CausalLM.generate}. */
  stop?: string | readonly string[] | undefined;
  /** A JSON Schema: `validJson` is the share of answers that are valid under it. They are written freely. Default: none. */
  jsonSchema?: JsonSchema | undefined;
  /** Of choices: whether queries get the special tokens of the tokenizer. Default false, as in lm-evaluation-harness. */
  addSpecialTokens?: boolean | undefined;
  /** Whether results have the single answers, or choices. Default false. */
  samples?: boolean | undefined;
  /** Checked between batches and at every token; an abort rejects with its reason. */
  signal?: AbortSignal | undefined;
  /** Called when a row is done. */
  onProgress?: ((progress: TaskProgress) => void) | undefined;
}

/** An answer that was written. */
export interface AnswerSample {
  /** The end of what the model read: 2,000 characters at most. */
  prompt: string;
  /** What the data says. */
  expected: string;
  /** What the model wrote. */
  text: string;
  /** Whether they are the same, white space around them apart. */
  exactMatch: boolean;
  /** F1 of their words. */
  f1: number;
  /** Whether it is JSON that is valid; where a schema was given. */
  validJson?: boolean;
}

/** A question, and how likely each of its choices is. */
export interface ChoiceSample extends ChoiceRow {
  /** The sum of log p of the tokens of each choice behind the query, in nats. */
  logLikelihoods: number[];
}

/** The shares and means of one adapter that have a standard error. */
export interface TaskScores {
  /** The share of answers that are those of the data, white space around them apart. */
  exactMatch?: number;
  /**
   * The mean F1 of the words of answers, as SQuAD defines it (Rajpurkar et al., 2016): in lower case, without punctuation and articles,
   * 2·p·r / (p + r).
   */
  f1?: number;
  /** The share of answers that are JSON and valid under the schema. */
  validJson?: number;
  /** The share of questions whose likeliest choice is the right one: largest Σ log p. */
  acc?: number;
  /** The same by Σ log p / characters of the choice, which lm-evaluation-harness calls acc_norm. */
  accNorm?: number;
  /** The same by Σ log p / bytes of the choice in UTF-8. */
  accBytes?: number;
  /** The share of texts of which all labels that a head of classes gives are right. */
  accuracy?: number;
}

/** What one adapter is worth; a field is there where the data allow it. */
export interface TaskResult extends TaskScores {
  /** Its name; null: the base alone. */
  adapter: string | null;
  /** The mean of −log p over all tokens that count, in nats; of labels the mean loss of a text. */
  loss?: number;
  /** exp(loss). */
  perplexity?: number;
  /** How many tokens counted; of texts with labels, all that were read. */
  tokens?: number;
  /** The mean over labels of their F1, as scikit-learn's f1_score(average='macro') has it. */
  macroF1?: number;
  /** Of regression: the mean absolute error. */
  mae?: number;
  /** Of regression: Pearson's correlation, where both sides vary. */
  pearson?: number;
  /** Of labels of which a text has one: how often texts of each label got each label. */
  confusion?: Confusion;
  /** How many written answers ended by `maxNewTokens` and not by themselves. */
  cut?: number;
  /** The standard errors of the scores: √(Σ(x − mean)² / (n − 1) / n). */
  stderr: TaskScores;
  /** The single answers or questions, in the order of the data; with `samples`. */
  samples?: (AnswerSample | ChoiceSample)[];
}

/** What {@link CausalLM.evaluateTask} gives. */
export interface TaskEvaluation {
  /** 'examples' of what {@link loadDataset} reads, questions with 'choices', or texts with 'labels'. */
  kind: 'examples' | 'choices' | 'labels';
  /** How many examples, questions or texts there were. */
  rows: number;
  /** How many answers the model was asked for; of examples. */
  answers?: number;
  /** How many rows were cut: examples to `maxLength`, queries by their beginning. */
  truncated: number;
  /** One for each adapter, in the order of the option. */
  results: TaskResult[];
}

/** Rows: a JSONL file, examples, questions with choices, or for a model with a head of classes texts with labels. */
export type TaskData = string | URL | DataSource | readonly ChoiceRow[] | DataSource<ClassRow>;

const optionNames: readonly (keyof EvaluateTaskOptions)[] = [
  'adapters',
  'batchSize',
  'limit',
  'maxLength',
  'trainOn',
  'chatTemplate',
  'allowSpecialTokens',
  'generate',
  'maxNewTokens',
  'stop',
  'jsonSchema',
  'addSpecialTokens',
  'samples',
  'signal',
  'onProgress',
];

/** Throws ERR_ARGUMENT for a wrong option. What loadDataset() and generate() take, they check. */
export function checkTaskOptions(options: EvaluateTaskOptions): void {
  checkOptions(op, options, optionNames);
  const { adapters, signal, onProgress } = options;
  check(
    adapters === undefined || (Array.isArray(adapters) && adapters.length > 0),
    op,
    `expected adapters to be a list of names, adapters or null but received ${describe(adapters)}`,
  );
  for (const name of ['batchSize', 'limit', 'maxLength', 'maxNewTokens'] as const)
    if (options[name] !== undefined) checkInteger(op, name, options[name], 1);
  for (const name of ['generate', 'addSpecialTokens', 'samples'] as const)
    if (options[name] !== undefined) checkBoolean(op, name, options[name]);
  checkSignal(op, signal);
  check(
    onProgress === undefined || typeof onProgress === 'function',
    op,
    `expected onProgress to be a function but received ${describe(onProgress)}`,
  );
}
