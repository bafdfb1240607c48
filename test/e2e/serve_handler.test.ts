/** OpenAI's API over a model whose answers are known, and over one that draws. */
import { once } from 'node:events';
import { mkdirSync, rmSync } from 'node:fs';
import { createServer, request as httpRequest, type ClientRequest, type Server } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { CausalLM, createOpenAIHandler, type GenerateOptions } from '../../lib/index';
import type { OpenAIHandlerOptions } from '../../lib/serve';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { begun, eventsOf, json, servers, until, type Json } from '../support/serving';
import { temporaryFolder } from '../support/temporary';
import { llamaToolTemplate, tinyModel } from '../support/tiny_model';

const serve = servers();
const folder = temporaryFolder();
const chat = '/v1/chat/completions';
const hi = { messages: [{ role: 'user', content: 'Hi' }] };

/** Says `Yes, friend`. */
let model: CausalLM;
/** Draws whatever comes. */
let drawing: CausalLM;
/** Says the same character until somebody stops it. */
let endless: CausalLM;
/** The same, in what may be a call of a tool until it has ended. */
let holding: CausalLM;
let sql: string;
beforeAll(async () => {
  const config = { max_position_embeddings: 100_000 };
  const dirs = [
    await answeringModel('Yes, fr'),
    await tinyModel({ config: { max_position_embeddings: 1024 } }),
    await answeringModel('Ab', { endless: true, config }),
    await answeringModel('{b', { endless: true, config, chatTemplate: llamaToolTemplate }),
  ];
  sql = await answeringAdapter(dirs[0]!, 'SELCT 1', join(folder, 'sql'));
  [model, drawing, endless, holding] = (await Promise.all(
    dirs.map((dir) => CausalLM.fromPretrained(dir)),
  )) as [CausalLM, CausalLM, CausalLM, CausalLM];
});
afterAll(async () => {
  for (const one of [model, drawing, endless, holding]) {
    await one.dispose();
    rmSync(one.directory, { recursive: true });
  }
});

