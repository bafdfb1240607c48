/** Training on rewards: what TRL's formulas give, what a run depends on, what goes wrong with rewards. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, Trainer, type RewardFunction, type TrainerOptions } from '../../lib/index';
import { expectReject, expectThrow } from '../support/errors';
import { describeWithData } from '../support/shared_data';
import { freshRuns } from '../support/temporary';
import { collect, editCheckpoint, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const fresh = freshRuns();

const camel = (key: string): string => key.replace(/_(.)/g, (_, c: string) => c.toUpperCase());
const camelKeys = (o: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(o).map(([key, value]) => [camel(key), value]));

interface Row {
  promptIds: number[];
  completionIds: number[];
  reward: number;
}
interface Recorded {
  settings: Record<string, number>;
  steps: { loss: number; grad_norm: number; metrics: Record<string, number> }[];
  generations: { metrics: Record<string, number> }[];
}

describe.each(['grpo', 'grpo-kl', 'bnpo', 'dr-grpo', 'dapo', 'gspo'])('losses and figures of %s', (name) =>
  describeWithData('are those of TRL', `golden-objectives/${name}`, (folder) => {
    test('step by step', async () => {
      const read = (file: string): unknown => JSON.parse(readFileSync(join(folder, file), 'utf8'));
      const { settings, steps, generations } = read('record.json') as Recorded;
      const rows = (read('rows.json') as object[]).map(camelKeys) as unknown as Row[];
      const model = await CausalLM.fromPretrained(join(folder, '../model'), { dtype: 'f32' });
      await model.loadAdapter(join(folder, 'adapter_init'), { trainable: true });
      const {
        steps: maxSteps,
        batchSize,
        numGenerations,
        ...words
      } = camelKeys(settings) as Record<string, number>;
      const n = numGenerations!;
      const groups = rows.flatMap((_, i) => (i % n === 0 ? [rows.slice(i, i + n)] : []));
      const reward = new Map(rows.map((row) => [String([row.promptIds, row.completionIds]), row.reward]));
      const options = {
        ...{ ...words, numGenerations: n, batchSize: batchSize! / n, maxSteps, shuffleWindow: 1 },
        ...{ schedule: 'constant', objective: 'grpo', model },
        data: () => groups.map(([row], index) => ({ promptIds: row!.promptIds, index })).values(),
        rollout: (prompts: { row: { index: number } }[]) =>
          prompts.map(({ row }) => groups[row.index]!.map(({ completionIds }) => ({ completionIds }))),
        rewards: [({ promptIds, completionIds }: Row) => reward.get(String([promptIds, completionIds]))!],
      } as unknown as TrainerOptions;
      const found = (await collect(new Trainer(options))).steps;
      expect(found).toHaveLength(steps.length);
      for (const [i, want] of steps.entries()) {
        const { loss, gradNorm, metrics } = found[i]!;
        expect(loss).toBeCloseTo(want.loss, 4);
        expect(gradNorm / want.grad_norm).toBeCloseTo(1, 4);
        const figures = { ...want.metrics, ...generations[Math.floor(i / words['numIterations']!)]!.metrics };
        for (const [key, value] of Object.entries(figures))
          expect([key, metrics![key]]).toEqual([key, expect.closeTo(value, 4)]);
      }
      await model.dispose();
    });
  }),
);

const prompts = Array.from({ length: 6 }, (_, i) => ({ promptIds: [1 + i, 7, 30 + 3 * i], i }));
/** Likes even tokens. */
const even: RewardFunction = ({ completionIds }) =>
  completionIds.filter((id) => id % 2 === 0).length / completionIds.length;

function trainer(options: Partial<TrainerOptions> = {}): Trainer {
  return new Trainer({
    ...{ model: fixture.model, data: prompts, objective: 'grpo', rewards: [even], numGenerations: 4 },
    ...{ batchSize: 2, lr: 1e-2, maxCompletionLength: 6, maxSteps: 4, schedule: 'constant', ...options },
  });
}
const added = () => fixture.addAdapter('a');
const steps = async (options: Partial<TrainerOptions> = {}) => (await collect(trainer(options))).steps;

test('a policy learns what is rewarded', async () => {
  added();
  const found = await steps({ maxSteps: 40, lr: 3e-2, numGenerations: 8 });
  const reward = (from: number, to: number): number =>
    found.slice(from, to).reduce((sum, { metrics }) => sum + metrics!['reward']!, 0) / (to - from);
  expect(reward(32, 40)).toBeGreaterThan(reward(0, 8) + 0.04);
});

test('a step has the figures of its completions, the second step on them those of its ratios', async () => {
  added();
  const [first, second, third] = await steps({ numIterations: 2, maxSteps: 3, beta: 0.1 });
  for (const key of [
    'reward',
    'reward_std',
    'rewards/even/mean',
    'completions/mean_length',
    'frac_reward_zero_std',
  ])
    expect(second!.metrics![key]).toBe(first!.metrics![key]);
  expect(first!.metrics!['rewards/even/mean']).toBe(first!.metrics!['reward']);
  expect(third!.metrics!['reward']).not.toBe(first!.metrics!['reward']);
  expect(first!.metrics!['kl']).toBeGreaterThan(0);
  expect(first!.metrics!['sampling/sampling_logp_difference/mean']).toBeLessThan(1e-4);
  expect(second!.metrics).not.toHaveProperty('sampling/sampling_logp_difference/mean');
  expect(first!.metrics!['completions/max_length']).toBeLessThanOrEqual(6);
});

