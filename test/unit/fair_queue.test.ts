/** Which request of which client runs next. */
import { FairQueue, type Lease } from '../../lib/serve/fair_queue';

const never = new AbortController().signal;

/** Enters requests, and notes the order in which they begin. */
function recorder(queue: FairQueue) {
  const begun: string[] = [];
  const leases = new Map<string, Lease>();
  const refused: string[] = [];
  return {
    begun,
    refused,
    enter: (client: string, name: string, weight = 1, signal = never): void => {
      queue.enter(client, weight, signal).then(
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

test('a place that is paused serves others, and comes back at once', async () => {
  const queue = new FairQueue({ maxRunning: 1, maxQueued: 9 });
  const lease = await queue.enter('a', 1, never);
  lease.pause();
  lease.pause();
  const other = await queue.enter('b', 1, never);
  lease.resume();
  expect(queue.running).toBe(2);
  lease.release();
  lease.release();
  lease.resume();
  expect(queue.running).toBe(1);
  other.release();
  expect(queue.running).toBe(0);
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