describe('chat', () => {
  test('an answer in one piece has the shape of OpenAI’s', async () => {
    const { post } = await serve(model, { modelName: 'base' });
    const { status, body, headers } = await post(chat, { model: 'base', ...hi });
    expect(status).toBe(200);
    expect(headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{24}$/);
    expect(body).toEqual({
      id: expect.stringMatching(/^chatcmpl-[0-9a-f]{24}$/),
      object: 'chat.completion',
      created: expect.any(Number),
      model: 'base',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'Yes, fr', refusal: null },
          logprobs: null,
          finish_reason: 'stop',
        },
      ],
      usage: {
        prompt_tokens: 4,
        completion_tokens: 8,
        total_tokens: 12,
        prompt_tokens_details: { cached_tokens: 0 },
      },
    });
  });

  test('a stream has the role, the pieces, the reason, the usage and [DONE]', async () => {
    const { stream } = await serve(model, { modelName: 'base' });
    const events = await stream(chat, { ...hi, stream_options: { include_usage: true } });
    const heads = events.map(({ id, object, model }) => [id, object, model].join(' '));
    expect(new Set(heads).size).toBe(1);
    expect(heads[0]).toMatch(/^chatcmpl-\w+ chat.completion.chunk base$/);
    const choices = events.slice(0, -1).map(({ choices }) => choices[0]);
    expect(choices[0]).toEqual({
      index: 0,
      delta: { role: 'assistant', content: '' },
      logprobs: null,
      finish_reason: null,
    });
    expect(choices.slice(1, -1).map(({ delta }) => delta.content)).toEqual([...'Yes, fr']);
    expect(choices.at(-1)).toEqual({ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' });
    expect(events[0]).toHaveProperty('usage', null);
    expect(events.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 4, completion_tokens: 8 } });
    const plain = await stream(chat, hi);
    expect(plain.every((event) => !('usage' in event))).toBe(true);
    expect(plain.at(-1)!['choices'][0].finish_reason).toBe('stop');
  });

  test('limits, stops, parts of contents and the developer’s message', async () => {
    const { post } = await serve(model);
    const contentOf = async (more: object): Promise<unknown[]> => {
      const { choices } = (await post(chat, { ...hi, ...more })).body;
      return [choices[0].message.content, choices[0].finish_reason];
    };
    expect(await contentOf({ max_tokens: 3 })).toEqual(['Yes', 'length']);
    expect(await contentOf({ max_tokens: 3, max_completion_tokens: 2 })).toEqual(['Ye', 'length']);
    expect(await contentOf({ max_tokens: 0 })).toEqual(['', 'length']);
    expect(await contentOf({ stop: ', ' })).toEqual(['Yes', 'stop']);
    expect(await contentOf({ stop: ['r', 's,'] })).toEqual(['Ye', 'stop']);
    expect(await contentOf({ logit_bias: { 101: -100 }, max_tokens: 1 })).toEqual(['Y', 'length']);
    expect(await contentOf({ logit_bias: { 89: -100 }, temperature: 0, max_tokens: 1 })).not.toEqual([
      'Y',
      'length',
    ]);
    const parts = [
      { type: 'text', text: 'H' },
      { type: 'text', text: 'i' },
    ];
    const { body } = await post(chat, {
      messages: [
        { role: 'developer', content: 'Be' },
        { role: 'user', content: parts },
      ],
    });
    expect(body['choices'][0].message.content).toBe('Yes, fr');
  });

  test('log-probabilities are those of generate(), with the text and the bytes of each token', async () => {
    const { post, stream } = await serve(drawing);
    const options = { ...hi, max_tokens: 5, seed: 3, temperature: 1, logprobs: true, top_logprobs: 2 };
    const { content } = (await post(chat, options)).body['choices'][0].logprobs;
    const handle = drawing.generate(hi.messages, { maxNewTokens: 5, seed: 3, temperature: 1, logprobs: 2 });
    const tokens = [];
    for await (const token of handle) tokens.push(token);
    expect(content).toHaveLength(tokens.length);
    for (const [i, { id, logprob, topLogprobs }] of tokens.entries()) {
      expect(content[i].logprob).toBe(logprob);
      expect(content[i].token).toBe(drawing.tokenizer.decode([id]));
      expect(content[i].bytes).toEqual(id < 128 ? [id] : id < 256 ? null : expect.any(Array));
      expect(content[i].top_logprobs.map((one: Json) => one.logprob)).toEqual(
        topLogprobs!.map((one) => one.logprob),
      );
    }
    const events = await stream(chat, options);
    const streamed = events.flatMap(({ choices }) => choices[0].logprobs?.content ?? []);
    expect(streamed).toEqual(content);
  });

  test('n texts, drawn with seeds that can be repeated', async () => {
    const { post, stream } = await serve(drawing);
    const options = { ...hi, n: 3, seed: -5, temperature: 1.5, max_tokens: 9, ignore_eos: true };
    const { choices, usage } = (await post(chat, options)).body;
    const texts = choices.map((choice: Json) => choice.message.content);
    expect(new Set(texts).size).toBe(3);
    expect(usage).toMatchObject({ prompt_tokens: 4, completion_tokens: 27 });
    const again = ['', '', ''];
    for (const event of await stream(chat, options))
      for (const { index, delta } of event['choices']) again[index as number] += delta.content ?? '';
    expect(again).toEqual(texts);
  });

  test.each(['defaultMaxNewTokens', 'defaultMaxTokens'])(
    '%s bounds a chat that names no limit',
    async (name) => {
      const { post } = await serve(endless, { [name]: 3 });
      expect((await post(chat, hi)).body['usage'].completion_tokens).toBe(3);
    },
  );

  test('texts are drawn with temperature 1 where neither request nor file says another, or with the default of the program', async () => {
    const texts = async (options: OpenAIHandlerOptions, more: object): Promise<string[]> => {
      const { post } = await serve(drawing, options);
      const asked = { ...hi, n: 3, seed: 1, max_tokens: 9, ignore_eos: true, ...more };
      return (await post(chat, asked)).body['choices'].map((choice: Json) => choice.message.content);
    };
    const drawn = await texts({}, {});
    expect(new Set(drawn).size).toBe(3);
    expect(await texts({}, { temperature: 1 })).toEqual(drawn);
    expect(await texts({ defaultTemperature: 0.5 }, {})).toEqual(await texts({}, { temperature: 0.5 }));
    expect(await texts({ defaultTemperature: 0.5 }, { temperature: 1 })).toEqual(drawn);
    expect(new Set(await texts({ defaultTemperature: 0 }, {})).size).toBe(1);
    expect(() => createOpenAIHandler(drawing, { defaultTemperature: -1 })).toThrow(
      'expected defaultTemperature to be a finite number of at least 0 but received -1',
    );
  });

  test.each<[fields: object, options: GenerateOptions]>([
    [{ seed: 8 }, { seed: 8 }],
    [{ seed: 0 }, { seed: 0 }],
    [{ temperature: 0.3 }, { temperature: 0.3 }],
    [{ top_p: 0.5 }, { topP: 0.5 }],
    [{ top_p: 0 }, { temperature: 0 }],
    [{ top_k: 3 }, { topK: 3 }],
    [{ min_p: 0.9 }, { minP: 0.9 }],
    [{ presence_penalty: 2 }, { presencePenalty: 2 }],
    [{ frequency_penalty: 2 }, { frequencyPenalty: 2 }],
    [{ repetition_penalty: 1.5 }, { repetitionPenalty: 1.5 }],
  ])('%j is %j of generate()', async (fields, options) => {
    const { post } = await serve(drawing);
    const textOf = async (more: object): Promise<unknown> => {
      const asked = { ...hi, seed: 3, temperature: 1, max_tokens: 100, ignore_eos: true, ...more };
      return (await post(chat, asked)).body['choices'][0].message.content;
    };
    const same = { seed: 3, temperature: 1, maxNewTokens: 100, ignoreEos: true };
    const { text } = await drawing.generate(hi.messages, { ...same, ...options });
    expect(await textOf(fields)).toBe(text);
    expect(await textOf({})).not.toBe(text);
  });

  test('a JSON Schema, and any JSON object', async () => {
    const { post } = await serve(drawing);
    const contentOf = async (format: object): Promise<Json> => {
      const options = { ...hi, seed: 1, temperature: 1, max_tokens: 900, response_format: format };
      const { message, finish_reason } = (await post(chat, options)).body['choices'][0];
      expect(finish_reason).toBe('stop');
      return JSON.parse(message.content as string);
    };
    const schema = {
      type: 'object',
      properties: { n: { enum: [1, 2] } },
      required: ['n'],
      additionalProperties: false,
    };
    const answer = await contentOf({ type: 'json_schema', json_schema: { name: 'n', schema, strict: true } });
    expect([1, 2]).toContain(answer.n);
    expect(await contentOf({ type: 'json_object' })).toEqual(expect.any(Object));
  });
});

