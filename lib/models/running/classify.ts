/** model.classify: the scores of texts over the labels of a head of classes. */
import type { Adapter } from '../../peft/adapter';
import { largest } from '../../tasks/scores';
import { enqueueInSlices } from '../../tensor/op_slices';
import { noGrad, tidy } from '../../tensor/scope';
import { loraError } from '../../errors';
import { check, checkOptions, checkSignal, describe, isListOf } from '../../validate';
import type { ClassifyHead } from '../../peft/head';
import type { ModelCore } from '../core/model_core';
import { passesOf } from '../inputs/passes';
import { plannedForward } from './forward';
import type { TextOrIds } from './log_probs';

/** The options of {@link CausalLM.classify}. */
export interface ClassifyOptions {
  /**
   * A name, an Adapter, or null for the base alone; or a list with one of these for each text. ERR_BUSY while one is merged. Default: the active adapter, or what
   * is merged.
   */
  adapter?: string | Adapter | null | readonly (string | Adapter | null)[] | undefined;
  /** Checked between forward passes; an abort rejects with its reason. */
  signal?: AbortSignal | undefined;
}

/** What {@link CausalLM.classify} says of a text. */
export interface Classification {
  /** The label with the highest score. */
  label: string;
  /** With several labels for a text: those whose score is at least 0.5. */
  labels?: string[];
  /** In the order of the labels: probabilities that sum to 1, of several labels for a text one probability each, of regression the numbers themselves. */
  scores: number[];
}

const op = 'classify';

function softmax(logits: readonly number[]): number[] {
  const top = Math.max(...logits);
  const powers = logits.map((x) => Math.exp(x - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / sum);
}

/** What logits mean, by the problem that the head is for. */
export function scoresOf(
  { problemType }: Pick<ClassifyHead, 'problemType'>,
  logits: readonly number[],
): number[] {
  if (problemType === 'regression') return [...logits];
  return problemType === 'single_label_classification'
    ? softmax(logits)
    : logits.map((x) => 1 / (1 + Math.exp(-x)));
}

function classification(head: ClassifyHead, logits: readonly number[]): Classification {
  const { labels, problemType } = head;
  const scores = scoresOf(head, logits);
  const label = labels[largest(logits)]!;
  if (problemType !== 'multi_label_classification') return { label, scores };
  return { label, labels: labels.filter((_, i) => scores[i]! >= 0.5), scores };
}

function idsOf(model: ModelCore, text: TextOrIds, place: number): number[] {
  check(
    typeof text === 'string' || isListOf([...text], Number.isInteger),
    op,
    () => `expected text ${place} to be a text or a list of token ids but received ${describe(text)}`,
  );
  const ids = typeof text === 'string' ? model.tokenizer.encode(text) : [...text];
  if (ids.length > 0) return ids;
  throw loraError(op, 'ERR_DATA', `expected text ${place} to have a token at least but received none`);
}

/** The logits of texts, in their order: forward passes of texts of about one length, without gradients and without dropout. */
export async function logitsOfTexts(
  model: ModelCore,
  rows: readonly (readonly number[])[],
  adapters: Adapter | null | readonly (Adapter | null)[],
  signal?: AbortSignal,
): Promise<number[][]> {
  const results = Array<number[]>(rows.length);
  const choice = (adapter: Adapter | null) => model.adapters.choiceOf(adapter);
  const isEach = (given: typeof adapters): given is readonly (Adapter | null)[] => Array.isArray(given);
  for (const pass of passesOf(rows.map(({ length }) => length))) {
    signal?.throwIfAborted();
    // Neighbors with one adapter are computed together.
    if (isEach(adapters)) pass.sort((a, b) => distance(adapters, a, b));
    const adapter = isEach(adapters) ? pass.map((i) => adapters[i]!) : choice(adapters);
    const ids = pass.map((i) => rows[i]!);
    const values = await noGrad(async () => {
      const steps = plannedForward(model, ids, { adapter, train: false });
      const { logits } = await tidy(() => enqueueInSlices(model.device, steps));
      const read = await logits!.data();
      logits!.dispose();
      return read;
    });
    const width = values.length / pass.length;
    for (const [j, i] of pass.entries()) results[i] = [...values.subarray(j * width, (j + 1) * width)];
  }
  return results;
}

/** Orders texts by which adapter they have. */
const distance = (adapters: readonly (Adapter | null)[], a: number, b: number): number =>
  adapters.indexOf(adapters[a]!) - adapters.indexOf(adapters[b]!);

/** CausalLM.classify, where it is documented. */
export async function classify(
  model: ModelCore,
  texts: readonly TextOrIds[],
  options: ClassifyOptions,
): Promise<Classification[]> {
  model.checkAlive(op);
  const head = model.classifyHead(op);
  checkOptions(op, options, ['adapter', 'signal']);
  const { adapter: choice, signal } = options;
  checkSignal(op, signal);
  const isText = (one: unknown): boolean =>
    typeof one === 'string' || Array.isArray(one) || one instanceof Int32Array;
  check(
    isListOf(texts, isText),
    op,
    () => `expected a list of texts, or of rows of token ids, but received ${describe(texts)}`,
  );
  const list = Array.isArray(choice) ? (choice as readonly (string | Adapter | null)[]) : undefined;
  check(
    list === undefined || list.length === texts.length,
    op,
    () => `expected one adapter for each of ${texts.length} texts but received ${list!.length}`,
  );
  const adapters = (list ?? [choice as string | Adapter | null | undefined]).map((one) =>
    model.adapters.resolve(op, one),
  );
  const rows = texts.map((text, i) => idsOf(model, text, i));
  const releases: (() => void)[] = [];
  try {
    for (const adapter of new Set(adapters)) releases.push(model.adapters.acquire(op, adapter));
    const logits = await logitsOfTexts(model, rows, list ? adapters : adapters[0]!, signal);
    return logits.map((own) => classification(head, own));
  } finally {
    for (const release of releases) release();
  }
}
