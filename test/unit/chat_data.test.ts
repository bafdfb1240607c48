/** Conversations and answers as training examples: which tokens count. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadDataset, type LoadDatasetOptions } from '../../lib/data/dataset';
import { defaultLimits } from '../../lib/formats/limits';
import { ChatTemplate } from '../../lib/text/chat';
import { promptIds } from '../../lib/models/running/generate';
import type { ChatMessage } from '../../lib/text/messages';
import { Spellings } from '../../lib/text/spellings';
import { BoundedTemplate } from '../../lib/text/template';
import { Tokenizer } from '../../lib/text/tokenizer';
import type { Turns } from '../../lib/text/turns';
import { expectReject, expectThrow } from '../support/errors';
import { pausesOf } from '../support/gaps';
import { describeWithData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';
import { byteTokenizer } from '../support/tiny_model';

const dir = temporaryFolder();

/** ChatML; `marks` puts {% generation %} around what the assistant says. */
const chatml = (marks: boolean): string =>
  [
    '{%- for message in messages %}',
    "    {{- '<|' + message.role + '|>\\n' }}",
    "    {%- if message.role == 'assistant' %}",
    marks ? '        {%- generation %}' : '',
    "        {{- message.content + '</s>' }}",
    marks ? '        {%- endgeneration %}' : '',
    "        {{- '\\n' }}",
    '    {%- else %}',
    "        {{- message.content + '</s>\\n' }}",
    '    {%- endif %}',
    '{%- endfor %}',
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}",
  ].join('\n');

async function tokenizerOf(template?: string): Promise<Tokenizer> {
  const folder = temporaryFolderInside();
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(byteTokenizer()));
  writeFileSync(
    join(folder, 'tokenizer_config.json'),
    JSON.stringify({ eos_token: '</s>', ...(template === undefined ? {} : { chat_template: template }) }),
  );
  return (await Tokenizer.fromDirectory(folder))!;
}

let made = 0;
function temporaryFolderInside(): string {
  const folder = join(dir, `t${made++}`);
  mkdirSync(folder);
  return folder;
}

const dialogue: ChatMessage[] = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: 'Name a colour.' },
  { role: 'assistant', content: 'Blue.' },
  { role: 'user', content: 'Another.' },
  { role: 'assistant', content: 'Green.' },
];

/** What counts, with | between runs of tokens, and the whole text. */
async function learnt(
  tokenizer: Tokenizer,
  row: object,
  options: LoadDatasetOptions = {},
): Promise<{ counted: string; text: string }> {
  const path = join(dir, `d${made++}.jsonl`);
  writeFileSync(path, JSON.stringify(row));
  const [example] = [...(await loadDataset(path, { tokenizer, ...options }))];
  const { inputIds, labels } = example!;
  const runs: number[][] = [];
  labels.forEach((label, i) => {
    if (label === -100) return;
    expect(label).toBe(inputIds[i]); // not shifted
    if (i === 0 || labels[i - 1] === -100) runs.push([]);
    runs.at(-1)!.push(label);
  });
  return {
    counted: runs.map((ids) => tokenizer.decode(ids)).join('|'),
    text: tokenizer.decode([...inputIds]),
  };
}

const answers = 'Blue.</s>|Green.</s>';

