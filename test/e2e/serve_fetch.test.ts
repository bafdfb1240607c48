/** OpenAI's API as a function from a Request to a Response: what it shares with the handler for node:http, and what it has of its own. */
import { rmSync } from 'node:fs';
import { CausalLM, createOpenAIFetchHandler } from '../../lib/index';
import type { OpenAIFetchHandler, OpenAIHandlerOptions } from '../../lib/serve';
import { answeringModel } from '../support/answering_model';
import { eventsOf, json, servers, until, type Json } from '../support/serving';

const serve = servers();
const chat = '/v1/chat/completions';
const hi = { messages: [{ role: 'user', content: 'Hi' }] };

/** Says `Yes, friend`. */
let model: CausalLM;
/** Says the same character until somebody stops it. */
let endless: CausalLM;
beforeAll(async () => {
  const config = { max_position_embeddings: 100_000 };
  model = await CausalLM.fromPretrained(await answeringModel('Yes, fr'));
  endless = await CausalLM.fromPretrained(await answeringModel('Ab', { endless: true, config }));
});
afterAll(async () => {
  for (const one of [model, endless]) {
    await one.dispose();
    rmSync(one.directory, { recursive: true });
  }
});

const asked = (path: string, init: RequestInit = {}): Request => new Request(`http://localhost${path}`, init);
const posted = (path: string, body: unknown, init: RequestInit = {}): Request =>
  asked(path, {
    method: 'POST',
    headers: json,
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...init,
  });
const over = (asked: CausalLM, options?: OpenAIHandlerOptions): OpenAIFetchHandler =>
  createOpenAIFetchHandler(asked, options);

describe('it answers as the handler for node:http does', () => {
  const steady = (value: string): string =>
    value
      .replace(/(chatcmpl|cmpl|req)[-_][0-9a-f]{24}/g, '$1')
      .replace(/"created":\d+/g, '"created":0')
      .replace(/_(sum|bucket\{.*\}) .*/g, '_$1');

  test.each<[what: string, path: string, init: RequestInit]>([
    ['an answer', chat, { method: 'POST', headers: json, body: JSON.stringify(hi) }],
    [
      'a stream',
      chat,
      { method: 'POST', headers: json, body: JSON.stringify({ ...hi, stream: true, n: 2 }) },
    ],
    [
      'several prompts',
      '/v1/completions',
      { method: 'POST', headers: json, body: '{"prompt":["H","i"],"stream":true}' },
    ],
    ['the models', '/v1/models', {}],
    ['the models, without their list', '/v1/models', { method: 'HEAD' }],
    ['one model, with a query', '/v1/models/base?a=b', {}],
    ['the page', '/', {}],
    ['its health', '/health', {}],
    ['what it counts', '/metrics', {}],
    ['ids', '/tokenize', { method: 'POST', headers: json, body: '{"prompt":"Hi"}' }],
    ['a method that it has not', chat, {}],
    ['methods that it has', chat, { method: 'OPTIONS' }],
    ['a wrong field', chat, { method: 'POST', headers: json, body: '{"messages":1}' }],
    ['no JSON', chat, { method: 'POST', headers: json, body: '{' }],
    ['no body', chat, { method: 'POST', headers: json }],
    ['another type', chat, { method: 'POST', body: '{}' }],
    ['another URL', '/v1/images', { method: 'POST', headers: json, body: '{}' }],
  ])('%s', async (_, path, init) => {
    const options = { modelName: 'base', page: true };
    const { url } = await serve(model, options);
    const there = await fetch(url + path, init);
    const here = await over(model, options)(asked(path, init));
    expect(here.status).toBe(there.status);
    expect(steady(await here.text())).toBe(steady(await there.text()));
    const headersOf = ({ headers }: Response): object => {
      const named = Object.fromEntries(headers);
      for (const other of ['date', 'connection', 'keep-alive', 'transfer-encoding', 'x-request-id'])
        delete named[other];
      return named;
    };
    expect(headersOf(here)).toEqual(headersOf(there));
    expect(here.headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{24}$/);
    // The connection is the server's, and has no header in HTTP/2.
    expect(here.headers.get('connection')).toBeNull();
  });
});