test.each([
  ['one step on completions', {}],
  ['two steps on completions, in the middle', { numIterations: 2, beta: 0.05 }],
  ['batches of a step', { gradientAccumulationSteps: 2, numIterations: 3, batchSize: 1 }],
] as [string, Partial<TrainerOptions>][])(
  'a run that is cut in two is the whole run: %s',
  async (_, options) => {
    const whole = added();
    const all = await steps({ ...options, maxSteps: 5 });
    const want = weights(whole);
    await fixture.model.removeAdapter('a');

    added();
    const outDir = fresh();
    const begun = await steps({ ...options, maxSteps: 3, saveEvery: 3, outDir });
    await fixture.model.removeAdapter('a');
    const resumed = added();
    let asked = 0;
    const rewards: RewardFunction[] = [
      Object.defineProperty((one: Parameters<RewardFunction>[0]) => (asked++, even(one)), 'name', {
        value: 'even',
      }),
    ];
    const rest = await steps({ ...options, maxSteps: 5, outDir, resume: true, rewards });
    const figures = (list: typeof all) => list.map(({ step, loss, metrics }) => ({ step, loss, metrics }));
    expect(figures([...begun, ...rest])).toEqual(figures(all));
    expect(weights(resumed)).toEqual(want);
    // Completions of a step before are not made again.
    const { numIterations = 1, batchSize = 2, gradientAccumulationSteps = 1 } = options;
    const generations = Math.ceil(5 / numIterations) - Math.ceil(3 / numIterations);
    expect(asked).toBe(generations * batchSize * gradientAccumulationSteps * 4);
  },
);

test('a run with other rewards or settings does not go on with it', async () => {
  added();
  const outDir = fresh();
  await steps({ maxSteps: 1, saveEvery: 1, outDir });
  const other: RewardFunction = () => 1;
  for (const options of [
    { rewards: [other] },
    { epsilon: 0.3 },
    { numGenerations: 2 },
    { generation: { topK: 5 } },
  ])
    await expectReject(trainer({ ...options, outDir, resume: true }).run(), 'ERR_ARGUMENT', /other settings/);
});

test('completions of a checkpoint that are damaged are refused', async () => {
  added();
  const outDir = fresh();
  const options = { numIterations: 2, beta: 0.05, outDir };
  await steps({ ...options, maxSteps: 1, saveEvery: 1 });
  const rolled = { promptIds: [1], completionIds: [2, 3], advantage: 1, reference: [-1, -2] };
  const whole = { index: 0, batches: [[rolled]], metrics: {} };
  for (const [state, sentence] of [
    [3, /not those of a run on rewards/],
    ['{', /the completions of the checkpoint/],
    ...[
      { ...whole, index: '0' },
      { ...whole, metrics: null },
      { ...whole, batches: [rolled] },
      ...[
        { promptIds: 'a' },
        { completionIds: [0.5, 1] },
        { advantage: null },
        { reference: [-1] },
        { old: [-1, null] },
        { sampled: 'x' },
      ].map((change) => ({ ...whole, batches: [[{ ...rolled, ...change }]] })),
    ].map((damaged) => [JSON.stringify(damaged), /not those of a run on rewards/] as const),
  ] as const) {
    await editCheckpoint(join(outDir, 'checkpoint-1'), (states) => (states['objective'] = { value: state }));
    await expectReject(trainer({ ...options, maxSteps: 2, resume: true }).run(), 'ERR_FILE', sentence);
  }
});

describe('a reward that', () => {
  const failing = async (reward: unknown, options: Partial<TrainerOptions> = {}) => {
    added();
    const outDir = fresh();
    let calls = 0;
    // The first step is rewarded.
    const rewards = [
      (one: Parameters<RewardFunction>[0]) => (calls++ < 8 ? even(one) : (reward as RewardFunction)(one)),
    ];
    const run = trainer({ rewards, outDir, ...options }).run();
    return { run, outDir };
  };
  test.each([
    [
      'throws',
      () => {
        throw new Error('the judge is out');
      },
      /reward .* failed: the judge is out/,
    ],
    ['rejects', () => Promise.reject(new Error('the judge is out')), /reward .* failed: the judge is out/],
    ['is no number', () => NaN, /to be a finite number or null but received NaN/],
    ['is a text', () => '1', /to be a finite number or null but received/],
    ['never ends', () => new Promise(() => {}), /gave nothing within 50 ms \(rewardTimeout\)/],
  ])('%s ends the run with a clear error, and the steps before are kept', async (_, reward, sentence) => {
    const { run, outDir } = await failing(reward, { rewardTimeout: 50 });
    await expectReject(run, 'ERR_DATA', sentence);
    expect(readFileSync(join(outDir, 'checkpoint-1', 'adapter_config.json'), 'utf8')).toContain('LORA');
  });

  test('never ends is left by the signal, and so is a rollout', async () => {
    const stop = new AbortController();
    const forever = () => (
      setTimeout(() => stop.abort(new Error('enough')), 20),
      new Promise<never>(() => {})
    );
    added();
    await expect(trainer({ rewards: [forever] }).run({ signal: stop.signal })).rejects.toThrow('enough');
    const again = new AbortController();
    const rollout = () => (
      setTimeout(() => again.abort(new Error('enough')), 20),
      new Promise<never>(() => {})
    );
    await expect(trainer({ rollout }).run({ signal: again.signal })).rejects.toThrow('enough');
  });
});

