/** What clients cannot make the server do: hold its event loop with odd bodies, or take the turns of others. */
import { rmSync } from 'node:fs';
import { CausalLM } from '../../lib/index';
import { binding } from '../../lib/native/calls';
import { answeringModel } from '../support/answering_model';
import { begun, servers, until, type Json } from '../support/serving';
import { tinyModel } from '../support/tiny_model';

const serve = servers();
const chat = '/v1/chat/completions';
const completions = '/v1/completions';
const hi = { messages: [{ role: 'user', content: 'Hi' }] };

/** Says the same character until somebody stops it. */
let endless: CausalLM;
/** Draws whatever comes; it keeps keys and values, in layers. */
let drawing: CausalLM;
beforeAll(async () => {
  const config = { max_position_embeddings: 100_000 };
  endless = await CausalLM.fromPretrained(await answeringModel('Ab', { endless: true, config }));
  drawing = await CausalLM.fromPretrained(await tinyModel({ config: { max_position_embeddings: 1024 } }));
});
afterAll(async () => {
  for (const one of [endless, drawing]) {
    await one.dispose();
    rmSync(one.directory, { recursive: true });
  }
});

describe('bodies that would hold the event loop', () => {
  const filled = (head: string, piece: string, tail: string): string =>
    head +
    Array<string>(Math.floor(4_000_000 / (piece.length + 1)))
      .fill(piece)
      .join(',') +
    tail;
  const keyed = Array.from({ length: 250_000 }, (_, i) => `"${i}":1`).join(',');
  const parts = 'at most 32768 keys, lists and objects';
  const items = 'at most 524288 items in lists and objects';

  test.each<[what: string, path: string, body: string, message: string]>([
    ['250,000 keys', chat, `{${keyed}}`, parts],
    ['a bias for each of 250,000 ids', chat, `{"logit_bias":{${keyed}}}`, parts],
    ['objects', chat, filled('{"user":[', '{"a":1}', ']}'), parts],
    ['short messages', chat, filled('{"messages":[', '{"role":"user","content":"a"}', ']}'), parts],
    ['prompts that are lists', completions, filled('{"prompt":[', '[1]', ']}'), parts],
    ['prompts that are texts', completions, filled('{"prompt":[', '""', ']}'), items],
    ['ids of a prompt', completions, filled('{"prompt":[', '1', ']}'), items],
    ['ids to be text', '/detokenize', filled('{"tokens":[', '100', ']}'), items],
    ['stop strings', chat, filled('{"stop":[', '"a"', ']}'), items],
  ])('%s: 4 MB of them are refused before they are parsed', async (_, path, body, message) => {
    const { post } = await serve(drawing);
    const parse = jest.spyOn(JSON, 'parse');
    try {
      const answer = await post(path, body);
      expect(answer.body).toEqual({
        error: {
          message: `expected a body of ${message}`,
          type: 'invalid_request_error',
          code: 'request_too_large',
          param: null,
        },
      });
      expect(answer.status).toBe(413);
      // The answer is parsed by the test.
      expect(parse.mock.calls.filter(([text]) => String(text).length > 10_000)).toEqual([]);
    } finally {
      parse.mockRestore();
    }
  });

  // The context has 1024 tokens, and the longest of the vocabulary, <|assistant|>, 13 characters.
  const most = 1024 * 13;

  test.each<[what: string, path: string, body: (characters: number) => object, param: string, short: number]>(
    [
      ['/tokenize', '/tokenize', (n) => ({ prompt: ' '.repeat(n) }), 'prompt', most],
      [
        '/tokenize of messages',
        '/tokenize',
        (n) => ({ messages: [{ role: 'user', content: ' '.repeat(n) }] }),
        'messages',
        13_000,
      ],
      ['a chat', chat, (n) => ({ messages: [{ role: 'user', content: ' '.repeat(n) }] }), 'messages', 900],
      ['a completion', completions, (n) => ({ prompt: ['a', ' '.repeat(n)] }), 'prompt', 900],
    ],
  )('%s does not encode a text that fits no context', async (_, path, body, param, short) => {
    const { post } = await serve(drawing);
    expect((await post(path, { ...body(short), max_tokens: 1 })).status).toBe(200);
    const encode = jest.spyOn(drawing.tokenizer, 'encodeAsync');
    try {
      const { status, body: answer } = await post(path, { ...body(4_000_000), max_tokens: 1 });
      expect([status, answer['error'].code, answer['error'].param]).toEqual([
        400,
        'context_length_exceeded',
        param,
      ]);
      expect(answer['error'].message).toMatch(
        new RegExp(
          `^this model's maximum context length is 1024 tokens of at most 13 characters, but the ${param} has 40000\\d\\d characters$`,
        ),
      );
      expect(encode.mock.calls.filter(([text]) => text.length > 1)).toEqual([]);
    } finally {
      encode.mockRestore();
    }
  });

  test('/detokenize takes as many ids as the context has', async () => {
    const { post } = await serve(drawing);
    const ids = (count: number): object => ({ tokens: Array<number>(count).fill(65) });
    expect((await post('/detokenize', ids(1024))).body).toEqual({ prompt: 'A'.repeat(1024) });
    const { status, body } = await post('/detokenize', ids(1025));
    expect([status, body['error']]).toEqual([
      400,
      {
        message: "this model's maximum context length is 1024 tokens, but tokens has 1025",
        type: 'invalid_request_error',
        code: 'context_length_exceeded',
        param: 'tokens',
      },
    ]);
  });

  test('others are answered while a text of a megabyte becomes ids', async () => {
    const { post, url } = await serve(endless);
    let ended = false;
    const long = post('/tokenize', { prompt: 'some words '.repeat(100_000) }).then((answer) => {
      ended = true;
      return answer;
    });
    let between = 0;
    while (!ended) {
      expect((await fetch(`${url}/health`)).status).toBe(200);
      if (!ended) between++;
    }
    expect((await long).body['count']).toBe(1_100_001);
    expect(between).toBeGreaterThan(20); // a slice is 8 ms of seconds
  });
});