describe('who leaves ends the text', () => {
  const long = { ...hi, stream: true, max_tokens: 5000 };
  const tokens = (): number => endless.engineStats().tokens;
  const settled = async (atEnd: number): Promise<void> => {
    await until(() => endless.engineStats().running === 0);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(tokens() - atEnd).toBeLessThanOrEqual(2);
  };

  test('by the signal of the request, while a stream runs', async () => {
    const left = new AbortController();
    const { body } = await over(endless)(posted(chat, long, { signal: left.signal }));
    const reader = body!.getReader();
    for (let i = 0; i < 4; i++) await reader.read();
    left.abort();
    const atEnd = tokens();
    await expect(
      (async () => {
        while (!(await reader.read()).done);
      })(),
      // Hono's server logs errors of other codes as its own failures.
    ).rejects.toMatchObject({ code: 'ERR_STREAM_PREMATURE_CLOSE' });
    await settled(atEnd);
  });

  test('by the signal, before there is an answer', async () => {
    const left = new AbortController();
    const before = tokens();
    const lines: Json[] = [];
    const info = (fields: object): void => void lines.push(fields);
    const answer = over(endless, { logger: { info, error: info } })(
      posted(chat, { ...long, stream: false }, { signal: left.signal }),
    );
    await until(() => tokens() > before + 3);
    left.abort();
    const atEnd = tokens();
    expect((await answer).status).toBe(499);
    await settled(atEnd);
    await until(() => lines.length === 1);
    expect(lines).toEqual([expect.objectContaining({ status: 499, path: chat })]);
  });

  test('by a signal that was aborted before', async () => {
    const before = tokens();
    const request = posted(chat, long, { signal: AbortSignal.abort() });
    expect((await over(endless)(request)).status).toBe(499);
    await settled(before);
  });

  test('by cancelling the body', async () => {
    const { body } = await over(endless)(posted(chat, long));
    const reader = body!.getReader();
    for (let i = 0; i < 4; i++) await reader.read();
    await reader.cancel();
    await settled(tokens());
  });
});

describe('a body that is not read', () => {
  const wordy = { ...hi, stream: true, logprobs: true, top_logprobs: 20, max_tokens: 300 };
  const running = async (answer: OpenAIFetchHandler): Promise<number> =>
    ((await (await answer(asked('/health'))).json()) as { running: number }).running;

  test('holds back nobody but its client, and comes whole when it is read', async () => {
    const answer = over(endless, { maxRunning: 1, apiKeys: ['reader', 'other'] });
    const by = (key: string): RequestInit => ({ headers: { ...json, authorization: `Bearer ${key}` } });
    const before = endless.engineStats().tokens;
    const response = await answer(posted(chat, wordy, by('reader')));
    await until(async () => (await running(answer)) === 0);
    // A buffer is filled, and no more of the 300 tokens are made.
    expect(endless.engineStats().tokens - before).toBeLessThan(150);
    expect((await answer(posted(chat, { ...hi, max_tokens: 3 }, by('other')))).status).toBe(200);
    const events = eventsOf(await response.text());
    const pieces = events.map(({ choices }) => (choices[0].delta.content as string | undefined) ?? '');
    expect(pieces.join('')).toMatch(/^Ab{299}$/);
  });

  test('is left after a while', async () => {
    const response = await over(endless, { stallTimeoutMs: 100 })(posted(chat, wordy));
    await until(() => endless.engineStats().running === 0);
    await expect(response.text()).rejects.toThrow();
  });
});

describe('bodies of requests', () => {
  const stream = (pieces: number, size: number): ReadableStream<Uint8Array> => {
    let left = pieces;
    return new ReadableStream({
      pull(controller) {
        if (left-- > 0) controller.enqueue(new Uint8Array(size).fill(120));
      },
    });
  };
  const refused = async (body: ReadableStream, options: OpenAIHandlerOptions): Promise<unknown[]> => {
    const init = { body: body, duplex: 'half' } as RequestInit;
    const response = await over(model, options)(posted(chat, hi, init));
    return [response.status, ((await response.json()) as Json)['error'].code];
  };

  test('are bounded in bytes and in time', async () => {
    expect(await refused(stream(2000, 2 ** 16), { maxBodyBytes: 1000 })).toEqual([413, 'request_too_large']);
    expect(await refused(stream(1, 9), { bodyTimeoutMs: 50 })).toEqual([408, 'timeout']);
    const broken = new ReadableStream({
      pull(controller) {
        controller.error(new Error('gone'));
      },
    });
    expect(await refused(broken, {})).toEqual([400, null]);
  });

  test('one that was read before is named', async () => {
    const request = posted(chat, hi);
    const again = request.clone();
    await request.json();
    const response = await over(model)(request);
    expect(response.status).toBe(500);
    expect(((await response.json()) as Json)['error'].message).toContain('read a clone() of it');
    expect((await over(model)(again)).status).toBe(200);
  });
});

test('what is no Request rejects, and options are checked under its own name', async () => {
  await expect(over(model)({ url: '/v1/models', headers: {} } as unknown as Request)).rejects.toThrow(
    expect.objectContaining({
      code: 'ERR_ARGUMENT',
      message: expect.stringContaining('createOpenAIHandler() takes the requests of node:http'),
    }),
  );
  expect(() => over(model, { maxRunning: 0 })).toThrow('[createOpenAIFetchHandler] expected maxRunning');
  expect(() => over(model, { apiKeys: [''] })).toThrow('[createOpenAIFetchHandler] expected the API key');
  expect(() => over(model, { adapters: { 'a b': 'x' } })).toThrow(
    '[createOpenAIFetchHandler] expected names',
  );
});

test('keys are asked for, and requests without them are one client, whose turn comes round', async () => {
  const answer = over(model, { apiKeys: ['secret'] });
  expect((await answer(asked('/v1/models'))).status).toBe(401);
  const headers = { authorization: 'Bearer secret' };
  expect((await answer(asked('/v1/models', { headers }))).status).toBe(200);
  const open = over(model, { maxRunning: 1 });
  const answers = await Promise.all(Array.from({ length: 5 }, () => open(posted(chat, hi))));
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
});