describe('completions', () => {
  const path = '/v1/completions';

  test('several prompts, texts and ids, are answered in their order', async () => {
    const { post, stream } = await serve(model, { modelName: 'base' });
    const prompt = ['<|user|>a<|assistant|>', '<|assistant|>Ye'];
    const { body } = await post(path, { prompt });
    expect(body).toMatchObject({
      object: 'text_completion',
      model: 'base',
      id: expect.stringMatching(/^cmpl-/),
    });
    expect(body['choices']).toEqual([
      { index: 0, text: 'Yes, fr', logprobs: null, finish_reason: 'stop' },
      { index: 1, text: 's, fr', logprobs: null, finish_reason: 'stop' },
    ]);
    const streamed = ['', ''];
    for (const { choices } of await stream(path, { prompt }))
      for (const { index, text } of choices) streamed[index as number] += text;
    expect(streamed).toEqual(['Yes, fr', 's, fr']);
    const ids = await post(path, { prompt: [[259], [259, 89]], max_tokens: 2 });
    expect(ids.body['choices'].map(({ text }: Json) => text)).toEqual(['Ye', 'es']);
    expect((await post(path, { prompt: [259] })).body['choices'][0].text).toBe('Yes, fr');
  });

  test('without a limit it is 16 tokens, as OpenAI has it', async () => {
    const { post } = await serve(endless);
    const { choices, usage } = (await post(path, { prompt: [259] })).body;
    expect([choices[0].finish_reason, usage.completion_tokens]).toEqual(['length', 16]);
  });

  test('each text of a stream counts its own offsets', async () => {
    const { stream } = await serve(drawing);
    const options = { prompt: [259], n: 2, logprobs: 0, max_tokens: 6, temperature: 1, seed: 1 };
    const offsets: number[][] = [[], []];
    const expected: number[][] = [[], []];
    const lengths = [0, 0];
    for (const { choices } of await stream(path, options))
      for (const { index, text, logprobs } of choices) {
        if (!logprobs) continue;
        offsets[index as number]!.push(...(logprobs.text_offset as number[]));
        expected[index as number]!.push(lengths[index as number]!);
        lengths[index as number]! += (text as string).length;
      }
    expect(Math.min(...lengths)).toBeGreaterThan(1);
    expect(offsets).toEqual(expected);
  });

  test('log-probabilities as lists, whole and streamed', async () => {
    const { post, stream } = await serve(model);
    const { logprobs } = (await post(path, { prompt: [259], logprobs: 2, max_tokens: 3 })).body['choices'][0];
    expect(logprobs.tokens).toEqual(['Y', 'e', 's']);
    expect(logprobs.text_offset).toEqual([0, 1, 2]);
    expect(logprobs.token_logprobs.every((one: number) => one < 0 && one > -1)).toBe(true);
    expect(logprobs.top_logprobs[0]).toHaveProperty('Y', logprobs.token_logprobs[0]);
    const events = await stream(path, { prompt: [259], logprobs: 2, max_tokens: 3 });
    expect(events.map(({ choices }) => choices[0].text)).toEqual(['Y', 'e', 's', '']);
    expect(events.flatMap(({ choices }) => choices[0].logprobs?.text_offset ?? [])).toEqual([0, 1, 2]);
    expect((await post(path, { prompt: [259], logprobs: 0 })).body['choices'][0].logprobs.top_logprobs).toBe(
      null,
    );
  });
});

