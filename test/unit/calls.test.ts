import { binding, entry } from '../../lib/native/calls';
import { tensor, type Tensor } from '../../lib';
import { enqueueInSlices } from '../../lib/tensor/op_slices';
import { collectGarbage } from '../support/garbage';

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

/** The stack of the failure that a read of a tensor reports, line by line. */
const linesOf = async (failed: Tensor): Promise<string[]> => {
  const error = await failed.data().catch((e: unknown) => e);
  return (error as Error).stack!.split('\n').slice(1);
};

test('each failure has the frames of its own call, of the program alone', async () => {
  const x = tensor([1, 2]);
  const add = (): Tensor => (binding().injectFailure('binary', 'injected'), x.add(1));
  const first = add();
  const second = add();
  async function later(): Promise<Tensor> {
    await Promise.resolve();
    return add();
  }
  async function waiting(): Promise<Tensor> {
    return await later();
  }
  const third = await waiting();

  const stacks = [await linesOf(first), await linesOf(second), await linesOf(third)];
  expect(stacks[0]![0]).toBe(stacks[1]![0]);
  expect(stacks[0]![1]).not.toBe(stacks[1]![1]);
  expect(stacks[2]!.slice(0, 3)).toEqual([
    expect.stringMatching(/^ {4}at add \(.*calls\.test\.ts/),
    expect.stringMatching(/^ {4}at later \(/),
    expect.stringMatching(/^ {4}at async waiting \(/),
  ]);
  const all = stacks.flat();
  expect(all.filter((line) => /node:|\/lib\//.test(line))).toEqual([]);
  for (const t of [x, first, second, third]) t.dispose();
});

test('a call that no line of the program is behind has all frames', async () => {
  const x = tensor([1, 2]);
  const failed = await new Promise<Tensor>((resolve) => {
    function* steps(): Generator<void, void, void> {
      binding().injectFailure('binary', 'injected');
      resolve(x.add(1));
      yield;
    }
    // eslint-disable-next-line @typescript-eslint/no-misused-promises -- a function of ours would be a frame of the program
    setImmediate(enqueueInSlices, 'cpu', steps());
  });
  const lines = await linesOf(failed);
  expect(lines[0]).toMatch(/enqueueInSlices .*op_slices/);
  expect(lines[1]).toContain('node:internal/timers');
  for (const t of [x, failed]) t.dispose();
});

test('a stack keeps nothing of the call alive', async () => {
  class Receiver {
    add(x: Tensor): void {
      x.add(x).dispose();
    }
  }
  const x = tensor([1, 2]);
  const receiver = ((): WeakRef<Receiver> => {
    const own = new Receiver();
    own.add(x);
    return new WeakRef(own);
  })();
  await collectGarbage();
  expect(receiver.deref()).toBeUndefined();
  x.dispose();
});
