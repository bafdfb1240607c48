import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadDataset } from '../../lib/data/dataset';
import { Tokenizer } from '../../lib/text/tokenizer';
import { expectReject } from '../support/errors';
import { byteTokenizer, tinyTemplate } from '../support/tiny_model';

const made: string[] = [];
async function load(files: Record<string, unknown> = {}): Promise<Tokenizer> {
  const dir = mkdtempSync(join(tmpdir(), 'tokenizer-'));
  made.push(dir);
  const all: Record<string, unknown> = {
    'tokenizer.json': byteTokenizer(),
    'tokenizer_config.json': { bos_token: '<s>', eos_token: { content: '</s>' } },
    ...files,
  };
  for (const [name, content] of Object.entries(all))
    writeFileSync(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content));
  return (await Tokenizer.fromDirectory(dir)) as Tokenizer;
}
afterAll(() => made.forEach((dir) => rmSync(dir, { recursive: true })));

const bytes = (text: string): number[] => [...Buffer.from(text)];
const messages = [{ role: 'user', content: 'hi' }];

test('encode adds what the post-processor says, unless told not to', async () => {
  const t = await load();
  expect(t.encode('aé')).toEqual([256, ...bytes('aé')]);
  expect(t.encode('aé', { addSpecialTokens: false })).toEqual(bytes('aé'));
  expect(t.encode('a</s>b', { addSpecialTokens: false })).toEqual([97, 257, 98]);
  expect(t.encode('', { addSpecialTokens: false })).toEqual([]);
  expect(t.vocabSize).toBe(260);
});

test('a text of a data set ends with the end-of-text token of the tokenizer', async () => {
  const tokenizer = await load();
  expect(tokenizer.eosTokenId).toBe(257);
  expect((await load({ 'tokenizer_config.json': {} })).eosTokenId).toBeNull();
  const path = join(tokenizer.directory, 'data.jsonl');
  writeFileSync(path, '{"text":"a"}\n{"text":"b</s>"}\n');
  const rows = [...(await loadDataset(path, { tokenizer }))].map(({ inputIds }) => inputIds);
  expect(rows).toEqual([
    [256, 97, 257],
    [256, 98, 257],
  ]);
});

test('a stream of tokens gives the text of all of them, whatever their number is', async () => {
  const t = await load();
  expect(t.concatenates).toBe(true);
  const ids = t.encode('do not stop , né 🙂 at all . 💡é💡 ok ? '.repeat(3), { addSpecialTokens: false });
  ids.splice(20, 0, 257); // a special token
  for (const start of [0, 1, 5, 27, 40]) {
    const stream = t.stream(ids.slice(0, start));
    const pieces = ids.slice(start).map((id) => stream.push(id));
    const before = t.decode(ids.slice(0, start), { skipSpecialTokens: true }).replace(/\uFFFD+$/, '');
    expect(before + pieces.join('')).toBe(t.decode(ids, { skipSpecialTokens: true }));
  }
});

test('decode', async () => {
  const t = await load();
  expect(t.decode([256, ...bytes('né 🙂'), 257])).toBe('<s>né 🙂</s>');
  expect(t.decode([256, ...bytes('né 🙂'), 257], { skipSpecialTokens: true })).toBe('né 🙂');
  expect(t.decode([256], { skipSpecialTokens: true })).toBe('');
  expect(t.decode([])).toBe('');
  expect(t.decode([97, 261])).toBe('a'); // an id of the model's padded vocabulary
  expect(() => t.decode([-1])).toThrow(
    '[tokenizer] expected ids to be non-negative integers but received -1',
  );
  expect(() => t.decode(undefined as unknown as number[])).toThrow('expected ids but received undefined');
  expect(() => t.decode([97], { skipSpecialToken: true } as object)).toThrow(
    "did you mean 'skipSpecialTokens'?",
  );
});

test('a stream gives whole characters only', async () => {
  const t = await load();
  const stream = t.stream([256, ...bytes('x')]);
  const pieces = [...bytes('é🙂 ok'), 257].map((id) => stream.push(id));
  expect(pieces).toEqual(['', 'é', '', '', '', '🙂', ' ', 'o', 'k', '']);
  // A context that ends within a character: what completes it belongs to the new text.
  const [first, second] = bytes('é') as [number, number];
  expect(t.stream([97, first]).push(second)).toBe('é');
  const late = t.stream([]);
  expect(
    bytes('🙂')
      .slice(0, 3)
      .map((id) => late.push(id))
      .join(''),
  ).toBe('');
});

