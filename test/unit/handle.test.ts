import { plannedRun, RunHandle } from '../../lib/handle';
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

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const whole = ['begins', 'gives 1', 'gives 2', 'gives 3', 'ends'];

test('iterated, begins with the first next(), and waits for its consumer', async () => {
  const { handle, log } = make();
  const events = handle[Symbol.asyncIterator]();
  await turn();
  await turn();
  expect(log).toEqual([]);
  expect(await events.next()).toEqual({ value: 1, done: false });
  await turn();
  expect(log).toEqual(['begins', 'gives 1']);
});

test('begins in the next turn, and runs to its end when nobody awaits it', async () => {
  const { handle, log } = make();
  await Promise.resolve();
  expect(log).toEqual([]);
  await turn();
  await turn();
  expect(log).toEqual(whole);
  expect(await handle).toBe('result');
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

test('leaving the loop ends the run, which then has no result', async () => {
  const { handle, log } = make();
  for await (const event of handle) if (event === 2) break;
  expect(log).toEqual(['begins', 'gives 1', 'gives 2', 'ends']);
  await expectReject(
    handle.result,
    'ERR_DISPOSED',
    '[run] there is no result: its loop was left before the end',
  );
});

test('after the last event, the handle has the result too', async () => {
  const { handle } = make();
  for await (const _ of handle);
  expect(await handle.result).toBe('result');
  expect(await handle).toBe('result');
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

test('its events are given once, and not when it runs by itself already', async () => {
  const { handle } = make();
  const events = handle[Symbol.asyncIterator]();
  await expectReject(
    handle[Symbol.asyncIterator]().next(),
    'ERR_ARGUMENT',
    '[run] expected a fresh handle but received one that was already iterated: call run() again',
  );
  expect(await events.next()).toEqual({ value: 1, done: false }); // the first loop goes on
  const awaited = make().handle;
  expect([await awaited, await awaited]).toEqual(['result', 'result']);
  await expectReject(
    awaited[Symbol.asyncIterator]().next(),
    'ERR_ARGUMENT',
    '[run] expected the handle to be iterated in the turn that made it, but it already runs by itself: await it, or iterate at once',
  );
});

test('is a promise: catch, finally, Promise.all, a tag', async () => {
  const log: string[] = [];
  const failing = new RunHandle<number, string>('run', async function* () {
    yield 1;
    throw new Error('broken');
  });
  const promise: Promise<string> = make().handle;
  expect(await promise.finally(() => log.push('finally'))).toBe('result');
  expect(await failing.catch((error: Error) => error.message)).toBe('broken');
  expect(await Promise.all([make().handle, make().handle])).toEqual(['result', 'result']);
  expect(await Promise.race([make().handle])).toBe('result');
  expect(Object.prototype.toString.call(promise)).toBe('[object Promise]');
  expect(log).toEqual(['finally']);
});

test('what is wrong at the call rejects the promise or is thrown into the loop, and is unhandled only where it reaches nobody', async () => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown): void => void unhandled.push(reason);
  process.on('unhandledRejection', note);
  try {
    const wrong = (): RunHandle<number, string> =>
      plannedRun<number, string>('run', () => {
        throw new Error('wrong');
      });
    expect(await wrong().catch((error: Error) => error.message)).toBe('wrong');
    const loop = async (): Promise<void> => {
      for await (const event of wrong()) expect(event).toBe('none');
    };
    await expect(loop()).rejects.toThrow('wrong');
    const late = wrong()[Symbol.asyncIterator]();
    await turn();
    await expect(late.next()).rejects.toThrow('wrong');
    await turn();
    expect(unhandled).toEqual([]);
  } finally {
    process.off('unhandledRejection', note);
  }
});

test('the inputs of a planned run are those of the call', async () => {
  const inputs = { last: 2 };
  const handle = plannedRun<number, string>('run', () => {
    const { last } = inputs;
    return async function* () {
      yield last;
      return `to ${last}`;
    };
  });
  inputs.last = 3;
  expect(await handle).toBe('to 2');
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