describe.each([
  ['marks of the template', true],
  ['prefixes', false],
])('by %s', (_, marks) => {
  test('the answers and their ends count, and nothing else', async () => {
    const tokenizer = await tokenizerOf(chatml(marks));
    const { counted, text } = await learnt(tokenizer, { messages: dialogue });
    expect(counted).toBe(answers);
    expect(text).toBe(tokenizer.applyChatTemplate(dialogue, { tokenize: false }));
    expect(await learnt(tokenizer, { messages: dialogue }, { trainOn: 'completion' })).toEqual({
      counted,
      text,
    });
  });

  test("trainOn 'all' needs no answer", async () => {
    const tokenizer = await tokenizerOf(chatml(marks));
    const messages = dialogue.slice(0, 2);
    const { counted, text } = await learnt(tokenizer, { messages }, { trainOn: 'all' });
    expect(counted).toBe(text);
    await expectReject(learnt(tokenizer, { messages }), 'ERR_DATA', /expected a message of the assistant/);
  });

  test("trainOn 'all' counts the whole dialogue", async () => {
    const { counted, text } = await learnt(
      await tokenizerOf(chatml(marks)),
      { messages: dialogue },
      { trainOn: 'all' },
    );
    expect(counted).toBe(text);
  });

  test('prompt and completion, and instructions, go through the template', async () => {
    const tokenizer = await tokenizerOf(chatml(marks));
    const wanted = {
      counted: answers.split('|')[1]!,
      text: '<|user|>\nName a colour.</s>\n<|assistant|>\nGreen.</s>\n',
    };
    expect(await learnt(tokenizer, { prompt: 'Name a colour.', completion: 'Green.' })).toEqual(wanted);
    for (const input of [{}, { input: '' }, { input: null }])
      expect(await learnt(tokenizer, { instruction: 'Name a colour.', ...input, output: 'Green.' })).toEqual(
        wanted,
      );
    expect(
      (await learnt(tokenizer, { instruction: 'Name a colour', input: 'of grass', output: 'Green.' })).text,
    ).toContain('Name a colour\n\nof grass</s>');
    expect(
      await learnt(tokenizer, {
        prompt: [{ role: 'user', content: 'Name a colour.' }],
        completion: [{ role: 'assistant', content: 'Green.' }],
      }),
    ).toEqual(wanted);
  });
});

test('marks and white space: the text with marks taken out is what the template writes without', () => {
  for (const inner of [' x ', '\n  x\n', '{{- " x" -}}', '  {{ "x" }}  '])
    for (const [open, close] of [
      ['{% generation %}', '{% endgeneration %}'],
      ['{%- generation -%}', '{%- endgeneration -%}'],
      ['  {%- generation %}\n', '  {%- endgeneration %}\n'],
    ])
      for (const around of ['a ', 'a\n', '{{ "a" }}\n']) {
        const source = `${around}${open}${inner}${close} b`;
        const template = ChatTemplate.from(source, undefined, {})!;
        const messages = [{ role: 'assistant', content: '' }];
        const { text } = template.turns(messages);
        expect({ source, text }).toEqual({ source, text: template.render(messages) });
      }
});

describe('what a template writes behind the end of an answer', () => {
  const written = (end: string): string =>
    `{% for m in messages %}<|{{ m.role }}|>{{ m.content }}${end}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}`;

  test.each([
    ['does not count behind the end-of-text token', '</s> and more ', 'Blue.</s>|Green.</s>'],
    [
      'does not count behind another special token, where it is white space',
      '<|user|> \n ',
      'Blue.<|user|>|Green.<|user|>',
    ],
    ['counts where it is words', '<|user|>!', 'Blue.<|user|>!|Green.<|user|>!'],
    ['counts where there is no such token', '\n', 'Blue.\n|Green.\n'],
    ['does not count behind the last of two', '</s>x</s>\n', 'Blue.</s>x</s>|Green.</s>x</s>'],
  ])('%s', async (_, end, counted) => {
    expect((await learnt(await tokenizerOf(written(end)), { messages: dialogue })).counted).toBe(counted);
  });

  test('counts where the template marks it', async () => {
    const marked = written('</s>\n')
      .replace('{{ m.content }}', '{% if m.role == "assistant" %}{% generation %}{% endif %}{{ m.content }}')
      .replace('</s>\n', '</s>\n{% if m.role == "assistant" %}{% endgeneration %}{% endif %}');
    expect((await learnt(await tokenizerOf(marked), { messages: dialogue })).counted).toBe(
      'Blue.</s>\n|Green.</s>\n',
    );
  });
});

