/** Calls of tools in texts as models write them, whole and cut at every place. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer } from '../../lib/index';
import { AnswerForm } from '../../lib/text/answers/answer_form';
import { callParser } from '../../lib/text/answers/call_parser';
import type { DeclaredTools } from '../../lib/text/answers/tool_calls';
import { toolFormats, type ToolFormat } from '../../lib/text/answers/tool_formats';
import { describeWithData } from '../support/shared_data';
import { llamaToolTemplate, tinyModel, tinyTemplate } from '../support/tiny_model';

const format = (name: string): ToolFormat => toolFormats.find((one) => one.name === name)!;

async function formatOf(chatTemplate: string): Promise<string | undefined> {
  const dir = await tinyModel({ chatTemplate });
  try {
    return AnswerForm.of((await Tokenizer.fromDirectory(dir))!).toolFormat?.name;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

describeWithData('the format of published templates', 'chat_templates', (dir) => {
  test.each([
    ['trl-qwen2_5', 'hermes'],
    ['trl-qwen3', 'hermes'],
    ['trl-llama3', undefined],
    ['trl-gemma3', undefined],
    ['axolotl-chatml', undefined],
  ])('%s: %s', async (name, expected) => {
    expect(await formatOf(readFileSync(join(dir, `${name}.jinja`), 'utf8'))).toBe(expected);
  });
});

/** A template that writes each call of the assistant's as `call` does, of which `c` is the function. */
const writes = (call: string): string =>
  '{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}' +
  `{% for one in m.tool_calls or [] %}{% set c = one.function %}${call}{% endfor %}{% endfor %}`;

// The lines of published templates that write a call: Qwen3.5's, Phi-4-mini's, Mistral Small 3.1's and 3.2's, Ministral 3's, LFM2.5's, Gemma 4's.
test.each([
  [
    'qwen-xml',
    '<tool_call>\n<function={{ c.name }}>\n{% for k, v in c.arguments|items %}<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>',
  ],
  ['phi4', '<|tool_call|>{{ c | tojson }}<|/tool_call|>'],
  ['mistral', '[TOOL_CALLS] [{{ (c | tojson)[:-1] }}, "id": "{{ one.id[-9:] }}"}]'],
  ['mistral-named', '[TOOL_CALLS]{{ c.name }}[CALL_ID]{{ one.id }}[ARGS]{{ c.arguments | tojson }}'],
  ['mistral-named', '[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments | tojson }}'],
  [
    'lfm2',
    '<|tool_call_start|>[{{ c.name }}({% for k, v in c.arguments|items %}{{ k }}={{ v }}{% endfor %})]<|tool_call_end|>',
  ],
  [
    'gemma4',
    '<|tool_call>call:{{ c.name }}{{ "{" }}{% for k, v in c.arguments|dictsort %}{{ k }}:{{ v }}{% endfor %}{{ "}" }}<tool_call|>',
  ],
  [undefined, 'calls {{ c.name }} with {{ c.arguments | tojson }}'],
])('the format of a template that writes calls as %s: %s', async (expected, call) => {
  expect(await formatOf(writes(call))).toBe(expected);
});

test('the format of a template that writes calls as Llama 3.1 does, and of one without tools', async () => {
  expect(await formatOf(llamaToolTemplate)).toBe('llama3');
  expect(await formatOf(tinyTemplate)).toBe(undefined);
});

const tools: DeclaredTools = new Map(
  ['get_weather', 'add'].map((name) => {
    const properties = {
      city: { type: 'string' },
      days: { type: 'array' },
      hot: { type: ['boolean', 'null'] },
    };
    return [name, { name, parameters: { type: 'object', properties } }];
  }),
);
const weather = '{"name": "get_weather", "arguments": {"city": "Paris", "days": [1, 2]}}';
const add = '{"name": "add", "arguments": {}}';
type Call = [name: string, args: unknown];
const paris: Call = ['get_weather', { city: 'Paris', days: [1, 2] }];