const apiKeys = ['a', 'b'];
const as = (key: string) => ({ authorization: `Bearer ${key}` });

/** A server whose tokenizer takes as long for a text as the test wants. */
async function held(options: object = {}) {
  const served = await serve(drawing, { apiKeys, ...options });
  const { tokenizer } = drawing;
  const encodeAsync = tokenizer.encodeAsync.bind(tokenizer);
  const waiting = new Map<string, () => void>();
  const begun: string[] = [];
  const spy = jest.spyOn(tokenizer, 'encodeAsync').mockImplementation(async (text, more) => {
    const name = /\w\d/.exec(text)![0];
    begun.push(name);
    await new Promise<void>((resolve) => waiting.set(name, resolve));
    return encodeAsync(text, more);
  });
  return {
    ...served,
    begun,
    end: (name: string) => waiting.get(name)!(),
    restore: () => spy.mockRestore(),
  };
}

describe('turns at the tokenizer', () => {
  test('who has a thousand texts becoming ids waits for them alone', async () => {
    const { post, begun, end, restore } = await held();
    try {
      const ofA = Array.from({ length: 5 }, (_, i) => post('/tokenize', { prompt: `a${i}` }, as('a')));
      await until(() => begun.length === 1);
      // The prompts of chats and completions have the same turns, and so have ids that become text.
      const more = [
        post(chat, { messages: [{ role: 'user', content: 'a5' }], max_tokens: 1 }, as('a')),
        post(completions, { prompt: 'a6', max_tokens: 1 }, as('a')),
      ];
      let detokenized = false;
      const last = post('/detokenize', { tokens: [72, 105] }, as('a')).then((answer) => {
        detokenized = true;
        return answer;
      });
      expect((await post('/detokenize', { tokens: [72, 105] }, as('b'))).body).toEqual({ prompt: 'Hi' });
      const ofB = post('/tokenize', { prompt: 'b0' }, as('b'));
      await until(() => begun.includes('b0'));
      end('b0');
      expect((await ofB).body['tokens']).toEqual([256, 98, 48]);
      const turnsOfA = (): string[] => begun.filter((name) => name.startsWith('a'));
      expect([turnsOfA().length, detokenized]).toEqual([1, false]);
      for (let ended = 0; ended < 7; ended++) {
        await until(() => turnsOfA().length > ended);
        expect(turnsOfA()).toHaveLength(ended + 1);
        end(turnsOfA().at(-1)!);
      }
      const answers = await Promise.all([...ofA, ...more, last]);
      expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(200));
    } finally {
      restore();
    }
  });

  test('beyond the queue they are 429, and who leaves takes no turn', async () => {
    const {
      post,
      begun: begunTexts,
      end,
      restore,
      port,
      server,
    } = await held({ maxRunning: 1, maxQueued: 1 });
    try {
      const tokenize = (name: string) => post('/tokenize', { prompt: name }, as('a'));
      const first = tokenize('a0');
      await until(() => begunTexts.length === 1);
      let came = 0;
      let closed = 0;
      server.on('request', (_, response) => {
        came++;
        response.on('close', () => (closed += response.writableFinished ? 0 : 1));
      });
      const leaving = new AbortController();
      const headers = { 'content-type': 'application/json', ...as('a') };
      const left = begun({ port }, '/tokenize', { prompt: 'a1' }, { headers, signal: leaving.signal });
      left.catch(() => undefined);
      await until(() => came === 1);
      await new Promise((resolve) => setTimeout(resolve, 50)); // its body comes too, and it waits
      leaving.abort();
      await expect(left).rejects.toThrow();
      await until(() => closed === 1);
      // Two places are free, one of them that of the request that left.
      const others = ['a2', 'a3', 'a4'].map(tokenize);
      const refused = await Promise.race(others);
      expect([refused.status, refused.headers.get('retry-after'), refused.body['error'].code]).toEqual([
        429,
        '1',
        'rate_limit_exceeded',
      ]);
      for (const count of [1, 2, 3]) {
        await until(() => begunTexts.length === count);
        end(begunTexts.at(-1)!);
      }
      expect((await first).status).toBe(200);
      expect((await Promise.all(others)).map((answer) => answer.status).sort()).toEqual([200, 200, 429]);
      expect(begunTexts).not.toContain('a1');
    } finally {
      restore();
    }
  });
});

