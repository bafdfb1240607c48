import { constantSchedule, cosineSchedule, linearSchedule, wsdSchedule } from '../../lib/index';
import { expectThrow } from '../support/errors';

// transformers 4.57 and 5: get_scheduler(name, …).lr_lambdas[0](step), to 12 digits.
describe('schedules', () => {
  test('constant, with and without warm-up', () => {
    const plain = constantSchedule();
    expect([0, 1, 1000].map(plain)).toEqual([1, 1, 1]);
    expect([0, 1, 3, 4, 9].map(constantSchedule({ warmupSteps: 4, totalSteps: 10 }))).toEqual([
      0, 0.25, 0.75, 1, 1,
    ]);
  });
  test('linear', () => {
    const factor = linearSchedule({ totalSteps: 10, warmupSteps: 2 });
    expect([0, 1, 2, 6, 10, 11].map(factor)).toEqual([0, 0.5, 1, 0.5, 0, 0]);
  });
  test('cosine', () => {
    const factor = cosineSchedule({ totalSteps: 200, warmupSteps: 10 });
    expect(factor(5)).toBe(0.5);
    expect(factor(10)).toBe(1);
    expect(factor(105)).toBeCloseTo(0.5, 12);
    expect(factor(57)).toBeCloseTo(0.5 * (1 + Math.cos((Math.PI * 47) / 190)), 14);
    expect(factor(200)).toBeCloseTo(0, 14);
    expect(cosineSchedule({ totalSteps: 100, numCycles: 1 })(100)).toBeCloseTo(1, 12);
  });
  test('wsd: warm-up, stable, and a linear fall in the last steps', () => {
    const factor = wsdSchedule({ totalSteps: 10, warmupSteps: 2, decaySteps: 4 });
    expect([0, 1, 2, 5, 6, 7, 8, 9, 10, 11].map(factor)).toEqual([0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]);
    expect([0, 88, 90, 95, 100].map(wsdSchedule({ totalSteps: 100 }))).toEqual([1, 1, 1, 0.5, 0]); // a tenth falls
    expect([0, 4, 5].map(wsdSchedule({ totalSteps: 5, decaySteps: 0 }))).toEqual([1, 1, 0]);
    expect([0, 2, 4].map(wsdSchedule({ totalSteps: 4, warmupSteps: 2, decaySteps: 2 }))).toEqual([0, 1, 0]);
    const sentence =
      '[wsdSchedule] expected warmupSteps and decaySteps of 10 together at most (totalSteps) but received 6 and 5';
    expectThrow(
      () => wsdSchedule({ totalSteps: 10, warmupSteps: 6, decaySteps: 0.5 }),
      'ERR_ARGUMENT',
      sentence,
    );
    expectThrow(() => wsdSchedule({}), 'ERR_ARGUMENT', /expected totalSteps to be an integer/);
    expectThrow(
      () => wsdSchedule({ totalSteps: 10, decaySteps: 1.5 }),
      'ERR_ARGUMENT',
      /expected decaySteps to be an integer of at least 0 but received 1.5/,
    );
  });
  test('a warm-up below 1 is a share of all steps, rounded up', () => {
    const half = linearSchedule({ totalSteps: 8, warmupSteps: 0.5 });
    expect([0, 2, 4, 6].map(half)).toEqual([0, 0.5, 1, 0.5]);
    expect([0, 1, 2, 3].map(cosineSchedule({ totalSteps: 10, warmupSteps: 0.21 })).slice(0, 3)).toEqual([
      0,
      1 / 3,
      2 / 3,
    ]);
    expect(constantSchedule({ totalSteps: 4, warmupSteps: 0.5 })(1)).toBe(0.5);
    expectThrow(
      () => constantSchedule({ warmupSteps: 0.1 }),
      'ERR_ARGUMENT',
      '[constantSchedule] expected totalSteps, since warmupSteps is the share 0.1 of all steps',
    );
  });
  test('steps that are all warm-up', () => {
    const options = { totalSteps: 3, warmupSteps: 3 };
    const ends = {
      constant: constantSchedule(options),
      linear: linearSchedule(options),
      cosine: cosineSchedule(options),
    };
    for (const [name, factor] of Object.entries(ends)) {
      expect([0, 1, 2].map(factor)).toEqual([0, 1 / 3, 2 / 3]);
      expect([name, factor(3)]).toEqual([name, name === 'linear' ? 0 : 1]);
    }
  });
  test('bad options', () => {
    expectThrow(
      () => cosineSchedule({}),
      'ERR_ARGUMENT',
      '[cosineSchedule] expected totalSteps to be an integer but received undefined',
    );
    expectThrow(
      () => linearSchedule({ totalSteps: 10, warmup: 2 } as never),
      'ERR_ARGUMENT',
      "[linearSchedule] unknown option 'warmup'; did you mean 'warmupSteps'?",
    );
    expectThrow(
      () => linearSchedule({}),
      'ERR_ARGUMENT',
      /expected totalSteps to be an integer but received undefined/,
    );
    const bad: [object, RegExp][] = [
      [{ totalSteps: 1.5 }, /expected totalSteps to be an integer of at least 0 but received 1.5/],
      [
        { totalSteps: 5, warmupSteps: -1 },
        /expected warmupSteps to be an integer of at least 0 but received -1/,
      ],
      [
        { totalSteps: 5, numCycles: -1 },
        /expected numCycles to be a finite number of at least 0 but received -1/,
      ],
    ];
    for (const [options, sentence] of bad)
      expectThrow(() => cosineSchedule(options), 'ERR_ARGUMENT', sentence);
    expectThrow(
      () => linearSchedule({ totalSteps: 5, numCycles: 1 } as never),
      'ERR_ARGUMENT',
      /unknown option 'numCycles'/,
    );
    expectThrow(
      () => constantSchedule({ warmupSteps: -1 }),
      'ERR_ARGUMENT',
      /^\[constantSchedule\] expected warmupSteps to be an integer/,
    );
    for (const step of [-1, 0.5])
      expectThrow(() => constantSchedule()(step), 'ERR_ARGUMENT', /expected step to be an integer/);
  });
});
