/** lora-native serve in this process: it answers, logs, and ends when it is told to. */
import { rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { Interrupted } from '../../lib/cli/command';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { commandLine, jsonLines, type Outcome } from '../support/command_line';
import { begun } from '../support/serving';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();
let base: string;
let yo: string;
beforeAll(async () => {
  base = await answeringModel('Ab', { endless: true, config: { max_position_embeddings: 100_000 } });
  yo = await answeringAdapter(base, 'Yo.', join(dir, 'yo'));
});
afterAll(() => rmSync(base, { recursive: true }));

const chat = '/v1/chat/completions';
const json = { 'content-type': 'application/json' };
const hi = { messages: [{ role: 'user', content: 'Hi' }] };

/** A server that runs until stop() is called. */
async function serving(...flags: string[]) {
  const interruption = new AbortController();
  let listens: (url: string) => void;
  const url = new Promise<string>((resolve) => (listens = resolve));
  const seen = (text: string): void => {
    const found = /(http:\/\/[\d.]+:\d+)/.exec(text);
    if (found) listens(found[1]!);
  };
  const ended = commandLine(['serve', '--model', base, '--device', 'cpu', '--port', '0', ...flags], {
    signal: interruption.signal,
    onError: seen,
    onOutput: seen,
  });
  const early = ended.then(({ err }) => {
    throw new Error(`the server has ended: ${err}`);
  });
  early.catch(() => undefined);
  const stop = (signal: 'SIGTERM' | 'SIGINT' = 'SIGTERM'): Promise<Outcome> => {
    interruption.abort(new Interrupted(signal));
    return ended;
  };
  return { url: await Promise.race([url, early]), stop };
}

/** Bytes on a connection, and what comes back. */
class RawConnection {
  received = '';
  closed = false;
  readonly ended: Promise<void>;
  readonly #socket: Socket;

  constructor(port: number, first: string) {
    this.#socket = connect(port, '127.0.0.1', () => this.send(first));
    this.#socket.setEncoding('utf8').on('data', (piece: string) => (this.received += piece));
    this.#socket.on('error', () => undefined); // where it was cut while we wrote
    this.ended = new Promise((resolve) => {
      this.#socket.on('close', () => {
        this.closed = true;
        resolve();
      });
    });
  }

  send(bytes: string): void {
    if (this.#socket.readyState === 'open') this.#socket.write(bytes);
  }

  leave(): void {
    this.#socket.destroy();
  }
}

