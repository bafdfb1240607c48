import { entry } from '../../lib/native/calls';
import { tensor } from '../../lib';

const hooks: { prepareStackTrace?: unknown; stackTraceLimit: number } = Error;

/** Calls `fn` with less and less stack left, and then without. */
function overflow(fn: () => void): void {
  try {
    overflow(fn);
  } catch {
    fn(); // throws while the stack is too short, so that the caller tries again with one frame more
  }
}

test('a stack overflow near an op leaves the hooks for stacks as they were', () => {
  const before = { ...hooks, prepareStackTrace: hooks.prepareStackTrace };
  const mine = (): string => 'mine';
  hooks.prepareStackTrace = mine;
  hooks.stackTraceLimit = 7;
  try {
    let calls = 0;
    overflow(() => entry(() => calls++));
    const x = tensor([1, 2]);
    overflow(() => x.add(x).dispose());
    x.dispose();
    expect(calls).toBe(1);
    const after = [hooks.prepareStackTrace, hooks.stackTraceLimit];
    expect(after).toEqual([mine, 7]);
  } finally {
    hooks.prepareStackTrace = before.prepareStackTrace;
    hooks.stackTraceLimit = before.stackTraceLimit;
  }
});
