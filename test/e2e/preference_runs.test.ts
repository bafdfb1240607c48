/** Runs of preferences that go on, and references that are computed before the first step. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  preferenceLoss,
  Trainer,
  type LabeledRow,
  type PreferenceRow,
  type TrainerOptions,
} from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { expectReject, expectThrow } from '../support/errors';
import { bits } from '../support/numbers';
import { labeled, objectives, pairs, rowsOf, type Preference } from '../support/preferences';
import { freshRuns } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';
import { collect, editCheckpoint, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const fresh = freshRuns();

let base: string;
beforeAll(async () => (base = await tinyModel({ tokenizer: false })));
afterAll(() => rmSync(base, { recursive: true }));

function trainer(options: Partial<TrainerOptions> = {}): Trainer {
  const data = rowsOf(options.objective ?? 'dpo');
  return new Trainer({ model: fixture.model, objective: 'dpo', data, batchSize: 2, lr: 1e-2, ...options });
}

const bases = [
  ['bf16 and an adapter', { dtype: 'bf16' }],
  ['NF4 and an adapter', { quantize: 'nf4' }],
  ['all weights in f32', {}],
  ['all weights in bf16', { dtype: 'bf16' }],
] as const;
describe.each(bases)('a run with %s', (what, load) => {
  test.each(objectives)('of %s goes on bit for bit', async (objective) => {
    const whole = what.startsWith('all');
    const run = async (outDir: string, changes: Partial<TrainerOptions>) => {
      const model = await CausalLM.fromPretrained(base, load);
      const trained = whole ? model.trainAll() : model.addAdapter({ r: 2 }, { seed: 1 }).parameters();
      const precomputeReference = whole && (objective === 'dpo' || objective === 'kto');
      const options = { model, objective, lr: 1e-3, saveEvery: 2, schedule: 'constant' } as const;
      const { steps } = await collect(trainer({ ...options, precomputeReference, outDir, ...changes }));
      const values = bits(...trained);
      await model.dispose();
      return { loss: steps.at(-1)!.loss, values };
    };
    const undisturbed = await run(fresh(), { maxSteps: 4 });
    const outDir = fresh();
    const half = await run(outDir, { maxSteps: 2 });
    expect(half.values).not.toBe(undisturbed.values);
    expect(await run(outDir, { maxSteps: 4, resume: true })).toEqual(undisturbed);
  });
});

describe('a reference that is computed before the first step', () => {
  const run = async (options: Partial<TrainerOptions>) => {
    const adapter = fixture.addAdapter('mine');
    const heads = jest.spyOn(binding(), 'linearCrossEntropy');
    const { events } = await collect(trainer(options));
    const passes = heads.mock.calls.length;
    heads.mockRestore();
    const losses = events.flatMap((e) => (e.type === 'step' || e.type === 'eval' ? [e.loss] : []));
    const trained = weights(adapter);
    await fixture.model.removeAdapter('mine');
    return { losses, trained, passes };
  };

  test('gives what one gives that is computed with each batch, also of held-out rows', async () => {
    const options = { evalData: pairs.slice(8), evalEvery: 1, maxSteps: 3, data: pairs.slice(0, 8) };
    const now = await run(options);
    const before = await run({ ...options, precomputeReference: true });
    expect(before.losses).toHaveLength(6);
    for (const [i, loss] of now.losses.entries()) expect(before.losses[i]).toBeCloseTo(loss, 5);
    // 4 batches of data and 2 that are held out; then 3 steps and 3 evaluations of 2 batches.
    expect(before.passes).toBe(4 + 2 + 3 + 3 * 2);
  });

  test.each<[Preference, texts: number]>([
    ['dpo', 1],
    ['kto', 2],
  ])('of %s is not computed again when the run goes on', async (objective, texts) => {
    const options = { objective, precomputeReference: true, saveEvery: 2, schedule: 'constant' } as const;
    const whole = await run({ ...options, outDir: fresh(), maxSteps: 4 });
    expect(whole.passes).toBe(6 * texts + 4 * texts);
    const outDir = fresh();
    await run({ ...options, outDir, maxSteps: 2 });
    const rest = await run({ ...options, outDir, maxSteps: 4, resume: true });
    expect(rest).toEqual({ losses: whole.losses.slice(2), trained: whole.trained, passes: 2 * texts });
  });

  test('is computed for held-out rows that are new when the run goes on', async () => {
    const outDir = fresh();
    const options = { precomputeReference: true, saveEvery: 1, schedule: 'constant', outDir } as const;
    await run({ ...options, maxSteps: 1, data: pairs.slice(0, 8) });
    const more = { data: pairs.slice(0, 8), evalData: pairs.slice(5, 10), evalEvery: 1, resume: true };
    // The new rows stand in two of the three batches.
    expect((await run({ ...options, ...more, maxSteps: 2 })).passes).toBe(2 + 1 + 2 * 3);
  });

  test('is read from the checkpoint alone, which must have it whole', async () => {
    const outDir = fresh();
    const options = { precomputeReference: true, saveEvery: 1, schedule: 'constant', outDir } as const;
    await run({ ...options, maxSteps: 1 });
    const resume = { ...options, maxSteps: 2, resume: true } as const;
    const checkpoint = join(outDir, 'checkpoint-1');
    fixture.addAdapter('mine');
    await expectReject(
      trainer({ ...resume, precomputeReference: false }).run(),
      'ERR_ARGUMENT',
      /precomputeReference was true and is nothing/,
    );
    await editCheckpoint(checkpoint, (states) => (states['objective'] = { value: 3 }));
    await expectReject(trainer(resume).run(), 'ERR_FILE', /no values of its reference/);
  });

  test('ends where the signal says so', async () => {
    fixture.addAdapter('mine');
    const stop = new AbortController();
    let read = 0;
    const data = function* (): Generator<PreferenceRow> {
      for (const row of pairs) {
        if (++read === 5) stop.abort(new Error('enough'));
        yield row;
      }
    };
    const run = trainer({ data, precomputeReference: true, maxSteps: 1 }).run({ signal: stop.signal });
    await expect(run).rejects.toThrow('enough');
    expect(read).toBeLessThan(8);
  });

  test('needs data that can be read again', () => {
    fixture.addAdapter('mine');
    const once = { [Symbol.iterator]: () => pairs.values(), next: () => ({ done: true, value: undefined }) };
    const data = once as unknown as PreferenceRow[];
    const options = { precomputeReference: true, maxSteps: 1 };
    expectThrow(() => trainer({ ...options, data }), 'ERR_ARGUMENT', /read more than once/);
    const held = { ...options, evalData: data, evalEvery: 1 };
    expectThrow(() => trainer(held), 'ERR_ARGUMENT', /read more than once/);
  });

  test('of all weights is what they were', async () => {
    for (const objective of ['dpo', 'kto'] as const) {
      const model = await CausalLM.fromPretrained(base);
      model.trainAll();
      const options = { model, objective, batchSize: 2, maxSteps: 3, lr: 1e-3 } as const;
      expectThrow(() => trainer(options), 'ERR_ARGUMENT', /precomputeReference: true/);
      const { steps } = await collect(trainer({ ...options, precomputeReference: true }));
      const first = objective === 'dpo' ? Math.LN2 : 0.5;
      expect(steps[0]!.loss).toBeCloseTo(first, 5);
      expect(Math.abs(steps[2]!.loss - first)).toBeGreaterThan(1e-5);
      await model.dispose();
    }
  });
});

describe('KTO with a reference that is computed before', () => {
  const settings = { objective: 'kto', maxSteps: 1, lr: 0 } as const;
  const inOrder = (rows: readonly LabeledRow[]) => ({ data: () => rows.values(), shuffleWindow: 1 });
  const stepOf = async (options: Partial<TrainerOptions>) => {
    fixture.addAdapter('mine');
    const { steps } = await collect(trainer({ ...settings, batchSize: 3, ...options }));
    await fixture.model.removeAdapter('mine');
    return steps[0]!;
  };

  test('is the same where batches are those of the data', async () => {
    const now = await stepOf(inOrder(labeled));
    const before = await stepOf({ ...inOrder(labeled), precomputeReference: true });
    expect(now.metrics!['kl']).toBeGreaterThan(0);
    expect(before.loss).toBeCloseTo(now.loss, 5);
    for (const [name, value] of Object.entries(now.metrics!))
      expect(before.metrics![name]).toBeCloseTo(value, 4);
  });

  test('has the pairs of its data, whatever rows are held out', async () => {
    const held = labeled.slice(0, 6).reverse();
    const run = async (options: Partial<TrainerOptions>) => {
      const adapter = fixture.addAdapter('mine');
      const more = { precomputeReference: true, batchSize: 2, maxSteps: 3, lr: 1e-2, ...options };
      await collect(trainer({ ...settings, ...more }));
      const trained = weights(adapter);
      await fixture.model.removeAdapter('mine');
      return trained;
    };
    expect(await run({ evalData: held, evalEvery: 1 })).toBe(await run({}));
  });

  test('pairs prompts by the order of the data, whatever batch they are in', async () => {
    // One batch of all rows: its divergence is the mean over the pairs of three rows each.
    const rows = labeled.slice(0, 6);
    fixture.addAdapter('mine');
    const { model } = fixture;
    const divergence = async (three: readonly LabeledRow[]): Promise<number> => {
      const pairsOf = three.map(({ promptIds }, i) => ({
        prompt: promptIds,
        completion: three.at(i - 1)!.completionIds,
      }));
      const of = async (adapter: string | null) =>
        model.logProbs(
          pairsOf.map(({ prompt }) => prompt),
          pairsOf.map(({ completion }) => completion),
          { adapter },
        );
      const [policy, reference] = [await of('mine'), await of(null)];
      return policy.reduce((sum, { sum: own }, i) => sum + own - reference[i]!.sum, 0);
    };
    const shuffled = await collect(
      trainer({
        ...settings,
        data: rows,
        batchSize: 3,
        gradientAccumulationSteps: 2,
        precomputeReference: true,
      }),
    );
    const want = ((await divergence(rows.slice(0, 3))) + (await divergence(rows.slice(3)))) / 6;
    expect(want).toBeGreaterThan(0);
    expect(shuffled.steps[0]!.metrics!['kl']).toBeCloseTo(want, 4);
    const { metrics } = preferenceLoss({ model, rows, objective: 'kto' });
    expect(Math.abs((await metrics())['kl']! - want)).toBeGreaterThan(1e-3);
  });
});
