/** What measures a model and its adapters: the loss over a data set, and the answers of a task. */
import type { DataSource } from '../../data/example';
import { SequencePlan } from '../../data/sequence_plan';
import type { Adapter } from '../../peft/adapter';
import type { ClassifyHead } from '../../peft/head';
import { classTask, type ClassSubject } from '../../tasks/class_task';
import { TaskRun, type TaskSubject } from '../../tasks/evaluate_task';
import {
  checkTaskOptions,
  type EvaluateTaskOptions,
  type TaskData,
  type TaskEvaluation,
} from '../../tasks/options';
import { noGrad } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { checkOptions, checkSignal } from '../../validate';
import type { TokenRows } from '../inputs/batch';
import { logitsOfTexts } from './classify';
import { lossSum, meanLoss, type EvaluateOptions, type Evaluation } from './evaluate';
import type { ForwardResult } from './forward';
import type { ModelCore } from '../core/model_core';
import type { ForwardOptions, GenerateOptions } from '../core/options';

/** The calls of a model that are measured. */
interface MeasuredCalls {
  /** Sequences that are generated at once. */
  lanes(): number;
  generate(prompt: number[], options: GenerateOptions): ReturnType<TaskSubject['generate']>;
  /** A forward pass during which the event loop goes on. */
  forward(ids: TokenRows, options: ForwardOptions): Promise<ForwardResult>;
}

/** @internal The methods are those of CausalLM, where they are documented. */
export class ModelEvaluations {
  constructor(
    private readonly model: ModelCore,
    private readonly calls: MeasuredCalls,
  ) {}

  async evaluate(data: DataSource, options: EvaluateOptions): Promise<Evaluation> {
    const op = 'evaluate';
    const { adapters } = this.model;
    this.model.checkAlive(op);
    this.model.checkLanguageHead(op, 'evaluateTask');
    checkOptions(op, options, ['adapter', 'batchSize', 'signal']);
    checkSignal(op, options.signal);
    const adapter = adapters.resolve(op, options.adapter);
    const release = adapters.acquire(op, adapter);
    try {
      const { batchSize, signal } = options;
      const lossOf = async (inputIds: number[][], labels: number[][]): Promise<Tensor> =>
        (await this.#forward(inputIds, { labels, reduction: 'sum' }, adapter)).loss!;
      return meanLoss([await lossSum(lossOf, data, { batchSize, signal, plan: new SequencePlan(adapter) })]);
    } finally {
      release();
    }
  }

  async evaluateTask(data: TaskData, options: EvaluateTaskOptions): Promise<TaskEvaluation> {
    const op = 'evaluateTask';
    this.model.checkAlive(op);
    checkTaskOptions(options);
    const { adapters: choices = [undefined] } = options;
    const adapters = choices.map((choice) => this.model.adapters.resolve(op, choice));
    const releases: (() => void)[] = [];
    try {
      for (const adapter of adapters) releases.push(this.model.adapters.acquire(op, adapter));
      const { head } = this.model.config;
      if (head) return await classTask(this.#classes(head), adapters, data, options);
      return await new TaskRun(this.#subject(adapters), adapters, options).of(data);
    } finally {
      for (const release of releases) release();
    }
  }

  #classes(head: ClassifyHead): ClassSubject {
    const { model } = this;
    return {
      set: head,
      tokenizer: () => model.tokenizer,
      hasTokenizer: model.hasTokenizer,
      context: model.config.maxPositionEmbeddings,
      logits: (rows, adapter) => logitsOfTexts(model, rows, adapter),
    };
  }

  #subject(adapters: readonly (Adapter | null)[]): TaskSubject {
    const { model, calls } = this;
    const { config, hasTokenizer, adapters: choices } = model;
    const { maxPositionEmbeddings, bosTokenId, eosTokenIds } = config;
    const rooms = adapters.map((adapter) => new SequencePlan(adapter, maxPositionEmbeddings).room);
    return {
      tokenizer: () => model.tokenizer,
      hasTokenizer,
      context: Math.min(...rooms), // all adapters read the same texts
      prefixId: bosTokenId ?? eosTokenIds[0] ?? 0,
      lanes: calls.lanes(),
      evaluate: (examples, wanted) =>
        this.evaluate(examples, { ...wanted, adapter: choices.choiceOf(wanted.adapter) }),
      generate: (prompt, wanted) =>
        calls.generate(prompt, { ...wanted, adapter: choices.choiceOf(wanted.adapter) }),
      rowLosses: async (rows, adapter) => {
        const ids = rows.map(({ inputIds }) => inputIds);
        const labels = rows.map((row) => row.labels);
        const { rowLosses } = await this.#forward(ids, { labels, rowLosses: true }, adapter);
        const losses = await Promise.all(rowLosses!.map((loss) => loss.item()));
        for (const loss of rowLosses!) loss.dispose();
        return losses;
      },
    };
  }

  /** Without gradients and without dropout. */
  #forward(
    ids: TokenRows,
    options: Omit<ForwardOptions, 'adapter' | 'train'>,
    resolved: Adapter | null,
  ): Promise<ForwardResult> {
    const adapter = this.model.adapters.choiceOf(resolved);
    return noGrad(() => this.calls.forward(ids, { ...options, adapter, train: false }));
  }
}
