/** lora-native/ai-sdk with the AI SDK itself: texts, streams, objects, tools, thoughts, and what is refused. */
import {
  embed,
  embedMany,
  generateObject,
  generateText,
  jsonSchema,
  stepCountIs,
  streamText,
  tool,
  type JSONSchema7,
  type ModelMessage,
} from 'ai';
import { createLoraNative, type LoraNativeLanguageModel } from '../../lib/ai-sdk';
import type { CausalLM } from '../../lib/index';
import { chatModels } from '../support/chat_models';
import { fillAdapter } from '../support/fill_adapter';
import { saying } from '../support/saying';

const models = chatModels();
afterEach(() => jest.restoreAllMocks());

const parameters: JSONSchema7 = {
  type: 'object',
  properties: { a: { type: 'integer', minimum: 1, maximum: 7 } },
  required: ['a'],
  additionalProperties: false,
};
const call = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>';
const add = tool({
  description: 'adds one',
  inputSchema: jsonSchema<{ a: number }>(parameters),
  execute: async ({ a }) => a + 1,
});
const prompt = 'Hello';
const model = (name = 'base'): LoraNativeLanguageModel => createLoraNative({ model: models.drawing })(name);

test('generateText and streamText give the texts of the base and of an adapter, with their usage', async () => {
  const lora = createLoraNative({ model: models.answering });
  const options = { prompt, temperature: 0 };
  const whole = await generateText({ model: lora('base'), ...options });
  expect([whole.text, whole.finishReason]).toEqual(['Hi!', 'stop']);
  const { inputTokens, outputTokens } = whole.usage;
  expect([inputTokens, outputTokens]).toEqual([7, 4]); // <|user|>, five letters, <|assistant|>; Hi! and its end
  const streamed = streamText({ model: lora.languageModel('yo'), ...options });
  const pieces: string[] = [];
  for await (const piece of streamed.textStream) pieces.push(piece);
  expect(pieces.join('')).toBe('Yo.');
  expect(pieces.length).toBeGreaterThan(1);
  expect([await streamed.finishReason, (await streamed.usage).outputTokens]).toEqual(['stop', 4]);
});

test('options of a call are those of generate()', async () => {
  const asked = saying(models.drawing, ['Yes']);
  await generateText({
    model: model('sql'),
    prompt,
    ...{ maxOutputTokens: 7, temperature: 0.5, topP: 0.9, topK: 3, seed: 4 },
    ...{ presencePenalty: 0.1, frequencyPenalty: 0.2, stopSequences: ['!'] },
    providerOptions: {
      'lora-native': { minP: 0.05, repetitionPenalty: 1.1, variables: { enable_thinking: false } },
    },
  });
  expect(asked[0]!.prompt).toBe('<|user|>Hello<|assistant|><think></think>');
  expect(asked[0]!.options).toMatchObject({
    ...{ adapter: 'sql', maxNewTokens: 7, temperature: 0.5, topP: 0.9, topK: 3, seed: 4 },
    ...{ presencePenalty: 0.1, frequencyPenalty: 0.2, stop: ['!'], minP: 0.05, repetitionPenalty: 1.1 },
  });
});

test('generateObject gives objects that are valid under their schema', async () => {
  for (const seed of [1, 2, 3]) {
    const { object } = await generateObject({
      ...{ model: model(), schema: jsonSchema<{ a: number }>(parameters), prompt },
      ...{ temperature: 1, seed, maxOutputTokens: 1000 },
    });
    expect(object.a >= 1 && object.a <= 7).toBe(true);
  }
});

test('a tool is called, runs, and its result goes back to the model', async () => {
  const asked = saying(models.drawing, ['<think>', 'Hm', '</think>', 'Wait.', call]);
  const result = await generateText({ model: model(), prompt, tools: { add }, stopWhen: stepCountIs(2) });
  expect(result.steps).toHaveLength(2);
  const [first] = result.steps;
  expect([first!.text, first!.reasoningText, first!.finishReason]).toEqual(['Wait.', 'Hm', 'tool-calls']);
  expect(first!.toolCalls).toMatchObject([{ toolName: 'add', input: { a: 2 } }]);
  expect(first!.toolResults).toMatchObject([{ output: 3 }]);
  expect(asked[0]!.prompt).toContain('"description": "adds one"');
  expect(asked[1]!.prompt.replace(/^.*?(?=<\|user)/s, '')).toBe(
    `<|user|>Hello<|assistant|><think>Hm</think>Wait.${call}<|tool|>3<|assistant|>`,
  );
});

