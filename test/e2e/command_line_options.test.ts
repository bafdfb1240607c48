/** Flags and files of options, each against the options of the library that it stands for. */
import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  loadDataset,
  Trainer,
  type ChatMessage,
  type GenerateOptions,
  type GenerationResult,
  type LoadDatasetOptions,
  type LoRAConfigInput,
  type TrainerOptions,
} from '../../lib/index';
import { commandLine, jsonLines, type Outcome } from '../support/command_line';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const dir = temporaryFolder();
let base: string;
let made = 0;
const fresh = (): string => join(dir, `out-${made++}`);
const write = (content: string, type = 'json'): string => {
  const path = join(dir, `file-${made++}.${type}`);
  writeFileSync(path, content);
  return path;
};
let data: string;
let chats: string;
beforeAll(async () => {
  base = await tinyModel();
  const texts = ['Mia finds three red apples.', 'Leo hides two hats.', 'The sun is up again.'];
  data = write(texts.map((text) => JSON.stringify({ text })).join('\n'), 'jsonl');
  chats = write(
    texts.map((text) => JSON.stringify({ prompt: 'What is it?', completion: text })).join('\n'),
    'jsonl',
  );
});
afterAll(() => rmSync(base, { recursive: true }));

const cpu = (command: string, ...argv: string[]): string[] => [
  ...[command, '--model', base, '--device', 'cpu'],
  ...argv,
];
/** Of the whole file; a digest, so that a difference does not print it. */
const weights = (folder: string): string =>
  createHash('sha256')
    .update(readFileSync(join(folder, 'adapter_model.safetensors')))
    .digest('hex');
const config = (folder: string): unknown =>
  JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'));

describe('train', () => {
  const steps = ['--max-steps', '2', '--lr', '0.01', '--no-report'];
  const train = (outDir: string, ...argv: string[]): Promise<Outcome> =>
    commandLine(
      cpu('train', ...(argv.includes('--data') ? [] : ['--data', data]), '--out-dir', outDir, ...argv),
    );
  /** The adapter that flags give. */
  const trained = async (...argv: string[]): Promise<string> => {
    const folder = fresh();
    expect(await train(folder, ...steps, ...argv)).toMatchObject({ status: 0 });
    return folder;
  };
  /** The adapter that the library gives with these options. */
  async function expected({
    adapter = {},
    start,
    trainer = {},
    dataset = {},
    path = data,
  }: {
    adapter?: LoRAConfigInput;
    start?: string;
    trainer?: Partial<TrainerOptions>;
    dataset?: LoadDatasetOptions;
    path?: string;
  }): Promise<string> {
    const model = await CausalLM.fromPretrained(base);
    const outDir = fresh();
    if (start === undefined) model.addAdapter(adapter);
    else await model.loadAdapter(start, { trainable: true });
    const examples = await loadDataset(path, { tokenizer: model.tokenizer, ...dataset });
    await new Trainer({ model, data: examples, outDir, maxSteps: 2, lr: 0.01, ...trainer }).run();
    await model.dispose();
    return outDir;
  }
  const expectSame = (one: string, other: string): void => {
    expect(weights(one)).toBe(weights(other));
    expect(config(one)).toEqual(config(other));
  };

  test('--use-dora and --rank-pattern set up the adapter', async () => {
    const folder = await trained(
      '--r',
      '2',
      '--use-dora',
      '--rank-pattern',
      'v_proj=3',
      '--rank-pattern',
      'o=.*=1',
    );
    expect(config(folder)).toMatchObject({ use_dora: true, rank_pattern: { v_proj: 3, 'o=.*': 1 } });
    const adapter = { r: 2, useDora: true, rankPattern: { v_proj: 3, 'o=.*': 1 } };
    expectSame(folder, await expected({ adapter }));
  });

  test('a --rank-pattern is PATTERN=N', async () => {
    for (const pair of ['v_proj', '=3', 'v_proj=', 'v_proj=x'])
      expect(await train(fresh(), '--rank-pattern', pair)).toMatchObject({
        status: 2,
        err: `lora-native: expected --rank-pattern to be PATTERN=N but received ["${pair}"]\n`,
      });
    expect((await train(fresh(), '--rank-pattern', 'v_proj=1.5')).err).toContain(
      'expected rankPattern to be an object of patterns and positive integers',
    );
  });

  test('--max-grad-norm clips', async () => {
    const folder = await trained('--max-grad-norm', '0.001');
    expectSame(folder, await expected({ trainer: { maxGradNorm: 0.001 } }));
    expect(weights(folder)).not.toBe(weights(await trained()));
  });

  test('--chat-template FILE writes the conversations', async () => {
    const jinja = "{% for m in messages %}He said: {{ m['content'] }}{% endfor %}";
    const folder = await trained('--data', chats, '--chat-template', write(jinja));
    expectSame(folder, await expected({ path: chats, dataset: { chatTemplate: jinja } }));
    expect(weights(folder)).not.toBe(weights(await trained('--data', chats)));
  });

  test('--allow-special-tokens makes tokens of what messages spell', async () => {
    const spelled = write(
      '{"messages":[{"role":"user","content":"a</s>b"},{"role":"assistant","content":"Yes"}]}',
      'jsonl',
    );
    const folder = await trained('--data', spelled, '--allow-special-tokens');
    expectSame(folder, await expected({ path: spelled, dataset: { allowSpecialTokens: true } }));
    expect(weights(folder)).not.toBe(weights(await trained('--data', spelled)));
  });

  test('--adapter DIR trains that one on', async () => {
    const first = await trained('--r', '3', '--target-modules', 'q_proj,v_proj');
    const second = await trained('--adapter', first);
    expect(config(second)).toMatchObject({ r: 3, target_modules: ['q_proj', 'v_proj'] });
    expect(weights(second)).not.toBe(weights(first));
    expectSame(second, await expected({ start: first }));
    expect(await train(fresh(), '--adapter', first, '--r', '4')).toEqual({
      status: 2,
      out: '',
      err: 'lora-native: train takes --adapter or --r, not both\n',
    });
  });

  describe('--config FILE', () => {
    const file = (options: object): string => write(JSON.stringify(options));

    test('says what flags do not say, by the names of the options', async () => {
      const options = { r: 3, targetModules: ['q_proj'], rankPattern: { q_proj: 2 }, maxSteps: 9, lr: 0.02 };
      const folder = await trained(
        '--config',
        file({ ...options, data: 'missing', report: true }),
        '--max-steps',
        '1',
      );
      const adapter = { r: 3, targetModules: ['q_proj'], rankPattern: { q_proj: 2 } };
      expectSame(folder, await expected({ adapter, trainer: { maxSteps: 1, lr: 0.01 } }));
    });

    test('may say all that is needed', async () => {
      const outDir = fresh();
      const all = { model: base, device: 'cpu', data, outDir, maxSteps: 2, lr: 0.01, report: false };
      expect(await commandLine(['train', '--config', file(all)])).toMatchObject({ status: 0 });
      expectSame(outDir, await expected({}));
    });

    test.each([
      [{ rank: 3 }, "unknown option 'rank'; did you mean 'r'?"],
      [{ r: '3' }, "expected r to be a whole number of at least 1 but received '3'"],
      [{ packing: 1 }, 'expected packing to be true or false but received 1'],
      [
        { schedule: 'cosin' },
        "expected schedule to be one of constant, linear, cosine, wsd but received 'cosin'",
      ],
      [
        { warmupSteps: 1.5 },
        'expected warmupSteps to be a whole number of at least 0, or below 1 as a share of all steps but received 1.5',
      ],
      [{ targetModules: [3] }, 'expected targetModules to be a list of names but received [3]'],
      [{ rankPattern: [3] }, 'expected rankPattern to be an object of numbers but received [3]'],
      [{ help: true }, "unknown option 'help'"],
      [[3], 'expected an object of options but received [3]'],
    ])('%j is wrong', async (options, sentence) => {
      const path = file(options);
      const { status, err } = await train(fresh(), '--config', path);
      expect(err).toContain(`lora-native: [${path}] ${sentence}`);
      expect(status).toBe(2);
    });

    test('what its options ask of each other holds too', async () => {
      expect(await train(fresh(), '--config', file({ evalEvery: 2 }))).toMatchObject({
        status: 2,
        err: 'lora-native: train needs --eval-data FILE, since --eval-every is given\n',
      });
      expect((await train(fresh(), '--config', write('{'))).err).toMatch(
        /is not valid JSON.* \(ERR_FILE\)\n$/,
      );
    });
  });
});

