/** Classification: a head of classes learns the labels of texts, with the losses that transformers has for each type of problem. */
import type { Batch } from '../../data/batches';
import { classRows, type TargetRow } from '../../data/class_rows';
import type { DataSource } from '../../data/example';
import type { RowGroup, RowKind } from '../../data/row_groups';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import { crossEntropy, rowCrossEntropy, unary } from '../../ops';
import type { ClassifyHead } from '../../peft/head';
import { classLoss, classScores, isRight, type ClassOutcome } from '../../tasks/class_scores';
import { fromBytes } from '../../tensor/create';
import { moved, noGrad, tidy } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import type { Metrics } from '../metrics';
import type {
  BatchLoss,
  EvaluationPass,
  Objective,
  ObjectiveEvaluation,
  TrainingPass,
  Written,
} from './objective';
import { ownBatches } from './own_batches';

/** What a run of classification is set to. */
export interface ClassifySettings {
  /** What each label weighs; undefined: all the same. */
  readonly classWeights: readonly number[] | undefined;
}

const targetsOf = ({ groups }: Batch): (readonly number[])[] =>
  groups!.map(({ row }) => (row as TargetRow).target);

const sum = (values: readonly number[]): number => values.reduce((all, x) => all + x, 0);

/** A tensor of numbers beside another one. */
function constant(values: readonly number[], shape: readonly number[], { device }: Tensor): Tensor {
  return fromBytes(new Uint8Array(Float32Array.from(values).buffer), 'f32', shape, device);
}

/**
 * Of logits [n, labels] and targets as {@link TargetRow} has them, what divided by the weight of the batch is its loss:
 * Σ w·(−log softmax(x)[label]); of several labels Σ softplus(x) − x·y over texts and labels, divided by the number of labels; of regression Σ (x − y)², likewise.
 */
export function lossSumOf(
  { problemType, labels }: Pick<ClassifyHead, 'problemType' | 'labels'>,
  logits: Tensor,
  targets: readonly (readonly number[])[],
  classWeights: readonly number[] | undefined,
): Tensor {
  const n = targets.length;
  if (problemType === 'single_label_classification') {
    const indices = targets.map(([index]) => index!);
    const ids = fromBytes(new Uint8Array(Int32Array.from(indices).buffer), 'i32', [n], logits.device);
    if (classWeights === undefined) return moved(ids, (own) => crossEntropy(logits, own).loss);
    const weights = constant(
      indices.map((index) => classWeights[index]!),
      [n],
      logits,
    );
    return moved(ids, (own) => rowCrossEntropy(logits, own).losses.mul(weights)).sum();
  }
  const wanted = constant(targets.flat(), [n, labels.length], logits);
  const each =
    problemType === 'regression'
      ? logits.sub(wanted).square()
      : unary('softplus', logits).sub(logits.mul(wanted));
  return each.sum().div(labels.length);
}

/** The rows of a flat list of logits. */
const outcomesOf = (values: ArrayLike<number>, targets: readonly (readonly number[])[]): ClassOutcome[] => {
  const width = values.length / targets.length;
  return targets.map((target, i) => ({
    logits: Array.from({ length: width }, (_, j) => values[i * width + j]!),
    target,
  }));
};

export class ClassifyObjective implements Objective {
  readonly rows: RowKind;
  readonly isPerToken = false;
  readonly dropout = true;
  readonly weightless = 'expected rows whose labels weigh something';
  readonly #head: ClassifyHead;
  readonly #weights: readonly number[] | undefined;

