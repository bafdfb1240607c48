import { RunHandle } from '../../lib/handle';
import { expectReject } from '../support/errors';

/** A run of three events that writes down what happens to it. */
function make(): { handle: RunHandle<number, string>; log: string[] } {
  const log: string[] = [];
  const handle = new RunHandle<number, string>('run', async function* () {
    log.push('begins');
    try {
      for (const event of [1, 2, 3]) {
        log.push(`gives ${event}`);
        yield event;
      }
      return 'result';
    } finally {
      log.push('ends');
    }
  });
  return { handle, log };
}

test('does nothing until it is asked, and waits for its consumer', async () => {
  const { handle, log } = make();
  const events = handle[Symbol.asyncIterator]();
  await new Promise(setImmediate);
  expect(log).toEqual([]);
  expect(await events.next()).toEqual({ value: 1, done: false });
  await new Promise(setImmediate);
  expect(log).toEqual(['begins', 'gives 1']);
});

test('iterated, gives its events and not its result', async () => {
  const { handle, log } = make();
  const seen: number[] = [];
  for await (const event of handle) seen.push(event);
  expect(seen).toEqual([1, 2, 3]);
  expect(log.at(-1)).toBe('ends');
});

test('awaited, runs to its end and gives its result', async () => {
  const { handle, log } = make();
  expect(await handle).toBe('result');
  expect(log).toEqual(['begins', 'gives 1', 'gives 2', 'gives 3', 'ends']);
});

test('leaving the loop ends the run', async () => {
  const { handle, log } = make();
  for await (const event of handle) if (event === 2) break;
  expect(log).toEqual(['begins', 'gives 1', 'gives 2', 'ends']);
});

test('after return() nothing begins, nor goes on', async () => {
  const { handle, log } = make();
  const events = handle[Symbol.asyncIterator]();
  expect(await events.return!()).toEqual({ value: undefined, done: true });
  expect(await events.next()).toEqual({ value: undefined, done: true });
  expect(log).toEqual([]);
  const other = make();
  const begun = other.handle[Symbol.asyncIterator]();
  await begun.next();
  await begun.return!();
  expect(await begun.next()).toEqual({ value: undefined, done: true });
  expect(other.log).toEqual(['begins', 'gives 1', 'ends']);
});

test('is consumed once, in whichever way', async () => {
  const sentence =
    '[run] expected a fresh handle but received one that was already consumed: call run() again';
  const { handle } = make();
  for await (const event of handle) if (event === 1) break;
  await expectReject(Promise.resolve(handle), 'ERR_ARGUMENT', sentence);
  await expectReject(handle[Symbol.asyncIterator]().next(), 'ERR_ARGUMENT', sentence);
  const awaited = make().handle;
  await awaited;
  await expectReject(awaited[Symbol.asyncIterator]().next(), 'ERR_ARGUMENT', sentence);
});

test('a failure reaches the awaiter and the loop', async () => {
  const failing = (): RunHandle<number, string> =>
    new RunHandle<number, string>('run', async function* () {
      yield 1;
      throw new Error('broken');
    });
  await expect(failing().then()).rejects.toThrow('broken');
  expect(await failing().then(undefined, (e) => (e as Error).message)).toBe('broken');
  const seen: number[] = [];
  const loop = async (): Promise<void> => {
    for await (const event of failing()) seen.push(event);
  };
  await expect(loop()).rejects.toThrow('broken');
  expect(seen).toEqual([1]);
});