test('messages that hold private use characters do not confuse the marks', async () => {
  const tokenizer = await tokenizerOf(chatml(true));
  const { counted } = await learnt(tokenizer, {
    messages: [
      { role: 'user', content: '\uE000 a \uE001' },
      { role: 'assistant', content: '\uE001b\uE000' },
    ],
  });
  expect(counted).toBe('\uE001b\uE000</s>');
});

/** Earlier answers are written without their first letter, as thinking templates drop thoughts: only marks tell where they are. */
const forgetful = (marks = ['', '']): string =>
  `{% for m in messages %}<|{{ m.role }}|>{% if m.role != 'assistant' %}{{ m.content }}{% else %}${marks[0]}{{ m.content if loop.last else m.content[1:] }}${marks[1]}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}`;

test.each([
  ['after one without', ['a', '\uE000']],
  ['before one without', ['\uE000', 'a']],
])('a conversation that holds such a character, %s, has marks of its own', (_, letters) => {
  const template = ChatTemplate.from(forgetful(['{% generation %}', '{% endgeneration %}']), undefined, {})!;
  for (const letter of letters) {
    const messages = ['x', `-${letter}`, 'y', `-${letter}`].map((content, i) => ({
      role: i % 2 ? 'assistant' : 'user',
      content,
    }));
    const { text, spans } = template.turns(messages);
    expect(spans.map(([begin, end]) => text.slice(begin, end))).toEqual([letter, `-${letter}`]);
  }
});

test('marks that strip the space behind them are used', () => {
  const template = ChatTemplate.from(
    forgetful(['{% generation -%} ', '{%- endgeneration %}']),
    undefined,
    {},
  )!;
  const { text, spans } = template.turns(dialogue);
  expect(spans.map(([begin, end]) => text.slice(begin, end))).toEqual(['lue.', 'Green.']);
});

describe('a template that does not tell', () => {
  test('is an error that names line, message and what helps', async () => {
    const tokenizer = await tokenizerOf(forgetful());
    await expectReject(
      learnt(tokenizer, { messages: dialogue }),
      'ERR_DATA',
      /:1: the chat template does not tell which tokens message 3 \(assistant\) adds: .*; train on all tokens, or give a chatTemplate with \{% generation %\}/,
    );
  });

  test('one answer at the end is told', async () => {
    const tokenizer = await tokenizerOf(forgetful());
    const two = [
      { role: 'assistant', content: 'Hi' },
      { role: 'user', content: 'Hi' },
    ];
    expect((await learnt(tokenizer, { messages: two.toReversed() })).counted).toBe('Hi</s>');
    expectThrow(() => tokenizer.turns(two), 'ERR_DATA', /message 1 \(assistant\)/);
  });

  test('a template of the program with marks takes its place', async () => {
    const tokenizer = await tokenizerOf(forgetful());
    const chatTemplate = chatml(true);
    expect((await learnt(tokenizer, { messages: dialogue }, { chatTemplate })).counted).toBe(
      'Blue.</s>|Green.</s>',
    );
  });
});

