// N ranks train as one process with N times the batches in a step. Here they live in one process; distributed.test.ts runs them on MPI.
import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { CausalLM, Trainer, type LoRAConfigInput, type TrainerOptions } from '../../lib/index';
import type { TrainerResult } from '../../lib/train';
import { expectReject } from '../support/errors';
import { Reference } from '../../lib/train/objectives/reference';
import { OutputDirectory } from '../../lib/train/output';
import { fillAdapter } from '../support/fill_adapter';
import { bits } from '../support/numbers';
import { ranksInMemory } from '../support/ranks';
import { makeRows, type StepOf } from '../support/training';
import { tinyModel } from '../support/tiny_model';

let dir: string;
const models: CausalLM[] = [];

beforeAll(async () => {
  dir = await tinyModel({ tokenizer: false });
  for (let i = 0; i < 4; i++) models.push(await CausalLM.fromPretrained(dir));
});
afterAll(async () => {
  for (const model of models) await model.dispose();
});
afterEach(reset);

type Options = Partial<Omit<TrainerOptions, 'model'>>;
interface Outcome {
  steps: StepOf[];
  evalLosses: number[];
  evalTokens: number[];
  bits: string;
  values: number[];
  result?: TrainerResult;
  error?: Error;
}

const rows = makeRows(26, { prompt: 1 });
const pairs = makeRows(13).map(({ inputIds }, i) => ({
  promptIds: inputIds.slice(0, 2),
  chosenIds: inputIds.slice(2),
  rejectedIds: rows[i]!.inputIds.slice(1),
}));

/** What a rank trains, and what comes out. */
async function train(
  model: CausalLM,
  options: Options,
  adapter: LoRAConfigInput | 'all',
  signal?: AbortSignal,
) {
  const parameters = ((): { name: string }[] => {
    if (adapter === 'all') return model.trainAll();
    const made = model.addAdapter(
      { r: 3, loraAlpha: 6, targetModules: 'all-linear', ...adapter },
      { seed: 2 },
    );
    fillAdapter(made, 3, 0.1);
    return made.parameters();
  })() as ReturnType<CausalLM['trainAll']>;
  const outcome: Outcome = { steps: [], evalLosses: [], evalTokens: [], bits: '', values: [] };
  try {
    const trainer = new Trainer({
      model,
      data: rows,
      batchSize: 2,
      lr: 0.02,
      maxSteps: 6,
      ...options,
    });
    for await (const event of trainer.run({ signal })) {
      if (event.type === 'step') outcome.steps.push(event);
      if (event.type === 'eval') {
        outcome.evalLosses.push(event.loss);
        outcome.evalTokens.push(event.tokens);
      }
      if (event.type === 'end') outcome.result = event;
    }
  } catch (error) {
    outcome.error = error as Error;
  }
  outcome.bits = bits(...parameters);
  outcome.values = parameters.flatMap((p) => [...p.dataSync()]);
  return outcome;
}

/** The same on all ranks at once; options of one rank alone come by its number. */
async function trainRanks(
  size: number,
  options: Options,
  adapter: LoRAConfigInput | 'all' = {},
  own: Record<number, Options> = {},
) {
  const { groups, sent } = ranksInMemory(size);
  const outcomes = await Promise.all(
    groups.map((distributed, rank) =>
      train(models[rank]!, { ...options, ...own[rank], distributed }, adapter),
    ),
  );
  await reset();
  return { outcomes, sent: sent() };
}

/** Every run begins with the same models. */
async function reset(): Promise<void> {
  for (const [i, model] of models.entries()) {
    for (const name of [...model.adapters.keys()]) await model.removeAdapter(name);
    if (model.numTrainable === 0) continue;
    await model.dispose();
    models[i] = await CausalLM.fromPretrained(dir);
  }
}

function expectClose(a: readonly number[], b: readonly number[], within: number): void {
  expect(a.length).toBe(b.length);
  const largest = Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));
  expect(largest).toBeLessThan(within);
}

const cases: { name: string; options: Options; adapter?: LoRAConfigInput | 'all' }[] = [
  { name: 'LoRA with dropout', options: {}, adapter: { loraDropout: 0.3 } },
  { name: 'packing and NEFTune', options: { packing: true, packLength: 24, neftuneNoiseAlpha: 5 } },
  {
    name: 'epochs, whose last steps leave ranks without a batch',
    options: { maxSteps: undefined, epochs: 2 },
    adapter: { loraDropout: 0.3 },
  },
  {
    name: 'DPO with dropout',
    options: { objective: 'dpo', data: pairs, disableDropout: false, batchSize: 1 },
    adapter: { loraDropout: 0.3 },
  },
  { name: 'all weights', options: { lr: 1e-3 }, adapter: 'all' },
];