test('close() answers what came before, and nothing after', async () => {
  const answer = over(endless);
  const first = answer(posted(chat, { ...hi, max_tokens: 50 }));
  let ended = false;
  const closed = answer.close().then(() => (ended = true));
  expect((await answer(posted(chat, hi))).status).toBe(503);
  expect(ended).toBe(false);
  expect((await first).status).toBe(200);
  await closed;
});

describe('pages of other sites', () => {
  const page = 'https://app.example';
  const preflight = { 'access-control-request-method': 'POST', 'access-control-request-headers': 'x-a, x-b' };
  const corsOf = async (
    options: OpenAIHandlerOptions,
    init: RequestInit,
    path = chat,
  ): Promise<[number, Record<string, string>]> => {
    const { status, headers } = await over(model, options)(asked(path, init));
    const named = [...headers].filter(([name]) => /^(access-control-.*|vary|allow)$/.test(name));
    return [status, Object.fromEntries(named)];
  };
  const named = { allowedHosts: ['Chat.example.com'] };
  const from = (origin: string, more = {}): RequestInit => ({ headers: { origin, ...more } });

  test('none may ask unless the program says so', async () => {
    expect(await corsOf({}, { method: 'OPTIONS', ...from(page, preflight) })).toEqual([
      204,
      { allow: 'POST, OPTIONS' },
    ]);
    expect(await corsOf({}, { method: 'OPTIONS' }, '/v1/models')).toEqual([
      204,
      { allow: 'GET, HEAD, OPTIONS' },
    ]);
    expect((await corsOf({}, { method: 'OPTIONS' }, '/v1/images'))[0]).toBe(404);
  });

  const readable = {
    'access-control-allow-origin': page,
    'access-control-expose-headers': 'x-request-id, retry-after',
    vary: 'origin',
  };
  const allowed = {
    ...readable,
    allow: 'POST, OPTIONS',
    'access-control-allow-methods': 'POST, OPTIONS',
    'access-control-allow-headers': 'x-a, x-b',
    'access-control-max-age': '7200',
  };

  test.each<[what: string, origin: string | string[]]>([
    ['one origin', page],
    ['one of several', ['http://localhost:3000', page]],
    ['any', '*'],
  ])('%s may, and reads failures too; a browser asks before it without a key', async (_, origin) => {
    const options = { cors: { origin }, apiKeys: ['secret'] };
    expect(await corsOf(options, { method: 'OPTIONS', ...from(page, preflight) })).toEqual([204, allowed]);
    expect(await corsOf(options, from(page), '/v1/models')).toEqual([401, readable]);
    const headers = { origin: page, authorization: 'Bearer secret' };
    expect(await corsOf(options, { headers }, '/v1/models')).toEqual([200, readable]);
  });

  test('others may not, and caches keep their answers apart', async () => {
    const options = { cors: { origin: [page] } };
    for (const origin of ['https://evil.example', `${page}.evil.example`, 'http://app.example', 'null'])
      expect(await corsOf(options, { method: 'OPTIONS', ...from(origin, preflight) })).toEqual([
        204,
        { allow: 'POST, OPTIONS', vary: 'origin' },
      ]);
    expect(await corsOf(options, {}, '/v1/models')).toEqual([200, { vary: 'origin' }]);
  });

  // A Request does not say which address it came to, so that only a list of names guards it.
  test.each<[options: OpenAIHandlerOptions, url: string, headers: Record<string, string>, answer: unknown]>([
    [{}, 'http://evil.example', {}, 200],
    [named, 'http://localhost:3000', {}, 200],
    [named, 'https://chat.example.com', {}, 200],
    [named, 'https://chat.example.com', { origin: 'https://chat.example.com' }, 200],
    [named, 'https://evil.example', {}, 'host_not_allowed'],
    // What the client has named, where the server in front has a name of its own.
    [named, 'http://localhost:3000', { host: 'evil.example' }, 'host_not_allowed'],
    [named, 'https://chat.example.com', { origin: 'https://evil.example' }, 'origin_not_allowed'],
    [{ ...named, cors: { origin: page } }, 'https://chat.example.com', { origin: page }, 200],
  ])('options %j, %s, headers %j: %s', async (options, url, headers, answer) => {
    const response = await over(model, options)(new Request(`${url}/v1/models`, { headers }));
    const { status } = response;
    const { error } = (await response.json()) as Json;
    expect(status === 403 ? error.code : status).toBe(answer);
  });

  test('an origin has a scheme and no path', () => {
    for (const origin of [
      'app.example',
      `${page}/`,
      'https://*.example',
      '',
      'null',
      1,
      [page, 'x'],
      undefined,
    ])
      expect(() => over(model, { cors: { origin } as never })).toThrow(
        "expected cors.origin to be '*' or origins such as 'https://app.example'",
      );
    expect(() => over(model, { cors: { origins: page } as never })).toThrow("did you mean 'origin'?");
  });
});
