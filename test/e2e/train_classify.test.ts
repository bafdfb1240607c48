/** The objective `classify`: its losses against float64 written out here, its figures, its rows, and runs that are broken off. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CausalLM,
  loadDataset,
  readAdapter,
  setThreads,
  Trainer,
  type ClassRow,
  type LoRAError,
  type ProblemType,
  type TrainerOptions,
} from '../../lib/index';
import type { EvalEvent, StepEvent, TrainerEvent } from '../../lib/train';
import { fillAdapter } from '../support/fill_adapter';
import { sharedData } from '../support/shared_data';
import { tinyModel } from '../support/tiny_model';

const scratch = mkdtempSync(join(tmpdir(), 'lora-classify-'));
const models: CausalLM[] = [];
let base: string;
beforeAll(async () => {
  setThreads(1); // tiny matrices
  base = await tinyModel();
});
afterAll(async () => {
  await Promise.all(models.map((model) => model.dispose()));
  for (const dir of [scratch, base]) rmSync(dir, { recursive: true });
});

const labels = ['refund', 'question', 'praise'];

async function open(
  problemType: ProblemType = 'single_label_classification',
  names = labels,
): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(base, {
    dtype: 'f32',
    head: { type: 'classify', labels: names, problemType },
  });
  models.push(model);
  return model;
}

async function events(options: Omit<TrainerOptions, 'objective'>): Promise<TrainerEvent[]> {
  const all: TrainerEvent[] = [];
  for await (const event of new Trainer({ ...options, objective: 'classify' }).run()) all.push(event);
  return all;
}
const stepsOf = (all: TrainerEvent[]): StepEvent[] => all.filter((e): e is StepEvent => e.type === 'step');
const evalsOf = (all: TrainerEvent[]): EvalEvent[] => all.filter((e): e is EvalEvent => e.type === 'eval');

async function errorOf(call: () => unknown): Promise<LoRAError> {
  try {
    await call();
  } catch (error) {
    return error as LoRAError;
  }
  throw new Error('nothing was thrown');
}

const texts = ['money back', 'hi', 'where is it, and when?', 'good', 'bad', 'what'];
const logitsOf = async (model: CausalLM): Promise<number[][]> => {
  const rows: number[][] = [];
  for (const text of texts)
    rows.push([...(await model.forward([model.tokenizer.encode(text)]).logits.data())]);
  return rows;
};
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const mean = (values: readonly number[]): number => sum(values) / values.length;
const logSoftmax = (x: readonly number[], i: number): number => x[i]! - Math.log(sum(x.map(Math.exp)));

/** One batch of all texts, at a rate of 0, measured by the step and by the evaluation before it. */
async function measured(model: CausalLM, rows: ClassRow[], more: Partial<TrainerOptions> = {}) {
  const adapter = model.addAdapter({ r: 2 });
  fillAdapter(adapter, 3, 0.5);
  const logits = await logitsOf(model);
  const all = await events({
    model,
    data: rows,
    evalData: rows,
    evalEvery: 1,
    batchSize: 6,
    maxSteps: 1,
    lr: 0,
    ...more,
  });
  return { logits, step: stepsOf(all)[0]!, evaluation: evalsOf(all)[0]! };
}