describe.each(cases)('$name', ({ options, adapter = {} }) => {
  test.each([
    [2, 1],
    [2, 2],
    [4, 1],
  ])(
    '%i ranks × %i batches are one process with as many, and repeat bit for bit',
    async (ranks, accumulation) => {
      const one = await train(
        models[0]!,
        { ...options, gradientAccumulationSteps: ranks * accumulation },
        adapter,
      );
      await reset();
      const share = { ...options, gradientAccumulationSteps: accumulation };
      const { outcomes } = await trainRanks(ranks, share, adapter);
      for (const { error, steps, bits: own } of outcomes) {
        expect(error).toBeUndefined();
        expect(own).toBe(outcomes[0]!.bits);
        expect(steps.map(({ tokens }) => tokens)).toEqual(one.steps.map(({ tokens }) => tokens));
        expect(steps.map(({ lr }) => lr)).toEqual(one.steps.map(({ lr }) => lr));
        expectClose(
          steps.map(({ loss }) => loss),
          one.steps.map(({ loss }) => loss),
          2e-5,
        );
        expectClose(
          steps.map(({ gradNorm }) => gradNorm),
          one.steps.map(({ gradNorm }) => gradNorm),
          1e-3,
        );
      }
      // AdamW divides by the size of a gradient: one that is nearly 0 moves its weight by lr in either direction.
      const distances = outcomes[0]!.values.map((value, i) => Math.abs(value - one.values[i]!));
      expect(distances.reduce((a, b) => a + b, 0) / distances.length).toBeLessThan(1e-4);
      expect((await trainRanks(ranks, share, adapter)).outcomes[0]!.bits).toBe(outcomes[0]!.bits);
    },
  );
});

test('figures of preferences are those of all ranks', async () => {
  const options: Options = { objective: 'dpo', data: pairs, batchSize: 2, maxSteps: 2 };
  const one = await train(models[0]!, { ...options, gradientAccumulationSteps: 2 }, {});
  await reset();
  const { outcomes } = await trainRanks(2, options);
  for (const { steps } of outcomes)
    for (const [i, { metrics }] of steps.entries()) {
      const names = Object.keys(one.steps[i]!.metrics!);
      expect(names.length).toBeGreaterThan(3);
      expectClose(
        names.map((name) => metrics![name]!),
        names.map((name) => one.steps[i]!.metrics![name]!),
        1e-4,
      );
    }
});

test.each<[string, Options]>([
  ['examples', { evalData: makeRows(7, { seed: 8 }) }],
  ['fewer batches than ranks', { evalData: makeRows(3, { seed: 8 }) }],
  ['pairs', { evalData: pairs.slice(0, 7), data: pairs, objective: 'dpo' }],
])('evaluations are shared: %s', async (_, extra) => {
  const options: Options = { maxSteps: 2, evalEvery: 1, ...extra };
  const one = await train(models[0]!, { ...options, gradientAccumulationSteps: 3 }, {});
  await reset();
  const { outcomes } = await trainRanks(3, options);
  for (const { evalLosses, evalTokens } of outcomes) {
    expect(evalLosses).toEqual(outcomes[0]!.evalLosses);
    expect(evalTokens).toEqual(one.evalTokens);
    expectClose(evalLosses, one.evalLosses, 2e-5);
  }
});

test('gradients of an adapter cross the wire once in each direction, and nothing else does', async () => {
  const { outcomes, sent } = await trainRanks(2, { maxSteps: 3 });
  const perStep = sent / 3;
  const numbers = outcomes[0]!.values.length;
  expect(perStep).toBeGreaterThanOrEqual(4 * numbers);
  expect(perStep).toBeLessThan(4 * numbers * 1.01 + 400);
});

