/** The applications of examples/ that have a model inside: Express, Fastify, Hono, and a route of Next.js. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage, type Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CausalLM, createOpenAIHandler } from '../../lib/index';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { exampleServer, type ExampleServer } from '../support/example_server';
import { begun, eventsOf, json, servers, until, type Json } from '../support/serving';

const root = join(__dirname, '../..');
const env = { ...process.env, LORA_THREADS: '1' }; // others may be using the machine
const serve = servers();
const chat = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'Hi' }];
/** So long that a text of them does not end before its client leaves. */
const endlessTokens = 500_000;

let scratch: string;
/** Says `Ab`, and b again until somebody stops it; its adapter says `Yo.` */
let model: CausalLM;
let adapter: string;
beforeAll(async () => {
  if (!existsSync(join(root, 'dist/index.mjs')))
    throw new Error('dist/index.mjs is missing: npm run build:js');
  scratch = mkdtempSync(join(tmpdir(), 'applications-'));
  const config = { max_position_embeddings: 2 * endlessTokens };
  const dir = await answeringModel('Ab', { endless: true, config });
  adapter = await answeringAdapter(dir, 'Yo.', join(scratch, 'yo'));
  model = await CausalLM.fromPretrained(dir);
  await model.loadAdapter(adapter, { name: 'yo' });
  model.setAdapter(null);
});
afterAll(async () => {
  await model.dispose();
  for (const dir of [scratch, model.directory]) rmSync(dir, { recursive: true });
});

async function textOf(answer: IncomingMessage): Promise<string> {
  let text = '';
  for await (const piece of answer.setEncoding('utf8')) text += piece;
  return text;
}

/** A running application. */
interface Application {
  readonly server: ExampleServer;
  readonly port: number;
  readonly url: string;
  readonly post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<Response>;
  readonly get: (path: string) => Promise<Json>;
}

