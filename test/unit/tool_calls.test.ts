/** Calls of tools in texts as models write them, whole and cut at every place. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer } from '../../lib/index';
import { callParser, toolFormatOf, type ToolFormat } from '../../lib/serve/tool_calls';
import { describeWithData } from '../support/shared_data';
import { llamaToolTemplate, tinyModel, tinyTemplate } from '../support/tiny_model';

async function formatOf(chatTemplate: string): Promise<ToolFormat | undefined> {
  const dir = await tinyModel({ chatTemplate });
  try {
    return toolFormatOf((await Tokenizer.fromDirectory(dir))!);
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
  ])('%s: %s', async (name, format) => {
    expect(await formatOf(readFileSync(join(dir, `${name}.jinja`), 'utf8'))).toBe(format);
  });
});

test('the format of a template that writes calls as Llama 3.1 does, and of one without tools', async () => {
  expect(await formatOf(llamaToolTemplate)).toBe('llama3');
  expect(await formatOf(tinyTemplate)).toBe(undefined);
});

const names = new Set(['get_weather', 'add']);
const weather = '{"name": "get_weather", "arguments": {"city": "Paris", "days": [1, 2]}}';
const add = '{"name": "add", "arguments": {}}';
type Call = [name: string, args: unknown];
const paris: Call = ['get_weather', { city: 'Paris', days: [1, 2] }];

const recorded: [name: string, format: ToolFormat, text: string, content: string, calls: Call[]][] = [
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
];

/** Reads a text in pieces of `size` characters. */
function read(format: ToolFormat, text: string, size: number): { content: string; calls: Call[] } {
  const parser = callParser(format, names, false);
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

test.each(recorded)('%s (%s)', (_, format, text, content, calls) => {
  for (const size of [1, 2, 3, 5, 7, 13, 1000]) expect(read(format, text, size)).toEqual({ content, calls });
});

test('what is certain is not held back', () => {
  const parser = callParser('hermes', names, false);
  expect(parser.push('Hello, ').content).toBe('Hello,');
  expect(parser.push('you').content).toBe(' you');
  expect(parser.push(' <tool').content).toBe('');
  expect(parser.push('box>').content).toBe(' <toolbox>');
});

test('a run of 400,000 line breaks is looked at once, and one behind a call is left out', () => {
  const run = '\n'.repeat(400_000); // from each of its places it would take minutes
  const parser = callParser('hermes', names, false);
  expect(parser.push(`a${run}x`).content).toBe(`a${run}x`);
  const { content, calls } = parser.push(`${run}<tool_call>${add}</tool_call>`);
  expect({ content, calls: calls.length }).toEqual({ content: '', calls: 1 });
  expect(parser.push(run)).toEqual({ content: '', calls: [] });
  expect(parser.flush().content).toBe('');
});

test('a text that a grammar made one call', () => {
  const parser = callParser('llama3', names, true);
  expect(parser.push('{"name": "add", "para')).toEqual({ content: '', calls: [] });
  parser.push('meters": {"a": 1}}');
  expect(parser.flush().calls).toMatchObject([{ function: { name: 'add', arguments: '{"a":1}' } }]);
  const cut = callParser('hermes', names, true);
  cut.push('{"name": "ad');
  expect(cut.flush()).toEqual({ content: '{"name": "ad', calls: [] });
});