test('gradients in bf16 take half of the bytes, and each number is rounded once', async () => {
  const whole = await trainRanks(2, { maxSteps: 3 });
  const { outcomes, sent } = await trainRanks(2, { maxSteps: 3, distributedDtype: 'bf16' });
  expect(sent).toBe(whole.sent / 2);
  expect(outcomes[1]!.bits).toBe(outcomes[0]!.bits);
  expect(outcomes[0]!.bits).not.toBe(whole.outcomes[0]!.bits);
  const norms = ({ steps }: Outcome) => steps.map(({ gradNorm }) => gradNorm);
  const [own, exact] = [norms(outcomes[0]!), norms(whole.outcomes[0]!)];
  expect(Math.abs(own[0]! / exact[0]! - 1)).toBeLessThan(2 ** -8); // of the same weights
  expect(own[0]).not.toBe(exact[0]);
  const losses = ({ steps }: Outcome) => steps.map(({ loss }) => loss);
  expectClose(losses(outcomes[0]!), losses(whole.outcomes[0]!), 2e-3);
});

describe('grpo', () => {
  const prompts = Array.from({ length: 12 }, (_, i) => ({ promptIds: [1 + i, 7, 30 + 3 * i] }));
  const asked: unknown[][] = [[], []];
  const options = {
    ...{ objective: 'grpo', data: prompts, evalData: prompts.slice(0, 5), evalEvery: 2, numGenerations: 4 },
    ...{ maxCompletionLength: 6, lossType: 'grpo', beta: 0.1, numIterations: 2, maxSteps: 4, lr: 1e-3 },
    rewards: [
      ({ completionIds }: { completionIds: number[] }) =>
        completionIds.filter((id) => id % 2 === 0).length / completionIds.length,
    ],
  } as unknown as Options;
  const counting = (rank: number) =>
    ({ rewards: [(one: object) => asked[rank]!.push(one) % 3] }) as unknown as Options;

  test('ranks complete and reward their own prompts, and learn what one process does', async () => {
    const one = await train(models[0]!, { ...options, gradientAccumulationSteps: 2 }, {});
    await reset();
    const { outcomes } = await trainRanks(2, options);
    for (const { error, steps, evalLosses, evalTokens, bits: own } of outcomes) {
      expect(error).toBeUndefined();
      expect(own).toBe(outcomes[0]!.bits);
      expect(evalTokens).toEqual(one.evalTokens);
      expectClose(evalLosses, one.evalLosses, 1e-5);
      for (const [i, { loss, gradNorm, metrics }] of steps.entries()) {
        const all = one.steps[i]!;
        expectClose([loss, gradNorm], [all.loss, all.gradNorm], 1e-4);
        expect(Object.keys(metrics!).sort()).toEqual(Object.keys(all.metrics!).sort());
        for (const name of Object.keys(metrics!)) expectClose([metrics![name]!], [all.metrics![name]!], 1e-4);
      }
    }
    // A generation of 2 batches of 2 prompts, of which a rank has one.
    await trainRanks(
      2,
      { ...options, maxSteps: 2, evalEvery: undefined },
      {},
      { 0: counting(0), 1: counting(1) },
    );
    expect(asked.map(({ length }) => length)).toEqual([8, 8]);
  });

  test('a rank whose rewards take long does not hang', async () => {
    const rewards = [async () => setTimeout(2200, 1)];
    const slow = { ...options, evalEvery: undefined, numIterations: 1, maxSteps: 2, distributedTimeout: 1.5 };
    const { outcomes } = await trainRanks(2, slow, {}, { 1: { rewards } as unknown as Options });
    expect(outcomes.map(({ error }) => error)).toEqual([undefined, undefined]);
  });

  test('a checkpoint between two steps on the same completions has all that the second needs', async () => {
    const outDir = join(mkdtempSync(join(tmpdir(), 'ranks-')), 'run');
    const through = await trainRanks(2, options);
    await trainRanks(2, { ...options, outDir, saveEvery: 1, saveLimit: 4 });
    for (const step of [1, 3]) {
      const again = await trainRanks(2, { ...options, resume: join(outDir, `checkpoint-${step}`) });
      expect(again.outcomes.map((own) => own.error)).toEqual([undefined, undefined]);
      expect(again.outcomes.map((own) => own.bits)).toEqual(through.outcomes.map((own) => own.bits));
    }
  });
});

test.each(['dpo', 'kto'] as const)(
  'the reference of %s is computed once among all ranks',
  async (objective) => {
    const data =
      objective === 'dpo'
        ? pairs
        : pairs.map(({ promptIds, chosenIds }, i) => ({
            promptIds,
            completionIds: chosenIds,
            label: i % 2 === 0,
          }));
    const options: Options = { objective, data, precomputeReference: true, maxSteps: 3 };
    const one = await train(models[0]!, { ...options, gradientAccumulationSteps: 2 }, {});
    await reset();
    const scored = jest.spyOn(Reference.prototype, 'add');
    const { outcomes } = await trainRanks(2, options);
    expect(scored).toHaveBeenCalledTimes(objective === 'dpo' ? 7 : 14); // of 7 batches
    jest.restoreAllMocks();
    for (const { error, steps } of outcomes) {
      expect(error).toBeUndefined();
      expectClose(
        steps.map(({ loss }) => loss),
        one.steps.map(({ loss }) => loss),
        1e-4,
      );
    }
  },
);

