/** model.logProbs: how likely a model finds a completion behind its prompt. */
import { SequencePlan } from '../../data/sequence_plan';
import { ignoredLabel } from '../../data/example';
import { loraError } from '../../errors';
import { entry } from '../../native/calls';
import type { Adapter } from '../../peft/adapter';
import { enqueueInSlices } from '../../tensor/op_slices';
import { atOnce } from '../../tensor/pace';
import { noGrad, tidy } from '../../tensor/scope';
import { check, checkNumber, checkOptions, describe } from '../../validate';
import type { LabelLogProbs, LogProbsWanted } from '../core/label_log_probs';
import type { ModelCore } from '../core/model_core';
import type { ForwardOptions } from '../core/options';
import { passesOf } from '../inputs/passes';
import { plannedForward } from './forward';

/** A text, or its ids. */
export type TextOrIds = string | readonly number[] | Int32Array;

/** The options of {@link CausalLM.logProbs}. */
export interface LogProbsOptions {
  /** A name, an Adapter, or null for the base alone; ERR_BUSY while one is merged. Default: the active adapter, or what is merged. */
  adapter?: string | Adapter | null | undefined;
  /** Divides the logits of all tokens. Default 1. */
  temperature?: number | undefined;
}

/** How likely a completion is behind its prompt, in nats. */
export interface CompletionLogProbs {
  /** The ids of the completion. */
  ids: number[];
  /** log p of each of them behind what comes before it. */
  logProbs: number[];
  /** Their sum: log p of the completion. */
  sum: number;
  /** Their mean. */
  mean: number;
}

/** What objectives ask of {@link labelLogProbs}. */
export type LabelLogProbOptions = LogProbsWanted &
  Pick<ForwardOptions, 'train' | 'gradientCheckpointing'> &
  Pick<LogProbsOptions, 'adapter'>;

function plan(
  model: ModelCore,
  ids: readonly number[][],
  labels: readonly number[][],
  { temperature, entropies, ...options }: LabelLogProbOptions,
): ReturnType<typeof plannedForward> {
  return plannedForward(model, ids, { ...options, labels, logProbs: { temperature, entropies } });
}

/** log p of the labels that count, recorded: rows and labels as in model.forward, of whose logits none are held whole. */
export function labelLogProbs(
  model: ModelCore,
  ids: readonly number[][],
  labels: readonly number[][],
  options: LabelLogProbOptions = {},
): LabelLogProbs {
  const steps = plan(model, ids, labels, options);
  return entry(() => tidy(() => atOnce(steps))).logProbs!;
}

/** The same, during which the event loop goes on. The caller holds the adapter and the weights. */
export async function labelLogProbsInSlices(
  model: ModelCore,
  ids: readonly number[][],
  labels: readonly number[][],
  options: LabelLogProbOptions = {},
): Promise<LabelLogProbs> {
  const steps = plan(model, ids, labels, options);
  return (await tidy(() => enqueueInSlices(model.device, steps))).logProbs!;
}

/** What {@link CausalLM.logProbs} gives of a completion, or of a list of them. */
export type LogProbs<T> = T extends TextOrIds ? CompletionLogProbs : CompletionLogProbs[];

interface Pair {
  readonly prompt: number[];
  readonly completion: number[];
}

const op = 'logProbs';

const isIds = (value: unknown): value is readonly number[] | Int32Array =>
  (Array.isArray(value) && value.every((id) => typeof id === 'number')) || value instanceof Int32Array;

function pairOf(model: ModelCore, prompt: TextOrIds, completion: TextOrIds, least: number): Pair {
  const wrong = (what: string, value: unknown): string =>
    `expected ${what} to be a text or a list of token ids but received ${describe(value)}`;
  check(typeof prompt === 'string' || isIds(prompt), op, () => wrong('a prompt', prompt));
  check(typeof completion === 'string' || isIds(completion), op, () => wrong('a completion', completion));
  const before = typeof prompt === 'string' ? model.tokenizer.encode(prompt) : [...prompt];
  // What a text adds to its prompt may begin inside a word.
  const after =
    typeof completion !== 'string'
      ? [...completion]
      : typeof prompt === 'string'
        ? model.tokenizer.encode(prompt + completion).slice(before.length)
        : model.tokenizer.encode(completion, { addSpecialTokens: false });
  check(
    before.length >= least,
    op,
    'expected a prompt of at least one token, since what comes before a token predicts it, but received none',
  );
  if (after.length === 0)
    throw loraError(op, 'ERR_DATA', 'expected a completion of at least one token but received none');
  return { prompt: before, completion: after };
}

async function logProbsOf(
  model: ModelCore,
  pairs: readonly Pair[],
  options: LabelLogProbOptions,
): Promise<CompletionLogProbs[]> {
  const results = Array<CompletionLogProbs>(pairs.length);
  for (const pass of passesOf(pairs.map(({ prompt, completion }) => prompt.length + completion.length))) {
    const rows = pass.map((i) => pairs[i]!);
    const ids = rows.map(({ prompt, completion }) => [...prompt, ...completion]);
    const labels = rows.map(({ prompt, completion }) => [...prompt.map(() => ignoredLabel), ...completion]);
    const { logProbs } = await noGrad(() => labelLogProbsInSlices(model, ids, labels, options));
    const values = await logProbs.data();
    logProbs.dispose();
    let at = 0;
    for (const [j, i] of pass.entries()) {
      const { completion } = rows[j]!;
      const own = [...values.subarray(at, (at += completion.length))];
      const sum = own.reduce((a, b) => a + b, 0);
      results[i] = { ids: completion, logProbs: own, sum, mean: sum / own.length };
    }
  }
  return results;
}

/** CausalLM.logProbs, where it is documented. */
export async function completionLogProbs(
  model: ModelCore,
  prompt: TextOrIds | readonly TextOrIds[],
  completion: TextOrIds | readonly TextOrIds[],
  options: LogProbsOptions,
): Promise<CompletionLogProbs | CompletionLogProbs[]> {
  model.checkAlive(op);
  model.checkLanguageHead(op);
  checkOptions(op, options, ['adapter', 'temperature']);
  const { temperature = 1 } = options;
  checkNumber(op, 'temperature', temperature, 0);
  check(temperature > 0, op, 'expected temperature to be above 0 but received 0');
  const adapter = model.adapters.resolve(op, options.adapter);
  const least = new SequencePlan(adapter).firstPredicted;
  const isList = Array.isArray(completion) && completion.length > 0 && typeof completion[0] !== 'number';
  const [prompts, completions] = (isList ? [prompt, completion] : [[prompt], [completion]]) as TextOrIds[][];
  check(
    Array.isArray(prompts) && prompts.length === completions!.length,
    op,
    () => `expected a prompt for each of ${completions!.length} completions but received ${describe(prompt)}`,
  );
  const pairs = completions!.map((each, i) => pairOf(model, prompts[i]!, each, least));
  const release = model.adapters.acquire(op, adapter);
  try {
    const choice = model.adapters.choiceOf(adapter);
    const results = await logProbsOf(model, pairs, { adapter: choice, temperature, train: false });
    return isList ? results : results[0]!;
  } finally {
    release();
  }
}
