import { Progress } from '../../lib/train/progress';

/** Steps that take 1 s, or what `seconds` says, and give as many tokens as their number. */
function run(steps: number, totalSteps: number | undefined, seconds = (_step: number) => 1) {
  let now = 1000;
  const clock = jest.spyOn(performance, 'now').mockImplementation(() => now);
  const progress = new Progress(totalSteps);
  let last: ReturnType<Progress['advance']> | undefined;
  for (let step = 1; step <= steps; step++) {
    now += 1000 * seconds(step);
    last = progress.advance(step, step);
  }
  clock.mockRestore();
  return last!;
}

test('tokens per second and the time left, from the first step on', () => {
  expect(run(1, 4)).toEqual({ tokensPerSecond: 1, etaSeconds: 3 });
  expect(run(4, 4)).toEqual({ tokensPerSecond: 10 / 4, etaSeconds: 0 });
});

test('only the last 50 steps count', () => {
  // Steps 11 to 60 have 11 + … + 60 tokens; the ten slow ones before them are forgotten.
  const slow = (step: number): number => (step <= 10 ? 100 : 1);
  expect(run(60, 100, slow)).toEqual({ tokensPerSecond: (50 * (11 + 60)) / 2 / 50, etaSeconds: 40 });
  expect(run(59, 100, slow).tokensPerSecond).toBeLessThan(20); // step 10 is still there
});

test('an unknown number of steps has no time left, and no time at all no infinite speed', () => {
  expect(run(2, undefined).etaSeconds).toBeUndefined();
  expect(Number.isFinite(run(1, 2, () => 0).tokensPerSecond)).toBe(true);
});