const recorded: [name: string, format: string, text: string, content: string, calls: Call[]][] = [
  ['a call', 'hermes', `<tool_call>\n${weather}\n</tool_call>`, '', [paris]],
  [
    'two calls behind a sentence',
    'hermes',
    `I will look.\n<tool_call>\n${weather}\n</tool_call>\n<tool_call>\n${add}\n</tool_call>`,
    'I will look.',
    [paris, ['add', {}]],
  ],
  ['no call', 'hermes', 'It is <b>sunny</b>, < 30.\n', 'It is <b>sunny</b>, < 30.\n', []],
  ['what only begins as a call', 'hermes', 'see <tool_cal', 'see <tool_cal', []],
  ['a call that is cut off', 'hermes', `a <tool_call>\n{"name": "add"`, 'a<tool_call>\n{"name": "add"', []],
  [
    'a call that is no JSON stays a text',
    'hermes',
    '<tool_call>\nadd(1)\n</tool_call>',
    '<tool_call>\nadd(1)\n</tool_call>',
    [],
  ],
  [
    'a function that there is not stays a text',
    'hermes',
    '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
    [],
  ],
  [
    'a call',
    'llama3',
    '{"name": "get_weather", "parameters": {"city": "Paris", "days": [1, 2]}}',
    '',
    [paris],
  ],
  [
    'two calls',
    'llama3',
    '\n{"name": "add", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Paris", "days": [1, 2]}}',
    '',
    [['add', {}], paris],
  ],
  [
    'two calls without a space, and what looks like their limit in a text',
    'llama3',
    '{"name": "add", "parameters": {}};{"name": "get_weather", "parameters": {"city": "};x"}}',
    '',
    [
      ['add', {}],
      ['get_weather', { city: '};x' }],
    ],
  ],
  ['no call', 'llama3', 'The sum is {4}.', 'The sum is {4}.', []],
  ['JSON that is no call', 'llama3', '{"sum": 4}', '{"sum": 4}', []],
  ['nothing', 'llama3', '', '', []],
  ['a call', 'phi4', `<|tool_call|>[${weather}]<|/tool_call|>`, '', [paris]],
  ['a call that is no list', 'phi4', `<|tool_call|>${weather}<|/tool_call|>`, '', [paris]],
  ['two calls', 'mistral', `[TOOL_CALLS] [${weather}, ${add}]`, '', [paris, ['add', {}]]],
  ['words before a call', 'mistral', `Let me see. [TOOL_CALLS][${add}]`, 'Let me see.', [['add', {}]]],
  ['a call that is cut off', 'mistral', '[TOOL_CALLS][{"name": "ad', '[TOOL_CALLS][{"name": "ad', []],
  [
    'two calls',
    'mistral-named',
    '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": [1, 2]}[TOOL_CALLS]add[CALL_ID]a1b2c3d4e[ARGS]{}',
    '',
    [paris, ['add', {}]],
  ],
  ['no arguments', 'mistral-named', '[TOOL_CALLS]add', '[TOOL_CALLS]add', []],
  [
    'a call with values by their types',
    'qwen-xml',
    'I will look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n[1, 2]\n</parameter>\n</function>\n</tool_call>',
    'I will look.',
    [paris],
  ],
  [
    'a text of several lines that looks like a number, and words of Python',
    'qwen-xml',
    '<tool_call>\n<function=get_weather>\n<parameter=city>\n1\n2\n</parameter>\n<parameter=hot>\nTrue\n</parameter>\n<parameter=more>\n7\n</parameter>\n</function>\n</tool_call>',
    '',
    [['get_weather', { city: '1\n2', hot: true, more: 7 }]],
  ],
  [
    'a text that is a number',
    'qwen-xml',
    '<tool_call><function=get_weather><parameter=city>\n12\n</parameter></function></tool_call>',
    '',
    [['get_weather', { city: '12' }]],
  ],
  [
    'a call without arguments',
    'qwen-xml',
    '<tool_call>\n<function=add>\n</function>\n</tool_call>',
    '',
    [['add', {}]],
  ],
  [
    'a parameter without an end',
    'qwen-xml',
    '<tool_call><function=add><parameter=a>1</function></tool_call>',
    '<tool_call><function=add><parameter=a>1</function></tool_call>',
    [],
  ],
  [
    'two calls in a list, and words behind it',
    'lfm2',
    '<|tool_call_start|>[get_weather(city="Paris", days=[1, 2]), add()]<|tool_call_end|>Checking.',
    'Checking.',
    [paris, ['add', {}]],
  ],
  [
    'literals of Python',
    'lfm2',
    `<|tool_call_start|>[add(a='it's', b=-1.5e3, c={'k': None, "l": (True, False,)}, d='a\\n\\u00e9')]<|tool_call_end|>`,
    '',
    [['add', { a: "it's", b: -1500, c: { k: null, l: [true, false] }, d: 'a\né' }]],
  ],
  [
    'what is no literal',
    'lfm2',
    '<|tool_call_start|>[add(a=b)]<|tool_call_end|>',
    '<|tool_call_start|>[add(a=b)]<|tool_call_end|>',
    [],
  ],
  [
    'a list within 70',
    'lfm2',
    `<|tool_call_start|>[add(a=${'['.repeat(70)})]<|tool_call_end|>`,
    `<|tool_call_start|>[add(a=${'['.repeat(70)})]<|tool_call_end|>`,
    [],
  ],
  [
    'two calls with texts',
    'gemma4',
    '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:[1,2]}<tool_call|><|tool_call>call:add{}<tool_call|>',
    '',
    [paris, ['add', {}]],
  ],
  [
    'objects and what a text may hold',
    'gemma4',
    '<|tool_call>call:add{a:{<|"|>k<|"|>:<|"|>x, "y"}<|"|>},b:true,c:null}<tool_call|>',
    '',
    [['add', { a: { k: 'x, "y"}' }, b: true, c: null }]],
  ],
];