describe('conversations of many turns, by prefixes', () => {
  const turn = (i: number): ChatMessage => ({ role: i % 2 ? 'assistant' : 'user', content: `Number ${i}.` });
  const long = (count: number): ChatMessage[] => Array.from({ length: count }, (_, i) => turn(i));
  /** Messages that templates were run on. */
  const written = (run: () => void): number => {
    const render = jest.spyOn(BoundedTemplate.prototype, 'steps');
    try {
      run();
      return render.mock.calls.reduce((sum, [{ messages }]) => sum + (messages as unknown[]).length, 0);
    } finally {
      render.mockRestore();
    }
  };
  const template = (body: string): string =>
    `{% for m in messages %}${body}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}`;

  test.each([
    ['with ends', chatml(false)],
    ['without', template("{{ m.role + ': ' + m.content + '\n' }}")],
    [
      'that alternate',
      template(
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}{% endif %}{{ m.role }}: {{ m.content }};",
      ),
    ],
  ])('%s: the work is in proportion to the text', (_, source) => {
    const render = ChatTemplate.from(source, undefined, {})!;
    for (const count of [200, 201]) {
      const messages = [{ role: 'user', content: 'First.' }, turn(1), ...long(count)];
      let turns: Turns | undefined;
      const work = written(() => (turns = render.turns(messages)));
      expect(work).toBeLessThan(30 * count);
      const answers = messages
        .filter(({ role }) => role === 'assistant')
        .map(({ content }) => content as string);
      expect(
        turns!.spans.map(([begin, end]) => turns!.text.slice(begin, end).replace(/\.\D*$/, '.')),
      ).toEqual(answers);
      expect(turns!.text).toBe(render.render(messages));
    }
  });

  test('timers and I/O run between the messages of a long one', async () => {
    const tokenizer = await tokenizerOf(chatml(false));
    const path = join(dir, 'two-hundred.jsonl');
    writeFileSync(path, JSON.stringify({ messages: long(200) }));
    const read = (tokens: Tokenizer) => pausesOf(() => loadDataset(path, { tokenizer: tokens }));
    // Each turn of a loop asks for the time: more often than every slice of eight.
    expect((await read(tokenizer)).pauses).toBeGreaterThan(400);
    const { pauses } = await pausesOf(() => promptIds(long(200), 1000, () => tokenizer));
    expect(pauses).toBeGreaterThan(20);
    const signal = AbortSignal.abort(new Error('enough'));
    const ended = await pausesOf(() =>
      promptIds(long(200), 1000, () => tokenizer, { signal }).catch((error: Error) => error.message),
    );
    expect(ended).toEqual({ pauses: 1, result: 'enough' });
  });

  test('a template that numbers its turns is written up to each answer', () => {
    const numbered = ChatTemplate.from(
      `{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }};{% endfor %}{% if add_generation_prompt %}{{ messages | length + 1 }} assistant: {% endif %}`,
      undefined,
      {},
    )!;
    const { text, spans } = numbered.turns(long(60));
    expect(spans.map(([begin, end]) => text.slice(begin, end))).toEqual(
      Array.from({ length: 30 }, (_, i) => `Number ${2 * i + 1}.;`),
    );
  });

  test('a template that changes a late answer does not tell', () => {
    const late = ChatTemplate.from(
      template("{{ m.role }}: {{ m.content if loop.last or m.content != 'Number 41.' else 'forgotten' }};"),
      undefined,
      {},
    )!;
    expectThrow(() => late.turns(long(60)), 'ERR_DATA', /which tokens message 42 \(assistant\) adds/);
  });

  test('the work of a conversation has a limit, and an abort is heard meanwhile', async () => {
    const folder = temporaryFolderInside();
    const numbered = `{% for m in messages %}{{ loop.index }}{{ m.role }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ messages | length + 1 }}assistant{% endif %}`;
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(byteTokenizer()));
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ chat_template: numbered }));
    const tokenizer = (await Tokenizer.fromDirectory(folder, {
      limits: { ...defaultLimits, turnSteps: 50_000 },
    }))!;
    expect(tokenizer.turns(long(30)).spans.length).toBe(15);
    const path = join(dir, 'many.jsonl');
    writeFileSync(path, JSON.stringify({ messages: long(300) }));
    await expectReject(
      loadDataset(path, { tokenizer }),
      'ERR_DATA',
      `[loadDataset] ${path}:1: finding the answers of 300 messages takes too many steps: the limit is 50000, which limits.turnSteps raises`,
    );
    const stop = new AbortController();
    const patient = (await Tokenizer.fromDirectory(folder))!;
    const reading = loadDataset(path, { tokenizer: patient, signal: stop.signal });
    setTimeout(() => stop.abort(new Error('enough')), 1);
    await expect(reading).rejects.toThrow('enough');
  });

  test('values beyond a limit are not even converted', () => {
    const one = ChatTemplate.from('x', undefined, {})!;
    expect(one.render(long(10_000))).toBe('x');
    expectThrow(
      () => one.render(long(30_000)),
      'ERR_DATA',
      '[chat_template] the messages and tools of a conversation hold too many values: the limit is 65536, which limits.messageValues raises',
    );
    expectThrow(
      () => one.render([turn(0)], { variables: { many: Array.from({ length: 70_000 }, () => 1) } }),
      'ERR_DATA',
      /limits\.messageValues raises$/,
    );
    expectThrow(
      () => one.render([turn(0)], { tools: [Array.from({ length: 70_000 }, () => [])] }),
      'ERR_DATA',
      /limits\.messageValues raises$/,
    );
  });
});

