// Every step of a Trainer sees its own gradients and no others.
import { AdamW, parameter, tensor, Trainer, type Adapter } from '../../lib/index';
import { expectReject } from '../support/errors';
import { bits } from '../support/numbers';
import { collect, makeRows, recordBatches, trainingFixture, weights } from '../support/training';

const fixture = trainingFixture();
const { addAdapter } = fixture;

describe('gradients of another time', () => {
  /** The weights after two steps on the same rows, after `before` has had the adapter. */
  async function trainAfter(before: (mine: Adapter) => unknown): Promise<string> {
    const { model } = fixture;
    const mine = addAdapter('mine');
    await before(mine);
    await new Trainer({ model, data: makeRows(4), maxSteps: 2, batchSize: 2, lr: 0.02 }).run();
    expect(mine.parameters().filter((p) => p.grad !== null)).toEqual([]);
    const result = weights(mine);
    await model.removeAdapter('mine');
    return result;
  }

  test('those that the program left do not enter the first step', async () => {
    const left = await trainAfter((mine) => {
      for (const p of mine.parameters())
        p.grad = tensor(new Float32Array(p.numel).fill(NaN), { shape: p.shape });
    });
    expect(left).toBe(await trainAfter(() => undefined));
  });

  test('a run that fails leaves none: the next run is as if it had not been', async () => {
    const { model } = fixture;
    const spoiled = [...makeRows(30), { inputIds: [1, 2], labels: [1, 9999] }];
    const afterFailure = await trainAfter(async (mine) => {
      const recorded = recordBatches(model);
      const options = { data: spoiled, batchSize: 1, gradientAccumulationSteps: 31, seed: 1 };
      await expectReject(Promise.resolve(new Trainer({ model, ...options }).run()), 'ERR_DATA', /9999/);
      recorded.stop();
      expect(recorded.batches.length).toBeGreaterThan(1); // so some batches had run backward
      expect(mine.parameters().filter((p) => p.grad !== null)).toEqual([]);
      mine.loadStateDict({ ...mine.stateDict(), forwards: 0 }); // the dropout masks begin again
    });
    expect(afterFailure).toBe(await trainAfter(() => undefined));
  });

  test('those of parameters that only the optimizer holds move nothing', async () => {
    const { model } = fixture;
    const mine = addAdapter('mine');
    const extra = parameter(tensor([1, 2]));
    const before = bits(extra);
    extra.grad = tensor([3, 4]);
    using optimizer = new AdamW([...mine.parameters(), extra]);
    await new Trainer({ model, data: makeRows(4), maxSteps: 2, optimizer }).run();
    expect([bits(extra), extra.grad]).toEqual([before, null]);
  });

  test('those of parameters that the optimizer does not hold do not add up in the norm', async () => {
    const { model } = fixture;
    const norms = async (pick: (mine: Adapter) => { optimizer?: AdamW }): Promise<number[]> => {
      const mine = addAdapter('mine', { loraDropout: 0 });
      // The same batch at every step, and weights that stay: the norm is the same at every step.
      const options = { data: makeRows(1), maxSteps: 3, lr: 0, ...pick(mine) };
      const { steps } = await collect(new Trainer({ model, ...options }));
      await model.removeAdapter('mine');
      return steps.map(({ gradNorm }) => gradNorm);
    };
    const all = await norms(() => ({}));
    expect(new Set(all).size).toBe(1);
    expect(await norms((mine) => ({ optimizer: new AdamW(mine.parameters().slice(0, 2)) }))).toEqual(all);
  });
});