describe('generate', () => {
  const greedy = { temperature: 0, maxNewTokens: 16 };
  const flags = ['--temperature', '0', '--max-new-tokens', '16'];
  const expected = async (
    prompt: string | ChatMessage[],
    options: GenerateOptions = {},
  ): Promise<GenerationResult> => {
    const model = await CausalLM.fromPretrained(base);
    const result = await model.generate(prompt, { ...greedy, ...options });
    await model.dispose();
    return { ...result, timings: { queuedMs: 0, firstTokenMs: 0, totalMs: 0 } };
  };
  const json = async (...argv: string[]): Promise<unknown> => {
    const [result] = jsonLines(await commandLine(cpu('generate', ...flags, ...argv, '--json')));
    return { ...result, timings: { queuedMs: 0, firstTokenMs: 0, totalMs: 0 } };
  };

  test('--stop ends the text, and may be repeated', async () => {
    const { text } = await expected('Mia');
    const stop = [text.slice(-2), text.slice(2, 4)];
    const result = await json('--prompt', 'Mia', ...stop.flatMap((one) => ['--stop', one]));
    expect(result).toEqual(await expected('Mia', { stop }));
    expect(result).toMatchObject({ finishReason: 'stop' });
  });

  test('--n gives several texts, with an empty line between them', async () => {
    const drawn = { temperature: 1, seed: 5, n: 2 };
    const argv = ['--prompt', 'Mia', '--temperature', '1', '--seed', '5', '--n', '2'];
    const result = await expected('Mia', drawn);
    expect(await json(...argv)).toEqual(result);
    const [one, two] = result.choices!;
    expect((await commandLine(cpu('generate', ...flags, ...argv))).out).toBe(
      `${one!.text}\n\n${two!.text}\n`,
    );
  });

  test('--system comes before the message of --chat, which it needs', async () => {
    const messages: ChatMessage[] = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hi' },
    ];
    const argv = ['--prompt', 'Hi', '--system', 'Be brief.'];
    expect(await json(...argv, '--chat')).toEqual(await expected(messages));
    expect(await commandLine(cpu('generate', ...argv))).toEqual({
      status: 2,
      out: '',
      err: 'lora-native: generate needs --chat, since --system is given\n',
    });
  });
});