describe('without a template', () => {
  test.each([
    ['the model has none', undefined, undefined],
    ['chatTemplate is null', chatml(true), null],
  ])('%s: prompt and completion follow each other, and the end counts', async (_, template, chatTemplate) => {
    const tokenizer = await tokenizerOf(template);
    const options = chatTemplate === null ? { chatTemplate } : {};
    expect(await learnt(tokenizer, { prompt: 'Q: 2+2 =', completion: ' 4' }, options)).toEqual({
      counted: ' 4</s>',
      text: '<s>Q: 2+2 = 4</s>',
    });
    expect(await learnt(tokenizer, { instruction: 'Add.', input: '2 2', output: '4' }, options)).toEqual({
      counted: '4</s>',
      text: '<s>Add.\n\n2 2\n\n4</s>',
    });
    expect(
      (await learnt(tokenizer, { prompt: 'a', completion: 'b' }, { ...options, trainOn: 'all' })).counted,
    ).toBe('<s>ab</s>');
  });
});

describe('tools of a row', () => {
  const tool = {
    type: 'function',
    function: {
      name: 'get_weather',
      description: 'The weather of a place',
      parameters: { type: 'object', properties: { place: { type: 'string' } } },
    },
  };
  const template = `{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}${chatml(true)}`;
  const tools = '{"type": "function", "function": {"name": "get_weather"';

  test.each<[string, object]>([
    ['{ messages }', { messages: dialogue }],
    ['{ prompt, completion }', { prompt: dialogue.slice(0, 2), completion: [dialogue[2]] }],
  ])('of %s: a list, or its JSON text, is what the template gets, and does not count', async (_, row) => {
    const tokenizer = await tokenizerOf(template);
    const plain = await learnt(tokenizer, row);
    const wanted = await learnt(tokenizer, { ...row, tools: [tool] });
    expect(wanted.text).toMatch(tools);
    expect(wanted.text.slice(wanted.text.indexOf('\n') + 1)).toBe(plain.text);
    expect(wanted.counted).toBe(plain.counted);
    expect(await learnt(tokenizer, { ...row, tools: JSON.stringify([tool]) })).toEqual(wanted);
    for (const none of [null, [], '[]'])
      expect(await learnt(tokenizer, { ...row, tools: none })).toEqual(plain);
  });

  test.each([
    ['a text that is no JSON', 'get_weather'],
    ['an object', tool],
    ['names', ['get_weather']],
  ])('%s is told by its line', async (_, given) => {
    await expectReject(
      learnt(await tokenizerOf(template), { messages: dialogue, tools: given }),
      'ERR_DATA',
      /:1: expected "tools" to be a list of descriptions, or its JSON text, but received /,
    );
  });

  test('a template that does not read them is refused', async () => {
    await expectReject(
      learnt(await tokenizerOf(chatml(true)), { messages: dialogue, tools: [tool] }),
      'ERR_UNSUPPORTED',
      /:1: the chat template of the model does not read tools: /,
    );
  });
});

