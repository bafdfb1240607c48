// The Trainer against a loop written by hand, step by step and bit for bit, on a tiny model.
import { tensor, Trainer, type Batch, type Tensor, type TrainerOptions } from '../../lib/index';
import { expectReject } from '../support/errors';
import {
  collect,
  counted,
  inGroups,
  makeRows,
  recordBatches,
  trainByHand,
  trainingFixture,
  weights,
  type Row,
} from '../support/training';

const fixture = trainingFixture();
const { addAdapter } = fixture;

const oneEach = (batches: readonly Batch[]): Batch[][] => batches.map((batch) => [batch]);

describe('a run is the loop written by hand', () => {
  test('with dropout, accumulation, warm-up, clipping, weight decay and a rest, over two epochs', async () => {
    const { model } = fixture;
    const data = makeRows(13, { prompt: 1 });
    const settings = { lr: 0.02, weightDecay: 0.3, maxGradNorm: 1.3 };
    const mine = addAdapter('mine');
    const recorded = recordBatches(model);
    const { events, steps } = await collect(
      new Trainer({
        ...settings,
        model,
        data,
        epochs: 2,
        batchSize: 3,
        gradientAccumulationSteps: 2,
        schedule: 'linear',
        warmupSteps: 2,
        seed: 7,
      }),
    );
    recorded.stop();

    // Every epoch: all 13 rows once, in batches of 3 and a rest of 1, in an order of its own.
    expect(recorded.batches).toHaveLength(10);
    const inOrder = data.map(({ inputIds }) => inputIds);
    const orders = inGroups(recorded.batches, [5, 5]).map((batches) => {
      expect(batches.map(({ inputIds }) => inputIds.length)).toEqual([3, 3, 3, 3, 1]);
      return batches.flatMap(({ inputIds }) => inputIds);
    });
    for (const order of orders) {
      expect(order).not.toEqual(inOrder);
      expect(order.map(String).sort()).toEqual(inOrder.map(String).sort());
    }
    expect(orders[1]).not.toEqual(orders[0]);

    // Steps of two batches; the fifth batch of an epoch makes a step of its own.
    const hand = addAdapter('hand');
    const wanted = await trainByHand(model, hand, inGroups(recorded.batches, [2, 2, 1, 2, 2, 1]), {
      ...settings,
      factors: [0, 0.5, 1, 0.75, 0.5, 0.25],
    });
    expect(steps.map(({ loss, lr, gradNorm, tokens }) => ({ loss, lr, gradNorm, tokens }))).toEqual(wanted);
    expect(weights(mine)).toBe(weights(hand));

    expect(steps.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(steps.map(({ epoch }) => epoch)).toEqual([0, 0, 0, 1, 1, 1]);
    const trainableParameters = mine.parameters().reduce((sum, p) => sum + p.numel, 0);
    expect(events[0]).toEqual({ type: 'start', step: 0, maxSteps: 6, trainableParameters });
    // The comparison sees clipping: some steps are above the bound and some below.
    const clipped = steps.map(({ gradNorm }) => gradNorm > settings.maxGradNorm);
    expect(new Set(clipped)).toEqual(new Set([true, false]));
  });

  test('by default: AdamW without decay, lr 2e-4, a cosine, batches of 4, a bound of 1', async () => {
    const { model } = fixture;
    const mine = addAdapter('mine');
    const recorded = recordBatches(model);
    const { steps } = await collect(new Trainer({ model, data: makeRows(9), maxSteps: 4 }));
    recorded.stop();
    const hand = addAdapter('hand');
    const wanted = await trainByHand(model, hand, oneEach(recorded.batches), {
      lr: 2e-4,
      factors: [0, 1, 2, 3].map((step) => 0.5 * (1 + Math.cos((Math.PI * step) / 4))),
      weightDecay: 0,
      maxGradNorm: 1,
    });
    expect(recorded.batches.map(({ inputIds }) => inputIds.length)).toEqual([4, 4, 1, 4]);
    expect(steps.map(({ epoch }) => epoch)).toEqual([0, 0, 0, 1]);
    expect(steps.map(({ lr }) => lr)).toEqual(wanted.map(({ lr }) => lr));
    expect(weights(mine)).toBe(weights(hand));
    expect(Math.max(...steps.map(({ gradNorm }) => gradNorm))).toBeGreaterThan(1);
  });

  test('the order of the rows is that of the seed', async () => {
    const { model } = fixture;
    const orders = [];
    for (const seed of [{}, { seed: 0 }, { seed: 1 }]) {
      addAdapter('mine');
      const recorded = recordBatches(model);
      await new Trainer({ model, data: makeRows(8), ...seed }).run();
      recorded.stop();
      orders.push(recorded.batches);
      await model.removeAdapter('mine');
    }
    expect(orders[1]).toEqual(orders[0]);
    expect(orders[2]).not.toEqual(orders[0]);
  });

  test('maxGradNorm 0 clips nothing', async () => {
    const { model } = fixture;
    const mine = addAdapter('mine');
    const recorded = recordBatches(model);
    const options = { maxSteps: 2, maxGradNorm: 0, schedule: 'constant' } as const;
    const { steps } = await collect(new Trainer({ model, data: makeRows(4), ...options }));
    recorded.stop();
    const hand = addAdapter('hand');
    const unclipped = { lr: 2e-4, factors: [1, 1], weightDecay: 0, maxGradNorm: Infinity };
    await trainByHand(model, hand, oneEach(recorded.batches), unclipped);
    expect(weights(mine)).toBe(weights(hand));
    expect(steps[0]!.gradNorm).toBeGreaterThan(1);
  });

  test('a batch of prompts alone adds its tokens to the count and nothing to the loss', async () => {
    const { model } = fixture;
    const [answer, prompt] = makeRows(2) as [Row, Row];
    prompt.labels.fill(-100);
    const mine = addAdapter('mine');
    const options = { batchSize: 1, gradientAccumulationSteps: 2, maxSteps: 1, lr: 0.01 };
    const { steps } = await collect(new Trainer({ model, data: [answer, prompt], ...options }));
    const hand = addAdapter('hand');
    const batch = { inputIds: [answer.inputIds], labels: [answer.labels] };
    const settings = { lr: 0.01, factors: [1], weightDecay: 0, maxGradNorm: 1 };
    const [{ loss, gradNorm }] = (await trainByHand(model, hand, [[batch]], settings)) as [StepReport];
    const tokens = answer.inputIds.length + prompt.inputIds.length;
    expect(steps[0]).toMatchObject({ loss, gradNorm, tokens });
    expect(weights(mine)).toBe(weights(hand));
  });
  type StepReport = Awaited<ReturnType<typeof trainByHand>>[number];

  test('every token of a step weighs the same, in whichever of its batches it stands', async () => {
    const { model } = fixture;
    const whole = (inputIds: number[]): Row => ({ inputIds, labels: inputIds });
    const data = [whole(Array.from({ length: 20 }, (_, i) => 7 * i)), whole([3, 5])];
    addAdapter('mine', { loraDropout: 0 });
    let sum = 0;
    for (const { inputIds, labels } of data)
      sum += await model.forward([inputIds], { labels: [labels], reduction: 'sum' }).loss.item();
    const mean = sum / counted(data.map(({ labels }) => labels));
    for (const split of [{ batchSize: 2 }, { batchSize: 1, gradientAccumulationSteps: 2 }]) {
      const { steps } = await collect(new Trainer({ model, data, maxSteps: 1, lr: 0, ...split }));
      expect(steps[0]!.loss).toBeCloseTo(mean, 5);
    }
  });
});

describe('the number of steps', () => {
  const cases: [string, Partial<TrainerOptions> & { rows: number }, number][] = [
    ['one epoch by default', { rows: 7, batchSize: 2 }, 4],
    ['batches of 4 by default', { rows: 9 }, 3],
    [
      'rests at the end of every epoch',
      { rows: 7, batchSize: 2, gradientAccumulationSteps: 3, epochs: 3 },
      6,
    ],
    ['epochs smaller than a step', { rows: 2, batchSize: 1, gradientAccumulationSteps: 5, epochs: 2 }, 2],
    ['maxSteps within an epoch', { rows: 7, batchSize: 1, maxSteps: 3 }, 3],
    ['maxSteps over several epochs', { rows: 2, batchSize: 1, maxSteps: 7 }, 7],
  ];
  test.each(cases)('%s: announced and made', async (_, { rows, ...options }, wanted) => {
    const { model } = fixture;
    addAdapter('mine');
    const { events, steps } = await collect(new Trainer({ model, data: makeRows(rows), ...options }));
    expect(events[0]).toMatchObject({ type: 'start', maxSteps: wanted });
    expect(steps).toHaveLength(wanted);
    const { loss } = steps.at(-1)!;
    expect(events.at(-1)).toEqual({ type: 'end', step: wanted, loss, adapterStep: wanted, stopped: 'done' });
    expect(steps.at(-1)!.etaSeconds).toBe(0);
  });

  test('of a source without a length is not announced, and the epoch still ends', async () => {
    const { model } = fixture;
    addAdapter('mine');
    const rows = makeRows(5);
    for (const data of [() => rows, new Set(rows)]) {
      const trainer = new Trainer({ model, data, batchSize: 2, schedule: 'constant' });
      const { events, steps } = await collect(trainer);
      expect(events[0]).toMatchObject({ type: 'start', maxSteps: undefined });
      expect(steps.map(({ etaSeconds }) => etaSeconds)).toEqual([undefined, undefined, undefined]);
    }
  });

  test.each(['linear', 'cosine'] as const)('must be known to the %s schedule', (schedule) => {
    const { model } = fixture;
    addAdapter('mine');
    const data = (): Row[] => makeRows(5);
    expect(() => new Trainer({ model, data, schedule })).toThrow(
      `[Trainer] expected maxSteps, since the ${schedule} schedule needs the number of steps and the data does not tell its length`,
    );
    expect(() => new Trainer({ model, data, schedule, maxSteps: 3 })).not.toThrow();
  });
});

describe('the learning rate of each step', () => {
  const factors = {
    constant: [0, 0.5, 1, 1, 1],
    linear: [0, 0.5, 1, 2 / 3, 1 / 3],
    cosine: [0, 0.5, 1, 0.75, 0.25],
    wsd: [0, 0.5, 1, 1, 0.5],
  };
  const schedules = ['constant', 'linear', 'cosine', 'wsd'] as const;
  test.each(schedules)('follows a %s schedule after a warm-up', async (schedule) => {
    const { model } = fixture;
    addAdapter('mine');
    const falls = schedule === 'wsd' ? { decaySteps: 2 } : {};
    const options = { data: makeRows(5), batchSize: 1, warmupSteps: 2, lr: 0.01, schedule, ...falls };
    const { steps } = await collect(new Trainer({ model, ...options }));
    steps.forEach(({ lr }, i) => expect(lr).toBeCloseTo(0.01 * factors[schedule][i]!, 12));
  });
});

describe('what is not finite changes no weight', () => {
  test('a gradient norm, though the loss is finite', async () => {
    const { model } = fixture;
    const mine = addAdapter('mine', { loraDropout: 0 });
    // lora_A = 0 hides an enormous lora_B from the loss, but not from the gradient of lora_A.
    const state = mine.stateDict() as { tensors: Record<string, Tensor>; forwards: number; seed: number };
    for (const [name, { shape, numel }] of Object.entries(state.tensors)) {
      const value = name.includes('lora_B') ? 3e38 : 0;
      state.tensors[name] = tensor(new Float32Array(numel).fill(value), { shape });
    }
    mine.loadStateDict(state);
    const before = weights(mine);
    await expectReject(
      Promise.resolve(new Trainer({ model, data: makeRows(4), maxSteps: 3 }).run()),
      'ERR_NON_FINITE',
      /^\[Trainer\] step 1, batch 1 of 1: the loss is \d\.\d+ and the gradient norm (Infinity|NaN); the weights are those of step 0\. The largest activations: model\.\S+ \d+(\.\d+)?, model\.\S+ \d+(\.\d+)?, model\./,
    );
    expect(weights(mine)).toBe(before);
  });

  test('a loss in the middle of a run: the weights are those of the step that is named', async () => {
    const { model } = fixture;
    const mine = addAdapter('mine');
    const seen = [weights(mine)];
    const options = { data: makeRows(8), lr: 1e30, maxSteps: 20, schedule: 'constant' } as const;
    const run = async (): Promise<void> => {
      for await (const event of new Trainer({ model, ...options }).run())
        if (event.type === 'step') seen.push(weights(mine));
    };
    const error = await expectReject(run(), 'ERR_NON_FINITE', /Try a smaller lr \(it is 1e\+30\)$/);
    expect(seen.length).toBeGreaterThan(1); // some steps were made
    expect(error.message).toContain(`step ${seen.length}, batch 1 of 1: the loss is NaN`);
    expect(error.message).toContain(`the weights are those of step ${seen.length - 1}.`);
    expect(error.message).toMatch(/The largest activations: model\.layers\.\d+ NaN, /);
    expect(weights(mine)).toBe(seen.at(-1));
  });

  test('the batch is named, and the block in which numbers end', async () => {
    const { model } = fixture;
    const mine = addAdapter('mine', { loraDropout: 0 });
    const up = mine.delta('model.layers.1.mlp.down_proj')!.parameters.get('up')!;
    const forward = model.forwardInSlices.bind(model);
    let calls = 0;
    jest.spyOn(model, 'forwardInSlices').mockImplementation((ids, options) => {
      if (++calls === 2) {
        // From the second batch on the second block gives no numbers.
        const state = mine.stateDict() as { tensors: Record<string, Tensor>; forwards: number; seed: number };
        state.tensors[up.name] = tensor(new Float32Array(up.numel).fill(Infinity), { shape: up.shape });
        mine.loadStateDict(state);
      }
      return forward(ids, options);
    });
    const options = { data: makeRows(3), batchSize: 1, gradientAccumulationSteps: 3, maxSteps: 1 };
    await expectReject(
      Promise.resolve(new Trainer({ model, ...options }).run()),
      'ERR_NON_FINITE',
      /^\[Trainer\] step 1, batch 2 of 3: the loss is NaN .*The largest activations: model\.layers\.1 (NaN|Infinity), model\.layers\.2 NaN, /,
    );
  });

  test('the activations are those of the pass that failed: its dropout masks too', async () => {
    const { model } = fixture;
    addAdapter('mine', { loraDropout: 0.5 });
    const forward = model.forwardInSlices.bind(model);
    const passes: Promise<ArrayLike<number>>[][] = [];
    jest.spyOn(model, 'forwardInSlices').mockImplementation(async (ids, given) => {
      const seen: Promise<ArrayLike<number>>[] = [];
      passes.push(seen);
      const watch: NonNullable<typeof given>['watch'] = (module, x) => {
        seen.push(x.data());
        given?.watch?.(module, x);
      };
      const output = await forward(ids, { ...given, watch });
      return given?.watch ? output : { ...output, loss: output.loss!.mul(Infinity) };
    });
    await expectReject(
      Promise.resolve(new Trainer({ model, data: makeRows(4), maxSteps: 1 }).run()),
      'ERR_NON_FINITE',
      /the loss is Infinity .* The largest activations: model\.\S+ \d/,
    );
    const [failed, explained] = await Promise.all(passes.map((seen) => Promise.all(seen)));
    expect(failed!.length).toBeGreaterThan(3);
    expect(explained).toEqual(failed);
  });

  test('is told though the forward pass that explains it fails', async () => {
    const { model } = fixture;
    const forward = model.forwardInSlices.bind(model);
    const failing = async (readable: number): Promise<string> => {
      addAdapter('mine');
      jest.spyOn(model, 'forwardInSlices').mockImplementation((ids, given) => {
        const watch = given?.watch;
        if (watch === undefined) return forward(ids, given);
        let left = readable;
        return forward(ids, {
          ...given,
          watch: (module, x) => {
            if (left-- === 0) throw new Error('out of memory, say');
            watch(module, x);
          },
        });
      });
      const options = { data: makeRows(8), lr: 1e30, maxSteps: 20, schedule: 'constant' } as const;
      const error = await expectReject(
        Promise.resolve(new Trainer({ model, ...options }).run()),
        'ERR_NON_FINITE',
        /^\[Trainer\] step \d+, batch 1 of 1: the loss is NaN .* Try a smaller lr \(it is 1e\+30\)$/,
      );
      jest.restoreAllMocks();
      await model.removeAdapter('mine');
      return error.message!;
    };
    expect(await failing(0)).toContain(
      '. No activation could be read: the forward pass that looks for them failed: out of memory, say. Try',
    );
    expect(await failing(2)).toMatch(
      /\. The largest activations before it failed: model\.\S+ \S+, model\.\S+ \S+: the forward pass that looks for them failed: out of memory, say\. Try/,
    );
  });
});