test('rank 0 writes, and a run goes on with other shares of the same step', async () => {
  const outDir = join(mkdtempSync(join(tmpdir(), 'ranks-')), 'run');
  const whole: Options = { maxSteps: 4, gradientAccumulationSteps: 2 };
  const { outcomes: through } = await trainRanks(2, whole, { loraDropout: 0.3 });
  const first = await trainRanks(
    2,
    { ...whole, outDir, saveEvery: 2, earlyStopping: undefined },
    { loraDropout: 0.3 },
  );
  expect(first.outcomes.map(({ result }) => result?.dir)).toEqual([outDir, undefined]);
  expect(readdirSync(outDir)).toEqual(
    expect.arrayContaining(['adapter_model.safetensors', 'checkpoint-2', 'checkpoint-4']),
  );
  const resume = join(outDir, 'checkpoint-2');
  const again = await trainRanks(2, { ...whole, resume }, { loraDropout: 0.3 });
  expect(again.outcomes.map((one) => one.bits)).toEqual(through.map((one) => one.bits));
  const four = await trainRanks(4, { ...whole, gradientAccumulationSteps: 1, resume }, { loraDropout: 0.3 });
  expectClose(
    four.outcomes[3]!.steps.map(({ loss }) => loss),
    through[0]!.steps.slice(2).map(({ loss }) => loss),
    1e-4,
  );
  const wrong = await trainRanks(2, { ...whole, gradientAccumulationSteps: 1, resume });
  expect(wrong.outcomes[1]!.error?.message).toMatch(
    /gradientAccumulationSteps was 4 and is 2, which 2 ranks with gradientAccumulationSteps 2 have/,
  );
  const three = await trainRanks(3, { ...whole, gradientAccumulationSteps: 1, resume });
  expect(three.outcomes[1]!.error?.message).toMatch(/which 1, 2, 4 ranks can have, and not 3/);
});

describe('ranks that are not alike', () => {
  const errorsOf = async (size: number, own: Record<number, Options>, options: Options = {}) => {
    const { outcomes } = await trainRanks(size, options, {}, own);
    return outcomes.map(({ error }) => error?.message ?? 'none');
  };

  test('other settings are refused before the first step, by name', async () => {
    for (const message of await errorsOf(3, { 2: { lr: 0.03 } }))
      expect(message).toMatch(/rank 2 is to train something else than rank 0: lr was 0.02 and is 0.03/);
    for (const message of await errorsOf(2, { 1: { distributedDtype: 'bf16' } }))
      expect(message).toMatch(/rank 1 is to .* rank 0: distributedDtype was "f32" and is "bf16"/);
  });

  test('other data are refused before the weights change, by name', async () => {
    const other = rows.map((row, i) => (i === 3 ? { ...row, inputIds: [...row.inputIds].reverse() } : row));
    const { outcomes } = await trainRanks(3, { maxSteps: 14 }, {}, { 1: { data: other } });
    for (const { error } of outcomes)
      expect(error?.message).toMatch(/rank 1 has other batches than the other ranks/);
    for (const { bits: own } of outcomes) expect(own).toBe(outcomes[0]!.bits);
  });

  test('a live stream is taken as long as all ranks see the same', async () => {
    const stream = async function* () {
      for (const row of rows) yield await Promise.resolve(row);
    };
    expect(await errorsOf(2, {}, { data: stream, maxSteps: 3 })).toEqual(['none', 'none']);
  });

  test('parameters that come apart end the run, by name', async () => {
    const spoilt = async function* () {
      for (const [i, row] of rows.entries()) {
        if (i === 12)
          models[1]!
            .activeAdapter!.parameters()[0]!
            .copyFrom(models[1]!.activeAdapter!.parameters()[0]!.mul(1.0001));
        yield await Promise.resolve(row);
      }
    };
    const calm = async function* () {
      for (const row of rows) yield await Promise.resolve(row);
    };
    const messages = await errorsOf(
      3,
      { 1: { data: spoilt } },
      { data: calm, shuffleWindow: 1, maxSteps: 4 },
    );
    for (const message of messages) expect(message).toMatch(/the parameters of rank 1 differ/);
  });
});