describe.each(['express.mjs', 'fastify.mjs', 'hono.mjs'])('%s', (name) => {
  let app: Application;
  beforeAll(async () => {
    const args = [model.directory, `yo=${adapter}`];
    const server = exampleServer(join(root, 'examples', name), args, { cwd: scratch, env });
    const [, port] = await server.says(/listening on (\d+)\n/);
    const url = `http://127.0.0.1:${port!}`;
    app = {
      server,
      port: Number(port),
      url,
      post: (path, body, headers = json) =>
        fetch(url + path, {
          method: 'POST',
          headers,
          body: typeof body === 'string' ? body : JSON.stringify(body),
        }),
      get: async (path) => (await fetch(url + path)).json(),
    };
  });
  afterAll(async () => {
    await app.server.end('SIGKILL');
  });

  /** What differs between two equal answers. */
  const steady = (text: string): string =>
    text.replace(/(chatcmpl|req)[-_][0-9a-f]{24}/g, '$1').replace(/"created":\d+/g, '"created":0');

  test.each<[what: string, path: string, body: unknown, headers?: Record<string, string>]>([
    ['an answer of the base', chat, { messages, max_tokens: 7 }],
    ['an answer of an adapter', chat, { messages, model: 'yo' }],
    ['a stream of the base', chat, { messages, max_tokens: 7, stream: true }],
    ['a stream of an adapter', chat, { messages, model: 'yo', stream: true }],
    ['a field that is wrong', chat, { messages, n: 0 }],
    ['a model that there is not', chat, { messages, model: 'nobody' }],
    ['what is no JSON', chat, '{'],
    ['another type', chat, 'Hi', { 'content-type': 'text/plain' }],
    ['a body beyond what frameworks take', chat, { messages, max_tokens: 7, user: 'x'.repeat(2 ** 21) }],
    ['a body beyond what the server takes', chat, { messages, user: 'x'.repeat(2 ** 22) }],
    ['another dialect', '/v1/messages', { messages, max_tokens: 0 }],
    ['a path that there is not', '/v1/images', {}],
  ])('%s is what the server answers', async (_, path, body, headers = json) => {
    const { url } = await serve(model, { modelName: 'base' });
    const init = {
      method: 'POST',
      headers,
      body: typeof body === 'string' ? body : JSON.stringify(body),
    };
    const [here, there] = await Promise.all([fetch(app.url + path, init), fetch(url + path, init)]);
    expect(here.status).toBe(there.status);
    expect(here.headers.get('content-type')).toBe(there.headers.get('content-type'));
    expect(steady(await here.text())).toBe(steady(await there.text()));
    expect(here.headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{24}$/);
  });

  test('models and methods are listed', async () => {
    const { data } = await app.get('/v1/models');
    expect(data.map(({ id }: Json) => id)).toEqual(['base', 'yo']);
    const preflight = await fetch(app.url + chat, { method: 'OPTIONS' });
    expect([preflight.status, preflight.headers.get('allow')]).toEqual([204, 'POST, OPTIONS']);
  });

  test('its own route streams texts, by the adapter that is asked for', async () => {
    const base = await app.post('/chat', { messages, maxNewTokens: 5 });
    expect([base.status, await base.text()]).toEqual([200, 'Abbbb']);
    expect(base.headers.get('content-type')).toMatch(/^text\/plain/);
    expect(await (await app.post('/chat', { messages, adapter: 'yo' })).text()).toBe('Yo.');
  });

  test.each<[what: string, body: unknown, status: number, error: string]>([
    ['an adapter', { messages, adapter: 'nobody' }, 400, 'nobody'],
    ['a conversation', { messages: [{ role: 'user' }] }, 400, 'content'],
    ['no conversation', {}, 400, 'expected'],
    ['JSON', '{', 400, 'JSON'],
  ])('its own route says what is wrong with %s', async (_, body, status, error) => {
    const response = await app.post('/chat', body);
    expect(response.status).toBe(status);
    expect(await response.text()).toContain(error);
    expect(app.server.said.errors).toBe('');
  });

  /** How many requests the server has counted whose client left. */
  const leftRequests = async (): Promise<number> => {
    const text = await (await fetch(`${app.url}/metrics`)).text();
    return Number(
      /^lora\w*requests_total\{path="\/v1\/chat\/completions",status="499"\} (\d+)$/m.exec(text)?.[1] ?? 0,
    );
  };

  test.each<[what: string, path: string, body: object]>([
    ['of the API', chat, { messages, stream: true, max_tokens: endlessTokens }],
    ['of its own route', '/chat', { messages, maxNewTokens: endlessTokens }],
  ])('who leaves a text %s ends it, and other routes answer meanwhile', async (_, path, body) => {
    const [before, leftBefore] = [(await app.get('/status')).tokens as number, await leftRequests()];
    const answer: IncomingMessage = await begun(app, path, body);
    answer.resume();
    await until(async () => (await app.get('/status')).tokens > before + 10);
    // The text goes on, and the application answers.
    expect((await app.get('/status')).running).toBe(1);
    expect(await (await app.post('/chat', { messages, adapter: 'yo' })).text()).toBe('Yo.');
    answer.destroy();
    await until(async () => (await app.get('/status')).running === 0);
    expect((await app.get('/status')).tokens - before).toBeLessThan(endlessTokens);
    if (path === chat) await until(async () => (await leftRequests()) === leftBefore + 1);
    expect(app.server.said.errors).toBe('');
  });

  test('so does who leaves before there is an answer', async () => {
    const [before, leftBefore] = [(await app.get('/status')).tokens as number, await leftRequests()];
    const request = httpRequest({
      host: '127.0.0.1',
      port: app.port,
      path: chat,
      method: 'POST',
      headers: json,
    });
    request.on('error', () => undefined).end(JSON.stringify({ messages, max_tokens: endlessTokens }));
    await until(async () => (await app.get('/status')).tokens > before + 10);
    request.destroy();
    await until(async () => (await app.get('/status')).running === 0);
    await until(async () => (await leftRequests()) === leftBefore + 1);
    expect((await app.get('/status')).tokens - before).toBeLessThan(endlessTokens);
  });

  test('at the end it answers those that asked, and nobody after', async () => {
    // Connections that are kept alive would be waited for.
    const answers = await Promise.all([
      begun(app, chat, { messages, stream: true, max_tokens: 2000 }, { agent: false }),
      begun(app, '/chat', { messages, maxNewTokens: 2000 }, { agent: false }),
    ]);
    const ended = app.server.end('SIGTERM');
    const [events, text] = await Promise.all(answers.map(textOf));
    expect(eventsOf(events!).at(-1).choices[0].finish_reason).toBe('length');
    expect(text).toMatch(/^Ab{1999}$/);
    expect([await ended, app.server.said.errors]).toEqual([0, '']);
    await expect(app.get('/status')).rejects.toThrow();
  });
});