describe('models', () => {
  test('adapters are listed with parent and root, and chosen by the name of the model', async () => {
    const { post, url } = await serve(model, { modelName: 'base', adapters: { 'team/sql': sql } });
    const get = async (path: string): Promise<Json> => (await fetch(url + path)).json();
    const card = { object: 'model', created: expect.any(Number), owned_by: 'lora-native' };
    const base = { ...card, id: 'base', parent: null, root: model.directory };
    const adapter = { ...card, id: 'team/sql', parent: 'base', root: sql };
    expect(await get('/v1/models')).toEqual({ object: 'list', data: [base, adapter] });
    expect(await get('/v1/models/team/sql')).toEqual(adapter);
    expect(await get('/v1/models/team%2Fsql')).toEqual(adapter);
    expect(await get('/v1/models/none')).toMatchObject({
      error: { code: 'model_not_found', param: 'model' },
    });
    const answers = await Promise.all(
      ['team/sql', 'base', 'team/sql', undefined].map((name) => post(chat, { model: name, ...hi })),
    );
    expect(answers.map(({ body }) => [body['model'], body['choices'][0].message.content])).toEqual([
      ['team/sql', 'SELCT 1'],
      ['base', 'Yes, fr'],
      ['team/sql', 'SELCT 1'],
      ['base', 'Yes, fr'],
    ]);
    expect(model.adapters.size).toBe(1); // one loading for both
    expect(model.activeAdapter).toBe(null);
    for (const name of model.adapters.keys()) await model.removeAdapter(name);
  });

  test('adapters that the program has added are served too', async () => {
    await model.loadAdapter(sql, { name: 'mine' });
    model.setAdapter(null);
    const { post, url } = await serve(model);
    const { data } = (await (await fetch(`${url}/v1/models`)).json()) as Json;
    expect(data.map(({ id }: Json) => id)).toContain('mine');
    expect((await post(chat, { model: 'mine', ...hi })).body['choices'][0].message.content).toBe('SELCT 1');
    await model.removeAdapter('mine');
    expect((await post(chat, { model: 'mine', ...hi })).status).toBe(404);
  });

  test('an adapter that cannot be read is a failure of the server, whose words stay in its log', async () => {
    const lines: Json[] = [];
    const logger = { info: () => undefined, error: (fields: object) => void lines.push(fields) };
    mkdirSync(join(folder, 'empty'));
    const { post } = await serve(model, { adapters: { empty: join(folder, 'empty') }, logger });
    for (let i = 0; i < 2; i++) {
      const { status, body } = await post(chat, { model: 'empty', ...hi });
      expect([status, body['error'].message]).toEqual([500, 'internal error']);
    }
    expect(lines.map(({ err }) => err.code)).toEqual(['ERR_FILE', 'ERR_FILE']);
    expect((await post(chat, hi)).status).toBe(200);
  });
});

test('ids of a text and of a conversation, and back', async () => {
  const { post } = await serve(model);
  const { body } = await post('/tokenize', { prompt: 'Hi' });
  expect(body).toEqual({ count: 3, max_model_len: 128, tokens: [256, 72, 105] });
  expect((await post('/tokenize', { prompt: 'Hi', add_special_tokens: false })).body['count']).toBe(2);
  expect((await post('/tokenize', hi)).body['tokens']).toEqual([258, 72, 105, 259]);
  expect((await post('/detokenize', { tokens: [72, 105] })).body).toEqual({ prompt: 'Hi' });
});