describe('the loss is that of float64', () => {
  const ids = [0, 1, 1, 2, 0, 1];

  test.each([
    ['names', undefined],
    ['indices, with weights of labels', [0.5, 2, 3]],
  ] as const)('one label for a text, by %s', async (by, weights) => {
    const rows = texts.map((text, i) => ({ text, label: by === 'names' ? labels[ids[i]!]! : ids[i]! }));
    const { logits, step, evaluation } = await measured(await open(), rows, { classWeights: weights });
    const w = ids.map((id) => weights?.[id] ?? 1);
    const want = sum(logits.map((x, i) => -w[i]! * logSoftmax(x, ids[i]!))) / sum(w);
    expect(Math.abs(step.loss / want - 1)).toBeLessThan(1e-5);
    expect(Math.abs(evaluation.loss / want - 1)).toBeLessThan(1e-5);
    const said = logits.map((x) => x.indexOf(Math.max(...x)));
    const accuracy = mean(said.map((id, i) => Number(id === ids[i])));
    expect(step.metrics).toEqual({ accuracy });
    expect(evaluation.metrics!['accuracy']).toBe(accuracy);
    const counts = [0, 1, 2].map((t) =>
      [0, 1, 2].map((p) => ids.filter((id, i) => id === t && said[i] === p).length),
    );
    expect(evaluation.confusion).toEqual({ labels, counts });
    const f1s = [0, 1, 2].flatMap((c) => {
      const [tp, is, given] = [counts[c]![c]!, sum(counts[c]!), sum(counts.map((row) => row[c]!))];
      return is + given === 0 ? [] : [(2 * tp) / (is + given)];
    });
    expect(evaluation.metrics!['macroF1']).toBeCloseTo(mean(f1s), 12);
    expect(evaluation.perplexity).toBeUndefined();
  });

  test('several labels for a text', async () => {
    const sets = [[0], [], [1, 2], ['praise'], ['refund', 1], [0, 1, 2]];
    const rows = texts.map((text, i) => (i % 2 ? { text, labels: sets[i]! } : { text, label: sets[i]! }));
    const { logits, step, evaluation } = await measured(await open('multi_label_classification'), rows);
    const hot = sets.map((set) => labels.map((label, i) => Number(set.includes(label) || set.includes(i))));
    const p = logits.map((x) => x.map((v) => 1 / (1 + Math.exp(-v))));
    const each = p.map((row, t) => mean(row.map((q, i) => -Math.log(hot[t]![i] ? q : 1 - q))));
    expect(Math.abs(step.loss / mean(each) - 1)).toBeLessThan(1e-5);
    expect(Math.abs(evaluation.loss / mean(each) - 1)).toBeLessThan(1e-5);
    const said = p.map((row) => row.map((q) => Number(q >= 0.5)));
    expect(evaluation.metrics!['accuracy']).toBe(
      mean(said.map((row, t) => Number(row.join() === hot[t]!.join()))),
    );
    const f1s = labels.map((_, i) => {
      const tp = sum(said.map((row, t) => row[i]! * hot[t]![i]!));
      const all = sum(said.map((row, t) => row[i]! + hot[t]![i]!));
      return all === 0 ? 0 : (2 * tp) / all;
    });
    expect(evaluation.metrics!['macroF1']).toBeCloseTo(mean(f1s), 12);
    expect(evaluation.confusion).toBeUndefined();
  });

  test('regression of one number and of several', async () => {
    const numbers = [0.5, -1, 2.25, 0, 3, 1];
    const one = await measured(
      await open('regression', ['stars']),
      texts.map((text, i) => ({ text, label: numbers[i]! })),
    );
    const errors = one.logits.map(([x], i) => x! - numbers[i]!);
    expect(Math.abs(one.step.loss / mean(errors.map((e) => e * e)) - 1)).toBeLessThan(1e-5);
    expect(one.step.metrics!['mae']).toBeCloseTo(mean(errors.map(Math.abs)), 5);
    const x = one.logits.map(([v]) => v!);
    const [mx, my] = [mean(x), mean(numbers)];
    const deviation = (values: number[], m: number): number =>
      Math.sqrt(sum(values.map((v) => (v - m) ** 2)));
    const r = sum(x.map((v, i) => (v - mx) * (numbers[i]! - my))) / deviation(x, mx) / deviation(numbers, my);
    expect(one.evaluation.metrics!['pearson']).toBeCloseTo(r, 6);

    const pairs = numbers.map((v) => [v, -2 * v]);
    const two = await measured(
      await open('regression', ['a', 'b']),
      texts.map((text, i) => ({ text, label: pairs[i]! })),
    );
    const squares = two.logits.flatMap((row, t) => row.map((v, i) => (v - pairs[t]![i]!) ** 2));
    expect(Math.abs(two.step.loss / mean(squares) - 1)).toBeLessThan(1e-5);
  });

  test('gradients are those of the loss, also over several batches of a step', async () => {
    const model = await open();
    const adapter = model.addAdapter({ r: 2 });
    fillAdapter(adapter, 3, 0.5);
    const rows = texts.map((text, i) => ({ text, label: ids[i]! }));
    const norms: number[] = [];
    for (const more of [{ batchSize: 6 }, { batchSize: 2, gradientAccumulationSteps: 3 }]) {
      const [step] = stepsOf(await events({ model, data: rows, maxSteps: 1, lr: 0, ...more }));
      norms.push(step!.gradNorm);
    }
    expect(Math.abs(norms[0]! / norms[1]! - 1)).toBeLessThan(1e-5);
    const lossNow = async (): Promise<number> =>
      mean((await logitsOf(model)).map((x, i) => -logSoftmax(x, ids[i]!)));
    const score = adapter.parameters().find(({ name }) => name.endsWith('score.weight'))!;
    const { logits } = model.forward(texts.map((text) => model.tokenizer.encode(text)));
    logits.crossEntropy(ids).backward();
    const grad = await score.grad!.data();
    const values = await score.data();
    const at = grad.findIndex((g) => Math.abs(g) === Math.max(...grad.map(Math.abs)));
    const shifted = async (by: number): Promise<number> => {
      const own = Float32Array.from(values);
      own[at]! += by;
      const { tensor } = await import('../../lib/index');
      score.copyFrom(tensor(own, { shape: [...score.shape] }));
      return lossNow();
    };
    const slope = ((await shifted(1e-2)) - (await shifted(-1e-2))) / 2e-2;
    expect(Math.abs(slope / grad[at]! - 1)).toBeLessThan(1e-2);
  });
});