const post = (url: string, body: object, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(url + chat, { method: 'POST', headers: { ...json, ...headers }, body: JSON.stringify(body) });

test('--speculate: the texts that it serves without, of which it counts the guessed tokens', async () => {
  const answers: string[] = [];
  const counts: number[][] = [];
  for (const flags of [[], ['--speculate']]) {
    const { url, stop } = await serving(...flags);
    const answer = (await (await post(url, { ...hi, max_tokens: 40 })).json()) as { choices: object[] };
    answers.push(JSON.stringify(answer.choices));
    const metrics = await (await fetch(`${url}/metrics`)).text();
    const count = (name: string): number =>
      Number(new RegExp(`^lora_native_engine_${name}_total (\\d+)$`, 'm').exec(metrics)![1]);
    counts.push(['steps', 'proposed_tokens', 'accepted_tokens', 'tokens'].map(count));
    await stop();
  }
  expect(answers[1]).toBe(answers[0]);
  expect(counts[0]).toEqual([39, 0, 0, 40]);
  const [steps, proposed, accepted, tokens] = counts[1] as [number, number, number, number];
  expect(tokens).toBe(40);
  expect(steps).toBe(39 - accepted);
  expect(accepted).toBeGreaterThan(20);
  expect(proposed).toBeGreaterThanOrEqual(accepted);
});

test('--config FILE says what the command line does not', async () => {
  const file = join(dir, 'serve.yaml');
  const told = `adapter:\n  - friend=${yo}\n  - ${yo}\nmodelName: ignored\napiKey: secret\ndefaultMaxNewTokens: 3\njson: true\n`;
  writeFileSync(file, told);
  const { url, stop } = await serving('--config', file, '--model-name', 'own');
  const authorization = 'Bearer secret';
  const models = (await (await fetch(`${url}/v1/models`, { headers: { authorization } })).json()) as {
    data: { id: string }[];
  };
  expect(models.data.map(({ id }) => id)).toEqual(['own', 'friend', 'yo']);
  expect((await post(url, hi)).status).toBe(401);
  const answer = await (await post(url, hi, { authorization })).json();
  expect(answer).toMatchObject({ model: 'own', usage: { completion_tokens: 3 } });
  const outcome = await stop();
  expect(jsonLines(outcome)[0]).toMatchObject({ type: 'listening', url });
  writeFileSync(file, `model: ${base}\nprot: 8080\n`);
  const { status, err } = await commandLine(['serve', '--config', file]);
  expect([status, err]).toEqual([
    2,
    `lora-native: [${file}:2] unknown option 'prot'; did you mean 'port'? (ERR_ARGUMENT)\n`,
  ]);
});

test('it serves adapters by their names, logs each request, and SIGTERM lets it answer what came and end with 0', async () => {
  const { url, stop } = await serving('--adapter', `friend=${yo}`, '--model-name', 'base', '--json');
  const answer = (await (await post(url, { model: 'friend', ...hi })).json()) as {
    choices: [{ message: { content: string } }];
  };
  expect(answer.choices[0].message.content).toBe('Yo.');
  const { port } = new URL(url);
  const stream = await begun({ port: Number(port) }, chat, { ...hi, stream: true, max_tokens: 300 });
  const ended = stop();
  let text = '';
  for await (const piece of stream.setEncoding('utf8')) text += piece;
  expect(text).toMatch(/"finish_reason":"length".*\n\ndata: \[DONE\]\n\n$/);
  const outcome = await ended;
  expect(outcome.status).toBe(0);
  expect(jsonLines(outcome)).toEqual([
    { type: 'listening', url, model: base },
    expect.objectContaining({
      type: 'request',
      path: chat,
      status: 200,
      model: 'friend',
      completionTokens: 4,
    }),
    expect.objectContaining({ type: 'request', status: 200, model: 'base', completionTokens: 300 }),
  ]);
  await expect(fetch(url)).rejects.toThrow();
});

test('lines for people, without prompts unless they are asked for; Ctrl-C ends with 0 too', async () => {
  for (const flags of [[], ['--log-prompts']]) {
    const { url, stop } = await serving(...flags);
    await post(url, { ...hi, max_tokens: 2 });
    await post(url, { ...hi, n: 0 });
    const { status, out, err } = await stop('SIGINT');
    expect([status, out]).toEqual([0, '']);
    expect(err).toMatch(/200 POST \/v1\/chat\/completions .*, 4 \+ 2 tokens, \d+ ms\n/);
    expect(err).toMatch(/400 POST \/v1\/chat\/completions .* ms: expected n to be/);
    expect(err.includes('"content":"Hi"')).toBe(flags.length > 0);
  }
});

test('what a client sends begins no line of the log, and fills none', async () => {
  const forged = `x\n200 POST ${chat} admin, 0 ms\u001b[2J${'y'.repeat(3_000_000)}`;
  for (const flags of [[], ['--json']]) {
    const { url, stop } = await serving(...flags);
    expect((await post(url, { model: forged, ...hi })).status).toBe(404);
    expect((await fetch(`${url}/${'z'.repeat(10_000)}`)).status).toBe(404);
    const { out, err } = await stop();
    const lines = (out + err).split('\n').filter((line) => /\b404\b/.test(line));
    expect(lines).toHaveLength(2);
    for (const line of lines) expect(line.length).toBeLessThan(4200);
    expect(lines[0]).toContain(flags.length > 0 ? 'x\\n200 POST' : 'x\\u000a200 POST');
    expect(out + err).not.toMatch(/^200 POST/m);
    expect(out + err).not.toContain('\u001b');
  }
});

test('there is a page for people, unless they want none', async () => {
  for (const [flags, status] of [
    [[], 200],
    [['--no-page'], 404],
  ] as const) {
    const { url, stop } = await serving(...flags);
    expect((await fetch(url)).status).toBe(status);
    await stop();
  }
});

test('pages of other sites may ask where --cors says so, and a text that is no origin is named before a model is loaded', async () => {
  const { url, stop } = await serving('--cors', 'https://a.example', '--cors', 'http://localhost:3000');
  const allowed = async (origin: string): Promise<string | null> =>
    (await fetch(`${url}/v1/models`, { headers: { origin } })).headers.get('access-control-allow-origin');
  expect(await allowed('https://a.example')).toBe('https://a.example');
  expect(await allowed('http://localhost:3000')).toBe('http://localhost:3000');
  await stop();
  const { status, err } = await commandLine(['serve', '--model', 'nowhere', '--cors', 'a.example']);
  expect([status, err]).toEqual([2, expect.stringContaining("--cors: expected '*' or an origin")]);
});

test('keys of flags and of a file', async () => {
  const file = join(dir, 'keys');
  writeFileSync(file, 'second\n\nthird\n');
  const { url, stop } = await serving('--api-key', 'first', '--api-key-file', file);
  const statuses = [];
  for (const key of ['first', 'third', 'fourth'])
    statuses.push((await post(url, { ...hi, max_tokens: 1 }, { authorization: `Bearer ${key}` })).status);
  expect(statuses).toEqual([200, 200, 401]);
  const { err } = await stop(); // keys are told apart, and never shown
  expect(err).toMatch(
    /200 POST \/v1\/chat\/completions \(key-1\)[^]*200 POST \/v1\/chat\/completions \(key-3\)/,
  );
  expect(err).not.toMatch(/first|third|fourth/);
});

test('names by which requests may reach it', async () => {
  const { url, stop } = await serving('--allowed-host', 'chat.example.com');
  const port = Number(new URL(url).port);
  const statuses = [];
  for (const host of ['localhost', 'chat.example.com', 'evil.example']) {
    const answer = await begun({ port }, chat, { ...hi, max_tokens: 1 }, { headers: { ...json, host } });
    statuses.push(answer.resume().statusCode);
  }
  expect(statuses).toEqual([200, 200, 403]);
  await stop();
});

test('connections that send no headers, or slowly, or nothing after an answer are closed after their time, and others are served', async () => {
  const hasty = await serving('--headers-timeout-ms', '4000', '--idle-timeout-ms', '100');
  const patient = await serving('--headers-timeout-ms', '100000', '--idle-timeout-ms', '100000');
  const bytes = [
    '',
    'GET /health HTTP/1.1\r\nhost: localhost\r\n',
    'GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n',
  ];
  const open = (url: string) => bytes.map((first) => new RawConnection(Number(new URL(url).port), first));
  const waiting = open(patient.url);
  const closed = open(hasty.url);
  const [silent, slow, idle] = closed as [RawConnection, RawConnection, RawConnection];
  // Each line comes long before the time is over, and the end of the headers never.
  const drops = setInterval(() => slow.send('x: y\r\n'), 20);
  try {
    await idle.ended;
    // Its time is the shorter one, and longer where nobody has said so.
    expect([silent.closed, slow.closed]).toEqual([false, false]);
    await Promise.all(closed.map(({ ended }) => ended));
    expect([silent.received, slow.received]).toEqual(
      Array(2).fill(expect.stringMatching(/^HTTP\/1\.1 408 Request Timeout\r\nConnection: close\r\n/)),
    );
    expect(idle.received).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*"status":"ok"/);
    expect(waiting.map(({ closed }) => closed)).toEqual([false, false, false]);
    for (const { url } of [hasty, patient])
      expect((await post(url, { ...hi, max_tokens: 1 })).status).toBe(200);
  } finally {
    clearInterval(drops);
    for (const one of [...waiting, ...closed]) one.leave();
    for (const { stop } of [hasty, patient]) expect((await stop()).status).toBe(0);
  }
});

