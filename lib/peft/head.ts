/** Heads beside that of a language model, in the words of transformers. */
import { problemTypes, type ProblemType } from '../options/problem_types';
import { check, checkInteger, checkOneOf, checkOptions, describe, isListOf, isRecord } from '../validate';

/**
 * A head of classes: the logits of a text are score·h, where h is the hidden state of its last token and score [labels, hidden] a matrix. It is
 * transformers' …ForSequenceClassification.
 */
export interface ClassifyHead {
  /** Which head it is. */
  readonly type: 'classify';
  /** The labels, in the order of the scores. */
  readonly labels: readonly string[];
  /** What the scores are. */
  readonly problemType: ProblemType;
  /** How a score begins that the files do not hold: normal numbers of this deviation. Absent: the files hold it. */
  readonly initial?: { readonly std: number; readonly seed: number };
}

/** What a model ends in where it is not the head of a language model. */
export type ModelHead = ClassifyHead;

/**
 * The head that {@link CausalLM.fromPretrained} gives a model, whatever its files end in.
 *
 * @example
 * const head: ClassifyHeadInput = { type: 'classify', labels: ['refund', 'question'] };
 * const model = await CausalLM.fromPretrained('smollm2-135m', { head });
 */
export interface ClassifyHeadInput {
  /** A head of classes. */
  type: 'classify';
  /** The labels, in the order of the scores. Default: those of config.json's id2label. */
  labels?: readonly string[] | undefined;
  /** What the scores are. Default: as config.json says; else 'regression' for one label and 'single_label_classification' for several. */
  problemType?: ProblemType | undefined;
  /** Decides the first values of a matrix that the files do not hold. Default 0. */
  seed?: number | undefined;
}

/** The options of a head. */
export type HeadInput = ClassifyHeadInput;

const op = 'from_pretrained';

/** What transformers calls the matrix of a head of classes in the families that there are. */
export const scoreModule = 'score';
/** And in all of its models: PEFT's lists have both names, and a model has one of the modules. */
export const scoreModules: readonly string[] = ['classifier', scoreModule];

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';

/** @throws ERR_ARGUMENT for what is no head. */
export function checkHead(head: unknown): asserts head is HeadInput {
  check(
    isRecord(head),
    op,
    () => `expected head to be { type: 'classify', labels } but received ${describe(head)}`,
  );
  checkOneOf(op, 'head.type', head['type'], ['classify']);
  checkOptions(op, head, ['type', 'labels', 'problemType', 'seed']);
  const { labels, problemType, seed } = head;
  if (problemType !== undefined) checkOneOf(op, 'head.problemType', problemType, problemTypes);
  if (seed !== undefined) checkInteger(op, 'head.seed', seed);
  if (labels === undefined) return;
  check(
    isListOf(labels, isText) && labels.length > 0,
    op,
    () => `expected head.labels to be a list of names but received ${describe(labels)}`,
  );
  const twice = labels.find((label, i) => labels.indexOf(label) !== i);
  check(
    twice === undefined,
    op,
    () => `expected each of head.labels once but received ${describe(twice)} twice`,
  );
}