test('the signal ends a generation between two tokens', async () => {
  added();
  const stop = new AbortController();
  let tokens = 0;
  const spied = jest.spyOn(fixture.model, 'generate');
  setTimeout(() => stop.abort(new Error('enough')), 30);
  await expect(
    trainer({
      maxCompletionLength: 100,
      numGenerations: 16,
      maxSteps: 1000,
      rewards: [(one) => (tokens += one.completionIds.length)],
    }).run({
      signal: stop.signal,
    }),
  ).rejects.toThrow('enough');
  expect(spied).toHaveBeenCalled();
});

test('null is no reward: without any, nothing is learned', async () => {
  const adapter = added();
  const before = weights(adapter);
  const [step] = await steps({ rewards: [() => null], maxSteps: 1, numGenerations: 2 });
  expect(step!.loss).toBe(0);
  expect(step!.metrics).not.toHaveProperty('rewards/reward_0/mean');
  expect(weights(adapter)).toEqual(before);
});

test('an evaluation is compared by its reward, of the same draws each time', async () => {
  added();
  const { events } = await collect(
    trainer({ evalData: prompts.slice(0, 3), evalEvery: 1, maxSteps: 2, lr: 0 }),
  );
  const evaluations = events.flatMap((event) => (event.type === 'eval' ? [event] : []));
  expect(evaluations.map(({ score, metrics }) => score === metrics!['reward'])).toEqual([true, true]);
  expect(evaluations[0]!.score).toBeGreaterThan(0);
  expect(evaluations[1]!.score).toBe(evaluations[0]!.score);
  expect(evaluations.map(({ best }) => best)).toEqual([true, false]);
});

test('the engine is afterwards as wide as it was, and holds no keys and values', async () => {
  added();
  fixture.model.configureEngine({ maxBatchSize: 3 });
  const lend = jest.spyOn(fixture.model.core, 'lendEngine');
  await steps({ maxSteps: 2, numGenerations: 8, batchSize: 2 });
  expect(lend.mock.results.map(({ value }) => (value as { maxBatchSize: number }).maxBatchSize)).toEqual([
    16, 16,
  ]);
  expect(fixture.model.core.lendEngine(1, 1).maxBatchSize).toBe(3);
  expect(fixture.model.engineStats().kvCacheCapacity).toBe(0);
  fixture.model.configureEngine();
});

test('wrong options and rows are refused by name', async () => {
  added();
  const refused = (
    options: Partial<TrainerOptions>,
    code: 'ERR_ARGUMENT' | 'ERR_UNSUPPORTED',
    sentence: RegExp,
  ) => expectThrow(() => trainer(options), code, sentence);
  refused({ rewards: [] }, 'ERR_ARGUMENT', /expected rewards to be a list of functions/);
  refused({ rewards: undefined }, 'ERR_ARGUMENT', /expected rewards to be a list of functions/);
  refused({ rewardWeights: [1, 2] }, 'ERR_ARGUMENT', /rewardWeights to be 1 finite numbers/);
  refused({ numGenerations: 1 }, 'ERR_ARGUMENT', /numGenerations/);
  refused({ lossType: 'sigmoid' }, 'ERR_ARGUMENT', /lossType/);
  refused({ reference: 'b' }, 'ERR_ARGUMENT', /reference with the objective dpo, kto/);
  refused({ objective: 'dpo' }, 'ERR_ARGUMENT', /expected rewards with the objective grpo/);
  refused({ packing: true }, 'ERR_UNSUPPORTED', /packing is not for the objective grpo/);
  refused({ maxTokens: 5, maxSteps: undefined }, 'ERR_UNSUPPORTED', /maxTokens is not/);
  refused({ generation: { n: 3 } as never }, 'ERR_ARGUMENT', /unknown option 'n'/);
  for (const rollout of [
    () => [],
    () => [[{ completionIds: [] }]],
    () => prompts.map(() => [{ completionIds: [1] }]),
  ])
    await expectReject(trainer({ rollout }).run(), 'ERR_DATA', /expected rollout to give 4 completions/);
  await expectReject(trainer({ data: [{ promptIds: [] }] }).run(), 'ERR_DATA', /expected a row \{ prompt \}/);
});