describe('what a client does wrong', () => {
  const message = { role: 'user', content: 'Hi' };
  const cases: [
    name: string,
    path: string,
    body: unknown,
    status: number,
    code: string | null,
    param: string | null,
  ][] = [
    ['no messages', chat, {}, 400, 'missing_required_parameter', 'messages'],
    ['messages that are none', chat, { messages: [{ content: 'Hi' }] }, 400, null, 'messages'],
    ['an image', chat, { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }, 400, null, null],
    ['a model that is not there', chat, { ...hi, model: 'gpt-9' }, 404, 'model_not_found', 'model'],
    ['a temperature', chat, { ...hi, temperature: 3 }, 400, null, 'temperature'],
    ['a text for a number', chat, { ...hi, top_p: '1' }, 400, null, 'top_p'],
    ['too many texts', chat, { ...hi, n: 129 }, 400, null, 'n'],
    ['a bias', chat, { ...hi, logit_bias: { x: 1 } }, 400, null, 'logit_bias'],
    ['a bias beyond 100', chat, { ...hi, logit_bias: { 5: 101 } }, 400, null, 'logit_bias'],
    ['stops', chat, { ...hi, stop: [1] }, 400, null, 'stop'],
    ['top_logprobs alone', chat, { ...hi, top_logprobs: 2 }, 400, null, 'top_logprobs'],
    ['options of no stream', chat, { ...hi, stream_options: {} }, 400, null, 'stream_options'],
    ['a format', chat, { ...hi, response_format: { type: 'xml' } }, 400, null, 'response_format'],
    [
      'a schema',
      chat,
      { ...hi, response_format: { type: 'json_schema', json_schema: { schema: { type: 'x' } } } },
      400,
      null,
      null,
    ],
    [
      'a schema that is not there',
      chat,
      { ...hi, response_format: { type: 'json_schema' } },
      400,
      'missing_required_parameter',
      'response_format.json_schema',
    ],
    ['functions', chat, { ...hi, functions: [{ name: 'f' }] }, 400, 'unsupported_parameter', 'functions'],
    ['sound', chat, { ...hi, modalities: ['text', 'audio'] }, 400, 'unsupported_parameter', 'modalities'],
    ['more than the context', chat, { ...hi, max_tokens: 125 }, 400, 'context_length_exceeded', 'messages'],
    [
      'a prompt beyond the context',
      '/v1/completions',
      { prompt: 'x'.repeat(200) },
      400,
      'context_length_exceeded',
      'prompt',
    ],
    ['no prompt', '/v1/completions', { prompt: [] }, 400, null, 'prompt'],
    ['ids that are none', '/v1/completions', { prompt: [1e9] }, 400, null, null],
    ['echo', '/v1/completions', { prompt: 'a', echo: true }, 400, 'unsupported_parameter', 'echo'],
    ['best_of', '/v1/completions', { prompt: 'a', best_of: 3 }, 400, 'unsupported_parameter', 'best_of'],
    ['too many logprobs', '/v1/completions', { prompt: 'a', logprobs: 21 }, 400, null, 'logprobs'],
    ['the best of none', '/v1/completions', { prompt: 'a', best_of: 0 }, 400, null, 'best_of'],
    ['what is no JSON', chat, '{"messages":', 400, 'invalid_json', null],
    ['a list', chat, '[]', 400, null, null],
    ['deep JSON', chat, `{"messages":${'['.repeat(1e5)}${']'.repeat(1e5)}}`, 400, null, null],
    ['ten thousand messages', chat, { messages: Array(10_000).fill(message) }, 400, null, 'messages'],
    ['a body that is too large', chat, { ...hi, user: 'x'.repeat(5e6) }, 413, 'request_too_large', null],
    ['another URL', '/v1/images', {}, 404, 'unknown_url', null],
  ];
  test.each(cases)('%s', async (_, path, body, status, code, param) => {
    const { post } = await serve(model);
    const answer = await post(path, body);
    expect(answer.body).toEqual({
      error: { message: expect.any(String), type: 'invalid_request_error', code, param },
    });
    expect(answer.status).toBe(status);
  });

  test('bodies may be nested 127 levels deep, and texts may hold more brackets', async () => {
    const { post } = await serve(model);
    const parse = jest.spyOn(JSON, 'parse');
    const nested = (levels: number): string =>
      `{"wishes":${'[{"a":'.repeat((levels - 1) / 2)}1${'}]'.repeat((levels - 1) / 2)},"user":"\\"${'['.repeat(200)}","messages":[{"role":"user","content":"{\\\\"}]}`;
    expect((await post(chat, nested(127))).status).toBe(200);
    const parsed = parse.mock.calls.length;
    const { status, body } = await post(chat, nested(129));
    expect([status, body['error'].message]).toEqual([400, expect.stringContaining('at most 127 levels')]);
    // It is seen before the parser, which would hold the event loop: what was parsed since is the answer.
    expect(parse.mock.calls.slice(parsed).filter(([text]) => text.startsWith('{"wishes"'))).toEqual([]);
    parse.mockRestore();
  });

  test('unknown fields are ignored', async () => {
    const { post } = await serve(model);
    expect((await post(chat, { ...hi, user: 'me', metadata: {}, wishes: [1], tools: [] })).status).toBe(200);
  });

  test('another method, another type, bytes that are no text', async () => {
    const { url } = await serve(model);
    const get = await fetch(url + chat);
    expect([get.status, get.headers.get('allow')]).toEqual([405, 'POST']);
    expect((await fetch(`${url}/v1/models`, { method: 'POST' })).status).toBe(405);
    const body = JSON.stringify(hi);
    const refused = async (response: Response): Promise<unknown> => [
      response.status,
      response.headers.get('connection'),
      ((await response.json()) as Json)['error'].code,
    ];
    const unsupported = [415, 'close', 'unsupported_media_type'];
    const plain = await fetch(url + chat, { method: 'POST', body });
    expect(await refused(plain)).toEqual(unsupported);
    const type = { 'content-type': 'application/json' };
    const packed = await fetch(url + chat, {
      method: 'POST',
      body,
      headers: { ...type, 'content-encoding': 'gzip' },
    });
    expect(await refused(packed)).toEqual(unsupported);
    const bytes = await fetch(url + chat, {
      method: 'POST',
      body: new Uint8Array([0x7b, 0xff]),
      headers: type,
    });
    expect(bytes.status).toBe(400);
  });

  test('a body that does not come', async () => {
    const { port } = await serve(model, { bodyTimeoutMs: 50 });
    const response = await begun(
      { port },
      chat,
      {},
      { headers: { 'content-type': 'application/json', 'content-length': 9 } },
    );
    expect(response.statusCode).toBe(408);
    response.destroy();
  });

  test('a hundred bodies that do not come hold no place', async () => {
    const { port, post, url } = await serve(model, { maxRunning: 1, maxQueued: 0, bodyTimeoutMs: 2000 });
    const headers = { 'content-type': 'application/json', 'content-length': 9 };
    const open = Array.from({ length: 100 }, () => {
      const request = httpRequest({ host: '127.0.0.1', port, path: chat, method: 'POST', headers });
      request.on('error', () => undefined).write('{');
      return once(request, 'response') as Promise<[{ statusCode: number; resume(): void }]>;
    });
    expect((await post(chat, hi)).status).toBe(200);
    expect(await (await fetch(`${url}/health`)).json()).toEqual({ status: 'ok', running: 0, waiting: 0 });
    const statuses = (await Promise.all(open)).map(([response]) => {
      response.resume();
      return response.statusCode;
    });
    expect(new Set(statuses)).toEqual(new Set([408]));
  });
});