describe('bodies of requests that wait', () => {
  test('what is too long to be encoded is refused before it waits; a long body with a short text is not', async () => {
    const { post, begun, end, restore } = await held({ maxRunning: 1, maxQueued: 0 });
    try {
      const first = post(completions, { prompt: 'a0', max_tokens: 1 }, as('a'));
      await until(() => begun.length === 1); // it has the only place
      const refused = async (path: string, body: object): Promise<unknown> =>
        (await post(path, { ...body, max_tokens: 1 }, as('b'))).body['error'].code;
      const long = ' '.repeat(100_000);
      const said = (content: string): object => ({ messages: [{ role: 'user', content }] });
      expect(await refused(chat, said(long))).toBe('context_length_exceeded');
      expect(await refused(completions, { prompt: ['a', long] })).toBe('context_length_exceeded');
      expect(await refused(chat, { ...said('Hi'), user: long })).toBe('rate_limit_exceeded');
      end('a0');
      expect((await first).status).toBe(200);
    } finally {
      restore();
    }
  });

  test('where they have too many bytes, the client with most of them loses its newest request', async () => {
    const { post, begun, end, restore, url } = await held({ maxRunning: 1, maxWaitingBytes: 100_000 });
    const waiting = async (): Promise<number> =>
      ((await (await fetch(`${url}/health`)).json()) as { waiting: number }).waiting;
    try {
      const ask = (key: string, name: string, bytes: number) =>
        post(completions, { prompt: name, max_tokens: 1, user: 'x'.repeat(bytes) }, as(key));
      const first = ask('a', 'a0', 90_000);
      await until(() => begun.length === 1); // it has its turn, and counts no more
      const asked = [];
      for (const [key, name, bytes] of [
        ['a', 'a1', 30_000],
        ['b', 'b0', 20_000],
        ['a', 'a2', 30_000],
      ] as const) {
        asked.push(ask(key, name, bytes));
        await until(async () => (await waiting()) === asked.length);
      }
      asked.push(ask('b', 'b1', 30_000));
      expect((await asked[2]!).body).toEqual({
        error: {
          message: 'the bodies of waiting requests have 100000 bytes already: try again later',
          type: 'rate_limit_error',
          code: 'rate_limit_exceeded',
          param: null,
        },
      });
      // One that is larger than all of them is refused itself, while it comes.
      expect((await ask('b', 'b2', 200_000)).status).toBe(429);
      await until(async () => (await waiting()) === 3);
      for (const count of [1, 2, 3, 4]) {
        await until(() => begun.length === count);
        end(begun.at(-1)!);
      }
      const statuses = (await Promise.all([first, ...asked])).map(({ status }) => status);
      expect(statuses).toEqual([200, 200, 200, 429, 200]);
      expect(begun).not.toContain('a2');
    } finally {
      restore();
    }
  });
});

