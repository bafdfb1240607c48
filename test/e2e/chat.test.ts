/** lora-native chat in this process, through a pipe and with the keys of a terminal; chat_terminal.test.ts has a real one. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { Interrupted } from '../../lib/cli/command';
import { Conversation } from '../../lib/cli/conversation';
import { CausalLM } from '../../lib/index';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { commandLine, jsonLines, type Outcome } from '../support/command_line';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const dir = temporaryFolder();
let base: string;
let endless: string;
const adapters: Record<string, string> = {};
beforeAll(async () => {
  base = await answeringModel('Hi!');
  endless = await answeringModel('Oh', { endless: true, config: { max_position_embeddings: 100_000 } });
  for (const [name, text] of [
    ['yo', 'Yo.'],
    ['no', 'No'],
  ] as const)
    adapters[name] = await answeringAdapter(base, text, join(dir, name));
});
afterAll(() => {
  for (const folder of [base, endless]) rmSync(folder, { recursive: true });
});
afterEach(() => jest.restoreAllMocks());

const chat = (model: string, ...flags: string[]): string[] => [
  'chat',
  ...['--model', model, '--device', 'cpu', '--temperature', '0'],
  ...flags,
];
const both = (): string[] => ['--adapter', adapters['yo']!, '--adapter', `other=${adapters['no']!}`];
const piped = (stdin: string, ...flags: string[]): Promise<Outcome> =>
  commandLine(chat(base, ...flags), { stdin });

/** What the model read for each answer. */
function recordPrompts(): string[] {
  const prompts: string[] = [];
  // eslint-disable-next-line @typescript-eslint/unbound-method -- it is called with its model
  const { generate } = CausalLM.prototype;
  jest.spyOn(CausalLM.prototype, 'generate').mockImplementation(function (this: CausalLM, prompt, options) {
    prompts.push(this.tokenizer.decode(prompt as number[], { skipSpecialTokens: false }));
    return generate.call(this, prompt, options);
  });
  return prompts;
}