describe.each(['tiny-llama-seqcls', 'tiny-qwen3-seqcls'])("%s: PEFT's training", (name) => {
  const folder = join(sharedData, 'golden-families', name);
  const run = existsSync(folder) ? test : test.skip;
  run('gives its losses, gradient norms and weights', async () => {
    const read = (file: string) =>
      JSON.parse(readFileSync(join(folder, file), 'utf8')) as Record<string, never>;
    const record = read('record.json') as unknown as {
      steps: { loss: number; grad_norm: number; lr: number }[];
      recipe: { weight_decay: number; clip: number };
    };
    const batches = read('batches.json') as unknown as {
      ids: number[][][];
      attention_mask: number[][][];
      labels: number[][];
    };
    const data = batches.ids.flatMap((rows, step) =>
      rows.map((row, r) => ({
        inputIds: row.filter((_, t) => batches.attention_mask[step]![r]![t]),
        label: batches.labels[step]![r]!,
      })),
    );
    const model = await CausalLM.fromPretrained(join(folder, 'model'), { dtype: 'f32' });
    models.push(model);
    const adapter = await model.loadAdapter(join(folder, 'adapter_init'), { trainable: true });
    const { weight_decay: weightDecay, clip: maxGradNorm } = record.recipe;
    const all = await events({
      ...{ model, data, shuffleWindow: 1, batchSize: 4, maxSteps: record.steps.length },
      ...{ lr: record.steps[0]!.lr, schedule: 'constant', weightDecay, maxGradNorm },
    });
    for (const [i, { loss, gradNorm }] of stepsOf(all).entries()) {
      expect(Math.abs(loss / record.steps[i]!.loss - 1)).toBeLessThan(1e-3);
      expect(Math.abs(gradNorm / record.steps[i]!.grad_norm - 1)).toBeLessThan(2e-3);
    }
    const want = (await readAdapter(join(folder, 'adapter_final'))).tensors;
    for (const parameter of adapter.parameters()) {
      const own = await parameter.data();
      const theirs = new Float32Array(want.get(parameter.name)!.bytes.slice().buffer);
      const squares = (values: ArrayLike<number>): number =>
        Array.from(values).reduce((all, v) => all + v * v, 0);
      expect(Math.sqrt(squares(own.map((v, i) => v - theirs[i]!)) / squares(theirs))).toBeLessThan(1e-3);
    }
  });
});

