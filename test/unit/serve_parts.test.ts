/** Parts of the server by themselves: what it counts, the events of several generations, bodies, and failures behind a beginning. */
import { PassThrough } from 'node:stream';
import { createOpenAIHandler, type CausalLM } from '../../lib/index';
import { ApiError } from '../../lib/serve/api_error';
import { readFields } from '../../lib/serve/body';
import { Exchange, type Incoming, type Outgoing } from '../../lib/serve/exchange';
import { merged } from '../../lib/handle';
import { Metrics } from '../../lib/serve/metrics';
import { WaitingBytes } from '../../lib/serve/waiting_bytes';
import { expectThrow } from '../support/errors';

test('times beyond the last bound are in the last bucket, and every time in those above it', () => {
  const metrics = new Metrics();
  for (const elapsedMs of [5, 30, 200_000])
    metrics.ended({ facts: {}, elapsedMs } as unknown as Exchange, '/v1/models', 200);
  const none = { engine: {}, queue: {}, adapters: {} } as unknown as Parameters<Metrics['text']>[0];
  const lines = metrics.text(none).split('\n');
  const count = (le: string): string | undefined =>
    lines.find((line) => line.startsWith(`lora_native_request_duration_seconds_bucket{le="${le}"}`));
  expect(['0.01', '0.025', '0.05', '120', '+Inf'].map((le) => count(le)?.split(' ')[1])).toEqual([
    ...['1', '1', '2', '2', '3'],
  ]);
});

test('guessed tokens, and those that were right, are counted apart', () => {
  const engine = { proposedTokens: 7, acceptedTokens: 5 };
  const gauges = { engine, queue: {}, adapters: {} } as unknown as Parameters<Metrics['text']>[0];
  const lines = new Metrics().text(gauges).split('\n');
  expect(lines).toContain('lora_native_engine_proposed_tokens_total 7');
  expect(lines).toContain('lora_native_engine_accepted_tokens_total 5');
});

test('a handler speculates on the CPU alone', () => {
  const model = { device: 'cuda:1', directory: 'model', servedTemperature: 1 } as unknown as CausalLM;
  expectThrow(
    () => createOpenAIHandler(model, { speculate: true }),
    'ERR_UNSUPPORTED',
    /^\[createOpenAIHandler\] speculate is for models on the CPU.* on cuda:1$/,
  );
  expectThrow(
    () => createOpenAIHandler(model, { speculate: 1 as unknown as boolean }),
    'ERR_ARGUMENT',
    /expected speculate to be true or false/,
  );
});

test('whoever stops reading several sources ends all of them', async () => {
  const ended: number[] = [];
  async function* source(i: number): AsyncGenerator<number> {
    try {
      for (;;) yield await Promise.resolve(i);
    } finally {
      ended.push(i);
    }
  }
  const seen = new Set<number>();
  for await (const [i, event] of merged([source(0), source(1), source(2)])) {
    expect(event).toBe(i);
    seen.add(i);
    if (seen.size === 3) break;
  }
  expect(ended.sort()).toEqual([0, 1, 2]);
});

test('a body that has come leaves no timer', async () => {
  const request = Object.assign(new PassThrough(), { headers: { 'content-type': 'application/json' } });
  const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const before = timers();
  const held = new WaitingBytes(1000).hold('client', () => undefined);
  const limits = { maxBodyBytes: 100, bodyTimeoutMs: 60_000 };
  const read = readFields(request, limits, { held, signal: new AbortController().signal });
  expect(timers()).toBe(before + 1);
  request.end('{"a":1}');
  expect(await read).toEqual({ a: 1 });
  expect(timers()).toBe(before);
});

test.each([
  [500, false],
  [408, true],
])('a failure of %d in a stream that has begun: the connection is cut: %s', async (status, cut) => {
  const response = Object.assign(new PassThrough(), { headersSent: true, setHeader: () => undefined });
  let text = '';
  response.on('data', (piece) => (text += String(piece)));
  const closed = new Promise((resolve) => response.on('close', resolve));
  new Exchange({ headers: {} } as Incoming, response as unknown as Outgoing).fail(new ApiError(status, 'no'));
  await closed;
  expect([response.writableFinished, text.startsWith('data: {')]).toEqual([!cut, !cut]);
});
