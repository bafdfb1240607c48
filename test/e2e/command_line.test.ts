/** What the commands do, in this process; cli.test.ts runs the built program. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { Interrupted } from '../../lib/cli/command';
import { platformPackage, thisHost } from '../../lib/native/loader';
import {
  CausalLM,
  loadDataset,
  Trainer,
  writeSafetensors,
  type GenerationResult,
  type TrainerOptions,
} from '../../lib/index';
import { commandLine, jsonLines, type Outcome } from '../support/command_line';
import { fileOf } from '../support/safetensors_bytes';
import { adapterMetadata, adapterTensors, ggufBytes } from '../support/gguf_bytes';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const dir = temporaryFolder();
const at = (name: string): string => join(dir, name);
let base: string;
let made = 0;
/** A folder that no other test writes to. */
const fresh = (): string => at(`out-${made++}`);

const texts = ['Mia finds three red apples.', 'Leo hides two hats.', 'a', 'The sun is up again.', 'No.'];
beforeAll(async () => {
  base = await tinyModel();
  const lines = [...texts, ...texts].map((text, i) => JSON.stringify({ text: `${i} ${text}` }));
  writeFileSync(at('data.jsonl'), lines.join('\n'));
  writeFileSync(at('valid.jsonl'), lines.slice(1, 4).join('\n').replaceAll('a', 'e'));
});
afterAll(() => rmSync(base, { recursive: true }));

const cpu = (...argv: string[]): string[] => [argv[0]!, '--model', base, '--device', 'cpu', ...argv.slice(1)];
const trainInto = (outDir: string, ...flags: string[]): Promise<Outcome> =>
  // html_report.test.ts has those with a report.
  commandLine(cpu('train', '--data', at('data.jsonl'), '--out-dir', outDir, '--no-report', ...flags));
const weights = (folder: string): string =>
  readFileSync(join(folder, 'adapter_model.safetensors')).toString('hex');
