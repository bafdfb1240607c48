/** Messages as OpenAI's data hold them: contents in parts, calls of tools without a content, arguments as JSON text. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadDataset } from '../../lib/data/dataset';
import { promptIds } from '../../lib/models/running/generate';
import { Tokenizer } from '../../lib/text/tokenizer';
import { expectReject, expectThrow } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { byteTokenizer } from '../support/tiny_model';

const dir = temporaryFolder();
let made = 0;

async function tokenizerOf(template: string): Promise<Tokenizer> {
  const folder = join(dir, `t${made++}`);
  mkdirSync(folder);
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(byteTokenizer()));
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ chat_template: template }));
  return (await Tokenizer.fromDirectory(folder))!;
}

/** `said` and `calls` are how the template writes a content and the arguments of a call. */
const template = (said: string, calls: string): string =>
  `{% for m in messages %}<|{{ m.role }}|>${said}{% for call in m.tool_calls or [] %}<call>${calls}</call>{% endfor %};{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}`;
const plain = template('{{ m.content }}', '{{ call.function.arguments | tojson }}');

type Message = { role: string; content?: unknown; [key: string]: unknown };
const user = (content: unknown): Message => ({ role: 'user', content });
const answer: Message = { role: 'assistant', content: 'Yes.' };
const call = (args: unknown, content?: unknown): Message => ({
  role: 'assistant',
  ...(content === undefined ? {} : { content }),
  tool_calls: [{ id: 'a', type: 'function', function: { name: 'f', arguments: args } }],
});
const text = (words: string): object => ({ type: 'text', text: words });

/** What each way to a template makes of messages: the call itself, a prompt, and both kinds of rows. */
const paths: Record<string, (tokenizer: Tokenizer, messages: Message[]) => Promise<string>> = {
  applyChatTemplate: async (tokenizer, messages) =>
    tokenizer.applyChatTemplate(messages, { tokenize: false }),
  turns: async (tokenizer, messages) => tokenizer.turns(messages).text,
  generate: async (tokenizer, messages) =>
    tokenizer.decode(await promptIds(messages, 1000, () => tokenizer)).replace(/<\|assistant\|>$/, ''),
  '{ messages }': (tokenizer, messages) => firstRow(tokenizer, { messages }),
  '{ prompt, completion }': (tokenizer, messages) =>
    firstRow(tokenizer, { prompt: messages.slice(0, -1), completion: messages.slice(-1) }),
};

async function firstRow(tokenizer: Tokenizer, row: object): Promise<string> {
  const path = join(dir, `d${made++}.jsonl`);
  writeFileSync(path, JSON.stringify(row));
  const [example] = await loadDataset(path, { tokenizer });
  return tokenizer.decode([...example!.inputIds]);
}