/** The handler in an application of this process, with what its guide says of mounts. */
describe('mounted otherwise', () => {
  const load = createRequire(__filename);
  const listened: Server[] = [];
  afterEach(() => {
    for (const server of listened.splice(0)) {
      server.close();
      server.closeAllConnections();
    }
  });
  const asked = async (server: Server, path: string, body: string): Promise<[number, string]> => {
    listened.push(server);
    if (!server.listening) await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const init = { method: 'POST', headers: json, body };
    const response = await fetch(`http://127.0.0.1:${port}${path}`, init);
    return [response.status, await response.text()];
  };
  const body = JSON.stringify({ messages, model: 'yo' });

  test('Express takes the prefix of use() away, and its parser may have read the body', async () => {
    const express = load('express');
    const handler = createOpenAIHandler(model);
    const listen = (app: Json): Server => app.listen(0, '127.0.0.1') as Server;
    const parsed = express().use(express.json()).use('/llm', handler);
    const [status, text] = await asked(listen(parsed), `/llm${chat}`, body);
    expect([status, JSON.parse(text).choices[0].message.content]).toEqual([200, 'Yo.']);
    // The parser's own errors are not those of the API.
    const [wrong, html] = await asked(listen(parsed), `/llm${chat}`, '{');
    expect([wrong, html.startsWith('<!DOCTYPE html>')]).toEqual([400, true]);
    const [cut, why] = await asked(listen(express().use('/v1', handler)), chat, body);
    expect([cut, JSON.parse(why).error.code]).toEqual([404, 'unknown_url']);
  });

  test('Fastify passes on what its parser has read', async () => {
    const app = load('fastify')();
    const handler = createOpenAIHandler(model);
    app.all('/v1/*', (request: Json, reply: Json) => {
      reply.hijack();
      handler(Object.assign(request.raw, { body: request.body }), reply.raw);
    });
    await app.listen({ port: 0, host: '127.0.0.1' });
    const [status, text] = await asked(app.server as Server, chat, body);
    expect([status, JSON.parse(text).choices[0].message.content]).toEqual([200, 'Yo.']);
    await app.close();
  });
});

test('next.mjs: useChat gets its stream from the adapter that it names, and who leaves ends the text', () => {
  const client = join(root, 'test/support/next_client.mjs');
  const ADAPTERS = JSON.stringify({ yo: adapter });
  const { status, stdout, stderr } = spawnSync(process.execPath, [client, join(root, 'examples/next.mjs')], {
    encoding: 'utf8',
    env: { ...env, MODEL_DIR: model.directory, ADAPTERS },
    timeout: 45_000, // a text that goes on after its client has left fails the test
  });
  expect([status, stderr]).toEqual([0, '']);
  const said = JSON.parse(stdout);
  const yo = {
    status: 200,
    type: 'text/event-stream',
    text: 'Yo.',
    last: { type: 'finish', finishReason: 'stop' },
  };
  expect(said.adapter).toEqual(yo);
  const base = { ...yo, text: `A${'b'.repeat(255)}`, last: { type: 'finish', finishReason: 'length' } };
  expect(said.again).toEqual([base, yo]);
  expect(said.refused).toEqual([404, { error: 'there is no adapter "nobody"' }]);
  expect(said.aborted).toBeLessThan(endlessTokens);
});