/** Texts of which the last letter tells the label. */
const made = (count: number, from = 0): ClassRow[] =>
  Array.from({ length: count }, (_, i) => {
    const label = (i + from) % 3;
    return {
      text: `${'abcdefgh'[(i * 7 + from) % 8]}${'xyz'[(i * 5) % 3]}${'rqp'[label]}`,
      label: labels[label]!,
    };
  });

test.each(['adapter', 'all'] as const)('learns what the last letter tells, by training %s', async (train) => {
  const model = await open();
  if (train === 'all') model.trainAll();
  else model.addAdapter({ r: 4 });
  const held = made(30); // of what it learns: tiny models remember more than they understand
  const all = await events({
    ...{
      model,
      data: made(90),
      evalData: held,
      evalEvery: 90,
      maxSteps: 90,
      batchSize: 8,
      schedule: 'constant',
    },
    lr: train === 'all' ? 1e-3 : 1e-2,
  });
  const [evaluation] = evalsOf(all);
  expect(evaluation!.metrics!['accuracy']).toBeGreaterThan(0.9);
  expect(evaluation!.metrics!['macroF1']).toBeGreaterThan(0.9);
  expect(sum(evaluation!.confusion!.counts.flat())).toBe(30);
  const found = await model.classify(held.map(({ text }) => text!));
  expect(mean(found.map(({ label }, i) => Number(label === held[i]!.label)))).toBe(
    evaluation!.metrics!['accuracy'],
  );
  if (train === 'all') model.freeze();
});

test('a run that an abort cuts in two ends as the whole run, and other labels do not go on with it', async () => {
  const make = async () => {
    const model = await open();
    model.addAdapter({ r: 2, loraDropout: 0.1 });
    return model;
  };
  const options = (model: CausalLM, dir: string) =>
    ({ model, data: made(24), outDir: join(scratch, dir), maxSteps: 8, batchSize: 4, lr: 1e-2 }) as const;
  const whole = await make();
  await events(options(whole, 'whole'));
  const first = await make();
  const controller = new AbortController();
  const reason = new Error('enough');
  const cut = new Trainer({ ...options(first, 'cut'), objective: 'classify' }).run({
    signal: controller.signal,
  });
  await expect(
    (async () => {
      for await (const e of cut) if (e.type === 'step' && e.step === 4) controller.abort(reason);
    })(),
  ).rejects.toBe(reason);
  const second = await make();
  await events({ ...options(second, 'cut'), resume: true });
  const tensors = async (dir: string) => (await readAdapter(join(scratch, dir))).tensors;
  const [a, b] = [await tensors('whole'), await tensors('cut')];
  for (const [key, { bytes }] of a) expect(b.get(key)!.bytes).toEqual(bytes);
  const other = await open('single_label_classification', ['question', 'refund', 'praise']);
  other.addAdapter({ r: 2, loraDropout: 0.1 });
  expect((await errorOf(() => events({ ...options(other, 'cut'), maxSteps: 9, resume: true }))).code).toBe(
    'ERR_ARGUMENT',
  );
});