describe.each(Object.entries(paths))('through %s', (name, write) => {
  test('the texts of parts are joined', async () => {
    const tokenizer = await tokenizerOf(plain);
    const given = [
      user([text('a '), { ...text('b'), cache_control: {} }]),
      user([]),
      { ...answer, content: [text('c')] },
    ];
    expect(await write(tokenizer, given)).toBe('<|user|>a b;<|user|>;<|assistant|>c;');
  });

  const wrong = name.includes('{') ? /d\d+\.jsonl:1: / : /^\[chat_template\] /;
  test.each<[what: string, message: Message, sentence: string]>([
    [
      'an image',
      user([text('a'), { type: 'image_url', image_url: { url: 'data:' } }]),
      "expected the content of message 2 ('user') to have parts { type: 'text', text } only but received a part of type 'image_url'",
    ],
    [
      'a part that has no text',
      user([{ type: 'text' }]),
      "expected the content of message 2 ('user') to have parts { type: 'text', text } only but received a part of type 'text'",
    ],
    [
      'a number',
      user(42),
      "expected the content of message 2 ('user') to be a text or parts { type: 'text', text } but received 42",
    ],
    [
      'nothing',
      { role: 'assistant', content: null },
      "expected the content of message 2 ('assistant') to be a text or parts { type: 'text', text } but received null",
    ],
    [
      'arguments that are cut off',
      call('{"a": 1'),
      `expected the arguments of a call in message 2 ('assistant') to be an object or its JSON text but received '{"a": 1'`,
    ],
    [
      'a number in arguments whose last digits are lost',
      call('{"ids": [1, {"b": 12345678901234567890}]}'),
      "expected whole numbers in the arguments of a call in message 2 ('assistant') to be at most 2^53 - 1, up to which JavaScript keeps their digits, but received about 12345678901234567000: write it as a text",
    ],
    [
      'a number below zero of that kind, in an object',
      call({ id: -(2 ** 53) }),
      "expected whole numbers in the arguments of a call in message 2 ('assistant') to be at most 2^53 - 1, up to which JavaScript keeps their digits, but received about -9007199254740992: write it as a text",
    ],
  ])('%s is refused, and told by its message', async (_, message, sentence) => {
    const error = await write(await tokenizerOf(plain), [user('Hi'), message, answer]).then(
      () => undefined,
      (reason: unknown) => reason as { code: string; message: string },
    );
    expect(error).toMatchObject({ code: 'ERR_DATA', message: expect.stringMatching(wrong) });
    expect(error!.message).toContain(sentence);
  });

  test.each([
    ['usr', "; did you mean 'user'?"],
    ['critic', ''],
  ])('the role %s, which the template does not name, is refused', async (role, help) => {
    const error = await write(await tokenizerOf(plain), [user('Hi'), { role, content: 'Hi' }, answer]).then(
      () => undefined,
      (reason: unknown) => reason as { code: string; message: string },
    );
    expect(error).toMatchObject({ code: 'ERR_DATA' });
    expect(error!.message).toContain(
      `expected the role of message 2 to be one of system, developer, user, assistant, tool but received '${role}'${help}`,
    );
  });

  test('a role is refused in the last message too, and so is the second call where the template writes one', async () => {
    const given = [user('Hi'), answer, { role: 'assistent', content: 'Hi' }];
    await expect(write(await tokenizerOf(plain), given)).rejects.toThrow(
      /the role of message 3 .* did you mean/,
    );
    const first = await tokenizerOf(
      '{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.tool_calls is defined %}{{ m.content }}{% endif %}{% if m.tool_calls and loop.index == 2 %}{{ m.tool_calls[0].function.name }}{% endif %};{% endfor %}',
    );
    const called = (...names: string[]): Message => ({
      role: 'assistant',
      content: '',
      tool_calls: names.map((name) => ({ function: { name, arguments: {} } })),
    });
    expect(await write(first, [user('Hi'), called('get_time'), answer])).toContain('get_time');
    await expect(write(first, [user('Hi'), called('get_time'), called('get_date'), answer])).rejects.toThrow(
      /tool_calls of message 3 \(assistant\)/,
    );
    await expect(write(first, [user('Hi'), called('get_time', 'get_date'), answer])).rejects.toThrow(
      /tool_calls of message 2 \(assistant\)/,
    );
  });

  test('roles that the template compares with are taken, and so are the common ones', async () => {
    const named = `{% set role = messages[0].role %}{% if role in ['critic', 'editor'] or "guest" != messages[0]['role'] or role == 'x' ~ 'y' %}{% endif %}${plain}`;
    const tokenizer = await tokenizerOf(named);
    for (const role of ['critic', 'editor', 'guest', 'system', 'developer', 'user', 'tool'])
      expect(await write(tokenizer, [{ role, content: 'Hi' }, answer])).toBe(
        `<|${role}|>Hi;<|assistant|>Yes.;`,
      );
  });

  test.each([
    ['tool_calls', '{{ m.content or "" }}'],
    ['tool_calls', '{{ m.content or "" }}{% if m.tool_calls and false %}!{% endif %}'],
    ['function_call', '{{ m.content or "" }}{{ m.tool_calls }}'],
  ])('calls in %s are refused where the template is %s', async (key, said) => {
    const tokenizer = await tokenizerOf(`{% for m in messages %}<|{{ m.role }}|>${said};{% endfor %}`);
    const called = { name: 'get_time', arguments: {} };
    const silent: Message = {
      role: 'assistant',
      content: null,
      ...(key === 'tool_calls' ? { tool_calls: [{ function: called }] } : { function_call: called }),
    };
    const error = await write(tokenizer, [user('Hi'), silent, answer]).then(
      () => undefined,
      (reason: unknown) => reason as { code: string; message: string },
    );
    expect(error).toMatchObject({ code: 'ERR_UNSUPPORTED' });
    expect(error!.message).toContain(
      `the chat template 'default' of the model does not write the ${key} of message 2 (assistant)`,
    );
    expect(await write(tokenizer, [user('Hi'), { ...answer, tool_calls: [] }])).toContain('Yes.');
  });

  const calls: [what: string, template: string][] = [
    ['is joined with texts', template("{{ '' + m.content }}", '{{ call.function.arguments | tojson }}')],
    [
      'is asked for',
      template(
        '{% if m.content is not none %}{{ m.content | trim }}{% endif %}',
        '{{ call.function.arguments | tojson }}',
      ),
    ],
    [
      'is asked for, and the arguments are text',
      `{% for m in messages %}<|{{ m.role }}|>{% if m.content is none %}{% for call in m.tool_calls %}{{ '<call>' + call.function.arguments + '</call>' }}{% endfor %}{% else %}{{ m.content }}{% endif %};{% endfor %}`,
    ],
  ];
  test.each(calls)('a call has no content where that %s', async (_, source) => {
    const tokenizer = await tokenizerOf(source);
    for (const content of [null, undefined])
      expect(
        await write(tokenizer, [
          user('Hi'),
          call('{"a": 1}', content),
          { role: 'tool', content: '5' },
          answer,
        ]),
      ).toBe('<|user|>Hi;<|assistant|><call>{"a": 1}</call>;<|tool|>5;<|assistant|>Yes.;');
  });

  test('arguments as an object, as its text, and none are written once', async () => {
    const tokenizer = await tokenizerOf(plain);
    const given = [user('Hi'), call({ a: 'b' }, ''), call('{"a": "b"}', ''), call('', ''), answer];
    expect(await write(tokenizer, given)).toBe(
      '<|user|>Hi;<|assistant|><call>{"a": "b"}</call>;<|assistant|><call>{"a": "b"}</call>;<|assistant|><call>{}</call>;<|assistant|>Yes.;',
    );
  });
});