  /** @throws ERR_UNSUPPORTED for a model with another head; ERR_ARGUMENT for weights of other labels. */
  constructor(model: CausalLM, { classWeights }: ClassifySettings) {
    const op = 'Trainer';
    this.#head = model.core.classifyHead(op);
    const { labels, problemType } = this.#head;
    this.rows = classRows(this.#head, () => model.tokenizer);
    this.#weights = classWeights;
    if (classWeights === undefined) return;
    const expected = (what: string): never => {
      throw loraError(op, 'ERR_ARGUMENT', `expected classWeights ${what}`);
    };
    if (problemType !== 'single_label_classification')
      expected(`with one label for a text, and the problemType of the head is ${problemType}`);
    if (classWeights.length !== labels.length)
      expected(`of ${labels.length} numbers, one for each label, but received ${classWeights.length}`);
  }

  get settings(): Readonly<Record<string, unknown>> {
    return { objective: 'classify', ...(this.#weights && { classWeights: [...this.#weights] }) };
  }

  get facts(): (readonly [name: string, value: string])[] {
    const { labels, problemType } = this.#head;
    return [
      ['Objective', `classify, ${problemType}`],
      ['Labels', labels.join(', ')],
      ...(this.#weights ? [['Weights of labels', this.#weights.join(', ')] as const] : []),
    ];
  }

  /** Texts, or the sum of what their labels weigh, as PyTorch's CrossEntropyLoss has it. */
  weightOf(batch: Batch): number {
    const targets = targetsOf(batch);
    return this.#weights ? sum(targets.map(([index]) => this.#weights![index!]!)) : targets.length;
  }

  async loss(model: CausalLM, batch: Batch, pass: TrainingPass): Promise<BatchLoss> {
    const targets = targetsOf(batch);
    const { logits } = await model.forwardInSlices(batch.inputIds, pass);
    const read = (values: ArrayLike<number>): Metrics => this.#stepFigures(outcomesOf(values, targets));
    return {
      sum: lossSumOf(this.#head, logits, targets, this.#weights),
      measured: { values: logits.detach(), read },
    };
  }

  /** Those of a batch are few: macro F1 and correlations over them say little. */
  #stepFigures(outcomes: readonly ClassOutcome[]): Metrics {
    const { accuracy, mae } = classScores(this.#head, outcomes).metrics;
    return accuracy === undefined ? { mae: mae! } : { accuracy };
  }

  async evaluate(
    model: CausalLM,
    data: DataSource<unknown>,
    pass: EvaluationPass,
  ): Promise<ObjectiveEvaluation> {
    const outcomes: ClassOutcome[] = [];
    let tokens = 0;
    for await (const { batch } of ownBatches(model, this.rows, data, pass)) {
      const { logits } = await noGrad(() =>
        tidy(() => model.forwardInSlices(batch.inputIds, { adapter: pass.adapter, train: false })),
      );
      outcomes.push(...outcomesOf(await logits.data(), targetsOf(batch)));
      logits.dispose();
      tokens += sum(batch.inputIds.map(({ length }) => length));
    }
    const all = await pass.ranks.gather({ outcomes, tokens });
    const found = all.flatMap((own) => own.outcomes);
    if (found.length === 0) throw loraError('evaluate', 'ERR_DATA', 'expected rows but the data has none');
    const weights = found.map(({ target }) => this.#weights?.[target[0]!] ?? 1);
    const losses = found.map((one, i) => weights[i]! * classLoss(this.#head, one));
    const { metrics, confusion } = classScores(this.#head, found);
    const figures = {
      loss: sum(losses) / sum(weights),
      tokens: sum(all.map((own) => own.tokens)),
      metrics,
      ...(confusion && { confusion }),
    };
    return { figures, higherIsBetter: false };
  }

  /** What the head says of a text, and what the data say. */
  async write(
    model: CausalLM,
    { row }: RowGroup,
    { adapter, signal }: Pick<EvaluationPass, 'adapter' | 'signal'>,
  ): Promise<Written> {
    const { inputIds, target } = row as TargetRow;
    const choice = model.core.adapters.choiceOf(adapter);
    const [found] = await model.classify([inputIds], { adapter: choice, signal });
    const { labels, problemType } = this.#head;
    const shown = labels.map((label, i) => `${label} ${found!.scores[i]!.toFixed(3)}`).join(', ');
    const single = problemType === 'single_label_classification';
    const said =
      problemType === 'regression' ? shown : (found!.labels ?? [found!.label]).join(', ') || 'none';
    const right = single && isRight(this.#head, { logits: found!.scores, target });
    return {
      text: problemType === 'regression' ? said : `${said} (${shown})`,
      ...(single && { note: right ? 'right' : 'wrong' }),
    };
  }

  expected({ row }: RowGroup): string {
    const { target } = row as TargetRow;
    const { labels, problemType } = this.#head;
    if (problemType === 'regression') return target.join(', ');
    if (problemType === 'single_label_classification') return labels[target[0]!]!;
    return labels.filter((_, i) => target[i] === 1).join(', ') || 'none';
  }
}
