import { constantSchedule, cosineSchedule, linearSchedule } from '../../lib/index';
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
