/** What the tests of training share: rows, a tiny model with adapters, and a training loop written by hand. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  AdamW,
  CausalLM,
  clipGradNorm,
  openSafetensors,
  writeSafetensors,
  type Adapter,
  type AdamWOptions,
  type Batch,
  type FromPretrainedOptions,
  type LoRAConfigInput,
  type Trainer,
} from '../../lib/index';
import type { TrainerEvent } from '../../lib/train';
import { fillAdapter } from './fill_adapter';
import { bits } from './numbers';
import { generator, tinyModel } from './tiny_model';

export interface Row {
  inputIds: number[];
  labels: number[];
}

/** `n` rows of 3 to 9 ids; the first `prompt` labels of every row count nothing. */
export function makeRows(n: number, { prompt = 0, seed = 5 } = {}): Row[] {
  const random = generator(seed);
  const below = (end: number): number => Math.floor(((random() + 1) / 2) * end);
  return Array.from({ length: n }, () => {
    const inputIds = Array.from({ length: 3 + below(7) }, () => below(256));
    return { inputIds, labels: inputIds.map((id, i) => (i < prompt ? -100 : id)) };
  });
}

export interface TrainingFixture {
  readonly model: CausalLM;
  /** An adapter that already changes the model, so that both of its factors have gradients at the first step. */
  readonly addAdapter: (name: string, changes?: LoRAConfigInput) => Adapter;
}

const config: LoRAConfigInput = { r: 3, loraAlpha: 6, targetModules: 'all-linear', loraDropout: 0.3 };

/** A tiny model for the tests of one file; every test begins without adapters. */
export function trainingFixture(options: FromPretrainedOptions = {}): TrainingFixture {
  let dir: string;
  let model: CausalLM;
  beforeAll(async () => {
    dir = await tinyModel({ tokenizer: false });
    model = await CausalLM.fromPretrained(dir, options);
  });
  afterAll(async () => {
    await model.dispose();
    rmSync(dir, { recursive: true });
  });
  afterEach(async () => {
    jest.restoreAllMocks();
    for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
  });
  return {
    get model() {
      return model;
    },
    addAdapter: (name, changes = {}) => {
      const adapter = model.addAdapter({ ...config, ...changes }, { name, seed: 2 });
      fillAdapter(adapter, 3, 0.1);
      return adapter;
    },
  };
}

type SavedStates = Record<string, { value?: unknown; state?: Record<string, unknown> }>;

/** Changes what a checkpoint says, and leaves its tensors as they are. */
export async function editCheckpoint(dir: string, edit: (states: SavedStates) => void): Promise<void> {
  const key = 'lora-native.checkpoint';
  const path = join(dir, 'checkpoint.safetensors');
  const file = await openSafetensors(path);
  const text = JSON.parse(file.metadata[key]!) as { states: SavedStates };
  edit(text.states);
  const tensors = new Map(
    [...file.tensors].map(([name, { dtype, shape, bytes }]) => [
      name,
      { dtype, shape, bytes: bytes.slice() },
    ]),
  );
  file.close();
  await writeSafetensors(path, tensors, { ...file.metadata, [key]: JSON.stringify(text) });
}

export const weights = (adapter: Adapter): string => bits(...adapter.parameters());

export type StepOf = Extract<TrainerEvent, { type: 'step' }>;

/** Runs to the end; gives all events, and those of the steps. */
export async function collect(trainer: Trainer): Promise<{ events: TrainerEvent[]; steps: StepOf[] }> {
  const events: TrainerEvent[] = [];
  for await (const event of trainer.run()) events.push(event);
  return { events, steps: events.filter((e) => e.type === 'step') };
}

export interface LoopOptions extends AdamWOptions {
  lr: number;
  /** The factor on lr of every step. */
  factors: readonly number[];
  /** Infinity: no clipping. */
  maxGradNorm: number;
}

/** Labels that count: all but the first of a row, which nothing predicts, and those that are −100. */
export const counted = (labels: readonly (readonly number[])[]): number =>
  labels.flatMap((row) => row.slice(1)).filter((label) => label !== -100).length;

/** Trains `adapter` on the batches of every step with public calls alone; gives what the steps should report. */
export async function trainByHand(
  model: CausalLM,
  adapter: Adapter,
  steps: readonly (readonly Batch[])[],
  { factors, maxGradNorm, ...settings }: LoopOptions,
): Promise<Pick<StepOf, 'loss' | 'lr' | 'gradNorm' | 'tokens'>[]> {
  const parameters = adapter.parameters();
  using optimizer = new AdamW(parameters, settings);
  const reports = [];
  for (const [i, group] of steps.entries()) {
    const labeled = group.filter(({ labels }) => counted(labels) > 0);
    const total = counted(labeled.flatMap(({ labels }) => labels));
    let loss = 0;
    for (const { inputIds, labels } of labeled) {
      const sum = model.forward(inputIds, { labels, reduction: 'sum', adapter, train: true }).loss;
      const part = sum.div(total);
      part.backward();
      loss += await part.item();
    }
    const gradNorm = await clipGradNorm(parameters, maxGradNorm).item();
    optimizer.lr = settings.lr * factors[i]!;
    optimizer.step();
    optimizer.zeroGrad();
    const tokens = group.flatMap(({ inputIds }) => inputIds).reduce((sum, row) => sum + row.length, 0);
    reports.push({ loss, lr: optimizer.lr, gradNorm, tokens });
  }
  return reports;
}

/** The batches that `model.forwardInSlices` is given until stop() is called, in order. */
export function recordBatches(model: CausalLM): { batches: Batch[]; stop: () => void } {
  const batches: Batch[] = [];
  const forward = model.forwardInSlices.bind(model);
  const spy = jest.spyOn(model, 'forwardInSlices').mockImplementation((ids, options) => {
    const { labels } = options as { labels: number[][] };
    batches.push({ inputIds: ids as number[][], labels });
    return forward(ids, options);
  });
  return { batches, stop: () => spy.mockRestore() };
}

/** `items` in groups of the given sizes. */
export function inGroups<T>(items: readonly T[], sizes: readonly number[]): T[][] {
  let from = 0;
  return sizes.map((size) => items.slice(from, (from += size)));
}