describe('through a pipe', () => {
  test('a message that spells a special token is text, unless --allow-special-tokens is given', async () => {
    const generate = jest.spyOn(CausalLM.prototype, 'generate');
    for (const [flags, specials] of [
      [[], [258, 259]],
      [['--allow-special-tokens'], [258, 257, 259]],
    ] as const) {
      expect((await piped('a</s>b', ...flags)).status).toBe(0);
      const ids = generate.mock.lastCall![0] as number[];
      expect(ids.filter((id) => id > 255)).toEqual(specials);
    }
  });

  test('each line is a turn: plain text comes out, and the history goes in', async () => {
    const prompts = recordPrompts();
    const { status, out, err } = await piped('Hello\r\n\n  \nAnd you?\u2028still\nlast');
    expect([status, out]).toEqual([0, 'Hi!\nHi!\nHi!\n']);
    expect(err).toBe(`${base}: llama, f32 on cpu\n`);
    const first = '<|user|>Hello<|assistant|>';
    const second = `${first}Hi!<|user|>And you?\u2028still<|assistant|>`;
    expect(prompts).toEqual([first, second, `${second}Hi!<|user|>last<|assistant|>`]);
  });

  test('adapters are switched by their names, and the history goes on', async () => {
    const loads = jest.spyOn(CausalLM.prototype, 'loadAdapter');
    const prompts = recordPrompts();
    const lines = [
      'a',
      '/adapter other',
      'b',
      '/base',
      'c',
      '/ adapter  yo ',
      'd',
      '/adapter base',
      'e',
      '/adapter',
    ];
    const { status, out, err } = await piped(lines.join('\n'), ...both());
    expect([status, out]).toEqual([0, 'Yo.\nNo\nHi!\nYo.\nHi!\n']);
    expect(err).toContain('adapters: yo, other\n');
    expect(err).toMatch(/base \(now\), yo, other\n$/);
    expect(loads).toHaveBeenCalledTimes(2);
    expect(prompts[2]).toBe('<|user|>a<|assistant|>Yo.<|user|>b<|assistant|>No<|user|>c<|assistant|>');
  });

  test('/system, /reset, // and /exit', async () => {
    const prompts = recordPrompts();
    const lines = ['a', '/system  Be kind.', 'b', '/reset', '//etc', '/system', '/reset', 'c', '/exit', 'd'];
    const { status, out } = await piped(lines.join('\n'), '--system', 'Be brief.');
    expect([status, out]).toEqual([0, 'Hi!\n'.repeat(4)]);
    // The tiny tokenizer has no token for the role of the system.
    expect(prompts).toEqual([
      '<|system|>Be brief.<|user|>a<|assistant|>',
      '<|system|>Be kind.<|user|>a<|assistant|>Hi!<|user|>b<|assistant|>',
      '<|system|>Be kind.<|user|>/etc<|assistant|>',
      '<|user|>c<|assistant|>',
    ]);
  });

  test('what cannot be followed is said, the next line is answered, and the exit code tells', async () => {
    const prompts = recordPrompts();
    const lines = ['/adapter yoo', '/adapter french', '/adaptor yo', '/what', 'x'.repeat(200), 'Hello'];
    const { status, out, err } = await piped(lines.join('\n'), ...both());
    expect([status, out]).toEqual([1, 'Yo.\n']);
    expect(err.split('\n').slice(2, -1)).toEqual([
      'there is no adapter yoo; did you mean yo?',
      'there is no adapter french; there are base, yo (now), other',
      'there is no /adaptor; did you mean /adapter? /help lists the commands',
      'there is no /what. /help lists the commands',
      '[chat] expected a message of at most 127 tokens with what the template adds, since the model has max_position_embeddings 128, but received 202 (ERR_ARGUMENT)',
    ]);
    expect(prompts).toEqual(['<|user|>Hello<|assistant|>']);
  });

  test('a conversation beyond the length of the model loses its oldest questions, and says so', async () => {
    const prompts = recordPrompts();
    const question = (i: number): string => `${i}`.repeat(30);
    const lines = [1, 2, 3, 4].map(question).join('\n');
    const { status, out, err } = await piped(lines, '--system', 'Be brief.', '--max-new-tokens', '8');
    expect([status, out]).toEqual([0, 'Hi!\n'.repeat(4)]);
    const told = 'longer than the 128 tokens that the model reads: its oldest 2 messages are forgotten\n';
    expect(err.split(told)).toHaveLength(3);
    const system = '<|system|>Be brief.';
    const turn = (i: number): string => `<|user|>${question(i)}<|assistant|>`;
    expect(prompts).toEqual([
      `${system}${turn(1)}`,
      `${system}${turn(1)}Hi!${turn(2)}`,
      `${system}${turn(2)}Hi!${turn(3)}`,
      `${system}${turn(3)}Hi!${turn(4)}`,
    ]);
  });

  test('an answer that is cut says why', async () => {
    const limit = await piped('Hello', '--max-new-tokens', '2');
    expect([limit.out, limit.err]).toEqual([
      'Hi\n',
      expect.stringMatching(/\(cut: --max-new-tokens .*\)\n$/),
    ]);
    const full = await piped('x'.repeat(124));
    expect([full.out, full.err]).toEqual([
      'Hi\n',
      expect.stringMatching(/\(cut: the model reads no more tokens\)\n$/),
    ]);
  });

  test('--json prints an object for each answer', async () => {
    const { out } = await piped('Hello\n/base\nHello', '--json', ...both());
    const usage = { promptTokens: 7, completionTokens: 4, cachedTokens: expect.any(Number) as number };
    const [first, second] = jsonLines({ out });
    expect(first).toEqual({ text: 'Yo.', finishReason: 'stop', usage, adapter: 'yo' });
    expect(second).toMatchObject({ text: 'Hi!', adapter: null });
  });

  test('a signal ends it, and what was written stays', async () => {
    const stop = new AbortController();
    const onOutput = (text: string): void => {
      if (text.length > 5) stop.abort(new Interrupted('SIGTERM'));
    };
    const surroundings = { stdin: 'Hello', signal: stop.signal, onOutput };
    const { status, out } = await commandLine(chat(endless, '--max-new-tokens', '90000'), surroundings);
    expect([status, out]).toEqual([143, expect.stringMatching(/^Oh+\n$/)]);
  });
});