test('a stream tells of thoughts, words and calls apart', async () => {
  saying(models.drawing, ['<think>', 'H', 'm', '</think>', 'Wa', 'it.', call]);
  const { fullStream } = streamText({ model: model(), prompt, tools: { add } });
  const types: string[] = [];
  for await (const part of fullStream) types.push(part.type);
  expect(types).toEqual([
    ...['start', 'start-step', 'reasoning-start', 'reasoning-delta', 'reasoning-delta', 'reasoning-end'],
    ...['text-start', 'text-delta', 'text-delta', 'text-end'],
    ...['tool-input-start', 'tool-input-delta', 'tool-input-end', 'tool-call', 'tool-result'],
    ...['finish-step', 'finish'],
  ]);
});

test('what is cut off says so although it calls; thoughts are counted apart from words', async () => {
  saying(models.drawing, ['<think>', 'Hm', '</think>', call], { finishReason: 'length' });
  const { finishReason, usage, toolCalls } = await generateText({ model: model(), prompt, tools: { add } });
  expect([finishReason, toolCalls.length]).toEqual(['length', 1]);
  expect(usage.outputTokenDetails).toEqual({ textTokens: 1, reasoningTokens: 3 });
});

test('an empty stop sequence ends nothing', async () => {
  const asked = saying(models.drawing, ['Yes']);
  await generateText({ model: model(), prompt, stopSequences: ['', '!'] });
  expect(asked[0]!.options.stop).toEqual(['!']);
});

test('thoughts in parts are one, and an error of a tool is JSON', async () => {
  const asked = saying(models.drawing, ['Yes']);
  const toolCall = { toolCallId: 'c1', toolName: 'add' };
  const messages: ModelMessage[] = [
    { role: 'user', content: 'Hello' },
    {
      role: 'assistant',
      content: [
        { type: 'reasoning', text: 'One' },
        { type: 'reasoning', text: 'Two' },
        { type: 'tool-call', ...toolCall, input: { a: 2 } },
      ],
    },
    {
      role: 'tool',
      content: [{ type: 'tool-result', ...toolCall, output: { type: 'error-json', value: { no: 1 } } }],
    },
  ];
  await generateText({ model: model(), messages });
  expect(asked[0]!.prompt).toBe(
    `<|user|>Hello<|assistant|><think>OneTwo</think>${call}<|tool|>{"no":1}<|assistant|>`,
  );
});

test('a call that must be made is one', async () => {
  const options = { model: model(), prompt, tools: { add }, temperature: 1, maxOutputTokens: 1000 };
  for (const toolChoice of ['required', { type: 'tool', toolName: 'add' }] as const) {
    const { toolCalls } = await generateText({ ...options, toolChoice, seed: 1 });
    expect(toolCalls).toMatchObject([{ toolName: 'add', input: { a: expect.any(Number) } }]);
  }
  const asked = saying(models.drawing, [call]);
  const { text } = await generateText({ ...options, toolChoice: 'none' });
  expect([text, asked[0]!.prompt]).toEqual([call, '<|user|>Hello<|assistant|>']);
});

test('an abort ends the text, and so does a stream that nobody reads on', async () => {
  const stopping = new AbortController();
  const options = { prompt, maxOutputTokens: 4000, temperature: 1, maxRetries: 0 };
  const endless = { 'lora-native': { variables: {} } };
  const running = generateText({
    model: model(),
    ...options,
    providerOptions: endless,
    abortSignal: stopping.signal,
  });
  stopping.abort(new Error('enough'));
  await expect(running).rejects.toThrow('enough');
  const { stream } = await model().doStream({
    prompt: [{ role: 'user', content: [{ type: 'text', text: 'a' }] }],
  });
  const reader = stream.getReader();
  await reader.read();
  await reader.read();
  await reader.cancel();
  expect(models.drawing.engineStats().running).toBe(0);
});

