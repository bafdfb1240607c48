/** answerChat: text, thoughts and calls of tools apart, and what it refuses. */
import { rmSync } from 'node:fs';
import { answerChat, CausalLM, type AnswerChatOptions } from '../../lib/index';
import { saying, thinkingTemplate } from '../support/saying';
import { tinyModel } from '../support/tiny_model';

let model: CausalLM;
let plain: CausalLM;
beforeAll(async () => {
  const config = { max_position_embeddings: 4096 };
  model = await CausalLM.fromPretrained(await tinyModel({ config, chatTemplate: thinkingTemplate }));
  plain = await CausalLM.fromPretrained(await tinyModel({ config }));
});
afterAll(async () => {
  for (const one of [model, plain]) {
    await one.dispose();
    rmSync(one.directory, { recursive: true });
  }
});
afterEach(() => jest.restoreAllMocks());

const hi = [{ role: 'user', content: 'Hi' }];
const parameters = { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] };
const tools = [{ type: 'function', function: { name: 'add', parameters } }];
const call = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>';
const added = { type: 'function', function: { name: 'add', arguments: '{"a":2}' } };

test('the pieces of an answer are those of the whole', async () => {
  saying(model, ['<think>', 'H', 'm', '</think>', 'Wait', '.\n', call]);
  const answer = answerChat(model, hi, { tools });
  const pieces = [];
  for await (const piece of answer) pieces.push(piece);
  const whole = await answer.result;
  expect(whole).toMatchObject({ text: 'Wait.', reasoning: 'Hm', toolCalls: [added], finishReason: 'stop' });
  expect(whole.usage).toEqual({ promptTokens: 5, completionTokens: 7, cachedTokens: 2, reasoningTokens: 4 });
  expect(pieces.map(({ text }) => text).join('')).toBe(whole.text);
  expect(pieces.map(({ reasoning }) => reasoning).join('')).toBe(whole.reasoning);
  expect(pieces.flatMap(({ toolCalls }) => toolCalls)).toEqual(whole.toolCalls);
  expect(pieces).toHaveLength(5); // marks and white space say nothing
});

test('what is held back at the end is given', async () => {
  saying(model, ['a <tool']);
  const pieces = [];
  for await (const { text } of answerChat(model, hi, { tools })) pieces.push(text);
  expect(pieces).toEqual(['a', ' <tool']);
});

test('choices of tools: what the model is told, and held to', async () => {
  const asked = saying(model, [call, call]);
  const calls = async (options: AnswerChatOptions): Promise<number> =>
    (await answerChat(model, hi, { tools, ...options })).toolCalls.length;
  expect(await calls({})).toBe(2);
  expect(await calls({ maxToolCalls: 1 })).toBe(1);
  expect(await calls({ toolChoice: 'none' })).toBe(0);
  await calls({ toolChoice: { name: 'add' } });
  await calls({ jsonSchema: parameters });
  expect(
    asked.map(({ prompt, options }) => [prompt.includes('"add"'), options.jsonSchema !== undefined]),
  ).toEqual([
    [true, false],
    [true, false],
    [false, false],
    [true, true],
    [true, true],
  ]);
  expect(asked.map(({ prompt }) => prompt.endsWith('<tool_call>\n'))).toEqual([
    false,
    false,
    false,
    true,
    false,
  ]);
});

test.each<[options: object, code: string, words: string]>([
  [{ toolChoice: 'required' }, 'ERR_ARGUMENT', 'expected tools beside toolChoice'],
  [
    { tools, toolChoice: 'any' },
    'ERR_ARGUMENT',
    "expected toolChoice to be 'auto', 'none', 'required' or { name }",
  ],
  [
    { tools, toolChoice: { name: 'sub' } },
    'ERR_ARGUMENT',
    "expected toolChoice to name one of the tools but received 'sub'",
  ],
  [{ tools: 7 }, 'ERR_ARGUMENT', 'expected tools to be a list but received 7'],
  [{ tools: [{ name: 'add' }] }, 'ERR_ARGUMENT', "expected tool 1 to be { type: 'function', function }"],
  [
    { tools, toolChoice: 'required', jsonSchema: true },
    'ERR_ARGUMENT',
    'expected no jsonSchema beside a call',
  ],
  [{ tools, maxToolCalls: 0 }, 'ERR_ARGUMENT', 'expected maxToolCalls'],
  [{ n: 2 }, 'ERR_ARGUMENT', 'expected no n: generate() has it'],
  [{ logprobs: 1 }, 'ERR_ARGUMENT', 'expected no logprobs'],
  [{ temprature: 1 }, 'ERR_ARGUMENT', 'temperature'],
])('%j is refused', async (options, code, words) => {
  const answer = answerChat(model, hi, options);
  await expect(answer).rejects.toMatchObject({ code, message: expect.stringContaining(words) });
});

test('tools are refused where the template has none', async () => {
  await expect(answerChat(plain, hi, { tools })).rejects.toMatchObject({
    code: 'ERR_UNSUPPORTED',
    message: expect.stringContaining('[answerChat] the model'),
  });
  await expect(answerChat(plain, hi, { tools, toolChoice: 'none', maxNewTokens: 1 })).resolves.toBeDefined();
});

test('leaving the loop ends the text', async () => {
  for await (const _ of answerChat(plain, hi, { maxNewTokens: 4000, ignoreEos: true })) break;
  expect(plain.engineStats().running).toBe(0);
});