test.each<[string, () => string[], number, RegExp]>([
  ['a folder without an adapter', () => ['--adapter', dir], 2, /has no adapter_config.json/],
  ['a folder that is not there', () => ['--adapter', join(dir, 'no', 'where')], 2, /there is no folder/],
  ['two adapters of one name', () => ['--adapter', yo, '--adapter', yo], 2, /two adapters are called 'yo'/],
  [
    'a file without keys',
    () => {
      writeFileSync(join(dir, 'none'), '\n');
      return ['--api-key-file', join(dir, 'none')];
    },
    2,
    /none has no API key/,
  ],
  [
    'a port that there is not',
    () => ['--port', '99999'],
    2,
    /^lora-native: expected --port to be .* at most 65535/,
  ],
  ['a key with a space', () => ['--api-key', 'a b'], 2, /^lora-native: \[serve\] expected the API key/],
  ['a name of no model', () => ['--model-name', ''], 2, /^lora-native: .* expected modelName to be a text/],
  [
    'a temperature below 0',
    () => ['--default-temperature', '-1'],
    2,
    /^lora-native: expected --default-temp/,
  ],
  [
    'an address that is not here',
    () => ['--host', '192.0.2.1'],
    2,
    /\[serve\] cannot listen on 192\.0\.2\.1/,
  ],
])('%s', async (_, flags, status, message) => {
  const outcome = await commandLine(['serve', '--model', base, '--port', '0', '--device', 'cpu', ...flags()]);
  expect([outcome.status, outcome.err]).toEqual([status, expect.stringMatching(message)]);
});
