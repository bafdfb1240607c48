/** Training on preferences: what TRL's formulas give, what a run depends on, what is refused. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  preferenceLoss,
  tensor,
  Trainer,
  type PreferenceLossOptions,
  type PreferenceRow,
  type TrainerOptions,
} from '../../lib/index';
import { fillAdapter } from '../support/fill_adapter';
import { batchOf } from '../../lib/data/batches';
import { answerKind, labeledRows } from '../../lib/data/preference_rows';
import type { AnswerScores } from '../../lib/train/objectives/answer_scores';
import { ktoLoss } from '../../lib/train/objectives/kto_loss';
import { scoringsOf } from '../../lib/train/objectives/preference';
import { expectReject, expectThrow } from '../support/errors';
import { labeled, objectives, pairs, rowsOf } from '../support/preferences';
import { describeWithData } from '../support/shared_data';
import { freshRuns } from '../support/temporary';
import { collect, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const fresh = freshRuns();

function trainer(options: Partial<TrainerOptions> = {}): Trainer {
  const data = rowsOf(options.objective ?? 'dpo');
  return new Trainer({ model: fixture.model, objective: 'dpo', data, batchSize: 2, lr: 1e-2, ...options });
}
async function lossOf(options: Partial<PreferenceLossOptions> = {}): Promise<number> {
  const rows = rowsOf(options.objective ?? 'dpo').slice(0, 4) as PreferenceRow[];
  const { loss } = preferenceLoss({ model: fixture.model, objective: 'dpo', rows, ...options });
  return loss.item();
}

const camel = (key: string): string => key.replace(/_(.)/g, (_, c: string) => c.toUpperCase());
const camelKeys = (o: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(o).map(([key, value]) => [camel(key), value]));

describe.each(['dpo', 'dpo-ipo', 'dpo-robust', 'dpo-smooth', 'dpo-sft', 'orpo', 'cpo', 'simpo', 'kto'])(
  'loss and figures of %s',
  (name) =>
    describeWithData('are those of TRL', `golden-objectives/${name}`, (folder) => {
      test.each(['cpu', 'reference'])('on %s', async (device) => {
        const read = (file: string): unknown => JSON.parse(readFileSync(join(folder, file), 'utf8'));
        const { settings, steps } = read('record.json') as {
          settings: { batch_size: number; gradient_accumulation_steps: number };
          steps: { loss: number; metrics: Record<string, number> }[];
        };
        const model = await CausalLM.fromPretrained(join(folder, '../model'), { dtype: 'f32', device });
        await model.loadAdapter(join(folder, 'adapter_init'), { trainable: true });
        const {
          lr: _,
          steps: __,
          maxGradNorm: ___,
          batchSize,
          gradientAccumulationSteps,
          ...words
        } = camelKeys(settings);
        const rows = (read('rows.json') as object[]).slice(
          0,
          (batchSize as number) * (gradientAccumulationSteps as number),
        );
        const options = {
          ...words,
          model,
          data: rows.map(camelKeys),
          shuffleWindow: 1,
          batchSize,
          gradientAccumulationSteps,
        };
        const ordered = {
          ...options,
          data: () => rows.map(camelKeys).values(),
          maxSteps: 1,
          schedule: 'constant',
        };
        const { steps: got } = await collect(new Trainer(ordered as never));
        const close = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-5 * (Math.abs(b) + 0.1);
        expect(close(got[0]!.loss, steps[0]!.loss)).toBe(true);
        expect(Object.keys(got[0]!.metrics!).sort()).toEqual(Object.keys(steps[0]!.metrics).sort());
        for (const [key, value] of Object.entries(steps[0]!.metrics))
          expect([key, close(got[0]!.metrics![key]!, value)]).toEqual([key, true]);
        await model.dispose();
      });
    }),
);

test('the loss of a step is the mean over its batches, whatever they hold', async () => {
  fixture.addAdapter('mine');
  const data = (): IterableIterator<PreferenceRow> => pairs.slice(0, 3).values();
  const options = { data, shuffleWindow: 1, gradientAccumulationSteps: 2, maxSteps: 1, lr: 0 };
  const { steps } = await collect(trainer(options));
  const first = await lossOf({ rows: pairs.slice(0, 2) });
  const second = await lossOf({ rows: pairs.slice(2, 3) });
  expect(steps[0]!.loss).toBeCloseTo((first + second) / 2, 5);
  const metrics = async (rows: PreferenceRow[]): Promise<Record<string, number>> =>
    preferenceLoss({ model: fixture.model, objective: 'dpo', rows }).metrics();
  const [a, b] = [await metrics(pairs.slice(0, 2)), await metrics(pairs.slice(2, 3))];
  expect(steps[0]!.metrics!['logps/chosen']).toBeCloseTo((a['logps/chosen']! + b['logps/chosen']!) / 2, 4);
});

describe('KTO', () => {
  const scores = (sums: number[]): AnswerScores => ({
    ...{ sums: tensor(sums), lengths: sums.map(() => 1), before: null, beforeCounts: sums.map(() => 0) },
  });
  const settings = {
    objective: 'kto',
    beta: 0.5,
    reference: null,
    desirableWeight: 2,
    undesirableWeight: 3,
  } as const;

  test('takes no divergence below 0, and no figures of labels that a batch lacks', async () => {
    const of = (other: number) =>
      ktoLoss(
        scores([-1, -2]),
        tensor([-2, -2]),
        { policy: tensor([other]), reference: tensor([-4]) },
        [true, true],
        settings,
      );
    const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
    for (const [other, kl] of [
      [-6, 0],
      [-3, 1],
    ] as const) {
      const { sum, measured } = of(other);
      const want = (2 * (1 - sigmoid(0.5 * (1 - kl))) + 2 * (1 - sigmoid(0.5 * (0 - kl)))) / 2;
      expect(await sum.item()).toBeCloseTo(want, 6);
      const metrics = measured!.read(await measured!.values.data());
      expect(metrics).toEqual({ kl, 'rewards/chosen': 0.25, 'logps/chosen': -1.5 });
    }
  });

  test('pairs each prompt with the answer before it, as long as rows may be', () => {
    const rows = answerKind(labeledRows);
    const batch = batchOf(
      rows,
      labeled.slice(0, 3).map((row) => rows.read('batches', row, 'row')),
    );
    const others = (maxLength?: number) => scoringsOf(settings, batch, maxLength)[0]!.texts.inputIds;
    const of = (i: number, answer: number): number[] => [
      ...labeled[i]!.promptIds,
      ...labeled[answer]!.completionIds,
    ];
    expect(others()).toEqual([of(0, 2), of(1, 0), of(2, 1)]);
    expect(others(5)).toEqual([of(0, 2).slice(0, 5), of(1, 0).slice(0, 5), of(2, 1).slice(0, 5)]);
    expect(of(0, 2).length).toBeGreaterThan(5);
  });
});

test('figures of a loss can be read again, also after its backward pass', async () => {
  fixture.addAdapter('mine');
  const { loss, metrics } = preferenceLoss({
    model: fixture.model,
    objective: 'orpo',
    rows: pairs.slice(0, 2),
  });
  loss.backward();
  expect(await metrics()).toEqual(await metrics());
});

describe('the reference', () => {
  test('is the base, or a frozen adapter, and stays what it was', async () => {
    const policy = fixture.addAdapter('mine');
    const frozen = fixture.addAdapter('before'); // with the same values
    fixture.model.setAdapter('mine');
    expect(await lossOf({ reference: 'before' })).toBeCloseTo(Math.LN2, 6);
    expect(Math.abs((await lossOf()) - Math.LN2)).toBeGreaterThan(1e-4);
    const before = weights(frozen);
    const { steps } = await collect(trainer({ reference: 'before', maxSteps: 2 }));
    expect(steps[0]!.loss).toBeCloseTo(Math.LN2, 6);
    expect(Math.abs(steps[1]!.loss - Math.LN2)).toBeGreaterThan(1e-4);
    expect(weights(frozen)).toBe(before);
    expect(weights(policy)).not.toBe(before);
  });

  test('cannot be removed while it is read', async () => {
    fixture.addAdapter('mine');
    fixture.addAdapter('before');
    fixture.model.setAdapter('mine');
    for await (const event of trainer({ reference: 'before', maxSteps: 1 }).run())
      if (event.type === 'step')
        await expectReject(fixture.model.removeAdapter('before'), 'ERR_BUSY', /before/);
    await fixture.model.removeAdapter('before');
  });

  test('is that of the run when it goes on', async () => {
    const outDir = fresh();
    fixture.addAdapter('mine');
    const frozen = fixture.addAdapter('before');
    fixture.model.setAdapter('mine');
    const options = { reference: 'before', outDir, schedule: 'constant', saveEvery: 1 } as const;
    await collect(trainer({ ...options, maxSteps: 1 }));
    fillAdapter(frozen, 9, 0.1);
    const resumed = trainer({ ...options, maxSteps: 2, resume: true });
    await expectReject(resumed.run(), 'ERR_ARGUMENT', /referenceValues was/);
  });
});

test('the loss of better answers weighs cpoAlpha, by default 1, and SimPO asks for a margin of 0.5', async () => {
  fixture.addAdapter('mine');
  const of = (options: object): Promise<number> => lossOf({ objective: 'cpo', ...options });
  const [none, half, whole] = [
    await of({ cpoAlpha: 0 }),
    await of({ cpoAlpha: 0.5 }),
    await of({ cpoAlpha: 1 }),
  ];
  expect(whole - none).toBeGreaterThan(1);
  expect(half).toBeCloseTo((none + whole) / 2, 5);
  expect(await of({})).toBe(whole);
  expect(await of({ lossType: 'simpo' })).toBe(await of({ lossType: 'simpo', simpoGamma: 0.5 }));
});

describe('dropout', () => {
  test('is off in evaluations, and part of what a run is', async () => {
    const outDir = fresh();
    const options = { evalData: pairs.slice(0, 3), evalEvery: 1, schedule: 'constant', lr: 0 } as const;
    const evaluated = async (more: Partial<TrainerOptions>): Promise<number> => {
      fixture.addAdapter('mine');
      const { events } = await collect(trainer({ ...options, maxSteps: 1, ...more }));
      await fixture.model.removeAdapter('mine');
      return events.find((e) => e.type === 'eval')!.loss;
    };
    const without = await evaluated({ outDir, saveEvery: 1 });
    expect(await evaluated({ disableDropout: false })).toBe(without);
    fixture.addAdapter('mine');
    const other = { disableDropout: false, outDir, resume: true, maxSteps: 2 };
    await expectReject(trainer({ ...options, ...other }).run(), 'ERR_ARGUMENT', /disableDropout was nothing/);
  });

  test('is off unless it is asked for', async () => {
    const step = async (options: Partial<TrainerOptions> = {}): Promise<number> => {
      fixture.addAdapter('mine'); // drops out 0.3
      const { steps } = await collect(trainer({ ...options, maxSteps: 1 }));
      await fixture.model.removeAdapter('mine');
      return steps[0]!.loss;
    };
    const [off, on] = [await step(), await step({ disableDropout: false })];
    expect(on).not.toBeCloseTo(off, 6);
    expect(await step({ disableDropout: true })).toBe(off);
  });
});

test('an evaluation is the mean over its rows, and is compared by its loss', async () => {
  fixture.addAdapter('mine');
  const options = { evalData: pairs.slice(0, 3), evalEvery: 1, maxSteps: 1, lr: 0, batchSize: 2 };
  const { events } = await collect(trainer(options));
  const found = events.find((e) => e.type === 'eval')!;
  const first = await lossOf({ rows: pairs.slice(0, 2) });
  const second = await lossOf({ rows: pairs.slice(2, 3) });
  expect(found.loss).toBeCloseTo((2 * first + second) / 3, 5);
  const { promptIds: _, ...answers } = pairs[0]!;
  expect(Object.keys(answers)).toEqual(['chosenIds', 'rejectedIds']);
  expect(found.tokens).toBe(
    pairs.slice(0, 3).reduce((sum, row) => sum + row.chosenIds.length + row.rejectedIds.length, 0),
  );
  expect(Object.keys(found.metrics!)).toContain('rewards/accuracies');
  expect(found).toMatchObject({ best: true });
  expect(found).not.toHaveProperty('perplexity');
});

describe.each(objectives)('a run of %s', (objective) => {
  test('goes on bit for bit, and only as what it was', async () => {
    const evalData = rowsOf(objective).slice(0, 3) as PreferenceRow[];
    const options = {
      objective,
      maxSteps: 4,
      saveEvery: 2,
      evalData,
      evalEvery: 2,
      gradientAccumulationSteps: 2,
    };
    const whole = fixture.addAdapter('mine');
    const { steps } = await collect(trainer({ ...options, outDir: fresh(), batchSize: 2 }));
    const trained = weights(whole);
    await fixture.model.removeAdapter('mine');

    const outDir = fresh();
    fixture.addAdapter('mine');
    const stop = new AbortController();
    const first = (async () => {
      for await (const event of trainer({ ...options, outDir }).run({ signal: stop.signal }))
        if (event.type === 'step' && event.step === 2) stop.abort();
    })();
    await expect(first).rejects.toThrow();
    await fixture.model.removeAdapter('mine');

    const again = fixture.addAdapter('mine');
    await expectReject(
      trainer({ ...options, outDir, resume: true, beta: 0.2 }).run(),
      'ERR_ARGUMENT',
      /beta was 0.1 and is 0.2/,
    );
    const { steps: rest } = await collect(trainer({ ...options, outDir, resume: true }));
    expect(rest.map(({ loss, metrics }) => ({ loss, metrics }))).toEqual(
      steps.slice(2).map(({ loss, metrics }) => ({ loss, metrics })),
    );
    expect(weights(again)).toBe(trained);
    const card = readFileSync(join(outDir, 'README.md'), 'utf8');
    expect(card).toContain(`- Objective: \`${objective}, beta 0.1`);
    expect(card).toMatch(/- Training rewards\/chosen: `-?\d/);
    expect(card).not.toContain('perplexity');
  });
});

test('labels of rows are part of the data of a run', async () => {
  const options = { objective: 'kto', maxSteps: 2, saveEvery: 1, schedule: 'constant' } as const;
  const outDir = fresh();
  fixture.addAdapter('mine');
  await collect(trainer({ ...options, outDir }));
  const other = labeled.map((row) => ({ ...row, label: !row.label }));
  const resumed = trainer({ ...options, outDir, data: other, maxSteps: 3, resume: true });
  await expectReject(resumed.run(), 'ERR_DATA', /not that of the run/);
});

test('the default rate is a tenth of that of supervised fine-tuning at most', async () => {
  fixture.addAdapter('mine');
  const { steps } = await collect(trainer({ lr: undefined, maxSteps: 1 }));
  expect(steps[0]!.lr).toBeCloseTo(1e-5, 12);
});

describe('is refused', () => {
  test.each<[options: Partial<TrainerOptions>, code: 'ERR_ARGUMENT' | 'ERR_UNSUPPORTED', message: RegExp]>([
    [{ objective: 'dppo' as never }, 'ERR_ARGUMENT', /objective to be one of sft, dpo, orpo, kto, cpo/],
    [{ packing: true }, 'ERR_UNSUPPORTED', /packing is for supervised/],
    [{ neftuneNoiseAlpha: 5 }, 'ERR_UNSUPPORTED', /neftuneNoiseAlpha is for supervised/],
    [{ beta: -1 }, 'ERR_ARGUMENT', /beta/],
    [{ lossType: 'hinge' as never }, 'ERR_ARGUMENT', /lossType to be one of sigmoid, ipo, robust, sft/],
    [{ lossType: [] }, 'ERR_ARGUMENT', /lossType/],
    [{ lossType: ['sigmoid', 'sft'], lossWeights: [1] }, 'ERR_ARGUMENT', /2 numbers, one for each lossType/],
    [{ lossType: 'ipo', beta: 0 }, 'ERR_ARGUMENT', /beta above 0/],
    [{ lossType: 'robust', labelSmoothing: 0.5 }, 'ERR_ARGUMENT', /below 0.5/],
    [{ cpoAlpha: 1 }, 'ERR_ARGUMENT', /cpoAlpha with the objective cpo but received it with dpo/],
    [{ objective: 'cpo', lossType: ['sigmoid', 'simpo'] }, 'ERR_ARGUMENT', /one lossType/],
    [{ objective: 'cpo', lossType: 'ipo' }, 'ERR_ARGUMENT', /one of sigmoid, simpo/],
    [{ objective: 'cpo', reference: 'other' }, 'ERR_ARGUMENT', /reference with the objective dpo, kto/],
    [{ objective: 'orpo', labelSmoothing: 0.1 }, 'ERR_ARGUMENT', /labelSmoothing with the objective dpo/],
    [{ objective: 'kto', batchSize: 1 }, 'ERR_ARGUMENT', /batchSize of at least 2/],
    [
      { objective: 'orpo', precomputeReference: true },
      'ERR_ARGUMENT',
      /precomputeReference with the objective dpo, kto/,
    ],
    [{ objective: 'sft', beta: 0.1 }, 'ERR_ARGUMENT', /beta with the objective dpo, kto, orpo, cpo/],
    [{ reference: 'mine' }, 'ERR_ARGUMENT', /reference other than the adapter/],
    [{ reference: 'nobody' }, 'ERR_ARGUMENT', /nobody/],
    [{ data: 3 as never }, 'ERR_ARGUMENT', /of \{ promptIds, chosenIds, rejectedIds \}/],
  ])('%j', (options, code, message) => {
    fixture.addAdapter('mine');
    expectThrow(() => trainer(options), code, message);
  });

  test('what TRL has and this has not, as the page says', () => {
    fixture.addAdapter('mine');
    const page = readFileSync(join(__dirname, '../../docs/guides/preferences.md'), 'utf8');
    const rows = [...page.matchAll(/^\| (.*) \| (ERR_ARGUMENT|ERR_UNSUPPORTED)\b.*\|$/gm)];
    const refused = rows.flatMap(([, words, code]) => {
      const objective = /^`loss_type` of (\w+)/.exec(words!)?.[1]?.toLowerCase();
      const names = [...words!.matchAll(/`(\w+)`/g)].map(([, name]) => name!);
      return names.map((name) => ({ objective, name, code: code as 'ERR_ARGUMENT' }));
    });
    expect(refused.length).toBeGreaterThan(30);
    for (const { objective, name, code } of refused) {
      if (name === 'loss_type') continue;
      const option = camel(objective ? 'loss_type' : name);
      const value = objective ? name : name === 'packing' ? true : 1;
      const options = { ...(objective && { objective }), [option]: value };
      expectThrow(() => trainer(options as Partial<TrainerOptions>), code, new RegExp(option));
    }
  });

  test('a row of another kind, with its place', async () => {
    fixture.addAdapter('mine');
    await expectReject(trainer({ data: labeled }).run(), 'ERR_DATA', /example \d: .*chosenIds/);
  });

  test('by preferenceLoss, as by a Trainer', () => {
    const of =
      (options: object): (() => unknown) =>
      () =>
        preferenceLoss({ model: fixture.model, rows: pairs, objective: 'dpo', ...options });
    expectThrow(of({}), 'ERR_ARGUMENT', /trainable adapter/);
    fixture.addAdapter('mine');
    expectThrow(of({ rows: [] }), 'ERR_DATA', /rows to be a list/);
    expectThrow(of({ rows: labeled }), 'ERR_DATA', /row 0: .*chosenIds/);
    expectThrow(of({ reference: 'mine' }), 'ERR_ARGUMENT', /other than the adapter/);
    expectThrow(of({ objective: 'sft' }), 'ERR_ARGUMENT', /'dpo', 'orpo', 'kto', 'cpo'/);
    expectThrow(of({ precomputeReference: true }), 'ERR_ARGUMENT', /precomputeReference/);
  });
});