test.each<[what: string, messages: ModelMessage[], received: string]>([
  [
    'a file',
    [{ role: 'user', content: [{ type: 'file', data: 'YQ==', mediaType: 'application/pdf' }] }],
    'a file of type application/pdf',
  ],
  [
    'an image',
    [{ role: 'user', content: [{ type: 'image', image: 'iVBORw0KGgo=' }] }],
    'a file of type image/png',
  ],
])('%s is refused by name', async (_, messages, received) => {
  await expect(generateText({ model: model(), messages, maxRetries: 0 })).rejects.toMatchObject({
    code: 'ERR_UNSUPPORTED',
    message: `[createLoraNative] expected text but received ${received}`,
  });
});

test('embed and embedMany give the vectors of the base and of an adapter, with their tokens', async () => {
  const { drawing } = models;
  const adapter = drawing.addAdapter({ r: 2 }, { name: 'yo' });
  fillAdapter(adapter, 3, 0.4);
  const lora = createLoraNative({ model: drawing });
  const values = ['Hi', 'Hello', 'you'];
  const rows = async (adapter: string | null, more: object = {}): Promise<number[][]> =>
    (await drawing.embed(values, { adapter, ...more })).map((row) => [...row]);
  const base = await embedMany({ model: lora.embeddingModel('base'), values });
  expect(base.embeddings).toEqual(await rows(null));
  expect(base.usage.tokens).toBe(3 + 'HiHelloyou'.length); // each begins with a token of its own
  const yo = await embedMany({ model: lora.textEmbeddingModel('yo'), values });
  expect(yo.embeddings).toEqual(await rows('yo'));
  expect(yo.embeddings).not.toEqual(base.embeddings);
  const own = { dimensions: 3, normalize: false, pool: 'mean', instruction: 'a ' };
  const providerOptions = { 'lora-native': own };
  const one = await embed({ model: lora.embeddingModel('yo'), value: 'Hello', providerOptions });
  expect([one.embedding, one.usage.tokens]).toEqual([(await rows('yo', own))[1], 1 + 'a Hello'.length]);
  await drawing.removeAdapter('yo');
});

test('embed refuses unknown options and adapters, and ends by its signal', async () => {
  const model = createLoraNative({ model: models.answering, baseName: 'plain' }).embeddingModel('plain');
  const ask = { model, value: 'Hi', maxRetries: 0 };
  const providerOptions = { 'lora-native': { minP: 0.1 } };
  await expect(embed({ ...ask, providerOptions })).rejects.toThrow(
    "expected providerOptions['lora-native'] to have instruction, dimensions, pool, normalize but received minP",
  );
  const none = createLoraNative({ model: models.answering }).embeddingModel('none');
  await expect(embed({ ...ask, model: none })).rejects.toThrow("'none'");
  const abortSignal = AbortSignal.abort(new Error('enough'));
  await expect(embed({ ...ask, abortSignal })).rejects.toThrow('enough');
});

test('unknown options, adapters and tools without a template are refused; tools of a provider give a warning', async () => {
  expect(() => createLoraNative({ model: {} as CausalLM })).toThrow(
    'expected a model that fromPretrained() gave',
  );
  expect(() => createLoraNative({ model: models.drawing, name: 'a' } as never)).toThrow(
    'expected model and baseName but received name',
  );
  const options = { prompt, maxRetries: 0 };
  await expect(generateText({ model: model('none'), ...options })).rejects.toMatchObject({
    code: 'ERR_ARGUMENT',
  });
  const providerOptions = { 'lora-native': { minp: 1 } };
  await expect(generateText({ model: model(), ...options, providerOptions })).rejects.toThrow(
    'received minp',
  );
  const plain = createLoraNative({ model: models.answering })('base');
  await expect(generateText({ model: plain, ...options, tools: { add } })).rejects.toMatchObject({
    code: 'ERR_UNSUPPORTED',
  });
  saying(models.drawing, ['Yes']);
  const search = { type: 'provider', id: 'x.search', name: 'search', args: {} } as const;
  const { warnings } = await model().doGenerate({
    prompt: [{ role: 'user', content: [{ type: 'text', text: 'a' }] }],
    tools: [search],
  });
  expect(warnings).toEqual([
    { type: 'unsupported', feature: 'tool x.search', details: 'it runs at its provider' },
  ]);
});