describe('memory for keys and values', () => {
  /** Of the drawing model, for 64 positions. */
  const pageBytes = 2 * 3 * 64 * 2 * 6 * 4;
  afterEach(() => drawing.configureEngine({ kvCacheBytes: 2 ** 30 }));

  test('what can never fit is refused with a sentence before it waits', async () => {
    drawing.configureEngine({ kvCacheBytes: 8 * pageBytes });
    expect(drawing.engineStats().maxTokens).toBe(512);
    const { post, begun, end, restore } = await held({ maxRunning: 1, maxQueued: 0 });
    try {
      const first = post(completions, { prompt: 'a0', max_tokens: 1 }, as('a'));
      await until(() => begun.length === 1); // it has the only place
      const refused = async (body: object): Promise<unknown[]> => {
        const { status, body: answer } = await post(completions, body, as('b'));
        return [status, answer['error'].code, answer['error'].message];
      };
      const memory = 'the server has memory for the keys and values of 512 tokens, but you asked for';
      expect(await refused({ prompt: 'b0', max_tokens: 513 })).toEqual([
        400,
        'context_length_exceeded',
        `${memory} 513: 0 in the prompt and 513 to generate`,
      ]);
      expect(await refused({ prompt: [[65], Array(500).fill(65)], max_tokens: 13 })).toEqual([
        400,
        'context_length_exceeded',
        `${memory} 513: 500 in the prompt and 13 to generate`,
      ]);
      expect((await refused({ prompt: Array(500).fill(65), max_tokens: 12 })).slice(0, 2)).toEqual([
        429,
        'rate_limit_exceeded',
      ]);
      end('a0');
      expect((await first).status).toBe(200);
    } finally {
      restore();
    }
  });

  test('a request without a limit gets as many tokens as there is memory for', async () => {
    drawing.configureEngine({ kvCacheBytes: pageBytes });
    const { post } = await serve(drawing);
    const { body } = await post(chat, { ...hi, ignore_eos: true });
    expect(body['usage']).toMatchObject({ prompt_tokens: 4, completion_tokens: 60 });
  });

  test('one that needs all pages waits for those that have them, and those behind it do not overtake', async () => {
    drawing.configureEngine({ kvCacheBytes: 8 * pageBytes });
    const { post } = await serve(drawing, { maxRunning: 64, maxQueued: 64 });
    const before = drawing.engineStats().preemptions;
    const ended: string[] = [];
    let maxRunning = 0;
    let maxBytes = 0;
    const ask = async (name: string, tokens: number): Promise<number> => {
      const { status } = await post(chat, { ...hi, max_tokens: tokens, ignore_eos: true });
      const { running, kvCacheBytes } = drawing.engineStats();
      maxRunning = Math.max(maxRunning, running);
      maxBytes = Math.max(maxBytes, kvCacheBytes);
      ended.push(name);
      return status;
    };
    const asked = [ask('seven pages', 440)];
    await until(() => drawing.engineStats().running === 1);
    // No token is known until all have come.
    let goOn!: () => void;
    const allHaveCome = new Promise<void>((resolve) => (goOn = resolve));
    const native = binding();
    const readNow = native.read.bind(native);
    const reading = jest
      .spyOn(native, 'read')
      .mockImplementation((tensor) => allHaveCome.then(() => readNow(tensor)));
    asked.push(ask('all pages', 508));
    await until(() => drawing.engineStats().waiting === 1);
    // One page is free, and each of these needs one.
    for (let i = 0; i < 24; i++) asked.push(ask('a page', 20 + i));
    await until(() => drawing.engineStats().waiting === 25);
    reading.mockRestore();
    goOn();
    expect(await Promise.all(asked)).toEqual(Array(26).fill(200));
    expect(ended).toEqual(['seven pages', 'all pages', ...Array<string>(24).fill('a page')]);
    // As many as there are pages, of the 16 for which a step has room; and nobody lost any.
    expect(maxRunning).toBeLessThanOrEqual(8);
    expect(maxRunning).toBeGreaterThan(4);
    expect(maxBytes).toBeLessThanOrEqual(8 * pageBytes);
    expect(drawing.engineStats().preemptions).toBe(before);
  });
});

