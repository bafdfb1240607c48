/** The APIs beside chat completions and completions: OpenAI's responses and Anthropic's messages; and thoughts in all three. */
import { rmSync } from 'node:fs';
import { CausalLM, LoRAError, type GeneratedToken, type GenerationResult } from '../../lib/index';
import { RunHandle } from '../../lib/handle';
import { saying, thinkingTemplate } from '../support/saying';
import { servers, type Json } from '../support/serving';
import { tinyModel } from '../support/tiny_model';

const serve = servers();
const [chat, responses, messages] = ['/v1/chat/completions', '/v1/responses', '/v1/messages'];
const call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>';
const parameters = { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] };

let model: CausalLM;
beforeAll(async () => {
  const config = { max_position_embeddings: 4096 };
  model = await CausalLM.fromPretrained(await tinyModel({ config, chatTemplate: thinkingTemplate }));
});
afterAll(async () => {
  await model.dispose();
  rmSync(model.directory, { recursive: true });
});
afterEach(() => jest.restoreAllMocks());

/** The events of a stream whose events are named, and which ends without [DONE]. */
async function namedEvents(url: string, path: string, body: object): Promise<Json[]> {
  const response = await fetch(`${url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true }),
  });
  expect(response.headers.get('content-type')).toMatch('text/event-stream');
  const events = (await response.text()).split('\n\n').filter((event) => event !== '');
  return events.map((event) => {
    const [, name, data] = /^event: (.+)\ndata: (.+)$/.exec(event)!;
    const value = JSON.parse(data!);
    expect(value.type).toBe(name);
    return value;
  });
}

/** A model that fails after its first words. */
function failing(): void {
  jest.spyOn(model, 'generate').mockImplementation(
    () =>
      new RunHandle<GeneratedToken, GenerationResult>('generate', async function* () {
        yield { id: 0, text: 'One' };
        throw new LoRAError('ERR_OUT_OF_MEMORY', '[generate] secret');
      }),
  );
}

const thoughtful = ['<think>', 'Two', ' or three?', '</think>\n\n', 'Two', '.', `\n${call}`];

describe('thoughts of a chat', () => {
  const hi = { messages: [{ role: 'user', content: 'Hi' }] };
  const tools = [{ type: 'function', function: { name: 'add', parameters } }];

  test('are apart from the answer, whole and in a stream, and are counted', async () => {
    saying(model, thoughtful);
    const { post, stream } = await serve(model);
    const { body } = await post(chat, { ...hi, tools });
    const [{ message, finish_reason }] = body.choices;
    expect(message).toEqual({
      role: 'assistant',
      content: 'Two.',
      refusal: null,
      reasoning_content: 'Two or three?',
      tool_calls: [expect.objectContaining({ function: { name: 'add', arguments: '{"a":1}' } })],
    });
    expect(finish_reason).toBe('tool_calls');
    expect(body.usage.completion_tokens_details).toEqual({ reasoning_tokens: 4 });
    const deltas = (await stream(chat, { ...hi, tools })).map(({ choices }) => choices[0].delta);
    const said = (key: string): string => deltas.map((delta) => delta[key] ?? '').join('');
    expect([said('content'), said('reasoning_content')]).toEqual(['Two.', 'Two or three?']);
    expect(deltas.filter((delta) => delta.content === '')).toHaveLength(1); // the opening
  });

  test('of a message go to the template, and an effort says whether there are any', async () => {
    const asked = saying(model, ['Yes']);
    const { post } = await serve(model);
    const before = { role: 'assistant', content: 'Yo', reasoning_content: 'Hm' };
    await post(chat, { messages: [...hi.messages, before, ...hi.messages] });
    await post(chat, { ...hi, reasoning_effort: 'none' });
    await post(chat, { ...hi, reasoning_effort: 'low', chat_template_kwargs: { enable_thinking: false } });
    expect(asked.map(({ prompt }) => prompt)).toEqual([
      '<|user|>Hi<|assistant|><think>Hm</think>Yo<|user|>Hi<|assistant|>',
      '<|user|>Hi<|assistant|><think></think>[none]',
      '<|user|>Hi<|assistant|><think></think>[low]',
    ]);
    const { status, body } = await post(chat, { ...hi, reasoning_effort: 'much' });
    expect([status, body.error.param]).toEqual([400, 'reasoning_effort']);
  });
});

describe('/v1/responses', () => {
  const hi = { input: 'Hi' };
  const tools = [{ type: 'function', name: 'add', description: 'a sum', parameters, strict: true }];

  test('a text', async () => {
    const asked = saying(model, ['Yes', '.']);
    const { post } = await serve(model, { modelName: 'base' });
    const settings = { instructions: 'Be short.', temperature: 0.5, top_p: 0.9, max_output_tokens: 7 };
    const { status, body } = await post(responses, { ...hi, ...settings });
    expect(status).toBe(200);
    expect(body).toEqual({
      id: expect.stringMatching(/^resp_\w{24}$/),
      object: 'response',
      created_at: expect.any(Number),
      status: 'completed',
      error: null,
      incomplete_details: null,
      ...settings,
      metadata: {},
      model: 'base',
      parallel_tool_calls: true,
      previous_response_id: null,
      reasoning: { effort: null, summary: null },
      store: false,
      text: { format: { type: 'text' } },
      tool_choice: 'auto',
      tools: [],
      truncation: 'disabled',
      output: [
        {
          id: expect.stringMatching(/^msg_/),
          type: 'message',
          status: 'completed',
          role: 'assistant',
          content: [{ type: 'output_text', text: 'Yes.', annotations: [], logprobs: [] }],
        },
      ],
      usage: {
        input_tokens: 5,
        input_tokens_details: { cached_tokens: 2 },
        output_tokens: 2,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: 7,
      },
    });
    expect(asked[0]).toMatchObject({
      prompt: '<|system|>Be short.<|user|>Hi<|assistant|>',
      options: { temperature: 0.5, topP: 0.9, maxNewTokens: 7 },
    });
  });

  test('a stream tells of each item, its parts and their ends, and numbers its events', async () => {
    saying(model, thoughtful);
    const { url } = await serve(model);
    const events = await namedEvents(url, responses, { ...hi, tools });
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual([...events.keys()]);
    expect(events.map(({ type }) => type.replace('response.', ''))).toEqual([
      'created',
      'in_progress',
      'output_item.added',
      'content_part.added',
      'reasoning_text.delta',
      'reasoning_text.delta',
      'reasoning_text.done',
      'content_part.done',
      'output_item.done',
      'output_item.added',
      'content_part.added',
      'output_text.delta',
      'output_text.delta',
      'output_text.done',
      'content_part.done',
      'output_item.done',
      'output_item.added',
      'function_call_arguments.delta',
      'function_call_arguments.done',
      'output_item.done',
      'completed',
    ]);
    const { response } = events.at(-1);
    expect(response.output.map(({ type }: Json) => type)).toEqual(['reasoning', 'message', 'function_call']);
    const done = events.filter(({ type }) => type === 'response.output_item.done');
    expect(done.map(({ item }) => item)).toEqual(response.output);
    expect(done.map(({ output_index }) => output_index)).toEqual([0, 1, 2]);
    expect(response.output[0].content[0].text).toBe('Two or three?');
    expect(response.output[1].content[0].text).toBe('Two.');
    expect(response.output[2]).toMatchObject({
      name: 'add',
      arguments: '{"a":1}',
      call_id: expect.stringMatching(/^call_/),
    });
    expect(response.usage.output_tokens_details).toEqual({ reasoning_tokens: 4 });
    const begun = events.filter(({ type }) => type === 'response.content_part.added');
    expect(begun.map(({ part }) => part.text)).toEqual(['', '']);
    const ids = new Set(response.output.map(({ id }: Json) => id));
    expect(ids.size).toBe(3);
    for (const { item_id } of events) if (item_id !== undefined) expect(ids).toContain(item_id);
  });

  test('a conversation of items: what an assistant thinks, says and calls in a row is one message', async () => {
    const asked = saying(model, ['Yes']);
    const { post } = await serve(model);
    const input = [
      { role: 'developer', content: [{ type: 'input_text', text: 'Be short.' }] },
      {
        type: 'message',
        role: 'user',
        content: [
          { type: 'input_text', text: '1 + ' },
          { type: 'input_text', text: '1?' },
        ],
      },
      { type: 'reasoning', id: 'rs', summary: [], content: [{ type: 'reasoning_text', text: 'Hm' }] },
      {
        type: 'message',
        role: 'assistant',
        content: [{ type: 'output_text', text: 'Wait.', annotations: [] }],
      },
      { type: 'function_call', call_id: 'c1', name: 'add', arguments: '{"a": 1}' },
      { type: 'function_call_output', call_id: 'c1', output: '2' },
      { type: 'message', role: 'assistant', content: '2.' },
      { role: 'user', content: 'Sure?' },
    ];
    expect((await post(responses, { input, tool_choice: 'none', tools })).status).toBe(200);
    expect(asked[0]!.prompt).toBe(
      `<|system|>Be short.<|user|>1 + 1?<|assistant|><think>Hm</think>Wait.${call}<|tool|>2<|assistant|>2.<|user|>Sure?<|assistant|>`,
    );
  });

  test('several calls, texts and thoughts in a row; thoughts begin another message', async () => {
    const asked = saying(model, [call, call]);
    const { post } = await serve(model);
    const one = (id: string): object => ({
      type: 'function_call',
      call_id: id,
      name: 'add',
      arguments: '{"a": 1}',
    });
    const said = (text: string): object => ({ role: 'assistant', content: text });
    const thought = {
      type: 'reasoning',
      id: 'rs',
      summary: [],
      content: [{ type: 'reasoning_text', text: 'Hm' }],
    };
    const user = { role: 'user', content: 'Hi' };
    const input = [user, said('A'), said('B'), one('c1'), one('c2'), thought, said('C'), user];
    const { body } = await post(responses, { input, tools });
    expect(asked[0]!.prompt).toContain(
      `<|user|>Hi<|assistant|>AB${call}${call}<|assistant|><think>Hm</think>C<|user|>Hi<|assistant|>`,
    );
    const ids = (key: string): Set<string> => new Set(body.output.map((item: Json) => item[key] as string));
    expect([ids('id').size, ids('call_id').size]).toEqual([2, 2]);
    const single = await post(responses, { input, tools, parallel_tool_calls: false });
    expect(single.body.output).toHaveLength(1);
  });

  test('tools, a call that must be made, and a schema', async () => {
    const asked = saying(model, ['{"name": "add", "arguments": {"a": 1}}']);
    const { post } = await serve(model);
    const { body } = await post(responses, { ...hi, tools, tool_choice: { type: 'function', name: 'add' } });
    expect(body.output).toMatchObject([{ type: 'function_call', name: 'add', arguments: '{"a":1}' }]);
    expect(asked[0]!.prompt).toContain('"description": "a sum"');
    expect(asked[0]!.prompt).toMatch(/<tool_call>\n$/);
    expect(asked[0]!.options.jsonSchema).toMatchObject({ required: ['name', 'arguments'] });
    const format = { type: 'json_schema', name: 'n', schema: parameters };
    await post(responses, { ...hi, text: { format } });
    expect(asked[1]!.options.jsonSchema).toEqual(parameters);
    await post(responses, { ...hi, reasoning: { effort: 'none' } });
    expect(asked[2]!.prompt).toContain('<think></think>[none]');
  });

  test.each<[said: string[], items: [type: string, status: string][]]>([
    [['Yes'], [['message', 'incomplete']]],
    [['<think>', 'Hm'], [['reasoning', 'incomplete']]],
    [
      ['<think>', 'Hm', '</think>', 'Ye'],
      [
        ['reasoning', 'completed'],
        ['message', 'incomplete'],
      ],
    ],
    [
      ['Yes', `\n${call}`],
      [
        ['message', 'completed'],
        ['function_call', 'completed'],
      ],
    ],
  ])('what the number of tokens cuts off is incomplete, whole and in a stream: %j', async (said, items) => {
    saying(model, said, { finishReason: 'length' });
    const { post, url } = await serve(model);
    const { body } = await post(responses, { ...hi, tools });
    expect([body.status, body.incomplete_details]).toEqual(['incomplete', { reason: 'max_output_tokens' }]);
    const itemsOf = (output: Json[]): unknown[] => output.map(({ type, status }) => [type, status]);
    expect(itemsOf(body.output)).toEqual(items);
    const events = await namedEvents(url, responses, { ...hi, tools });
    const done = events.filter(({ type }) => type === 'response.output_item.done');
    expect(itemsOf(done.map(({ item }) => item))).toEqual(items);
    expect(events.at(-1).type).toBe('response.incomplete');
    expect(itemsOf(events.at(-1).response.output)).toEqual(items);
  });

  test.each<[fields: object, param: string, code: string | null]>([
    [{ previous_response_id: 'resp_1' }, 'previous_response_id', 'unsupported_parameter'],
    [{ conversation: 'conv_1' }, 'conversation', 'unsupported_parameter'],
    [{ background: true }, 'background', 'unsupported_parameter'],
    [{ store: true }, 'store', 'unsupported_parameter'],
    [{ prompt: { id: 'p' } }, 'prompt', 'unsupported_parameter'],
    [{ include: ['message.output_text.logprobs'] }, 'include', 'unsupported_parameter'],
    [{ truncation: 'auto' }, 'truncation', 'unsupported_parameter'],
    [{ top_logprobs: 2 }, 'top_logprobs', 'unsupported_parameter'],
    [{ max_tool_calls: 2 }, 'max_tool_calls', 'unsupported_parameter'],
    [{ tools: [{ type: 'web_search' }] }, 'tools', 'unsupported_parameter'],
    [{ reasoning: { summary: 'detailed' } }, 'reasoning.summary', 'unsupported_parameter'],
    [{ reasoning: { effort: 'much' } }, 'reasoning.effort', null],
    [{ input: [{ type: 'item_reference', id: 'x' }] }, 'input', 'unsupported_parameter'],
    [{ input: [{ type: 'web_search_call' }] }, 'input', 'unsupported_parameter'],
    [
      { input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'x' }] }] },
      'input',
      'unsupported_parameter',
    ],
    [{ input: [{ role: 'tool', content: 'x' }] }, 'input', null],
    [
      { input: [{ type: 'function_call', call_id: 'x', name: 'add' }] },
      'input.arguments',
      'missing_required_parameter',
    ],
    [{ input: [] }, 'input', null],
    [{ input: undefined }, 'input', 'missing_required_parameter'],
    [{ max_output_tokens: 0 }, 'max_output_tokens', null],
    [{ input: [hi, hi].map(() => ({ role: 'user', content: 'x' })) }, 'input', null],
  ])('%j is refused by name', async (fields, param, code) => {
    const { post } = await serve(model, { maxMessages: 1 });
    const { status, body } = await post(responses, { ...hi, ...fields });
    expect([status, body.error.param, body.error.code]).toEqual([400, param, code]);
  });

  test('a failure is the last event', async () => {
    failing();
    const { url } = await serve(model);
    const events = await namedEvents(url, responses, hi);
    expect(events.at(-1)).toEqual({
      type: 'error',
      code: 'out_of_memory',
      message: 'there is too little memory for this request',
      param: null,
      sequence_number: events.length - 1,
    });
  });
});

describe('/v1/messages', () => {
  const hi = { max_tokens: 9, messages: [{ role: 'user', content: 'Hi' }] };
  const tools = [{ name: 'add', description: 'a sum', input_schema: parameters }];

  test('a text', async () => {
    const asked = saying(model, ['Yes', '.']);
    const { post } = await serve(model, { modelName: 'base' });
    const system = [{ type: 'text', text: 'Be short.', cache_control: { type: 'ephemeral' } }];
    const settings = { system, temperature: 0.5, top_k: 3, top_p: 0.9 };
    const { status, body } = await post(messages, { ...hi, ...settings, model: 'base' });
    expect(status).toBe(200);
    expect(body).toEqual({
      id: expect.stringMatching(/^msg_\w{24}$/),
      type: 'message',
      role: 'assistant',
      model: 'base',
      content: [{ type: 'text', text: 'Yes.' }],
      stop_reason: 'end_turn',
      stop_sequence: null,
      usage: {
        input_tokens: 3,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: 2,
        output_tokens: 2,
      },
    });
    expect(asked[0]).toMatchObject({
      prompt: '<|system|>Be short.<|user|>Hi<|assistant|>',
      options: { temperature: 0.5, topK: 3, topP: 0.9, maxNewTokens: 9 },
    });
  });

  test('a stream of blocks', async () => {
    saying(model, thoughtful);
    const { url } = await serve(model);
    const events = await namedEvents(url, messages, { ...hi, tools });
    expect(events.map(({ type, index }) => (index === undefined ? type : `${type} ${index}`))).toEqual([
      'message_start',
      'content_block_start 0',
      'content_block_delta 0',
      'content_block_delta 0',
      'content_block_stop 0',
      'content_block_start 1',
      'content_block_delta 1',
      'content_block_delta 1',
      'content_block_stop 1',
      'content_block_start 2',
      'content_block_delta 2',
      'content_block_stop 2',
      'message_delta',
      'message_stop',
    ]);
    expect(events[0].message).toMatchObject({ role: 'assistant', content: [], stop_reason: null });
    expect(events[0].message.usage.input_tokens).toBeGreaterThan(20); // which the mocked result does not know
    const starts = events.filter(({ type }) => type === 'content_block_start');
    expect(starts.map(({ content_block }) => content_block)).toEqual([
      { type: 'thinking', thinking: '', signature: '' },
      { type: 'text', text: '' },
      { type: 'tool_use', id: expect.stringMatching(/^call_/), name: 'add', input: {} },
    ]);
    const deltas = events.filter(({ type }) => type === 'content_block_delta').map(({ delta }) => delta);
    expect(deltas).toEqual([
      { type: 'thinking_delta', thinking: 'Two' },
      { type: 'thinking_delta', thinking: ' or three?' },
      { type: 'text_delta', text: 'Two' },
      { type: 'text_delta', text: '.' },
      { type: 'input_json_delta', partial_json: '{"a":1}' },
    ]);
    expect(events.at(-2)).toEqual({
      type: 'message_delta',
      delta: { stop_reason: 'tool_use', stop_sequence: null },
      usage: {
        input_tokens: 3,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: 2,
        output_tokens: 7,
      },
    });
  });

  test('the blocks of a conversation: results of tools are messages of their own', async () => {
    const asked = saying(model, [`${call}`]);
    const { post } = await serve(model);
    const conversation = [
      { role: 'user', content: '1 + 1?' },
      {
        role: 'assistant',
        content: [
          { type: 'thinking', thinking: 'Hm', signature: '' },
          { type: 'text', text: 'Wait.' },
          { type: 'tool_use', id: 'c1', name: 'add', input: { a: 1 } },
        ],
      },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Sure?' },
          { type: 'tool_result', tool_use_id: 'c1', content: [{ type: 'text', text: '2' }] },
        ],
      },
    ];
    const { body } = await post(messages, { ...hi, messages: conversation, tools });
    expect(asked[0]!.prompt.replace(/^\{.*\}(?=<\|user)/s, '')).toBe(
      `<|user|>1 + 1?<|assistant|><think>Hm</think>Wait.${call}<|tool|>2<|user|>Sure?<|assistant|>`,
    );
    expect(asked[0]!.prompt).toContain('"description": "a sum"');
    expect(body.content).toEqual([
      { type: 'tool_use', id: expect.any(String), name: 'add', input: { a: 1 } },
    ]);
  });

  test('choices of tools, thinking, and a schema', async () => {
    const asked = saying(model, ['{"name": "add", "arguments": {"a": 1}}']);
    const { post } = await serve(model);
    const one = async (fields: object): Promise<Json> => (await post(messages, { ...hi, ...fields })).body;
    for (const tool_choice of [{ type: 'any' }, { type: 'tool', name: 'add' }])
      expect(await one({ tools, tool_choice })).toMatchObject({
        content: [{ type: 'tool_use', input: { a: 1 } }],
        stop_reason: 'tool_use',
      });
    await one({ tools, tool_choice: { type: 'none' } });
    expect(
      asked.map(({ options, prompt }) => [options.jsonSchema !== undefined, prompt.includes('a sum')]),
    ).toEqual([
      [true, true],
      [true, true],
      [false, false],
    ]);
    await one({ thinking: { type: 'disabled' } });
    await one({ thinking: { type: 'enabled', budget_tokens: 1024 } });
    await one({ output_config: { format: { type: 'json_schema', schema: parameters }, effort: 'low' } });
    expect(asked.slice(3).map(({ prompt }) => prompt)).toEqual([
      '<|user|>Hi<|assistant|><think></think>',
      '<|user|>Hi<|assistant|>',
      '<|user|>Hi<|assistant|>[low]',
    ]);
    expect(asked[5]!.options.jsonSchema).toEqual(parameters);
    saying(model, [call, call]);
    const two = { tools, tool_choice: { type: 'auto', disable_parallel_tool_use: true } };
    expect((await one(two)).content).toHaveLength(1);
    expect((await one({ tools })).content).toHaveLength(2);
  });

  test('several thoughts are lines; a result without content is empty; the model decides whether it thinks', async () => {
    const asked = saying(model, ['Yes']);
    const { post } = await serve(model);
    const thinking = (text: string): object => ({ type: 'thinking', thinking: text, signature: '' });
    const use = { type: 'tool_use', id: 'c1', name: 'add', input: { a: 1 } };
    const conversation = [
      ...hi.messages,
      { role: 'assistant', content: [thinking('One'), thinking('Two'), use] },
      { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'c1' }] },
    ];
    const adaptive = { thinking: { type: 'adaptive' } };
    expect((await post(messages, { ...hi, messages: conversation, ...adaptive })).status).toBe(200);
    expect(asked[0]!.prompt).toBe(
      `<|user|>Hi<|assistant|><think>One\nTwo</think>${call}<|tool|><|assistant|>`,
    );
  });

  test('an answer goes on with a last message of the assistant', async () => {
    const asked = saying(model, ['es']);
    const { post } = await serve(model);
    const begun = [...hi.messages, { role: 'assistant', content: 'Y' }];
    await post(messages, { ...hi, messages: begun });
    expect(asked[0]!.prompt).toBe('<|user|>Hi<|assistant|>Y');
  });

  test('why it stopped', async () => {
    const { post } = await serve(model);
    const stop_sequences = ['!', 'b'];
    saying(model, ['a'], { ids: [...Buffer.from('abc')] });
    expect((await post(messages, { ...hi, stop_sequences })).body).toMatchObject({
      stop_reason: 'stop_sequence',
      stop_sequence: 'b',
    });
    saying(model, ['a'], { ids: [...Buffer.from('a'), 257] });
    expect((await post(messages, { ...hi, stop_sequences })).body.stop_reason).toBe('end_turn');
    saying(model, ['a'], { finishReason: 'length' });
    expect((await post(messages, hi)).body.stop_reason).toBe('max_tokens');
    saying(model, [call], { finishReason: 'length' });
    const cut = (await post(messages, { ...hi, tools })).body;
    expect([cut.stop_reason, cut.content[0].type]).toEqual(['max_tokens', 'tool_use']);
  });

  test('tokens are counted without generating', async () => {
    const { post } = await serve(model);
    const { status, body } = await post(`${messages}/count_tokens`, { messages: hi.messages });
    const ids = model.tokenizer.applyChatTemplate(hi.messages, { addGenerationPrompt: true });
    expect([status, body]).toEqual([200, { input_tokens: ids.length }]);
    const counted = async (more: object): Promise<number> =>
      (await post(`${messages}/count_tokens`, { messages: hi.messages, ...more })).body.input_tokens;
    expect(await counted({ tools })).toBeGreaterThan(ids.length + 20);
    const begun = [...hi.messages, { role: 'assistant', content: 'Y' }];
    expect(await counted({ messages: begun })).toBe(ids.length + 1);
  });

  test.each<[fields: object, words: string]>([
    [{ max_tokens: undefined }, 'you must provide max_tokens'],
    [{ messages: undefined }, 'you must provide messages'],
    [{ messages: [] }, 'expected messages to be a list'],
    [
      { messages: [{ role: 'system', content: 'x' }] },
      "expected the role of message 1 to be 'user' or 'assistant'",
    ],
    [
      { messages: [{ role: 'user', content: [{ type: 'image', source: {} }] }] },
      "message 1 has a block of type 'image'",
    ],
    [{ messages: [{ role: 'user', content: 7 }] }, 'expected the content of message 1'],
    [{ messages: [{ role: 'user', content: [{ type: 'text' }] }] }, 'expected a text block of message 1'],
    [
      { messages: [{ role: 'assistant', content: [{ type: 'redacted_thinking', data: 'x' }] }] },
      "'redacted_thinking'",
    ],
    [{ tools: [{ type: 'bash_20250124', name: 'bash' }] }, "tool 1 is of type 'bash_20250124'"],
    [
      { tools, tool_choice: { type: 'required' } },
      "expected tool_choice.type to be 'auto', 'any', 'tool' or 'none'",
    ],
    [{ thinking: { type: 'on' } }, "expected thinking.type to be 'enabled'"],
    [{ mcp_servers: [{ url: 'x' }] }, 'mcp_servers is not supported here'],
    [{ container: 'c' }, 'container is not supported here'],
    [{ context_management: { edits: [] } }, 'context_management is not supported here'],
    [
      { messages: Array(9).fill({ role: 'user', content: 'x' }) },
      'expected at most 8 messages but received 9',
    ],
    [{ output_config: { format: { type: 'xml' } } }, 'expected output_config.format.type'],
  ])('%j is refused in the words of the API', async (fields, words) => {
    const { post } = await serve(model, { maxMessages: 8 });
    const { status, headers, body } = await post(messages, { ...hi, ...fields });
    expect(status).toBe(400);
    expect(body).toEqual({
      type: 'error',
      error: { type: 'invalid_request_error', message: expect.stringContaining(words) },
      request_id: headers.get('x-request-id'),
    });
  });

  test('keys come as x-api-key; failures have the kinds of the API, also as the last event', async () => {
    const { post, url } = await serve(model, { apiKeys: ['secret'] });
    saying(model, ['Yes']);
    expect((await post(messages, hi, { 'x-api-key': 'secret' })).status).toBe(200);
    for (const headers of [undefined, { 'x-api-key': 'guess' }]) {
      const { status, body } = await post(messages, hi, headers);
      expect([status, body.error.type]).toEqual([401, 'authentication_error']);
    }
    const { body } = await post(messages, { ...hi, model: 'none' }, { 'x-api-key': 'secret' });
    expect(body.error.type).toBe('not_found_error');
    failing();
    const open = await serve(model);
    expect((await namedEvents(open.url, messages, hi)).at(-1)).toMatchObject({
      type: 'error',
      error: { type: 'overloaded_error', message: 'there is too little memory for this request' },
    });
    expect(url).not.toBe(open.url);
  });
});