describe('how ranks end', () => {
  test('a rank that fails ends the others, by name and with its reason', async () => {
    const failing = async function* () {
      for (const row of rows.slice(0, 9)) yield await Promise.resolve(row);
      throw new Error('the disk of this rank is gone');
    };
    const calm = async function* () {
      for (const row of rows) yield await Promise.resolve(row);
    };
    const outDir = join(mkdtempSync(join(tmpdir(), 'ranks-')), 'run');
    const { outcomes } = await trainRanks(
      3,
      { data: calm, outDir, shuffleWindow: 1 },
      {},
      { 1: { data: failing } },
    );
    expect(outcomes[1]!.error?.message).toBe('the disk of this rank is gone');
    for (const rank of [0, 2])
      expect(outcomes[rank]!.error?.message).toBe(
        '[distributed] rank 1 failed: the disk of this rank is gone',
      );
    expect(readdirSync(outDir)).toEqual([`checkpoint-${outcomes[0]!.steps.length}`]);
  });

  test('a last save that fails on rank 0 fails the run of all', async () => {
    const outDir = join(mkdtempSync(join(tmpdir(), 'ranks-')), 'run');
    jest.spyOn(OutputDirectory.prototype, 'saveFinal').mockRejectedValue(new Error('no room'));
    const { outcomes } = await trainRanks(2, { maxSteps: 1, outDir });
    jest.restoreAllMocks();
    expect(outcomes.map(({ error }) => error?.message)).toEqual([
      'no room',
      '[distributed] rank 0 failed: no room',
    ]);
  });

  test('an abort of any rank ends all of them, after rank 0 has saved', async () => {
    const outDir = join(mkdtempSync(join(tmpdir(), 'ranks-')), 'run');
    const { groups } = ranksInMemory(3);
    const controller = new AbortController();
    const outcomes = await Promise.all(
      groups.map((distributed, rank) => {
        const data = async function* () {
          for (const [i, row] of rows.entries()) {
            if (rank === 2 && i === 16) controller.abort(new Error('SIGTERM'));
            yield await Promise.resolve(row);
          }
        };
        const options = { data, distributed, outDir, shuffleWindow: 1, maxSteps: 4 };
        return train(models[rank]!, options, {}, rank === 2 ? controller.signal : undefined);
      }),
    );
    expect(outcomes[2]!.error).toBe(controller.signal.reason);
    for (const rank of [0, 1])
      expect(outcomes[rank]!.error?.message).toBe('[distributed] rank 2 was stopped: SIGTERM');
    expect(readdirSync(outDir)).toEqual([`checkpoint-${outcomes[0]!.steps.length}`]);
    expect(outcomes[0]!.bits).toBe(outcomes[1]!.bits);
  });

  test('a rank that hangs is named after distributedTimeout', async () => {
    const data = async function* () {
      for (const row of rows.slice(0, 9)) yield await Promise.resolve(row);
      await new Promise(() => undefined);
    };
    const calm = async function* () {
      for (const row of rows) yield await Promise.resolve(row);
    };
    const { groups } = ranksInMemory(2);
    const stuck = new AbortController();
    const runs = groups.map((distributed, rank) =>
      train(
        models[rank]!,
        { data: rank === 1 ? data : calm, distributed, shuffleWindow: 1, distributedTimeout: 0.5 },
        {},
        rank === 1 ? stuck.signal : undefined,
      ),
    );
    const first = await runs[0]!;
    expect(first.error?.message).toMatch(/rank 1 made no progress for 0.5 s, while this rank waited/);
    stuck.abort(new Error('enough'));
    await runs[1]!;
  });

  test('a step that is not finite ends all ranks before the weights change', async () => {
    const options: Options = { lr: 1e30, maxGradNorm: 0, optimizer: 'sgd', maxSteps: 6 };
    const { outcomes } = await trainRanks(2, options);
    for (const { error } of outcomes) expect(error?.message).toMatch(/the gradient norm/);
    expect(outcomes[0]!.bits).toBe(outcomes[1]!.bits);
  });

  test('only groups are taken', async () => {
    const given = { distributed: 'mpi' } as unknown as Options;
    await expectReject(
      train(models[0]!, given, {}).then(({ error }) => Promise.reject(error as Error)),
      'ERR_ARGUMENT',
      /expected distributed to be what mpi\(\) gives/,
    );
  });
});