test('of 300 connections, those that find the queue full are 429 at once, and the others are answered', async () => {
  const { post, server } = await serve(endless, { maxRunning: 1, maxQueued: 20 });
  let connections = 0;
  server.on('connection', () => connections++);
  // The first one has the place until the test lets it go on, however long the others take to come.
  const { tokenizer } = endless;
  const encodeAsync = tokenizer.encodeAsync.bind(tokenizer);
  let goOn!: () => void;
  const held = new Promise<void>((resolve) => (goOn = resolve));
  const encoding = jest
    .spyOn(tokenizer, 'encodeAsync')
    .mockImplementationOnce((...given) => held.then(() => encodeAsync(...given)));
  const first = post(chat, { ...hi, max_tokens: 2 });
  await until(() => encoding.mock.calls.length === 1);
  const told: number[] = [];
  const asked = Array.from({ length: 300 }, async () => {
    const answer = await post(chat, { ...hi, max_tokens: 2 });
    told.push(answer.status);
    return answer;
  });
  try {
    // While nothing else ends.
    await until(() => told.length === 280);
    expect(new Set(told)).toEqual(new Set([429]));
    expect(connections).toBe(301);
  } finally {
    goOn();
    encoding.mockRestore();
    await Promise.allSettled(asked); // they belong to no later test
  }
  expect((await first).status).toBe(200);
  const answers = await Promise.all(asked);
  const refused = answers.filter(({ status }) => status === 429);
  expect(refused).toHaveLength(280);
  for (const { body, headers } of refused) {
    expect(headers.get('retry-after')).toBe('1');
    expect(body).toEqual({
      error: {
        message: '20 requests wait already: try again later',
        type: 'rate_limit_error',
        code: 'rate_limit_exceeded',
        param: null,
      },
    });
  }
  const served = answers.filter(({ status }) => status === 200);
  expect(served.map(({ body }: { body: Json }) => body['usage'].completion_tokens)).toEqual(
    Array(20).fill(2),
  );
});
