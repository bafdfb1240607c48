/** The real client of OpenAI, where it is installed:  npm install --prefix build/clients openai */
import { execFile } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CausalLM } from '../../lib/index';
import { answeringModel } from '../support/answering_model';
import { servers } from '../support/serving';

const serve = servers();
const root = join(__dirname, '../..');
const folder = join(root, 'build/clients');
const installed = existsSync(join(folder, 'node_modules/openai'));

let model: CausalLM;
beforeAll(async () => {
  model = await CausalLM.fromPretrained(await answeringModel('Yes, fr'));
});
afterAll(async () => {
  await model.dispose();
  rmSync(model.directory, { recursive: true });
});

(installed ? test : test.skip)(
  `the openai client chats, streams, leaves and understands refusals${installed ? '' : ' (skipped: build/clients has no openai)'}`,
  async () => {
    const { url } = await serve(model, { modelName: 'base', apiKeys: ['secret'] });
    const script = join(root, 'test/support/openai_client.mjs');
    const { stdout } = await promisify(execFile)(process.execPath, [script, url, folder]);
    expect(JSON.parse(stdout)).toEqual({
      models: ['base'],
      chat: expect.objectContaining({
        finish_reason: 'stop',
        message: expect.objectContaining({ content: 'Yes, fr' }),
      }),
      streamed: 'Yes, fr',
      usage: expect.objectContaining({ prompt_tokens: 4, completion_tokens: 8 }),
      helper: 'Yes, fr',
      events: 2,
      completion: 'Yes, fr',
      refused: [
        ['NotFoundError', 404, 'model_not_found'],
        ['BadRequestError', 400, null],
        ['BadRequestError', 400, 'unsupported_parameter'],
        ['BadRequestError', 400, 'unsupported_parameter'],
        ['AuthenticationError', 401, 'invalid_api_key'],
      ],
    });
  },
);

describe('bytes that no client sends', () => {
  const body = JSON.stringify({ messages: [{ role: 'user', content: 'Hi' }] });
  const head = 'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n';

  /** Sends them, and gives what comes until the connection closes. */
  const exchange = (port: number, bytes: string): Promise<string> =>
    new Promise((resolve) => {
      let answer = '';
      const socket = connect(port, '127.0.0.1', () => socket.end(bytes));
      socket.setEncoding('utf8').on('data', (piece: string) => (answer += piece));
      socket.on('error', () => undefined).on('close', () => resolve(answer));
    });

  test.each<[what: string, bytes: string, answer: RegExp]>([
    ['a body that is cut off', `${head}content-length: 500\r\n\r\n${body}`, /^(HTTP\/1.1 400 [^]*)?$/],
    [
      'two lengths',
      `${head}content-length: ${body.length}\r\ncontent-length: 3\r\n\r\n${body}`,
      /^HTTP\/1.1 400 [^]*$/,
    ],
    [
      'a length beside chunks',
      `${head}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n`,
      /^HTTP\/1.1 400 [^]*$/,
    ],
    ['a chunk of no number', `${head}transfer-encoding: chunked\r\n\r\nzz\r\n`, /^(HTTP\/1.1 400 [^]*)?$/],
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
});
