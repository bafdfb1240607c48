/** Two servers behind HAProxy, with the configuration of examples/haproxy.cfg, where it is installed: apt-get install haproxy */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { CausalLM } from '../../lib/index';
import { answeringModel } from '../support/answering_model';
import { begun, json, servers, until, type Served } from '../support/serving';
import { temporaryFolder } from '../support/temporary';

const installed = spawnSync('haproxy', ['-v']).status === 0;
const configuration = join(__dirname, '../../examples/haproxy.cfg');
const chat = '/v1/chat/completions';

/** A port that nobody listens on now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

const title = 'two servers behind HAProxy';
const describeProxy = installed
  ? (body: () => void) => describe(title, body)
  : (body: () => void) => describe.skip(`${title} (skipped: haproxy is not installed)`, body);

describeProxy(() => {
  const serve = servers();
  const folder = temporaryFolder();
  /** Says the same character until somebody stops it. */
  let model: CausalLM;
  let proxy: ChildProcess;
  let port: number;
  let behind: Served[];
  beforeAll(async () => {
    model = await CausalLM.fromPretrained(
      await answeringModel('Ab', { endless: true, config: { max_position_embeddings: 100_000 } }),
    );
  });
  afterAll(async () => {
    await model.dispose();
    rmSync(model.directory, { recursive: true });
  });
  beforeEach(async () => {
    behind = [await serve(model), await serve(model)];
    for (const [i, { server }] of behind.entries())
      server.prependListener('request', (_, response) => response.setHeader('x-server', i));
    port = await freePort();
    const file = join(folder, 'haproxy.cfg');
    const [first, second] = behind.map((one) => `127.0.0.1:${one.port}`) as [string, string];
    writeFileSync(
      file,
      readFileSync(configuration, 'utf8')
        .replace(':8080', `127.0.0.1:${port}`)
        .replace('127.0.0.1:8081', first)
        .replace('127.0.0.1:8082', second),
    );
    proxy = spawn('haproxy', ['-db', '-f', file], { stdio: 'ignore' });
    await until(() =>
      fetch(`http://127.0.0.1:${port}/health`).then(
        ({ ok }) => ok,
        () => false,
      ),
    );
  });
  afterEach(async () => {
    const ended = once(proxy, 'exit');
    proxy.kill('SIGKILL');
    await ended;
  });

  /** Asks through the proxy, and gives the place of the server that has answered. */
  async function asked(body: object): Promise<number> {
    const response = await fetch(`http://127.0.0.1:${port}${chat}`, {
      method: 'POST',
      headers: json,
      body: JSON.stringify({ max_tokens: 2, ...body }),
    });
    expect([response.status, await response.json()]).toEqual([
      200,
      expect.objectContaining({ object: 'chat.completion' }),
    ]);
    return Number(response.headers.get('x-server'));
  }
  const conversation = (topic: number, turns: number): object => ({
    messages: Array.from({ length: 2 * turns - 1 }, (_, i) =>
      i % 2 === 0 ? { role: 'user', content: `${topic} ${i}` } : { role: 'assistant', content: 'Ab' },
    ),
  });

  test('the configuration is valid as it stands', () => {
    const { status, stderr } = spawnSync('haproxy', ['-c', '-f', configuration], { encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, expect.not.stringMatching(/ALERT|WARNING/)]);
  });

  test('a conversation stays with the process that has read its beginning, and both have some', async () => {
    const topics = Array.from({ length: 16 }, (_, topic) => topic);
    const places: number[] = [];
    for (const topic of topics) places.push(await asked(conversation(topic, 1)));
    // In another order, so that it is not the servers' turns that agree.
    for (const topic of topics.reverse()) expect(await asked(conversation(topic, 2))).toBe(places[topic]);
    expect(new Set(places)).toEqual(new Set([0, 1]));
  });

  test('a stream arrives event by event, and a client that leaves ends its text', async () => {
    const long = { ...conversation(0, 1), stream: true, max_tokens: 90_000 };
    const response = await begun({ port }, chat, long);
    let text = '';
    for await (const piece of response.setEncoding('utf8')) {
      text += piece;
      if (text.split('\n\n').length > 4) break; // which closes the connection
    }
    expect(text).toMatch(/^data: \{.*"role":"assistant"/);
    await until(() => model.engineStats().running === 0);
  });

  test('requests for a process that is closing, or gone, are answered by the other', async () => {
    const topics = Array.from({ length: 8 }, (_, topic) => topic);
    await behind[0]!.handler.close(); // 503 from here on
    for (const topic of topics) expect(await asked(conversation(topic, 1))).toBe(1);
    behind[0]!.server.close();
    behind[0]!.server.closeAllConnections();
    for (const topic of topics) expect(await asked(conversation(topic, 1))).toBe(1);
  });
});
