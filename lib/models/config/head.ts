/** The head of a model as config.json has it. */
import { checkLimit } from '../../formats/limits';
import { problemTypes, type ProblemType } from '../../options/problem_types';
import { scoreModule, type HeadInput, type ModelHead } from '../../peft/head';
import { check, describe, isListOf, isRecord, listed } from '../../validate';
import { refuse, type ConfigJson } from './config_json';
import { linear, type LinearRow } from './rows';

const op = 'from_pretrained';

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';

/** Whether config.json is that of a model which ends in classes. */
export const isClassifier = (raw: ConfigJson['raw']): boolean =>
  Array.isArray(raw['architectures']) &&
  raw['architectures'].some((name) => typeof name === 'string' && name.endsWith('ForSequenceClassification'));

/** The name of the class with a head of classes, of that with the head of a language model. */
export const classifierName = (className: string): string =>
  className.replace(/(ForCausalLM|LMHeadModel)$/, 'ForSequenceClassification');

/** The names in id2label, by their ids; undefined where there are none. */
function storedLabels({ raw, limits }: ConfigJson): string[] | undefined {
  const names = raw['id2label'] ?? undefined;
  if (names === undefined) return undefined;
  const entries = isRecord(names) ? Object.entries(names) : [];
  checkLimit(limits, 'width', entries.length, `config.json has ${entries.length} labels`, { op });
  const labels = entries.map((_, id) => (names as Record<string, unknown>)[id]);
  if (!isListOf(labels, isText) || labels.length === 0)
    refuse(
      'ERR_FILE',
      `expected id2label of config.json to have a name for each id from 0 but received ${describe(names)}`,
    );
  return labels;
}

function storedProblem({ raw }: ConfigJson): ProblemType | undefined {
  const value = raw['problem_type'] ?? undefined;
  if (value === undefined) return undefined;
  return (
    problemTypes.find((type) => type === value) ??
    refuse(
      'ERR_UNSUPPORTED',
      `config.json has problem_type = ${JSON.stringify(value)}; supported are ${problemTypes.join(', ')}`,
    )
  );
}

/** What transformers calls labels that have no names. */
export const unnamed = (count: number): string[] => Array.from({ length: count }, (_, id) => `LABEL_${id}`);

const problemOf = (labels: readonly string[]): ProblemType =>
  labels.length === 1 ? 'regression' : 'single_label_classification';

/** The head that config.json describes; undefined: that of a language model. @throws ERR_FILE, ERR_UNSUPPORTED. */
export function headOf(json: ConfigJson): ModelHead | undefined {
  if (!isClassifier(json.raw)) return undefined;
  const labels = storedLabels(json) ?? unnamed(json.width('num_labels', 2));
  return checkedHead({ type: 'classify', labels, problemType: storedProblem(json) ?? problemOf(labels) });
}

/** The head that a program asks for. `own`: that of config.json. @throws ERR_ARGUMENT where nothing names labels. */
export function headOfInput(
  { labels: given, problemType, seed = 0 }: HeadInput,
  json: ConfigJson,
  own: ModelHead | undefined,
): ModelHead {
  const labels = given ?? own?.labels ?? storedLabels(json);
  check(
    labels !== undefined,
    op,
    "expected labels with head: { type: 'classify' }, since config.json has no id2label",
  );
  const std = json.number('initializer_range', 0.02);
  return checkedHead({
    type: 'classify',
    labels: [...labels],
    problemType: problemType ?? own?.problemType ?? problemOf(labels),
    initial: { std, seed },
  });
}

function checkedHead(head: ModelHead): ModelHead {
  const { labels, problemType } = head;
  check(
    labels.length > 1 || problemType !== 'single_label_classification',
    op,
    () => `expected two labels at least, of which a text has one, but received ${listed(labels)}`,
  );
  return head;
}

/** config.json with a head. `className`: of the class with this head. */
export function rawWithHead(
  raw: ConfigJson['raw'],
  { labels, problemType }: ModelHead,
  className: string,
): ConfigJson['raw'] {
  const { num_labels: _, ...kept } = raw;
  return {
    ...kept,
    architectures: [className],
    id2label: Object.fromEntries(labels.map((label, id) => [String(id), label])),
    label2id: Object.fromEntries(labels.map((label, id) => [label, id])),
    problem_type: problemType,
  };
}

/** The layer behind the last norm that a head puts in the place of the output embedding. */
export const headRow = ({ labels }: ModelHead, hiddenSize: number): LinearRow =>
  linear('score', scoreModule, labels.length, hiddenSize);