describe('messages that say whether they count', () => {
  const said = (...words: object[]): ChatMessage[] =>
    dialogue.map((message, i) => ({ ...message, ...words[i] }));
  const none = {};

  test.each([
    ['marks', true],
    ['prefixes', false],
  ])("OpenAI's weight and axolotl's train leave answers out, by %s", async (_, marks) => {
    const tokenizer = await tokenizerOf(chatml(marks));
    for (const word of [{ weight: 0 }, { train: false }, { weight: 0, train: false }])
      expect((await learnt(tokenizer, { messages: said(none, none, word) })).counted).toBe('Green.</s>');
    const both = {
      messages: said({ weight: 0 }, { train: null }, { train: true }, { weight: null }, { weight: 1 }),
    };
    expect(await learnt(tokenizer, both)).toEqual(await learnt(tokenizer, { messages: dialogue }));
  });

  test('so do those of ShareGPT and of a side of { prompt, completion }', async () => {
    const tokenizer = await tokenizerOf(chatml(true));
    const from = ['system', 'human', 'gpt', 'human', 'gpt'];
    const conversations = said(none, none, { weight: 0 }).map(({ content, weight }, i) => ({
      from: from[i],
      value: content,
      weight,
    }));
    expect((await learnt(tokenizer, { conversations })).counted).toBe('Green.</s>');
    const trained = conversations.map(({ from: who, value }, i) => ({ from: who, value, train: i === 2 }));
    expect((await learnt(tokenizer, { conversations: trained })).counted).toBe('Blue.</s>');
    const messages = said(none, none, none, none, { train: false });
    const row = { prompt: messages.slice(0, 4), completion: messages.slice(4) };
    expect((await learnt(tokenizer, row)).counted).toBe('Blue.</s>');
  });

  test("beside trainOn 'all' everything else counts", async () => {
    const { counted, text } = await learnt(
      await tokenizerOf(chatml(false)),
      { messages: said(none, { weight: 1 }, { weight: 0 }) },
      { trainOn: 'all' },
    );
    expect(counted).toBe(text.replace('Blue.</s>', '|'));
  });

  test('a row of which no answer counts is left out', async () => {
    const path = join(dir, 'silent.jsonl');
    const weighted = { messages: said(none, none, { weight: 0 }, none, { weight: 0 }) };
    writeFileSync(path, `${JSON.stringify(weighted)}\n${JSON.stringify({ messages: dialogue })}`);
    expect(await loadDataset(path, { tokenizer: await tokenizerOf(chatml(true)) })).toMatchObject({
      length: 1,
      dropped: 1,
    });
  });

  test.each<[object[], LoadDatasetOptions, string]>([
    [[none, none, { weight: 0.5 }], {}, `"weight" of message 3 ('assistant') to be 0 or 1 but received 0.5`],
    [
      [none, none, none, none, { weight: '0' }],
      {},
      `"weight" of message 5 ('assistant') to be 0 or 1 but received '0'`,
    ],
    [[none, none, { train: 0 }], {}, `"train" of message 3 ('assistant') to be true or false but received 0`],
    [
      [none, none, { train: true, weight: 0 }],
      {},
      `"weight" and "train" of message 3 ('assistant') to say the same but received 0 and true`,
    ],
    [
      [none, { train: true }],
      {},
      `"train" of message 2 ('user') to be false, since only messages of the assistant count, but received true`,
    ],
    [
      [{ weight: 0 }],
      { trainOn: 'all' },
      `"weight" of message 1 ('system') to be 1 beside trainOn 'all', which counts it, but received 0`,
    ],
  ])('%j is refused', async (given, options, sentence) => {
    await expectReject(
      learnt(await tokenizerOf(chatml(true)), { messages: said(...given) }, options),
      'ERR_DATA',
      new RegExp(`:1: expected ${sentence.replace(/[()]/g, '\\$&')}$`),
    );
  });

  test('marks that do not tell the answers apart are refused', async () => {
    const one = '{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}';
    await expectReject(
      learnt(await tokenizerOf(one), { messages: said(none, none, { weight: 0 }) }),
      'ERR_DATA',
      /:1: expected the chat template to mark each of 2 messages of the assistant, some of which do not count, but received 1 marks$/,
    );
  });
});