const adapterConfig = (folder: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;

describe('train', () => {
  /** The flags that change the weights, each away from its default, and the options of the library they stand for. */
  const flags: Record<string, string> = {
    '--r': '3',
    '--lora-alpha': '5',
    '--lora-dropout': '0.25',
    '--target-modules': 'q_proj, v_proj',
    '--max-steps': '4',
    '--batch-size': '3',
    '--gradient-accumulation-steps': '2',
    '--max-length': '12',
    '--lr': '0.01',
    '--schedule': 'linear',
    '--warmup-steps': '1',
    '--weight-decay': '0.5',
    '--optimizer': 'lion',
    '--lora-plus-ratio': '4',
    '--seed': '7',
    '--dtype': 'bf16',
  };
  const words = (without?: string): string[] =>
    Object.entries(flags).flatMap(([flag, value]) => (flag === without ? [] : [flag, value]));

  test('with every flag does what the library does with these options', async () => {
    const model = await CausalLM.fromPretrained(base, { dtype: 'bf16' });
    const data = await loadDataset(at('data.jsonl'), { tokenizer: model.tokenizer, maxLength: 12 });
    model.addAdapter(
      { r: 3, loraAlpha: 5, loraDropout: 0.25, targetModules: ['q_proj', 'v_proj'] },
      { seed: 7 },
    );
    const options: TrainerOptions = {
      model,
      data,
      outDir: fresh(),
      maxSteps: 4,
      batchSize: 3,
      gradientAccumulationSteps: 2,
      lr: 0.01,
      schedule: 'linear',
      warmupSteps: 1,
      weightDecay: 0.5,
      optimizer: 'lion',
      loraPlusRatio: 4,
      seed: 7,
    };
    const events: object[] = [];
    for await (const event of new Trainer(options).run()) events.push(event);
    await model.dispose();

    const folder = fresh();
    const outcome = await trainInto(folder, ...words(), '--json');
    expect(outcome.status).toBe(0);
    expect(weights(folder)).toBe(weights(options.outDir as string));
    expect(adapterConfig(folder)).toEqual(adapterConfig(options.outDir as string));
    // Speeds and paths differ, nothing else does.
    const plain = (list: object[]) =>
      list.map((event) => ({ ...event, tokensPerSecond: 0, etaSeconds: 0, dir: '' })) as unknown;
    expect(plain(jsonLines(outcome))).toEqual(plain(events));
    expect(outcome.err).toMatch(/: llama, bf16 on cpu\n/);
  });

  test('with any one of them left out does something else', async () => {
    const result = async (argv: string[]): Promise<string> => {
      const folder = fresh();
      expect(await trainInto(folder, ...argv)).toMatchObject({ status: 0 });
      return `${weights(folder)} ${JSON.stringify(adapterConfig(folder))}`;
    };
    const all = await result(words());
    // Without --max-steps there are the two steps of an epoch.
    for (const flag of Object.keys(flags))
      expect([flag, (await result(words(flag))) === all]).toEqual([flag, false]);
    // Seventeen trainings: slow where other work keeps the cores busy.
  }, 300_000);

  test('alone takes rank 16, alpha of twice the rank, all linear layers and one epoch in batches of 4', async () => {
    const folder = fresh();
    const outcome = await trainInto(folder, '--json');
    expect(adapterConfig(folder)).toMatchObject({
      r: 16,
      lora_alpha: 32,
      lora_dropout: 0,
      target_modules: expect.arrayContaining(['q_proj', 'o_proj', 'gate_proj', 'down_proj']) as unknown,
    });
    const events = jsonLines(outcome);
    expect(events.map(({ type }) => type)).toEqual(['start', 'step', 'step', 'step', 'end']);
    expect(events[0]).toMatchObject({ maxSteps: 3 });
    expect(events[1]).toMatchObject({ lr: 2e-4, epoch: 0 });
    const small = fresh();
    await trainInto(small, '--r', '4', '--epochs', '1');
    expect(adapterConfig(small)).toMatchObject({ r: 4, lora_alpha: 8 });
  });

  test('--epochs passes over the data so often', async () => {
    const events = jsonLines(await trainInto(fresh(), '--epochs', '2', '--batch-size', '5', '--json'));
    expect(events.filter(({ type }) => type === 'step').map(({ epoch }) => epoch)).toEqual([0, 0, 1, 1]);
  });

  test('--warmup-steps raises the learning rate step by step', async () => {
    const argv = [
      '--max-steps',
      '4',
      '--warmup-steps',
      '2',
      '--lr',
      '0.1',
      '--schedule',
      'constant',
      '--json',
    ];
    const steps = jsonLines(await trainInto(fresh(), ...argv)).filter(({ type }) => type === 'step');
    expect(steps.map(({ lr }) => lr)).toEqual([0, 0.05, 0.1, 0.1]);
  });

  test('--schedule wsd falls in the last steps, and steps may be shares', async () => {
    const argv = ['--max-steps', '4', '--schedule', 'wsd', '--warmup-steps', '0.25', '--decay-steps', '2'];
    const events = jsonLines(await trainInto(fresh(), ...argv, '--lr', '0.1', '--json'));
    expect(events.filter(({ type }) => type === 'step').map(({ lr }) => lr)).toEqual([0, 0.1, 0.1, 0.05]);
  });

  test('tells how many examples there are and how many were cut', async () => {
    expect((await trainInto(fresh(), '--max-steps', '1')).err).toMatch(/\n10 examples, \d+ tokens count\n/);
    const { err, out } = await trainInto(fresh(), '--max-steps', '1', '--max-length', '10');
    expect(err).toMatch(/\n10 examples, \d+ tokens count, 6 of them cut to the maximum length\n/);
    expect(err).toMatch(/^step 1\/1 {2}loss \d+\.\d{4} {2}lr .* tokens\/s {2}0s left {2}\d+ MiB$/m);
    expect(out).toBe('');
  });

  describe('with --eval-data', () => {
    const evaluated = (folder: string, ...flags: string[]) =>
      trainInto(folder, '--eval-data', at('valid.jsonl'), '--max-steps', '3', '--lr', '0.01', ...flags);

    test('measures the trained adapter at the end', async () => {
      const folder = fresh();
      const { out, err, status } = await evaluated(folder, '--json');
      expect(status).toBe(0);
      const model = await CausalLM.fromPretrained(base);
      const data = await loadDataset(at('valid.jsonl'), { tokenizer: model.tokenizer });
      const before = await model.evaluate(data);
      await model.loadAdapter(folder, { name: 'trained' });
      const after = await model.evaluate(data);
      await model.dispose();
      const events = jsonLines({ out });
      expect(events.map(({ type }) => type)).toEqual(['start', 'step', 'step', 'step', 'end', 'eval']);
      expect(events.at(-1)).toEqual({ type: 'eval', step: 3, ...after });
      expect(after.loss).not.toBe(before.loss);
      expect(err).not.toContain('evaluation loss');
      expect((await evaluated(fresh())).err).toContain(
        `\nstep 3  evaluation loss ${after.loss.toFixed(4)}, perplexity ${after.perplexity.toFixed(2)}\n`,
      );
    });

    test('and --eval-every measures in between, and at the end once', async () => {
      const evals = async (every: string) =>
        jsonLines(await evaluated(fresh(), '--eval-every', every, '--json')).flatMap(({ type, step }) =>
          type === 'eval' ? [step] : [],
        );
      expect(await evals('2')).toEqual([2, 3]);
      expect(await evals('3')).toEqual([3]);
      expect(await evals('1')).toEqual([1, 2, 3]);
    });
  });

  test('--save-every leaves checkpoints, and names them', async () => {
    const folder = fresh();
    const { err } = await trainInto(folder, '--max-steps', '3', '--save-every', '2');
    expect(err).toContain(`\nsaved ${join(folder, 'checkpoint-2')}\n`);
    expect(existsSync(join(folder, 'checkpoint-2/checkpoint.safetensors'))).toBe(true);
    expect(err).toMatch(/\ndone: .*adapter_model\.safetensors\n$/);
  });

  test('interrupted after a step saves a checkpoint, no final adapter, and exits with 130', async () => {
    const folder = fresh();
    const control = new AbortController();
    const { status, err } = await commandLine(
      cpu('train', '--data', at('data.jsonl'), '--out-dir', folder, '--max-steps', '1000000'),
      {
        signal: control.signal,
        onError: (text) => {
          if (text.includes('\nstep 1/')) control.abort(new Interrupted('SIGINT'));
        },
      },
    );
    expect(status).toBe(130);
    expect(err).toMatch(/\nsaved .*checkpoint-\d+\nreport: .*report\.html\n$/); // and no message of an error
    expect(existsSync(join(folder, /checkpoint-\d+/.exec(err)![0], 'checkpoint.safetensors'))).toBe(true);
    expect(existsSync(join(folder, 'adapter_config.json'))).toBe(false);
  });

  test('--resume goes on from the newest checkpoint, and --save-limit keeps as many', async () => {
    const flags = ['--save-every', '2', '--schedule', 'constant', '--lora-dropout', '0.2'];
    const whole = fresh();
    await trainInto(whole, ...flags, '--max-steps', '5');
    const folder = fresh();
    expect((await trainInto(folder, ...flags, '--max-steps', '4', '--save-limit', '1')).status).toBe(0);
    expect(existsSync(join(folder, 'checkpoint-2'))).toBe(false);
    const again = await trainInto(folder, ...flags, '--max-steps', '5', '--resume', '--json');
    expect(jsonLines(again)[0]).toMatchObject({ type: 'start', step: 4, maxSteps: 5 });
    expect(weights(folder)).toBe(weights(whole));
  });

  describe('--resume needs no flag of the run again', () => {
    const flags = [
      '--lr',
      '0.01',
      '--r',
      '3',
      '--max-length',
      '12',
      '--max-steps',
      '4',
      '--warmup-steps',
      '1',
    ];
    let folder: string;
    beforeAll(async () => {
      folder = fresh();
      expect((await trainInto(folder, ...flags, '--save-every', '2', '--save-limit', '5')).status).toBe(0);
      rmSync(join(folder, 'checkpoint-4'), { recursive: true }); // as if it had been stopped
    });
    const resume = (...more: string[]): Promise<Outcome> =>
      commandLine(['train', '--out-dir', folder, '--resume', ...more]);

    test.each<[string[], RegExp]>([
      [
        ['--lr', '0.02'],
        /checkpoint-2 is of a run with --lr 0\.01 but received --lr 0\.02: leave it out, or/,
      ],
      [['--r', '16'], /with --r 3 but received --r 16/],
      [['--batch-size', '2'], /with --batch-size 4 but received --batch-size 2/],
      [['--packing'], /with --no-packing but received --packing/],
      [['--train-on', 'all'], /with no --train-on but received --train-on all/],
    ])('%j differs, and is refused before the model is loaded', async (more, message) => {
      const { status, err } = await resume(...more);
      expect([status, err]).toEqual([2, expect.stringMatching(message)]);
      expect(err).toMatch(/^lora-native: /);
    });

    test('with those of the run it ends with the same bits; a longer run names both ends', async () => {
      const first = weights(folder);
      const { status, err } = await resume('--lr', '0.01', '--max-length', '12');
      expect([status, weights(folder)]).toEqual([0, first]);
      expect(err).not.toContain('going on');
      const longer = await resume('--max-steps', '6');
      expect(longer.err).toContain(
        'going on after step 4: the run was to end after 4 steps and now ends after 6; the learning rate is that of the schedule over 6\n',
      );
      const again = await resume('--epochs', '4', '--json'); // of 3 steps each
      expect(jsonLines(again)[0]).toMatchObject({ step: 6, maxSteps: 12, previousMaxSteps: 6 });
    });

    test('the settings of a run that a program began hold, too', async () => {
      const outDir = fresh();
      const model = await CausalLM.fromPretrained(base);
      model.addAdapter({ r: 16, targetModules: 'all-linear' });
      const data = await loadDataset(at('data.jsonl'), { tokenizer: model.tokenizer, maxLength: 512 });
      await new Trainer({ model, data, outDir, maxSteps: 3, saveEvery: 2, lr: 0.03, batchSize: 2 }).run();
      await model.dispose();
      const own = ['--data', at('data.jsonl'), '--out-dir', outDir, '--resume'];
      expect((await commandLine(cpu('train', ...own, '--lr', '0.01'))).err).toMatch(/with --lr 0\.03 but/);
      const { status, out } = await commandLine(cpu('train', ...own, '--r', '16', '--json'));
      expect(status).toBe(0);
      expect(jsonLines({ out })[0]).toMatchObject({ step: 2, maxSteps: 3 });
    });
  });

  test('--patience, --keep-best, --max-tokens and --neftune-noise-alpha do what the options do', async () => {
    const folder = fresh();
    const evaluations = ['--eval-data', at('valid.jsonl'), '--eval-every', '1', '--keep-best', '--lr', '0'];
    const early = await trainInto(folder, ...evaluations, '--max-steps', '9', '--patience', '2', '--json');
    expect(jsonLines(early).find(({ type }) => type === 'end')).toMatchObject({
      step: 3,
      stopped: 'early',
      best: { step: 1, dir: join(folder, 'checkpoint-1') },
    });
    const short = await trainInto(fresh(), '--max-tokens', '1', '--schedule', 'constant', '--json');
    expect(jsonLines(short).find(({ type }) => type === 'end')).toMatchObject({ step: 1 });
    const trained = async (...flags: string[]): Promise<string> => {
      const out = fresh();
      await trainInto(out, '--max-steps', '1', ...flags);
      return weights(out);
    };
    expect(await trained('--neftune-noise-alpha', '5')).not.toBe(await trained());
  });

  test('refuses an output directory that holds a run, and both kinds of length', async () => {
    const folder = fresh();
    mkdirSync(join(folder, 'checkpoint-3'), { recursive: true });
    expect(await trainInto(folder)).toMatchObject({
      status: 1,
      err: expect.stringContaining('holds a run already (checkpoint-3)') as string,
    });
    expect(await trainInto(fresh(), '--epochs', '1', '--max-steps', '1')).toEqual({
      status: 2,
      out: '',
      err: 'lora-native: train takes one of --max-steps, --epochs and --max-tokens\n',
    });
    expect(await trainInto(fresh(), '--packing', '--group-by-length')).toEqual({
      status: 2,
      out: '',
      err: 'lora-native: train takes --packing or --group-by-length, not both\n',
    });
    for (const flags of [['--keep-best'], ['--patience', '2']])
      expect(await trainInto(fresh(), ...flags)).toEqual({
        status: 2,
        out: '',
        err: `lora-native: train needs --eval-every N, since ${flags[0]} is given\n`,
      });
    const rates: [string[], string][] = [
      [['--warmup-steps', '1.5'], '--warmup-steps as a whole number or below 1'],
      [['--schedule', 'wsd', '--decay-steps', '2.5'], '--decay-steps as a whole number or below 1'],
      [['--decay-steps', '2'], '--schedule wsd, since --decay-steps is given'],
      [['--lora-plus-ratio', '0'], '--lora-plus-ratio above 0'],
    ];
    for (const [flags, words] of rates)
      expect(await trainInto(fresh(), ...flags)).toEqual({
        status: 2,
        out: '',
        err: `lora-native: train needs ${words}\n`,
      });
    expect(await trainInto(fresh(), '--eval-every', '1')).toEqual({
      status: 2,
      out: '',
      err: 'lora-native: train needs --eval-data FILE, since --eval-every is given\n',
    });
  });
});

describe('generate', () => {
  let model: CausalLM;
  beforeAll(async () => (model = await CausalLM.fromPretrained(base)));
  afterAll(() => model.dispose());
  type Settings = Parameters<CausalLM['generate']>[1];
  const untimed = ({ timings, ...rest }: GenerationResult): Omit<GenerationResult, 'timings'> => {
    expect(Object.keys(timings)).toEqual(['queuedMs', 'firstTokenMs', 'totalMs']);
    return rest;
  };
  /** What the library gives. */
  const expected = async (prompt: Parameters<CausalLM['generate']>[0], settings: Settings) =>
    untimed(await model.generate(prompt, settings));
  const json = async (...argv: string[]) => {
    const outcome = await commandLine(cpu('generate', ...argv, '--json'));
    expect(outcome.status).toBe(0);
    const objects = jsonLines(outcome);
    expect(objects).toHaveLength(1);
    return untimed(objects[0] as unknown as GenerationResult);
  };
  const prompt = 'Mia finds';
  const ask = ['--prompt', prompt, '--max-new-tokens', '12'];

  test('--temperature 0 is greedy, whatever the seed', async () => {
    const greedy = await expected(prompt, { temperature: 0, maxNewTokens: 12 });
    expect(await json(...ask, '--temperature', '0')).toEqual(greedy);
    expect(await json(...ask, '--temperature', '0', '--seed', '9')).toEqual(greedy);
    expect(Object.keys(greedy).sort()).toEqual(['finishReason', 'ids', 'text', 'usage']);
    expect((await json(...ask)).ids).not.toEqual(greedy.ids);
  });

  test('--seed decides the draws, and is 0 unless given', async () => {
    const drawn = (seed: number) => expected(prompt, { temperature: 0.7, maxNewTokens: 12, seed });
    expect(await json(...ask, '--seed', '5')).toEqual(await drawn(5));
    expect(await json(...ask)).toEqual(await drawn(0));
    expect((await drawn(0)).ids).not.toEqual((await drawn(5)).ids);
  });

  test('--top-k and --top-p cut the choice', async () => {
    const hot = ['--temperature', '50'];
    const { ids } = await expected(prompt, { temperature: 0, maxNewTokens: 12 });
    expect((await json(...ask, ...hot, '--top-k', '1')).ids).toEqual(ids);
    expect((await json(...ask, ...hot, '--top-p', '0.000001')).ids).toEqual(ids);
    expect((await json(...ask, ...hot)).ids).not.toEqual(ids);
  });

  test('--dtype is that of the computation', async () => {
    const settings = { temperature: 0, maxNewTokens: 1 } as const;
    const one = ['--prompt', prompt, '--temperature', '0', '--max-new-tokens', '1'];
    const outcome = await commandLine(cpu('generate', ...one, '--dtype', 'bf16', '--json'));
    expect(outcome.err).toBe(`${base}: llama, bf16 on cpu\n`);
    const other = await CausalLM.fromPretrained(base, { dtype: 'bf16' });
    const [printed] = jsonLines(outcome) as unknown as GenerationResult[];
    expect(untimed(printed!)).toEqual(untimed(await other.generate(prompt, settings)));
    await other.dispose();
    expect((await commandLine(cpu('generate', ...one))).err).toBe(`${base}: llama, f32 on cpu\n`);
  });

  test('--adapter changes what is generated', async () => {
    const folder = fresh();
    await trainInto(folder, '--max-steps', '6', '--lr', '0.05', '--r', '2');
    const settings = { temperature: 0, maxNewTokens: 12 };
    const adapted = await json(...ask, '--temperature', '0', '--adapter', folder);
    expect(adapted.ids).not.toEqual((await expected(prompt, settings)).ids);
    await model.loadAdapter(folder, { name: 'default' });
    expect(adapted).toEqual(await expected(prompt, settings));
    await model.removeAdapter('default');
  });

  test('prints the text as it comes, and a line feed; as many tokens as the model says unless told otherwise', async () => {
    const { text, usage } = await expected(prompt, { temperature: 0.7, seed: 0 });
    expect(usage.completionTokens).toBeGreaterThan(12);
    const { status, out, err } = await commandLine(cpu('generate', '--prompt', prompt));
    expect({ status, out }).toEqual({ status: 0, out: `${text}\n` });
    expect(err).toBe(`${base}: llama, f32 on cpu\n`);
  });

  test('--chat puts the prompt through the chat template as the words of a user', async () => {
    const settings = { temperature: 0, maxNewTokens: 3 };
    const chat = await json('--prompt', 'hi', '--chat', '--temperature', '0', '--max-new-tokens', '3');
    expect(chat).toEqual(await expected([{ role: 'user', content: 'hi' }], settings));
    expect(chat.usage.promptTokens).not.toBe((await expected('hi', settings)).usage.promptTokens);
  });

  test('reads the prompt from standard input, but not from a terminal', async () => {
    const argv = cpu('generate', '--temperature', '0', '--max-new-tokens', '12');
    const piped = await commandLine(argv, { stdin: 'Mia é' });
    const { text } = await expected('Mia é', { temperature: 0, maxNewTokens: 12 });
    expect(piped).toMatchObject({ status: 0, out: `${text}\n` });
    // echo ends its output with a newline, which is no part of the prompt; others are.
    expect((await commandLine(argv, { stdin: 'Mia é\n' })).out).toBe(`${text}\n`);
    expect((await commandLine(argv, { stdin: 'Mia é\r\n' })).out).toBe(`${text}\n`);
    const two = await expected('Mia é\n', { temperature: 0, maxNewTokens: 12 });
    expect((await commandLine(argv, { stdin: 'Mia é\n\n' })).out).toBe(`${two.text}\n`);
    expect(two.usage.promptTokens).not.toBe(
      (await expected('Mia é', { maxNewTokens: 1 })).usage.promptTokens,
    );
    expect(await commandLine(argv, { stdin: null })).toEqual({
      status: 2,
      out: '',
      err: 'lora-native: generate needs --prompt TEXT, or text on standard input\n',
    });
  });

  test('stops when it is interrupted, before and while it generates', async () => {
    for (const moment of ['before', 'while'] as const) {
      const control = new AbortController();
      if (moment === 'before') control.abort(new Interrupted('SIGINT'));
      const { status, err } = await commandLine(cpu('generate', ...ask), {
        signal: control.signal,
        onError: () => control.abort(new Interrupted('SIGINT')),
      });
      expect(status).toBe(130);
      expect(err).not.toContain('lora-native:');
    }
  });

  test('an interruption of standard input is 130 too', async () => {
    const control = new AbortController();
    const input = new PassThrough();
    input.write('Mia');
    setImmediate(() => control.abort(new Interrupted('SIGINT')));
    expect(await commandLine(cpu('generate'), { signal: control.signal, stdin: input })).toEqual({
      status: 130,
      out: '',
      err: '',
    });
  });
});

describe('what is wrong is said before the model is loaded', () => {
  const said = async (command: string, ...argv: string[]) => {
    const outcome = await commandLine([command, '--model', '/missing/model', ...argv]);
    return outcome.err;
  };
  test.each([
    [
      'generate',
      ['--prompt', 'x', '--temperature', 'hot'],
      'expected --temperature to be a number of at least 0',
    ],
    [
      'generate',
      ['--prompt', 'x', '--top-p', '2'],
      'expected topP to be above 0 and at most 1 but received 2',
    ],
    ['generate', ['--prompt', 'x', '--adapter', '/missing/adapter'], '/missing/adapter'],
    ['merge', ['--adapter', '/missing/adapter', '--out-dir', '/missing/out'], '/missing/adapter'],
    ['train', ['--data', '/missing/data'], '/missing/data'],
    ['train', ['--data', __filename, '--eval-data', '/missing/data'], '/missing/data'],
    ['train', ['--data', __filename, '--lora-dropout', '1'], 'loraDropout'],
    ['train', ['--data', __filename, '--dtype', 'f16'], '--dtype to be one of auto, f32, bf16'],
    [
      'train',
      ['--data', __filename, '--max-tokens', '9', '--schedule', 'cosine'],
      'train needs --max-steps for --schedule cosine, since --max-tokens does not tell how many steps there are',
    ],
    ['train', ['--data', __filename, '--packing', '--schedule', 'linear'], 'since --packing does not tell'],
  ])('%s %j', async (command, argv, sentence) => {
    // The default folder of a run may hold one, that of the demo for instance.
    const outDir = command === 'train' ? ['--out-dir', fresh()] : [];
    const err = await said(command, ...argv, ...outDir);
    expect(err).toContain(sentence);
    expect(err).not.toContain('/missing/model');
  });

  test('an output directory that is not free', async () => {
    const folder = fresh();
    mkdirSync(join(folder, 'checkpoint-3'), { recursive: true });
    expect(await said('train', '--data', __filename, '--out-dir', folder)).toBe(
      `lora-native: [Trainer] ${folder} holds a run already (checkpoint-3): choose another outDir, or remove it, or resume it (ERR_FILE)\n`,
    );
    expect(await said('merge', '--adapter', '/missing/adapter', '--out-dir', folder)).toBe(
      `lora-native: [merge] ${folder} holds files already (checkpoint-3): choose another directory, or remove it (ERR_FILE)\n`,
    );
  });
});

describe('merge', () => {
  test('replaces no model', async () => {
    const [adapter, merged] = [fresh(), fresh()];
    await trainInto(adapter, '--max-steps', '1');
    const argv = cpu('merge', '--adapter', adapter, '--out-dir', merged);
    expect(await commandLine(argv)).toMatchObject({ status: 0 });
    const before = readFileSync(join(merged, 'model.safetensors'));
    expect(await commandLine(argv)).toEqual({
      status: 1,
      out: '',
      err: expect.stringContaining(`[merge] ${merged} holds files already (config.json)`) as string,
    });
    expect(readFileSync(join(merged, 'model.safetensors')).equals(before)).toBe(true);
  });

  test('writes a model that generates what base and adapter do, and says what it wrote', async () => {
    const [adapter, merged] = [fresh(), fresh()];
    await trainInto(adapter, '--max-steps', '6', '--lr', '0.05', '--r', '2');
    const outcome = await commandLine(cpu('merge', '--adapter', adapter, '--out-dir', merged, '--json'));
    expect(outcome.status).toBe(0);
    expect(outcome.err).toBe(`${base}: llama, f32 on cpu\nwrote ${merged}\n`);
    const model = await CausalLM.fromPretrained(base);
    const { parameterCount: parameters } = model;
    await model.dispose();
    expect(jsonLines(outcome)).toEqual([
      { outDir: merged, model: base, adapter, modelType: 'llama', dtype: 'f32', parameters },
    ]);
    const argv = ['--prompt', 'Mia', '--temperature', '0', '--max-new-tokens', '12', '--device', 'cpu'];
    const text = async (...model: string[]) =>
      (await commandLine(['generate', '--model', ...model, ...argv])).out;
    expect(await text(merged)).toBe(await text(base, '--adapter', adapter));
    expect(await text(merged)).not.toBe(await text(base));
  });

  test('--dtype is that of the weights it writes; without --json standard output stays empty', async () => {
    const [adapter, merged] = [fresh(), fresh()];
    await trainInto(adapter, '--max-steps', '1');
    const { out, status } = await commandLine(
      cpu('merge', '--adapter', adapter, '--out-dir', merged, '--dtype', 'bf16'),
    );
    expect({ out, status }).toEqual({ out: '', status: 0 });
    const [report] = jsonLines(await commandLine(['inspect', merged, '--json']));
    const dtypes = (report!['tensors'] as { dtype: string }[]).map(({ dtype }) => dtype);
    expect(new Set(dtypes)).toEqual(new Set(['BF16']));
  });
});

describe('inspect FILE --model DIR', () => {
  const rows = [
    { prompt: 'Is \u001b[31m red?', completion: ' Yes.' },
    { prompt: 'x'.repeat(99), completion: 'y' },
  ];
  let path: string;
  beforeAll(() => {
    path = at('answers.jsonl');
    writeFileSync(path, rows.map((row) => JSON.stringify(row)).join('\n'));
  });

  test('shows what counts in the first example, and the counts', async () => {
    const { status, out } = await commandLine(['inspect', path, '--model', base, '--max-length', '40']);
    expect({ status, out }).toEqual({
      status: 0,
      out: `data ${path}\n1 examples, 5 tokens count, 1 of them cut to the maximum length, 1 rows left out because none of their tokens counts\nthe first example; what is in [[ ]] counts:\n<|user|>Is \\u001b[31m red?<|assistant|>[[ Yes.]]\n`,
    });
  });

  test('--train-on all counts the prompt too, and --json gives everything', async () => {
    const [report] = jsonLines(
      await commandLine(['inspect', path, '--model', base, '--train-on', 'all', '--json']),
    );
    expect(report).toMatchObject({ kind: 'data', path, examples: 2, truncated: 0, dropped: 0 });
    expect(report!['first']).toMatchObject({
      text: `<|user|>${rows[0]!.prompt}<|assistant|> Yes.`,
      counted: [`<|user|>${rows[0]!.prompt}<|assistant|> Yes.`],
    });
  });

  test('--row shows examples by their numbers, and --columns names those of the file', async () => {
    const table = at('questions.csv');
    writeFileSync(table, 'q,a\nOne?,1\nTwo?,2\nThree?,3\nFour?,4\n');
    const argv = ['inspect', table, '--model', base, '--columns', 'prompt=q', '--columns', 'completion=a'];
    const { status, out } = await commandLine([...argv, '--row', '4,2-3']);
    const shown = [2, 3, 4].map((n) => {
      const word = ['', 'One', 'Two', 'Three', 'Four'][n];
      return `example ${n}; what is in [[ ]] counts:\n<|user|>${word}?<|assistant|>[[${n}]]\n`;
    });
    expect({ status, out }).toEqual({
      status: 0,
      out: `data ${table}\n4 examples, 4 tokens count\n${shown.join('')}`,
    });
    const [report] = jsonLines(await commandLine([...argv, '--row', '3', '--json']));
    expect(report).toMatchObject({
      first: { text: '<|user|>One?<|assistant|>1' },
      rows: [{ row: 3, text: '<|user|>Three?<|assistant|>3', counted: ['3'] }],
    });
    for (const [flags, wanted, sentence] of [
      [['--row', '5'], 2, '[inspect] expected examples from 1 to 4 but received 5 (ERR_ARGUMENT)'],
      [
        ['--row', '0'],
        2,
        '--row needs numbers of at most 1000 examples, from 1, such as 3 or 1,5-7, but received 0',
      ],
      [['--row', '1-9999'], 2, 'but received 1-9999'],
      [['--columns', 'q'], 2, '--columns needs KEY=NAME, such as prompt=question, but received q'],
    ] as const) {
      const refused = await commandLine([...argv, ...flags]);
      expect([refused.status, refused.err]).toEqual([wanted, expect.stringContaining(sentence)]);
    }
  });

  test('train takes a folder, whose valid measures the run, and names of columns', async () => {
    const folder = fresh();
    mkdirSync(folder);
    writeFileSync(join(folder, 'train.csv'), 'q,a\nOne?,1\n');
    writeFileSync(join(folder, 'valid.json'), JSON.stringify([{ q: 'Two?', a: '22' }]));
    const run = (...flags: string[]): Promise<Outcome> =>
      commandLine(
        cpu('train', '--data', folder, '--out-dir', fresh(), '--max-steps', '2', '--json', ...flags),
      );
    const columns = ['--columns', 'prompt=q', '--columns', 'completion=a'];
    const evaluations = async (...flags: string[]): Promise<unknown[]> =>
      jsonLines(await run(...columns, ...flags)).filter(({ type }) => type === 'eval');
    expect(await evaluations()).toMatchObject([{ step: 2, tokens: 2 }]);
    expect(await evaluations('--eval-data', folder, '--eval-every', '1')).toMatchObject([
      { step: 1, tokens: 2 },
      { step: 2, tokens: 2 },
    ]);
    expect((await run()).err).toContain('train.csv:2: expected one of { inputIds, labels? }');
  });

  test('train takes the same choice of tokens', async () => {
    const trained = async (...flags: string[]): Promise<string> => {
      const folder = fresh();
      const argv = ['train', '--data', path, '--out-dir', folder, '--max-steps', '1', ...flags];
      expect((await commandLine(cpu(...argv))).status).toBe(0);
      return weights(folder);
    };
    const answers = await trained();
    expect(await trained('--train-on', 'completion')).toBe(answers);
    expect(await trained('--train-on', 'all')).not.toBe(answers);
  });

  test('a folder without a tokenizer is named', async () => {
    const { status, err } = await commandLine(['inspect', path, '--model', dir]);
    expect(status).toBe(1);
    expect(err).toContain(`[inspect] ${dir} has no tokenizer (ERR_FILE)`);
  });
});

describe('inspect', () => {
  let folder: string;
  beforeAll(async () => {
    folder = fresh();
    await trainInto(
      folder,
      '--max-steps',
      '2',
      '--save-every',
      '1',
      '--r',
      '2',
      '--target-modules',
      'q_proj',
    );
  });
  const report = async (path: string) => {
    const outcome = await commandLine(['inspect', path, '--json']);
    expect(outcome).toMatchObject({ status: 0, err: '' });
    const objects = jsonLines(outcome);
    expect(objects).toHaveLength(1);
    return objects[0]!;
  };

  test('a model: its configuration and all tensors', async () => {
    const found = await report(base);
    expect(Object.keys(found)).toEqual(['kind', 'path', 'config', 'tensors', 'parameters', 'bytes']);
    expect(found).toMatchObject({ kind: 'model', path: base, config: { model_type: 'llama' } });
    expect(found['bytes']).toBe((found['parameters'] as number) * 4);
    expect(found['tensors']).toContainEqual({ name: 'model.norm.weight', dtype: 'F32', shape: [24] });
  });

  test('an adapter: 3 layers of a [2, 24] and a [24, 2] factor', async () => {
    const found = await report(folder);
    expect(found).toMatchObject({ kind: 'adapter', config: { r: 2 }, parameters: 288, bytes: 1152 });
    expect(found['tensors']).toHaveLength(6);
  });

  test('a checkpoint, by its folder, and a file by itself', async () => {
    const checkpoint = join(folder, 'checkpoint-1');
    rmSync(join(checkpoint, 'adapter_config.json')); // which would make it an adapter
    const path = join(checkpoint, 'checkpoint.safetensors');
    const found = await report(checkpoint);
    expect(found).toMatchObject({ kind: 'checkpoint', path });
    const file = await report(path);
    expect(file).toEqual({ ...found, kind: 'safetensors' });
    expect(file).toHaveProperty('metadata');
  });

  test('a GGUF file: its values, of long lists the number, and the types of its tensors', async () => {
    const path = at('x.gguf');
    const tokens = Array.from({ length: 65 }, (_, i) => String(i));
    const metadata = new Map([
      ...adapterMetadata,
      ['tokens', { texts: tokens }] as const,
      ['types', { i32s: [1, -1] }] as const,
    ]);
    writeFileSync(path, await ggufBytes(metadata, adapterTensors));
    const found = await report(path);
    expect(found).toMatchObject({ kind: 'gguf', path, parameters: 168, bytes: 672 });
    expect(found['metadata']).toMatchObject({
      'general.architecture': 'llama',
      'adapter.lora.alpha': 4,
      tokens: '65 values',
      types: [1, -1],
    });
    expect((found['tensors'] as unknown[])[0]).toEqual({
      name: 'blk.0.attn_q.weight.lora_a',
      dtype: 'F32',
      shape: [2, 24],
    });
    const { out } = await commandLine(['inspect', path]);
    expect(out.split('\n').slice(0, 2)).toEqual([`gguf ${path}`, '4 tensors, 168 parameters, 0.0 MiB']);
    writeFileSync(path, (await ggufBytes(metadata, adapterTensors)).subarray(0, 100));
    expect((await commandLine(['inspect', path])).err).toContain('is cut off');
  });

  test('for people: what it is, its sums, and a line per tensor', async () => {
    const { status, out, err } = await commandLine(['inspect', folder]);
    expect({ status, err }).toEqual({ status: 0, err: '' });
    const lines = out.trimEnd().split('\n');
    expect(lines.slice(0, 2)).toEqual([`adapter ${folder}`, '6 tensors, 288 parameters, 0.0 MiB']);
    expect(lines[2]).toMatch(/^config: \{.*"r":2/);
    expect(lines.slice(3)).toHaveLength(6);
    for (const line of lines.slice(3))
      expect(line).toMatch(/^ {2}base_model\.\S+q_proj\.lora_[AB]\.weight {2}F32 {2}\[(2, 24|24, 2)\]$/);
  });

  test('names that would move the cursor of a terminal, and names without end', async () => {
    const path = at('odd.safetensors');
    const bytes = new Uint8Array(1);
    const names = ['\x1b[2J\x9b31mred', 'a\tb\nc', 'abc\u202ecba', 'x'.repeat(300_000), 'é🙂'];
    await writeSafetensors(path, new Map(names.map((name) => [name, { dtype: 'U8', shape: [1], bytes }])), {
      '\u009b': 'y'.repeat(300_000),
    });
    const { status, out } = await commandLine(['inspect', path]);
    expect(status).toBe(0);
    expect(out.length).toBeLessThan(10_000);
    expect(out).toContain('\\u001b[2J\\u009b31mred ');
    expect(out).toContain('a\\u0009b\\u000ac ');
    expect(out).toContain('abc\\u202ecba ');
    expect(out).toContain('é🙂 ');
    expect(out).toContain(`${'x'.repeat(200)}…`);
    const odd = (text: string): boolean => /(?!\n)[\p{Cc}\u202e]/u.test(text);
    expect(odd(out)).toBe(false);
    const json = await commandLine(['inspect', path, '--json']);
    expect(odd(json.out)).toBe(false);
    expect((jsonLines(json)[0]!['tensors'] as { name: string }[]).map(({ name }) => name).sort()).toEqual(
      names.sort(),
    );
    writeFileSync(path, fileOf({ '\x9b2J': 5 }));
    const refused = await commandLine(['inspect', path]);
    expect(refused).toMatchObject({ status: 1, out: '' });
    expect(refused.err).toContain('describes the tensor "\\u009b2J" by something that is not an object');
    expect(odd(refused.err)).toBe(false);
  });

  test('hundreds of thousands of tensors', async () => {
    const path = at('many.safetensors');
    const count = 200_000;
    const entries = Array.from(
      { length: count },
      (_, i) => `"t${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`,
    );
    writeFileSync(path, fileOf(`{${entries.join(',')}}`));
    const { status, out, err } = await commandLine(['inspect', path]);
    expect({ status, err }).toEqual({ status: 0, err: '' });
    expect(out.split('\n')).toHaveLength(count + 4);
  });

  test('what is nothing of the kind', async () => {
    const empty = fresh();
    mkdirSync(empty);
    const error = async (path: string) => (await commandLine(['inspect', path])).err;
    expect(await error(empty)).toBe(
      `lora-native: [inspect] ${empty}: expected config.json, adapter_config.json, checkpoint.safetensors or one GGUF model in it (ERR_FILE)\n`,
    );
    expect(await error(at('nowhere'))).toBe(
      `lora-native: [inspect] ${at('nowhere')} does not exist (ERR_FILE)\n`,
    );
    expect(await error(at('data.jsonl'))).toContain('(ERR_SAFETENSORS)');
  });
});

describe('exit codes', () => {
  test('a mistake in the words is 2, in the files 1, both without a stack', async () => {
    writeFileSync(at('data.parquet'), 'PAR1');
    const mistakes: [string[], number, string][] = [
      [['train', '--modle', 'x'], 2, 'unknown flag --modle; did you mean --model?'],
      [['train', '--learning-rate', '1'], 2, 'did you mean --lr?'],
      [['train', '--data', 'x'], 2, 'train needs --model DIR'],
      [['train', '--model', base, '--data', 'x', '--lr', 'high'], 2, 'received "high"'],
      [['train', '--model', base, '--data', 'x', '--max-steps', ''], 2, 'received ""'],
      [['train', '--model', base, '--data', 'x', 'y'], 2, 'unexpected argument "y"'],
      [['inspect'], 2, 'inspect needs a PATH'],
      [['inspect', base, base], 2, 'unexpected argument'],
      [['doctor', 'x'], 2, 'unexpected argument "x"'],
      [cpu('generate', '--prompt', 'x', '--device', 'gpu'), 2, "but received 'gpu'"],
      [cpu('generate', '--prompt', 'x', '--top-p', '0'), 2, 'expected topP to be above 0'],
      [cpu('generate', '--prompt', ''), 0, ''],
      [['inspect', 'nowhere'], 1, '[inspect] nowhere does not exist (ERR_FILE)'],
      [['generate', '--model', 'nowhere', '--prompt', 'x'], 1, '(ERR_FILE)'],
      [cpu('train', '--data', 'nowhere.jsonl', '--out-dir', fresh()), 1, '(ERR_FILE)'],
      [cpu('train', '--data', at('data.parquet'), '--out-dir', fresh()), 1, '(ERR_DATA)'],
    ];
    for (const [argv, status, sentence] of mistakes) {
      const outcome = await commandLine(argv);
      expect({ argv, status: outcome.status }).toEqual({ argv, status });
      expect(outcome.err).toContain(sentence);
      expect(outcome.err).not.toContain('    at ');
    }
  });

  test('a command that ends normally though it was interrupted is 130', async () => {
    const signal = AbortSignal.abort(new Interrupted('SIGINT'));
    expect(await commandLine(['inspect', base], { signal })).toMatchObject({ status: 130, err: '' });
  });

  test('a failure is 1 though it was interrupted, and is told', async () => {
    const signal = AbortSignal.abort(new Interrupted('SIGINT'));
    const outcome = await commandLine(['inspect', at('nowhere')], { signal });
    expect(outcome).toMatchObject({ status: 1, err: expect.stringContaining('does not exist') as string });
  });
});

test('doctor --json is one object with what the report for people says', async () => {
  const environment = jest.replaceProperty(process, 'env', { ...process.env, LORA_MEMORY_LIMIT: '12GiB' });
  const outcome = await commandLine(['doctor', '--json']);
  const [report] = jsonLines(outcome);
  expect(outcome).toMatchObject({ status: 0, err: '' });
  const { out } = await commandLine(['doctor']);
  environment.restore();
  const lines = Object.fromEntries(
    out
      .trimEnd()
      .split('\n')
      .map((line) => line.split(/ {2,}/, 2)),
  );
  expect(Object.keys(report!)).toEqual(Object.keys(lines as object));
  expect(report).toMatchObject({
    node: process.version,
    threads: expect.any(Number) as number,
    'memory limit': '12GiB',
    'platform package': platformPackage(thisHost()) ?? 'none is published for this platform',
  });
  // Linux alone has more than one C library.
  expect(report!['C library']).toEqual(
    process.platform === 'linux' ? expect.stringMatching(/^(glibc|musl)\b/) : undefined,
  );
});