describe('behind a body parser', () => {
  /** What express.json() and the like do: the stream is read to its end, and a value is put on the request. */
  async function parsing(valueOf: (text: string) => unknown, options: OpenAIHandlerOptions = {}) {
    const handler = createOpenAIHandler(model, options);
    const server = createServer((request, response) => {
      const pieces: Buffer[] = [];
      request.on('data', (piece: Buffer) => pieces.push(piece));
      request.on('end', () => {
        const body = valueOf(Buffer.concat(pieces).toString());
        setImmediate(() =>
          handler(body === undefined ? request : Object.assign(request, { body }), response),
        );
      });
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    return async (body: string, headers: Record<string, string> = json): Promise<[number, Json]> => {
      const response = await fetch(`http://127.0.0.1:${port}${chat}`, { method: 'POST', headers, body });
      const answer = (await response.json()) as Json;
      server.close();
      server.closeAllConnections();
      return [response.status, answer];
    };
  }
  const sent = JSON.stringify(hi);

  test.each<[what: string, valueOf: (text: string) => unknown]>([
    ['its value', (text) => JSON.parse(text) as unknown],
    ['its text', (text) => text],
    ['its bytes', (text) => Buffer.from(text)],
  ])('%s is taken from request.body', async (_, valueOf) => {
    const [status, answer] = await (await parsing(valueOf))(sent);
    expect([status, answer['choices']?.[0].message.content]).toEqual([200, 'Yes, fr']);
  });

  test('a body that the parser keeps to itself is named, as the mistake of the program', async () => {
    const [status, answer] = await (await parsing(() => undefined))(sent);
    expect([status, answer['error'].code]).toEqual([500, 'body_already_read']);
    expect(answer['error'].message).toContain('express.json()');
    expect(answer['error'].message).toContain('request.raw.body = request.body');
  });

  test('what the parser has read keeps the rules of a body', async () => {
    const plain = { 'content-type': 'text/plain' };
    const refused = async (valueOf: (text: string) => unknown, body: string, headers?: typeof plain) => {
      const [status, answer] = await (await parsing(valueOf, { maxBodyBytes: 1000 }))(body, headers);
      return [status, answer['error'].code];
    };
    const asItIs = (text: string): string => text;
    expect(await refused((text) => JSON.parse(text) as unknown, sent, plain)).toEqual([
      415,
      'unsupported_media_type',
    ]);
    expect(await refused(asItIs, `{"user":"${'x'.repeat(1000)}"}`)).toEqual([413, 'request_too_large']);
    expect(await refused(asItIs, `{"a":${'['.repeat(200)}${']'.repeat(200)}}`)).toEqual([400, null]);
    expect(await refused(asItIs, '{"messages":')).toEqual([400, 'invalid_json']);
    expect(await refused(() => [1], '[1]')).toEqual([400, null]);
  });

  test('a value on a request that nobody has read is not its body', async () => {
    // As body parsers leave what is of another type: an empty object.
    const handler = createOpenAIHandler(model);
    const server = createServer((request, response) =>
      handler(Object.assign(request, { body: {} }), response),
    );
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const { port } = server.address() as AddressInfo;
    const response = await fetch(`http://127.0.0.1:${port}${chat}`, {
      method: 'POST',
      headers: json,
      body: sent,
    });
    expect(response.status).toBe(200);
    server.close();
    server.closeAllConnections();
  });

  test('what frameworks have in the place of both is named', () => {
    const handler = createOpenAIHandler(model);
    const given = handler as (request: unknown, response?: unknown) => void;
    expect(() => given({ raw: {} }, { raw: {} })).toThrow('have both as raw (Fastify)');
    expect(() => given(new Request('http://localhost/v1/models'))).toThrow(
      expect.objectContaining({ code: 'ERR_ARGUMENT' }),
    );
  });
});

describe('a body that is too large', () => {
  /** Writes all of a body before it reads, as simple clients do. */
  async function written(port: number, head: string, bytes: number): Promise<string> {
    const socket = connect(port, '127.0.0.1');
    socket.write(`POST ${chat} HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${bytes}\r\n${head}\r\n`);
    const piece = Buffer.alloc(2 ** 16, 'x');
    for (let left = bytes; left > 0; left -= piece.length)
      if (!socket.write(piece.subarray(0, left))) await once(socket, 'drain');
    const [answer] = (await once(socket, 'data')) as [Buffer];
    socket.destroy();
    return answer.toString();
  }
  const jsonHead = 'content-type: application/json\r\n';

  test.each<[what: string, head: string, status: number]>([
    ['its length said before', jsonHead, 413],
    ['of another type', 'content-type: text/plain\r\n', 415],
    ['packed', `${jsonHead}content-encoding: gzip\r\n`, 415],
  ])('%s, is read before it is refused, so that its client hears why', async (_, head, status) => {
    const { port } = await serve(model);
    expect(await written(port, head, 12_000_000)).toContain(`HTTP/1.1 ${status} `);
  });

  test('is read so far and no farther', async () => {
    const { port } = await serve(model, { maxBodyBytes: 1000 });
    await expect(written(port, jsonHead, 2 ** 27)).rejects.toThrow(/EPIPE|ECONNRESET/);
  });

  test('whose rest does not come is refused after the time for a body', async () => {
    const { port } = await serve(model, { maxBodyBytes: 10, bodyTimeoutMs: 50 });
    const headers = { ...json, 'content-length': 1000 };
    const response = await begun({ port }, chat, {}, { headers });
    expect(response.statusCode).toBe(413);
    response.destroy();
  });
});

describe('keys', () => {
  const apiKeys = ['secret', { key: 'other', name: 'batch', maxConcurrent: 1 }];
  const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

  test('requests need one, whatever they ask for; /health does not', async () => {
    const { post, url } = await serve(model, { apiKeys });
    for (const headers of [{}, bearer('wrong'), bearer('secre'), { authorization: 'Basic secret' }]) {
      const { status, body } = await post(chat, hi, headers);
      expect([status, body['error'].code]).toEqual([401, 'invalid_api_key']);
    }
    expect((await fetch(`${url}/v1/models`)).status).toBe(401);
    expect((await fetch(`${url}/health`)).status).toBe(200);
    expect((await post(chat, hi, bearer('secret'))).status).toBe(200);
    expect((await post(chat, hi, bearer('other'))).status).toBe(200);
  });

  test('each has its number of requests at once', async () => {
    const { post, port } = await serve(endless, { apiKeys });
    const headers = { 'content-type': 'application/json', ...bearer('other') };
    const first = await begun({ port }, chat, { ...hi, stream: true, max_tokens: 90_000 }, { headers });
    const refused = await post(chat, { ...hi, max_tokens: 2 }, bearer('other'));
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '1']);
    expect((await post(chat, { ...hi, max_tokens: 2 }, bearer('secret'))).status).toBe(200);
    first.destroy();
    await until(() => endless.engineStats().running === 0);
    expect((await post(chat, { ...hi, max_tokens: 2 }, bearer('other'))).status).toBe(200);
  });
});