test('chat templates: in the configuration, by name, and in a file of their own', async () => {
  const inConfig = await load({ 'tokenizer_config.json': { bos_token: '<s>', chat_template: tinyTemplate } });
  expect(inConfig.hasChatTemplate).toBe(true);
  expect(inConfig.applyChatTemplate(messages, { addGenerationPrompt: true, tokenize: false })).toBe(
    '<|user|>hi<|assistant|>',
  );
  expect(inConfig.applyChatTemplate(messages, { addGenerationPrompt: true })).toEqual([
    258,
    ...bytes('hi'),
    259,
  ]);
  expect(inConfig.applyChatTemplate(messages)).toEqual([258, ...bytes('hi')]);

  const named = await load({
    'tokenizer_config.json': {
      chat_template: [
        null,
        { name: 'default', template: 'plain {{ flag }}' },
        { name: 'tool_use', template: '{{ tools | length }} tools' },
      ],
    },
  });
  expect(named.applyChatTemplate(messages, { tokenize: false, variables: { flag: 'yes' } })).toBe(
    'plain yes',
  );
  expect(named.applyChatTemplate(messages, { tokenize: false, tools: [{}, {}] })).toBe('2 tools');

  const file = await load({
    'tokenizer_config.json': { bos_token: '<s>', chat_template: 'old' },
    'chat_template.jinja':
      "{{ bos_token }}{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}new",
  });
  expect(file.applyChatTemplate(messages, { tokenize: false })).toBe('<s>new');
  expect(() => file.applyChatTemplate([{ role: 'system', content: '' }])).toThrow(
    expect.objectContaining({ code: 'ERR_DATA', message: expect.stringContaining('user first') }),
  );
});

describe('continueAssistant', () => {
  const open = async (template: string, content: string, options: object = {}): Promise<string> => {
    const tokenizer = await load({ 'tokenizer_config.json': { chat_template: template } });
    const answer = { role: 'assistant', content };
    return tokenizer.applyChatTemplate([...messages, answer], {
      tokenize: false,
      continueAssistant: true,
      ...options,
    });
  };
  const each = (said: string, end: string): string =>
    `{% for m in messages %}<|{{ m.role }}|>${said}${end}{% endfor %}`;

  test.each([
    ['as it is', each('{{ m.content }}', '</s>'), 'hi ', '<|user|>hi</s><|assistant|>hi '],
    ['that is stripped', each('{{ m.content | trim }}', '</s>'), 'so: \n', '<|user|>hi</s><|assistant|>so:'],
    ['without a letter', each('{{ m.content }}', ';'), '', '<|user|>hi;<|assistant|>'],
    [
      'that the end repeats',
      each('{{ m.content }}', " {{ 'hi' if loop.last }}"),
      'hi',
      '<|user|>hi <|assistant|>hi',
    ],
  ])('the text ends with the last content, %s', async (_, template, content, wanted) => {
    expect(await open(template, content)).toBe(wanted);
  });

  test.each([
    [
      'another speaker',
      async () =>
        (await load({ 'tokenizer_config.json': { chat_template: tinyTemplate } })).applyChatTemplate(
          messages,
          { continueAssistant: true },
        ),
      'ERR_ARGUMENT',
      "[chat_template] expected the last message to be a text of the assistant for continueAssistant but received one of 'user'",
    ],
    [
      'words that open an answer',
      () => open(tinyTemplate, 'a', { addGenerationPrompt: true }),
      'ERR_ARGUMENT',
      '[chat_template] expected addGenerationPrompt to be false beside continueAssistant but received true',
    ],
    [
      'a template that writes the content otherwise',
      () => open(each('{{ m.content | length }}', ''), 'a'),
      'ERR_DATA',
      '[chat_template] the chat template does not tell where the last message ends, so that it cannot be continued',
    ],
    [
      'a variable that is no variable',
      () => open(tinyTemplate, 'a', { variables: { messages: [] } }),
      'ERR_ARGUMENT',
      '[chat_template] expected variables without messages, which the messages and options decide, but received it',
    ],
    [
      'tools that are no list',
      () => open(tinyTemplate, 'a', { tools: {} }),
      'ERR_ARGUMENT',
      '[chat_template] expected tools to be a list of descriptions but received an object',
    ],
    [
      'tools that the template does not read',
      () => open(tinyTemplate, 'a', { tools: [{}] }),
      'ERR_UNSUPPORTED',
      '[chat_template] the chat template of the model does not read tools: describe them in a message, or give a template that does',
    ],
  ] as const)('%s: refused', async (_, run, code, message) => {
    await expectReject(run(), code, message);
  });
});

test('mistakes', async () => {
  const t = await load();
  expect(() => t.applyChatTemplate(messages)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }));
  const chat = await load({ 'tokenizer_config.json': { chat_template: tinyTemplate } });
  expect(() => chat.applyChatTemplate('hi' as never)).toThrow(
    'expected messages to be an array of { role, content }',
  );
  expect(() => t.encode(5 as never)).toThrow('[tokenizer] expected text to be a string but received 5');
  await expect(
    load({ 'tokenizer.json': { ...byteTokenizer(), model: { type: 'Nonsense' } } }),
  ).rejects.toMatchObject({
    code: 'ERR_UNSUPPORTED',
  });
  const none = mkdtempSync(join(tmpdir(), 'tokenizer-'));
  made.push(none);
  expect(await Tokenizer.fromDirectory(none)).toBeUndefined();
});
