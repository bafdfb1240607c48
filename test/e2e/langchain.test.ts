/** lora-native/langchain with LangChain itself: texts, streams, batches, tools, objects, thoughts, and what is refused. */
import {
  AIMessage,
  HumanMessage,
  SystemMessage,
  ToolMessage,
  type AIMessageChunk,
} from '@langchain/core/messages';
import { StringOutputParser } from '@langchain/core/output_parsers';
import { tool } from '@langchain/core/tools';
import { z } from 'zod';
import { ChatLoraNative } from '../../lib/langchain';
import { chatModels } from '../support/chat_models';
import { saying } from '../support/saying';

const models = chatModels();
afterEach(() => jest.restoreAllMocks());

const schema = {
  type: 'object',
  properties: { a: { type: 'integer', minimum: 1, maximum: 7 } },
  required: ['a'],
  additionalProperties: false,
} as const;
const add = tool(async ({ a }: { a: number }) => String(a + 1), {
  name: 'add',
  description: 'adds one',
  schema,
});
const call = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>';

test('it invokes, streams, batches and pipes the base and an adapter', async () => {
  const base = new ChatLoraNative({ model: models.answering, temperature: 0 });
  const yo = new ChatLoraNative({ model: models.answering, adapter: 'yo', temperature: 0 });
  const answer = await base.invoke('Hello');
  expect(answer.content).toBe('Hi!');
  expect(answer.usage_metadata).toMatchObject({ input_tokens: 7, output_tokens: 4, total_tokens: 11 });
  let streamed: AIMessageChunk | undefined;
  for await (const chunk of await yo.stream('Hello')) streamed = streamed ? streamed.concat(chunk) : chunk;
  expect([streamed!.content, streamed!.usage_metadata?.output_tokens]).toEqual(['Yo.', 4]);
  expect((await base.batch(['a', 'b'])).map(({ content }) => content)).toEqual(['Hi!', 'Hi!']);
  expect(await yo.pipe(new StringOutputParser()).invoke('Hello')).toBe('Yo.');
});

test('messages go through the template, and options to generate()', async () => {
  const asked = saying(models.drawing, ['Yes']);
  const chat = new ChatLoraNative({ model: models.drawing, adapter: 'sql', topK: 3, maxNewTokens: 9 });
  const called = { id: 'c1', name: 'add', args: { a: 2 } };
  await chat.invoke(
    [
      new SystemMessage('Be short.'),
      new HumanMessage([
        { type: 'text', text: '1 + ' },
        { type: 'text', text: '1?' },
      ]),
      new AIMessage({
        content: 'Wait.',
        tool_calls: [called],
        additional_kwargs: { reasoning_content: 'Hm' },
      }),
      new ToolMessage({ content: '3', tool_call_id: 'c1' }),
    ],
    { stop: ['!'], seed: 4, maxNewTokens: 7 },
  );
  expect(asked[0]).toMatchObject({
    prompt: `<|system|>Be short.<|user|>1 + 1?<|assistant|><think>Hm</think>Wait.${call}<|tool|>3<|assistant|>`,
    options: { adapter: 'sql', topK: 3, maxNewTokens: 7, stop: ['!'], seed: 4 },
  });
});

test('tools are called, also in a stream, with thoughts apart', async () => {
  const asked = saying(models.drawing, ['<think>', 'Hm', '</think>', 'Wait.', call]);
  const chat = new ChatLoraNative({ model: models.drawing }).bindTools([add]);
  const answer = await chat.invoke('Hello');
  expect(answer.tool_calls).toMatchObject([{ name: 'add', args: { a: 2 }, type: 'tool_call' }]);
  expect([answer.content, answer.additional_kwargs['reasoning_content']]).toEqual(['Wait.', 'Hm']);
  expect(asked[0]!.prompt).toContain('adds one');
  let streamed: AIMessageChunk | undefined;
  for await (const chunk of await chat.stream('Hello')) streamed = streamed ? streamed.concat(chunk) : chunk;
  expect(streamed!.tool_calls).toMatchObject([{ name: 'add', args: { a: 2 } }]);
});

test('calls that come one after the other in a stream are two', async () => {
  saying(models.drawing, [call, call.replace('2', '3')]);
  const chat = new ChatLoraNative({ model: models.drawing }).bindTools([add]);
  let whole: AIMessageChunk | undefined;
  for await (const piece of await chat.stream('Hello')) whole = whole?.concat(piece) ?? piece;
  expect(whole?.tool_calls?.map(({ args }) => args)).toEqual([{ a: 2 }, { a: 3 }]);
});

test('callbacks hear each piece of a stream once', async () => {
  saying(models.drawing, ['Yes', '.']);
  const heard: string[] = [];
  const callbacks = [{ handleLLMNewToken: (token: string) => void heard.push(token) }];
  const stream = await new ChatLoraNative({ model: models.drawing }).stream('Hello', { callbacks });
  for await (const piece of stream) expect(piece).toBeDefined();
  expect(heard.filter((token) => token !== '')).toEqual(['Yes', '.']);
});

test('structured output is valid under its schema', async () => {
  const chat = new ChatLoraNative({ model: models.drawing, temperature: 1, seed: 1, maxNewTokens: 1000 });
  const { a } = await chat.withStructuredOutput<{ a: number }>(schema).invoke('Hello');
  expect(a >= 1 && a <= 7).toBe(true);
  const zod = z.object({ b: z.enum(['x', 'y']) });
  const { raw, parsed } = await chat.withStructuredOutput(zod, { includeRaw: true }).invoke('Hello');
  expect(['x', 'y']).toContain(parsed.b);
  expect(JSON.parse(raw.content as string)).toEqual(parsed);
  const forced = await chat.bindTools([add], { tool_choice: 'any' }).invoke('Hello');
  expect(forced.tool_calls).toMatchObject([{ name: 'add' }]);
});

test('images, unknown choices and no model are refused by name', async () => {
  const chat = new ChatLoraNative({ model: models.drawing });
  const image = new HumanMessage([{ type: 'image_url', image_url: { url: 'x' } }]);
  await expect(chat.invoke([image])).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
  const bound = chat.bindTools([add], { tool_choice: { type: 'function' } });
  await expect(bound.invoke('a')).rejects.toThrow('expected tool_choice to be');
  await expect(chat.bindTools([add], { tool_choice: 'sub' }).invoke('a')).rejects.toThrow("received 'sub'");
  expect(() => new ChatLoraNative({} as never)).toThrow('expected a model that fromPretrained() gave');
});

test('a signal ends a text', async () => {
  // A text that cannot end before the signal.
  const jsonSchema = { type: 'string', minLength: 2000 } as const;
  const chat = new ChatLoraNative({
    model: models.drawing,
    maxNewTokens: 4000,
    temperature: 1,
    jsonSchema,
  });
  await expect(chat.invoke('a', { signal: AbortSignal.timeout(20) })).rejects.toThrow();
});