/** Reads a text in pieces of `size` characters. */
function read(name: string, text: string, size: number): { content: string; calls: Call[] } {
  const parser = callParser(format(name), tools, false);
  const pieces = [];
  for (let i = 0; i < text.length; i += size) pieces.push(parser.push(text.slice(i, i + size)));
  pieces.push(parser.flush());
  const calls = pieces.flatMap((piece) => piece.calls);
  for (const { id, type } of calls)
    expect([id, type]).toEqual([expect.stringMatching(/^call_\w{24}$/), 'function']);
  expect(new Set(calls.map(({ id }) => id)).size).toBe(calls.length);
  return {
    content: pieces.map(({ content }) => content).join(''),
    calls: calls.map(({ function: { name, arguments: given } }) => [name, JSON.parse(given) as unknown]),
  };
}

test.each(recorded)('%s (%s)', (_, name, text, content, calls) => {
  for (const size of [1, 2, 3, 5, 7, 13, 1000]) expect(read(name, text, size)).toEqual({ content, calls });
});

test('what is certain is not held back', () => {
  const parser = callParser(format('hermes'), tools, false);
  expect(parser.push('Hello, ').content).toBe('Hello,');
  expect(parser.push('you').content).toBe(' you');
  expect(parser.push(' <tool').content).toBe('');
  expect(parser.push('box>').content).toBe(' <toolbox>');
});

test('a run of 400,000 line breaks is looked at once, and one behind a call is left out', () => {
  const run = '\n'.repeat(400_000); // from each of its places it would take minutes
  const parser = callParser(format('hermes'), tools, false);
  expect(parser.push(`a${run}x`).content).toBe(`a${run}x`);
  const { content, calls } = parser.push(`${run}<tool_call>${add}</tool_call>`);
  expect({ content, calls: calls.length }).toEqual({ content: '', calls: 1 });
  expect(parser.push(run)).toEqual({ content: '', calls: [] });
  expect(parser.flush().content).toBe('');
});

test('a text that a grammar made one call', () => {
  const parser = callParser(format('llama3'), tools, true);
  expect(parser.push('{"name": "add", "para')).toEqual({ content: '', calls: [] });
  parser.push('meters": {"a": 1}}');
  expect(parser.flush().calls).toMatchObject([{ function: { name: 'add', arguments: '{"a":1}' } }]);
  const cut = callParser(format('hermes'), tools, true);
  cut.push('{"name": "ad');
  expect(cut.flush()).toEqual({ content: '{"name": "ad', calls: [] });
});