describe('connections', () => {
  const long = { ...hi, stream: true, max_tokens: 90_000 };
  const tools = [{ type: 'function', function: { name: 'now' } }];

  /** Sends a request whose connection can be closed at any time. */
  const sent = (port: number, body: object): ClientRequest => {
    const request = httpRequest({ host: '127.0.0.1', port, path: chat, method: 'POST', headers: json });
    request.on('error', () => undefined).end(JSON.stringify(body));
    return request;
  };

  test.each<[what: string, model: () => CausalLM, body: object]>([
    ['of a stream', () => endless, long],
    ['of a stream that holds it back, as what may be a call', () => holding, { ...long, tools }],
    ['of an answer in one piece', () => endless, { ...long, stream: false }],
  ])('a closed connection ends the text %s within two tokens', async (_, modelOf, body) => {
    const asked = modelOf();
    const { port, server } = await serve(asked);
    const tokens = (): number => asked.engineStats().tokens;
    let atClose: number | undefined;
    server.prependListener('request', (_, response) =>
      response.prependListener('close', () => (atClose = tokens())),
    );
    const before = tokens();
    const request = sent(port, { ...body, max_tokens: 5000 });
    await until(() => tokens() > before + 3);
    request.destroy();
    await until(() => atClose !== undefined && asked.engineStats().running === 0);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(tokens() - atClose!).toBeLessThanOrEqual(2);
  });

  test('so does that of one that waits, which gives its place in the queue to others', async () => {
    const { port, post, url } = await serve(endless, { maxRunning: 1, maxQueued: 1 });
    const waiting = async (): Promise<number> =>
      ((await (await fetch(`${url}/health`)).json()) as { waiting: number }).waiting;
    const first = sent(port, long);
    await until(() => endless.engineStats().running === 1);
    const second = sent(port, long);
    await until(async () => (await waiting()) === 1);
    second.destroy();
    await until(async () => (await waiting()) === 0);
    const third = post(chat, { ...hi, max_tokens: 2 });
    await until(async () => (await waiting()) === 1);
    first.destroy();
    expect((await third).status).toBe(200);
    await until(() => endless.engineStats().running === 0);
  });

  test('a full queue is 429, and one that has room is served in turn', async () => {
    const { port, post } = await serve(endless, { maxRunning: 1, maxQueued: 1 });
    const first = await begun({ port }, chat, long);
    const second = post(chat, { ...hi, max_tokens: 2 });
    const third = post(chat, { ...hi, max_tokens: 2 });
    const { status, headers } = await Promise.race([second, third]);
    expect([status, headers.get('retry-after')]).toEqual([429, '1']);
    first.destroy();
    expect((await Promise.all([second, third])).map((answer) => answer.status).sort()).toEqual([200, 429]);
  });
});