test('a conversation without an answer is refused, and told by its line', async () => {
  await expectReject(
    learnt(await tokenizerOf(chatml(true)), { messages: dialogue.slice(0, 2) }),
    'ERR_DATA',
    /:1: expected a message of the assistant, of which the tokens count$/,
  );
});

test('rows whose answers lie beyond maxLength are dropped and counted', async () => {
  const tokenizer = await tokenizerOf(chatml(true));
  const path = join(dir, 'long.jsonl');
  const rows = ['x', 'x'.repeat(200)].map((prompt) => JSON.stringify({ prompt, completion: 'yes' }));
  writeFileSync(path, rows.join('\n'));
  const data = await loadDataset(path, { tokenizer, maxLength: 64 });
  expect(data).toMatchObject({ length: 1, truncated: 1, dropped: 1, tokens: 4 });
  await expectReject(
    loadDataset(path, { tokenizer, maxLength: 7 }),
    'ERR_DATA',
    `[loadDataset] ${path}: expected at least one example but it holds only rows of which no token counts within 7 tokens`,
  );
});

describeWithData('templates of TRL and Axolotl', 'chat_templates', (folder) => {
  const messages = dialogue.slice(1);
  const turnsOf = (name: string) =>
    ChatTemplate.from(
      readFileSync(join(folder, name), 'utf8'),
      undefined,
      {
        bos_token: '<s>',
        eos_token: name.startsWith('axolotl') ? '<|im_end|>' : '</s>',
      },
      { spellings: new Spellings(['<|im_start|>', '<|im_end|>', '<end_of_turn>', '<|eot_id|>']) },
    )!.turns(messages);
  test.each([
    ['trl-llama3_training.jinja', ['Blue.<|eot_id|>', 'Green.<|eot_id|>']],
    ['trl-llama3.jinja', ['Blue.<|eot_id|>', 'Green.<|eot_id|>']],
    ['trl-qwen2_5.jinja', ['Blue.<|im_end|>', 'Green.<|im_end|>']],
    ['trl-gemma3.jinja', ['Blue.<end_of_turn>', 'Green.<end_of_turn>']],
    ['axolotl-chatml.jinja', ['Blue.<|im_end|>', 'Green.<|im_end|>']],
  ])('%s', (name, answers) => {
    const { text, spans } = turnsOf(name);
    expect(spans.map(([begin, end]) => text.slice(begin, end))).toEqual(answers);
  });

  test('trl-qwen3.jinja with tools, without thinking, and with an answer that is open', () => {
    const template = ChatTemplate.from(readFileSync(join(folder, 'trl-qwen3.jinja'), 'utf8'), undefined, {})!;
    const question = messages.slice(0, 1);
    const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }];
    const thoughtless = { variables: { enable_thinking: false }, addGenerationPrompt: true };
    expect(template.render(question, { ...thoughtless, tools })).toBe(
      '<|im_start|>system\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n' +
        'You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n' +
        '{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}\n</tools>\n\n' +
        'For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n' +
        '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' +
        '<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n',
    );
    const answer = { role: 'assistant', content: 'The colour is ' };
    expect(template.render([...question, answer], { continueAssistant: true })).toBe(
      '<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nThe colour is ',
    );
  });

  test('trl-qwen3.jinja writes earlier answers without the thoughts of the last: it does not tell', () => {
    expectThrow(() => turnsOf('trl-qwen3.jinja'), 'ERR_DATA', /does not tell/);
  });
});