test('numbers in arguments whose digits are kept, and those that are written with an exponent, are written as they are', async () => {
  const tokenizer = await tokenizerOf(plain);
  const args = '{"a": 9007199254740991, "b": -9007199254740991, "c": 6.02e+23, "d": 0.5}';
  expect(tokenizer.applyChatTemplate([user('Hi'), call(args, '')], { tokenize: false })).toBe(
    `<|user|>Hi;<|assistant|><call>${args}</call>;`,
  );
});

test('a list or an object that is joined with a text is an error, not [object Object]', async () => {
  for (const source of ['{{ "a" + messages }}', '{{ messages[0] ~ "a" }}']) {
    const tokenizer = await tokenizerOf(source);
    expectThrow(
      () => tokenizer.applyChatTemplate([{ role: 'user', content: 'Hi' }]),
      'ERR_DATA',
      /^\[chat_template\] the chat template of the model failed: expected a text to be joined with a text but received (Array|Object)Value: tojson writes it$/,
    );
  }
});

test('an image is told by the line of its row', async () => {
  const path = join(dir, 'image.jsonl');
  const rows = [
    [user('Hi'), answer],
    [user([{ type: 'image_url' }]), answer],
  ];
  writeFileSync(path, rows.map((messages) => JSON.stringify({ messages })).join('\n'));
  await expectReject(
    loadDataset(path, { tokenizer: await tokenizerOf(plain) }),
    'ERR_DATA',
    `[loadDataset] ${path}:2: expected the content of message 1 ('user') to have parts { type: 'text', text } only but received a part of type 'image_url'`,
  );
});