describe('a reader that stops', () => {
  /** Few events fill the buffers of a Unix socket. */
  const wordy = { ...hi, stream: true, logprobs: true, top_logprobs: 20, max_tokens: 300 };

  const open: Server[] = [];
  afterEach(() => {
    for (const server of open.splice(0)) {
      server.close();
      server.closeAllConnections();
    }
  });

  async function stoppedReader(options: OpenAIHandlerOptions) {
    const { handler, post, url } = await serve(endless, options);
    const path = join(folder, `${performance.now()}.sock`);
    const server = createServer(handler).listen(path);
    open.push(server);
    await once(server, 'listening');
    const response = await begun({ port: 0 }, chat, wordy, { socketPath: path });
    response.pause();
    await until(async () => {
      const { running } = (await (await fetch(`${url}/health`)).json()) as { running: number };
      return running === 0;
    });
    return { handler, url, post, response };
  }

  test('holds back nobody but itself, and gets all of its text when it goes on', async () => {
    const { post, response } = await stoppedReader({ maxRunning: 1 });
    const { tokens } = endless.engineStats();
    expect((await post(chat, { ...hi, max_tokens: 3 })).status).toBe(200);
    // Nothing is made that nobody reads: the engine is two tokens ahead of a reader.
    expect(endless.engineStats().tokens - tokens).toBeLessThanOrEqual(3 + 2);
    let text = '';
    for await (const piece of response.setEncoding('utf8')) text += piece;
    const events = eventsOf(text);
    const pieces = events.map(({ choices }) => (choices[0].delta.content as string | undefined) ?? '');
    expect(pieces.join('')).toMatch(/^Ab{299}$/);
  });

  // An answer of which nobody has read the end is under way for as long as the test needs.
  test('is waited for by close(), which answers what came before, and nothing after', async () => {
    const { handler, url, post, response } = await stoppedReader({});
    let ended = false;
    const closed = handler.close().then(() => (ended = true));
    const { status, body, headers } = await post(chat, hi);
    expect([status, body['error'].code]).toEqual([503, 'closing']);
    expect(headers.get('connection')).toBe('close'); // which the server waits for otherwise
    expect((await fetch(`${url}/health`)).status).toBe(503);
    expect(ended).toBe(false);
    let text = '';
    for await (const piece of response.setEncoding('utf8')) text += piece;
    expect(text).toMatch(/"finish_reason":"length".*\n\ndata: \[DONE\]\n\n$/);
    await closed;
    await handler.close();
  });

  test('is left after a while', async () => {
    const { response } = await stoppedReader({ stallTimeoutMs: 100 });
    await until(() => endless.engineStats().running === 0);
    const closed = new Promise((resolve) => response.on('close', resolve));
    response.resume();
    await closed;
    expect(response.complete).toBe(false);
  });
});

test('logs have no prompts unless they are asked for, and the names of keys', async () => {
  const lines: Json[] = [];
  const logger = {
    info: (fields: object) => void lines.push(fields),
    error: (fields: object) => void lines.push(fields),
  };
  const apiKeys = [{ key: 'k', name: 'team' }];
  const headers = { authorization: 'Bearer k' };
  const quiet = await serve(model, { logger, apiKeys, modelName: 'base' });
  await quiet.post(chat, hi, headers);
  await quiet.post(chat, { ...hi, n: 0 }, headers);
  await quiet.post(chat, { messages: [{ role: 'user' }] }, headers);
  const open = await serve(model, { logger, apiKeys, logPrompts: true });
  await open.post(chat, hi, headers);
  expect(lines).toEqual([
    {
      id: expect.stringMatching(/^req_/),
      method: 'POST',
      path: chat,
      status: 200,
      ms: expect.any(Number),
      client: 'team',
      model: 'base',
      stream: false,
      firstTokenMs: expect.any(Number),
      promptTokens: 4,
      completionTokens: 8,
      cachedTokens: 0,
    },
    expect.objectContaining({ status: 400, client: 'team', error: expect.stringContaining('expected n') }),
    expect.objectContaining({ status: 400, error: expect.stringContaining('the content of message 1') }),
    expect.objectContaining({ prompt: hi.messages, texts: ['Yes, fr'] }),
  ]);
});

test('options are checked', () => {
  const made = (options: object) => () => createOpenAIHandler(model, options);
  expect(made({ maxQueue: 3 })).toThrow("unknown option 'maxQueue'; did you mean 'maxQueued'?");
  expect(made({ maxRunning: 0 })).toThrow('expected maxRunning to be an integer of at least 1');
  expect(made({ apiKeys: ['with space'] })).toThrow('expected the API key at place 1');
  expect(made({ modelName: 'a', adapters: { a: sql } })).toThrow("there is a model 'a' already");
  expect(made({ adapters: { 'a b': sql } })).toThrow('expected names of adapters of letters');
  expect(made({ logger: {} })).toThrow('expected logger to have info() and error()');
});
