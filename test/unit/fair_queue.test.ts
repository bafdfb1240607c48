/** Which request of which client runs next. */
import { FairQueue, type Lease, type Prepare } from '../../lib/serve/fair_queue';

const never = new AbortController().signal;

/** Enters requests, and notes the order in which they begin. */
function recorder(queue: FairQueue) {
  const begun: string[] = [];
  const leases = new Map<string, Lease>();
  const refused: string[] = [];
  return {
    begun,
    refused,
    leases,
    enter: (client: string, name: string, weight = 1, signal = never, prepare?: Prepare): void => {
      queue.enter(client, weight, signal, prepare).then(
        (lease) => {
          begun.push(name);
          leases.set(name, lease);
        },
        (error: unknown) => refused.push(`${name}: ${String((error as Error).message)}`),
      );
    },
    end: async (name: string): Promise<void> => {
      leases.get(name)!.release();
      await new Promise(setImmediate);
    },
  };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('clients take turns, each in the order of its requests', async () => {
  const queue = new FairQueue({ maxRunning: 1, maxQueued: 100 });
  const { enter, begun, end } = recorder(queue);
  for (let i = 0; i < 4; i++) enter('a', `a${i}`);
  enter('b', 'b0');
  enter('b', 'b1');
  enter('c', 'c0');
  await turn();
  for (const next of ['a0', 'a1', 'b0', 'c0', 'a2', 'b1', 'a3']) {
    expect(begun.at(-1)).toBe(next);
    await end(next);
  }
  expect([queue.running, queue.waiting]).toEqual([0, 0]);
});

test('a full queue refuses the newest request of the longest line, not the client that has few', async () => {
  const queue = new FairQueue({ maxRunning: 1, maxQueued: 3 });
  const { enter, refused, begun, end } = recorder(queue);
  for (let i = 0; i < 5; i++) enter('a', `a${i}`);
  await turn();
  expect(refused).toEqual(['a4: 3 requests wait already: try again later']);
  enter('b', 'b0');
  await turn();
  expect(refused.slice(1)).toEqual(['a3: 3 requests wait already: try again later']);
  await end('a0');
  await end('a1');
  expect(begun).toEqual(['a0', 'a1', 'b0']);
});

test('what is refused says when to try again', async () => {
  const queue = new FairQueue({ maxRunning: 1, maxQueued: 0 });
  await queue.enter('a', 1, never);
  await expect(queue.enter('b', 1, never)).rejects.toMatchObject({
    status: 429,
    code: 'rate_limit_exceeded',
    headers: { 'retry-after': '1' },
  });
});

test('several texts take several places, and more than there are take all', async () => {
  const queue = new FairQueue({ maxRunning: 4, maxQueued: 9 });
  const { enter, begun, end } = recorder(queue);
  enter('a', 'three', 3);
  enter('b', 'two', 2);
  enter('c', 'one', 1); // does not overtake: a request with many texts would never begin
  await turn();
  expect(begun).toEqual(['three']);
  await end('three');
  expect(begun).toEqual(['three', 'two', 'one']);
  enter('a', 'many', 100);
  await end('two');
  await end('one');
  expect([begun.at(-1), queue.running]).toEqual(['many', 4]);
});

test('a place that is paused serves others; who goes on waits for one, before the new requests of its client', async () => {
  const queue = new FairQueue({ maxRunning: 2, maxQueued: 9 });
  const { enter, begun, leases, end } = recorder(queue);
  enter('a', 'a0', 2);
  await turn();
  leases.get('a0')!.pause();
  leases.get('a0')!.pause();
  expect(queue.running).toBe(0);
  for (const [client, name] of ['b0', 'b1', 'b2', 'a1', 'b3'].map((name) => [name[0], name]))
    enter(client!, name!);
  const goesOn = leases
    .get('a0')!
    .resume(never)
    .then(() => begun.push('a0 again'));
  await turn();
  expect([begun, queue.running, queue.waiting]).toEqual([['a0', 'b0', 'b1'], 2, 4]);
  await end('b0');
  await end('b1');
  expect([begun.slice(3), queue.running]).toEqual([['b2'], 1]); // two places are wanted, and nobody overtakes
  await end('b2');
  await goesOn;
  expect([begun.slice(4), queue.running]).toEqual([['a0 again'], 2]);
  await end('a0');
  await end('a0');
  await leases.get('a0')!.resume(never);
  expect([begun.slice(5), queue.running]).toEqual([['b3', 'a1'], 2]);
  for (const name of ['b3', 'a1']) await end(name);
  expect([queue.running, queue.waiting]).toEqual([0, 0]);
});

test('who goes on is not refused by a full queue, takes no place of it, and may leave', async () => {
  const queue = new FairQueue({ maxRunning: 1, maxQueued: 1 });
  const { enter, begun, refused, leases, end } = recorder(queue);
  enter('a', 'a0');
  await turn();
  leases.get('a0')!.pause();
  enter('b', 'b0');
  await turn();
  const leaving = new AbortController();
  const left = leases.get('a0')!.resume(leaving.signal);
  enter('a', 'a1');
  enter('b', 'b1');
  await turn();
  expect([begun, refused]).toEqual([['a0', 'b0'], ['b1: 1 requests wait already: try again later']]);
  leaving.abort(new Error('left'));
  await expect(left).rejects.toThrow('left');
  await end('a0');
  await end('b0');
  expect(begun.at(-1)).toBe('a1');
  await end('a1');
  expect([queue.running, queue.waiting]).toEqual([0, 0]);
});

test('a client that has paused as many texts as may run begins no others, and its line holds up nobody', async () => {
  const queue = new FairQueue({ maxRunning: 2, maxQueued: 9 });
  const { enter, begun, leases, end } = recorder(queue);
  for (let i = 0; i < 5; i++) enter('a', `a${i}`);
  for (const name of ['a0', 'a1']) {
    await turn();
    leases.get(name)!.pause();
  }
  await turn();
  expect([begun, queue.running]).toEqual([['a0', 'a1', 'a2'], 1]); // a2 began before a1 was paused
  enter('b', 'b0');
  await end('a2');
  expect(begun.slice(3)).toEqual(['b0']);
  await leases.get('a0')!.resume(never);
  await end('b0');
  expect(begun.slice(4)).toEqual(['a3']);
  await end('a3');
  await end('a0');
  expect(begun.slice(5)).toEqual(['a4']);
});

describe('a request that needs something first', () => {
  /** What requests need, until the test says that it has come. */
  function needs() {
    let come!: () => void;
    let fail!: (reason: Error) => void;
    let left: AbortSignal | undefined;
    const asked = new Promise<void>((resolve, reject) => {
      come = resolve;
      fail = reject;
    });
    const prepare = (signal: AbortSignal): Promise<void> => {
      left = signal;
      return asked;
    };
    return { prepare, come, fail, left: () => left };
  }

  test('waits for it in its line, where others pass, and begins before those behind it', async () => {
    const queue = new FairQueue({ maxRunning: 1, maxQueued: 9 });
    const { enter, begun, end } = recorder(queue);
    const adapter = needs();
    enter('a', 'a0');
    enter('a', 'a1', 1, never, adapter.prepare);
    for (const name of ['a2', 'a3']) enter('a', name);
    await turn();
    expect(adapter.left()).toBeUndefined(); // not before its turn
    await end('a0');
    expect([begun, queue.waiting]).toEqual([['a0', 'a2'], 2]);
    adapter.come();
    await turn();
    await end('a2');
    expect(begun.slice(2)).toEqual(['a1']);
    await end('a1');
    await end('a3');
    expect([begun.at(-1), queue.running, queue.waiting, adapter.left()!.aborted]).toEqual([
      'a3',
      0,
      0,
      false,
    ]);
  });

  test('runs at once where it is there', async () => {
    const queue = new FairQueue({ maxRunning: 1, maxQueued: 0 });
    const { enter, begun } = recorder(queue);
    enter('a', 'a0', 1, never, () => undefined);
    await turn();
    expect(begun).toEqual(['a0']);
  });

  test('takes no place of the queue, where no more wait so than may run', async () => {
    const queue = new FairQueue({ maxRunning: 2, maxQueued: 0 });
    const { enter, begun, refused } = recorder(queue);
    const adapters = ['a0', 'a1', 'a2'].map((name) => [name, needs()] as const);
    for (const [name, { prepare }] of adapters) enter('a', name, 1, never, prepare);
    await turn();
    expect(refused).toEqual(['a2: 0 requests wait already: try again later']);
    expect(adapters.map(([, { left }]) => left()!.aborted)).toEqual([false, false, true]); // nobody waits for it
    for (const [, { come }] of adapters) come();
    await turn();
    expect(begun).toEqual(['a0', 'a1']);
  });

  test('is refused with what is wrong with it, and who leaves says so', async () => {
    const queue = new FairQueue({ maxRunning: 1, maxQueued: 2 });
    const { enter, begun, refused, end } = recorder(queue);
    const [bad, slow] = [needs(), needs()];
    const leaving = new AbortController();
    enter('a', 'bad', 1, never, bad.prepare);
    enter('a', 'slow', 1, leaving.signal, slow.prepare);
    enter('b', 'b0');
    bad.fail(new Error('no such folder'));
    await turn();
    expect(refused).toEqual(['bad: no such folder']);
    leaving.abort(new Error('left'));
    await turn();
    expect([refused.slice(1), slow.left()!.aborted]).toEqual([['slow: left'], true]);
    slow.come();
    await end('b0');
    expect([begun, queue.running, queue.waiting]).toEqual([['b0'], 0, 0]);
  });
});

test('a client that has as many places as one may have waits, and the lines behind its own do not', async () => {
  const queue = new FairQueue({ maxRunning: 3, maxQueued: 100, maxPerClient: 1 });
  const { enter, begun, end } = recorder(queue);
  for (let i = 0; i < 3; i++) enter('a', `a${i}`);
  for (let i = 0; i < 2; i++) enter('b', `b${i}`);
  await turn();
  expect([begun, queue.running, queue.waiting]).toEqual([['a0', 'b0'], 2, 3]);
  for (const client of ['c', 'd', 'e']) enter(client, `${client}0`);
  await turn();
  expect(begun.slice(2)).toEqual(['c0']); // all places are taken
  await end('b0');
  expect(begun.at(-1)).toBe('b1');
  await end('a0');
  // The line of a is the first that may go on; it has waited longest.
  expect(begun.at(-1)).toBe('a1');
  await end('c0');
  await end('b1');
  expect(begun.slice(-2)).toEqual(['d0', 'e0']);
  for (const name of ['a1', 'd0', 'e0', 'a2']) await end(name);
  expect([queue.running, queue.waiting]).toEqual([0, 0]);
});

test('an abort takes a request out of the queue', async () => {
  const queue = new FairQueue({ maxRunning: 1, maxQueued: 9 });
  const { enter, begun, refused, end } = recorder(queue);
  const controller = new AbortController();
  enter('a', 'a0');
  enter('b', 'b0', 1, controller.signal);
  enter('b', 'b1');
  controller.abort(new Error('left'));
  await turn();
  expect(refused).toEqual(['b0: left']);
  await end('a0');
  expect(begun).toEqual(['a0', 'b1']);
  await expect(queue.enter('c', 1, controller.signal)).rejects.toThrow('left');
  expect(queue.waiting).toBe(0);
});