test('wrong rows and options are refused by name', async () => {
  const model = await open();
  model.addAdapter({ r: 2 });
  const run =
    (data: unknown, more: object = {}) =>
    () =>
      events({ model, data, maxSteps: 1, ...more } as never);
  const row = { text: 'a', label: 'refund' };
  const cases: [() => unknown, string, string][] = [
    [run([{ text: 'a', label: 'refnd' }]), 'ERR_DATA', "did you mean 'refund'"],
    [run([{ text: 'a', label: 3 }]), 'ERR_DATA', 'an index from 0 to 2 but received 3'],
    [run([{ text: 'a', label: ['refund'] }]), 'ERR_DATA', 'expected one label'],
    [run([{ text: 'a' }]), 'ERR_DATA', 'but received undefined'],
    [run([{ label: 1 }]), 'ERR_DATA', 'at least one token'],
    [run([{ inputIds: [], label: 1 }]), 'ERR_DATA', 'at least one token'],
    [run([row], { packing: true, schedule: 'constant' }), 'ERR_UNSUPPORTED', 'packing'],
    [run([row], { beta: 0.1 }), 'ERR_ARGUMENT', 'expected beta with'],
    [run([row], { classWeights: [1, 2] }), 'ERR_ARGUMENT', 'of 3 numbers'],
    [run([row], { classWeights: [1, 2, -1] }), 'ERR_ARGUMENT', 'at least 0'],
    [() => new Trainer({ model, data: [row], maxSteps: 1 }), 'ERR_UNSUPPORTED', "objective: 'classify'"],
  ];
  for (const [call, code, sentence] of cases) {
    const error = await errorOf(call);
    expect([error.code, error.message]).toEqual([code, expect.stringContaining(sentence)]);
  }
  const several = await open('multi_label_classification');
  several.addAdapter({ r: 2 });
  for (const [data, more, sentence] of [
    [[{ text: 'a', label: 'refund' }], {}, 'expected a list of labels'],
    [[{ text: 'a', labels: ['refund'] }], { classWeights: [1, 2, 3] }, 'with one label for a text'],
  ] as const)
    expect((await errorOf(() => events({ model: several, data, maxSteps: 1, ...more }))).message).toContain(
      sentence,
    );
  const language = await CausalLM.fromPretrained(base, { dtype: 'f32' });
  models.push(language);
  language.addAdapter({ r: 2 });
  expect(
    (await errorOf(() => new Trainer({ model: language, data: [row], objective: 'classify' }))).message,
  ).toContain("load it with head: { type: 'classify', labels }");
});

test('files give rows of texts and ids, cut at their end', async () => {
  const { tokenizer } = await open();
  const read = async (name: string, text: string, more: object = {}) => {
    writeFileSync(join(scratch, name), text);
    return loadDataset(join(scratch, name), { tokenizer, objective: 'classify', ...more });
  };
  const data = await read('a.jsonl', '{"text":"abcdef","label":"refund"}\n{"text":"b","label":2}\n', {
    maxLength: 4,
  });
  expect([...data]).toEqual([
    { inputIds: [256, 97, 98, 99], label: 'refund' },
    { inputIds: [256, 98], label: 2 },
  ]);
  expect([data.length, data.truncated, data.dropped, data.tokens]).toEqual([2, 1, 0, 6]);
  const table = await read('b.csv', 'q,l\nhello,refund\n', { columns: { text: 'q', label: 'l' } });
  expect([...table]).toEqual([{ inputIds: [256, 104, 101, 108, 108, 111], label: 'refund' }]);
  const many = await read('c.jsonl', '{"inputIds":[1,2],"labels":["refund",1]}\n');
  expect([...many]).toEqual([{ inputIds: [1, 2], label: ['refund', 1] }]);
  for (const [line, sentence] of [
    ['{"text":"a"}', 'expected one of { inputIds, label }'],
    ['{"text":"a","label":true}', 'expected "label" to be a name, a number or a list'],
    ['{"text":5,"label":1}', 'expected "text" to be a string'],
    ['{"inputIds":[],"label":1}', 'expected "inputIds" to be token ids'],
  ])
    expect((await errorOf(() => read('d.jsonl', `${line}\n`))).message).toContain(sentence);
});