describe('with the keys of a terminal', () => {
  /** Types each text when standard error has something that the one before it brought. */
  async function typing(
    model: string,
    keys: readonly (readonly [shown: string, keys: string])[],
    ...flags: string[]
  ) {
    const stdin = new PassThrough();
    let from = 0;
    const rest = [...keys];
    const onError = (text: string): void => {
      const [shown, typed] = rest[0] ?? [];
      if (shown === undefined || !text.slice(from).includes(shown)) return;
      from = text.length;
      rest.shift();
      setImmediate(() => stdin.write(typed!));
    };
    const outcome = await commandLine(chat(model, ...flags), { stdin, keys: true, columns: 80, onError });
    expect(rest).toEqual([]);
    return outcome;
  }

  /** Calls `act` once in each answer, when some of it has come. */
  function duringAnswers(act: () => void): (out: string) => void {
    let acted = 0;
    return (out) => {
      const answers = out.split('\n');
      if (answers.length === acted || answers.at(-1)!.length < 4) return;
      acted = answers.length;
      setImmediate(act);
    };
  }

  test('a prompt names the adapter; Ctrl-D ends', async () => {
    const { status, out, err } = await typing(
      base,
      [
        ['yo> ', 'Hello\r'],
        ['yo> ', '/base\r'],
        ['base> ', 'Hello\r'],
        ['base> ', '\x04'],
      ],
      ...both(),
    );
    expect([status, out]).toEqual([0, 'Yo.\nHi!\n']);
    expect(err).toContain('/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends\n');
    expect(err.endsWith('\n')).toBe(true);
  });

  test('/help lists the commands, and a wrong line does not change the exit code', async () => {
    const { status, err } = await typing(base, [
      ['> ', '/help\r'],
      ['two.', '/nothing\r'],
      ['/help lists', '/exit\r'],
    ]);
    expect(status).toBe(0);
    for (const command of ['/adapter', '/base', '/system', '/reset', '/help', '/exit'])
      expect(err).toMatch(new RegExp(`^${command} `, 'm'));
  });

  test('Ctrl-C stops an answer, which stays in the history; it empties a line; at an empty one it ends', async () => {
    const stdin = new PassThrough();
    const prompts = recordPrompts();
    // What is typed during an answer is not seen before its end.
    const onOutput = duringAnswers(() => stdin.write('typed\x03'));
    const keys = ['Hello\r', ' more\r', '\x03', '\x03'];
    const shown = [/> \S*$/, /\(stopped\)\n.*> typed\S*$/, /\(stopped\)\n.*> typed\S*$/, /\^C\n.*> \S*$/];
    let from = 0;
    const onError = (text: string): void => {
      if (!shown[0]?.test(text.slice(from))) return;
      shown.shift();
      from = text.length;
      setImmediate(() => stdin.write(keys.shift()!));
    };
    const surroundings = { stdin, keys: true, columns: 80, onError, onOutput };
    const { status, out, err } = await commandLine(chat(endless, '--max-new-tokens', '90000'), surroundings);
    expect([status, shown]).toEqual([130, []]);
    expect(err.endsWith('\n')).toBe(true);
    const [first, second] = out.trimEnd().split('\n');
    expect(first).toMatch(/^Oh+$/);
    expect(second).toMatch(/^Oh+$/);
    const turn = (words: string): string => `<|user|>${words}<|assistant|>`;
    expect(prompts).toEqual([turn('Hello'), `${turn('Hello')}${first}${turn('typed more')}`]);
  });

  test('Ctrl-C twice in a row ends an answer and the chat; a line that was typed ahead is answered', async () => {
    const stdin = new PassThrough();
    const typed = ['Ahead\r\x03', '\x03\x03'];
    const prompts = recordPrompts();
    const onOutput = duringAnswers(() => stdin.write(typed.shift()!));
    stdin.write('Hello\r');
    const surroundings = { stdin, keys: true, columns: 80, onOutput };
    const { status, err } = await commandLine(chat(endless, '--max-new-tokens', '90000'), surroundings);
    expect([status, prompts.length]).toEqual([130, 2]);
    expect(err).toMatch(/\(stopped\)\n> Ahead\n\(stopped\)\n/);
  });
});

test('an answer that is stopped before its first word is no part of the history', async () => {
  const model = await CausalLM.fromPretrained(endless);
  const conversation = new Conversation(model, { maxNewTokens: 50_000, temperature: 0 }, () => undefined);
  const all = async (signal: AbortSignal, after = Infinity, stop?: () => void): Promise<string> => {
    const answering = conversation.say('Hello', signal);
    for (let i = 1; ; i++) {
      const { value, done } = await answering.next();
      if (done) return value.finishReason;
      if (i === after) stop?.();
    }
  };
  expect(await all(AbortSignal.abort())).toBe('stopped');
  expect(conversation.history).toEqual([]);
  const stop = new AbortController();
  expect(await all(stop.signal, 3, () => stop.abort())).toBe('stopped');
  expect(conversation.history).toEqual([
    { role: 'user', content: 'Hello' },
    { role: 'assistant', content: expect.stringMatching(/^Ohh+$/) as string },
  ]);
  conversation.reset();
  await model.dispose();
});

describe('before the model is loaded', () => {
  test.each<[string[], number, string]>([
    [['--top-p', '0'], 2, 'expected topP to be above 0 and at most 1'],
    [['--adapter', 'x=nowhere'], 1, 'the adapter directory nowhere: no such directory'],
    [['--adapter', 'base=nowhere'], 2, "'base' is the model without an adapter: give --adapter NAME=nowhere"],
    [['--adapter', 'a/x', '--adapter', 'b/x'], 2, "two adapters are called 'x': give --adapter NAME=b/x"],
  ])('%j is refused', async (flags, status, sentence) => {
    const load = jest.spyOn(CausalLM, 'fromPretrained');
    const outcome = await piped('', ...flags);
    expect([outcome.status, outcome.err]).toEqual([status, expect.stringContaining(sentence)]);
    expect(load).not.toHaveBeenCalled();
  });
});

test('a model without a chat template is refused with what to do', async () => {
  const plain = await tinyModel({ tokenizerConfig: { chat_template: undefined } });
  const { status, err } = await commandLine(chat(plain), { stdin: 'Hello' });
  expect([status, err]).toEqual([
    1,
    expect.stringContaining('has no chat template (chat_template.jinja of a directory'),
  ]);
  rmSync(plain, { recursive: true });
});
