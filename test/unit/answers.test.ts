/** Thoughts in answers, whole and cut at every place, and how they are found by a chat template. */
import { rmSync } from 'node:fs';
import { Tokenizer } from '../../lib/index';
import { AnswerForm, type AnswerOptions, type AnswerPiece } from '../../lib/text/answers/answer_form';
import { byteTokenizer, llamaToolTemplate, tinyModel, tinyTemplate } from '../support/tiny_model';

const think = { open: '<think>', close: '</think>' };
const thinking = `${tinyTemplate}{# ${think.close} #}`;

/** The byte tokenizer with special tokens that have no text. */
function tokenizerWith(...marks: string[]): object {
  const tokenizer = byteTokenizer() as {
    added_tokens: { id: number; content: string }[];
    model: { vocab: Record<string, number> };
  };
  for (const [i, content] of marks.entries()) {
    tokenizer.added_tokens.push({ ...tokenizer.added_tokens[0]!, id: 260 + i, content });
    tokenizer.model.vocab[content] = 260 + i;
  }
  return tokenizer;
}

async function formOf(
  chatTemplate: string,
  tokenizer: object = byteTokenizer(),
): Promise<{ form: AnswerForm; ids: Tokenizer }> {
  const dir = await tinyModel({ chatTemplate, tokenizer });
  try {
    const ids = (await Tokenizer.fromDirectory(dir))!;
    return { form: AnswerForm.of(ids), ids };
  } finally {
    rmSync(dir, { recursive: true });
  }
}

interface Read {
  reasoning: string;
  content: string;
  reasoningTokens: number;
}

/** Reads a text in tokens of `size` characters. */
function read(
  form: AnswerForm,
  text: string,
  size: number,
  prompt = '<|assistant|>',
  options: AnswerOptions = {},
): Read {
  const reader = form.open(prompt, options).reader();
  const pieces: AnswerPiece[] = [];
  for (let i = 0; i < text.length; i += size)
    pieces.push(reader.push({ id: 0, text: text.slice(i, i + size) }));
  pieces.push(reader.flush());
  const joined = (key: 'reasoning' | 'content'): string => pieces.map((piece) => piece[key]).join('');
  return {
    reasoning: joined('reasoning'),
    content: joined('content'),
    reasoningTokens: reader.reasoningTokens,
  };
}

test.each<[what: string, text: string, prompt: string, reasoning: string, content: string]>([
  ['thoughts and an answer', '<think>\nTwo, or\nthree?\n</think>\n\nTwo.\n', '', 'Two, or\nthree?', 'Two.\n'],
  ['an answer alone', ' Two <think>.', '', '', ' Two <think>.'],
  ['thoughts that the prompt opens', 'Two?\n</think>\n\nTwo.', '<|assistant|><think>\n', 'Two?', 'Two.'],
  ['empty thoughts', '<think>\n\n</think>\n\nTwo.', '', '', 'Two.'],
  ['thoughts that the prompt has closed', 'Two.', '<think>\n\n</think>\n\n', '', 'Two.'],
  ['thoughts without an end', '<think>Two, </thi', '', 'Two, </thi', ''],
  ['thoughts without an end, and white space', '<think>Two\n', '', 'Two', ''],
  ['the beginning of a mark', '<thi', '', '', '<thi'],
  ['thoughts that come later are text', 'One. <think>a</think>', '', '', 'One. <think>a</think>'],
  ['nothing', '', '', '', ''],
])('%s', async (_, text, prompt, reasoning, content) => {
  const { form } = await formOf(thinking);
  expect(form.thought).toMatchObject(think);
  for (const size of [1, 2, 3, 7, 100]) {
    const found = read(form, text, size, prompt);
    expect({ reasoning: found.reasoning, content: found.content }).toEqual({ reasoning, content });
    if (size === 1) expect(found.reasoningTokens > 0).toBe(reasoning !== '' || text.startsWith('<think>'));
  }
});

test('tokens of thoughts are counted up to the one that ends them', async () => {
  const { form } = await formOf(thinking);
  expect(read(form, '<think>abc</think>defg', 1).reasoningTokens).toBe(1 + 3 + '</think>'.length);
});

test.each([
  ['<think>', '</think>', '<think>'],
  ['[THINK]', '[/THINK]', '[THINK]'],
  ['<|channel>', '<channel|>', '<|channel>thought\n'],
])('special tokens %s and %s have no text, and mark thoughts all the same', async (open, close, whole) => {
  const { form, ids } = await formOf(`${tinyTemplate}{# ${close} #}`, tokenizerWith(open, close));
  expect(form.thought?.open).toBe(whole);
  const reader = form.open('').reader();
  const rest = whole.slice(open.length);
  const said = [
    [ids.tokenId(open)!, ''],
    [0, `${rest}a`],
    [ids.tokenId(close)!, ''],
    [0, 'b'],
  ] as const;
  const pieces = said.map(([id, text]) => reader.push({ id, text }));
  expect(pieces.map(({ reasoning, content }) => reasoning + content.toUpperCase()).join('')).toBe('aB');
});

test('a special token that calls tools has its spelling where there are tools alone', async () => {
  const template =
    '{% for t in tools or [] %}{{ t }}{% endfor %}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}' +
    '[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}';
  const { form } = await formOf(template, tokenizerWith('[TOOL_CALLS]', '[ARGS]'));
  expect(form.toolFormat?.name).toBe('mistral-named');
  const said = [
    { id: 260, text: '' },
    { id: 0, text: 'add' },
    { id: 261, text: '' },
    { id: 0, text: '{"a": 1}' },
  ];
  const all = (options: AnswerOptions): AnswerPiece[] => {
    const reader = form.open('', options).reader();
    return [...said.map((token) => reader.push(token)), reader.flush()];
  };
  const tools = new Map([['add', { name: 'add', parameters: {} }]]);
  expect(all({ tools }).flatMap(({ calls }) => calls.map((call) => call.function))).toEqual([
    { name: 'add', arguments: '{"a":1}' },
  ]);
  expect(
    all({})
      .map(({ content }) => content)
      .join(''),
  ).toBe('add{"a": 1}');
  expect(all({ tools, maxCalls: 0 }).flatMap(({ calls }) => calls)).toEqual([]);
});

test('a template without thoughts has none, and what looks like them is text', async () => {
  const { form } = await formOf(llamaToolTemplate);
  expect(form.thought).toBe(undefined);
  expect(read(form, '<think>a</think>b', 3).content).toBe('<think>a</think>b');
});

test('a grammar holds an answer from its first token: thoughts that the prompt opens are closed before it', async () => {
  const { form } = await formOf(thinking);
  const opened = form.open('<|assistant|><think>\n', { held: 'schema' });
  expect(opened.opening).toBe('\n</think>\n\n');
  expect(opened.reader().push({ id: 0, text: '{}' })).toEqual({ reasoning: '', content: '{}', calls: [] });
  expect(form.open('<|assistant|>', { held: 'schema' }).opening).toBe('');
  expect(form.open('<|assistant|><think>\n').opening).toBe('');
});
