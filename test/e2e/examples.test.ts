/**
 * The programs of examples/, run as a user runs them, against dist/ and the bundled model. Each test asserts what the
 * guide of that program promises. Steps are few where a promise does not need more.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CausalLM, convertModel, readAdapter } from '../../lib/index';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { exampleServer, type ExampleServer } from '../support/example_server';
import { fillAdapter } from '../support/fill_adapter';
import { folderFiles, HubServer } from '../support/hub_server';
import { sharedData } from '../support/shared_data';
import { llamaToolTemplate, tinyModel } from '../support/tiny_model';

const root = join(__dirname, '../..');
/** Where the programs find `lora-native`: here, or beside an installed package (scripts/package-check.mjs --docs). */
const testedPackage = process.env['LORA_TESTED_PACKAGE'] ?? root;
const examples = join(testedPackage, 'examples');
const base = join(examples, 'base-model');
const env = { ...process.env, LORA_THREADS: '1' }; // others may be using the machine
let scratch: string;
beforeAll(() => {
  if (!existsSync(join(root, 'dist/index.mjs')))
    throw new Error('dist/index.mjs is missing: npm run build:js');
  scratch = mkdtempSync(join(tmpdir(), 'examples-'));
});
afterAll(() => rmSync(scratch, { recursive: true }));

const tested = new Set<string>();

/** A test of one program: `run` gives its lines of standard output, and throws when it fails. */
function example(
  name: string,
  promise: string,
  body: (run: (...args: string[]) => string[]) => Promise<void> | void,
): void {
  tested.add(name);
  const run = (...args: string[]): string[] => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(examples, name), ...args], {
      cwd: scratch,
      encoding: 'utf8',
      env,
    });
    if (status !== 0) throw new Error(`${name} ${args.join(' ')} ended with ${status}\n${stdout}${stderr}`);
    return stdout.trimEnd().split('\n');
  };
  test(`${name}: ${promise}`, async () => body(run), 300_000);
}

/** What follows `label` on the line that begins with it. */
function after(lines: readonly string[], label: string): string {
  const line = lines.find((text) => text.startsWith(label));
  if (line === undefined) throw new Error(`no line begins with ${label}:\n${lines.join('\n')}`);
  return line.slice(label.length).trim();
}

/** Every number that `pattern` captures first. */
function numbers(lines: readonly string[], pattern: RegExp): number[] {
  return lines.flatMap((line) => {
    const found = pattern.exec(line);
    return found ? [Number(found[1])] : [];
  });
}

const first = (list: readonly number[]): number => list[0] ?? NaN;
const last = (list: readonly number[]): number => list.at(-1) ?? NaN;
const fields = ['who', 'count', 'colour', 'item', 'place', 'day'];
const folder = (name: string): string[] => readdirSync(join(scratch, name)).sort();
const adapterFiles = ['adapter_config.json', 'adapter_model.safetensors'];
/** Of a run: with its model card. */
const runFiles = ['README.md', ...adapterFiles];

example('quickstart.mjs', 'the loss falls and sentences become JSON', (run) => {
  const lines = run(base, join(examples, 'data/train.jsonl'), '40');
  const losses = numbers(lines, /^step \d+ {2}loss (\d\.\d+) {2}\d+ tokens\/s$/);
  expect(losses).toHaveLength(3);
  expect(last(losses)).toBeLessThan(first(losses) / 2);
  expect(after(lines, 'before:')).not.toContain('{');
  expect(Object.keys(JSON.parse(after(lines, 'after:')) as object)).toEqual(fields);
  expect(folder('quickstart-run')).toEqual(runFiles);
});

example('finetune.mjs', 'the saved adapter gives the same text in a fresh base', (run) => {
  const lines = run('--max-steps', '40', '--samples', '4', '--lr', '5e-3', '--out-dir', 'finetune-run');
  expect(lines.join('\n')).toContain('loaded into a fresh base it gives the same text');
  const [, before, trained] = /before (\S+) +after (\S+)/.exec(after(lines, 'held-out loss')) ?? [];
  expect(Number(trained)).toBeLessThan(Number(before) / 2);
});

example('data.mjs', 'only the answer counts, and its loss falls', (run) => {
  const lines = run(base, '40');
  const text = after(lines, 'text');
  const counts = after(lines, 'counts');
  expect(text).toBe(`<|end|>At the park Danor sells three black eggs on Sunday. -> ${counts}`);
  expect(counts).toMatch(/^\{"who": "Danor", .*\}<\|end\|>$/);
  const [, before, trained] = /: (\S+) before, (\S+) after$/.exec(after(lines, 'loss of')) ?? [];
  expect(Number(trained)).toBeLessThan(Number(before) / 2);
});

example('dashboards.mjs', 'every step is sent, and in the logs', (run) => {
  const lines = run(base, '4', 'dashboards-run');
  expect(lines).toEqual(['4 steps sent, 4 in log.jsonl', 'tensorboard --logdir dashboards-run']);
  expect(folder('dashboards-run')).toEqual([...runFiles, 'log.jsonl', 'tensorboard']);
});

example('sources.mjs', 'two sources are mixed seven to three, and the loss falls', (run) => {
  const lines = run(base, '30');
  expect(lines[0]).toBe('40 orders, 6 left out that were there before');
  expect(lines[1]).toMatch(/^70%: 70 of 70 rows, \d{4} tokens count$/);
  expect(lines[2]).toMatch(/^30%: 30 of 40 rows, \d{3,4} tokens count$/);
  const [, before, trained] = /: (\S+) before, (\S+) after$/.exec(after(lines, 'held-out loss')) ?? [];
  expect(Number(trained)).toBeLessThan(Number(before) / 2);
});

example('embed.mjs', 'the right record is found more often, by a fresh base, too', (run) => {
  const lines = run(base, '30');
  const recall = (label: string): number => Number(/recall@1 (\S+)/.exec(after(lines, label))?.[1]);
  expect(recall('after:')).toBeGreaterThan(recall('before:'));
  expect(after(lines, 'asked:')).toContain('Danor sells three black eggs');
  expect(after(lines, 'found:')).toContain('"who": "Danor", "count": 3');
});

example('chat.mjs', 'the answers of conversations count, and their loss falls', (run) => {
  const lines = run(base, '40');
  expect(lines[0]).toMatch(/^100 conversations, \d{4} tokens count$/);
  expect(lines.slice(1, 3).join('\n')).toMatch(
    /^<\|user\|>On Sunday .*\.\n<\|assistant\|> \[\[\{"who": .*\}\]\]$/,
  );
  const [, before, trained] = /: (\S+) before, (\S+) after$/.exec(after(lines, 'loss of')) ?? [];
  expect(Number(trained)).toBeLessThan(Number(before) / 2);
});

example(
  'compare.mjs',
  'each setting has its cost and its scores, and a second call trains nothing',
  (run) => {
    const lines = run(base, '4', 'compare-run');
    expect(lines[0]).toBe('0 of 8 variants are there');
    const settings = lines.filter((line) => /^\| (lora|dora)-/.test(line)).map((line) => line.split(' | '));
    expect(settings.map((row) => [row[0], Number(row[1])])).toEqual([
      ['| lora-r2-a4-all-linear', 18688],
      ['| lora-r8-a16-all-linear', 74752],
      ['| dora-r2-a4-all-linear', 23552],
      ['| dora-r8-a16-all-linear', 79616],
    ]);
    const untrained = Number(after(lines, 'the base alone: loss'));
    for (const row of settings) expect(Number.parseFloat(row[4]!)).toBeLessThan(untrained);
    expect(folder('compare-run')).toEqual([
      'adapters',
      'comparison.html',
      'comparison.json',
      'findings',
      'question.json',
    ]);
    const again = run(base, '4', 'compare-run');
    expect(again[0]).toBe('8 of 8 variants are there');
    expect(again.filter((line) => line.startsWith('|'))).toEqual(
      lines.filter((line) => line.startsWith('|')),
    );
  },
);

tested.add('talk.mjs');
test('talk.mjs: the history goes in, and the answers of the adapter come out', async () => {
  const model = await answeringModel('Hi!');
  const adapter = await answeringAdapter(model, 'Yo.', join(scratch, 'yo'));
  const talk = (...args: string[]): string =>
    spawnSync(process.execPath, [join(examples, 'talk.mjs'), model, ...args], {
      input: 'Hello\n\nAnd you?',
      encoding: 'utf8',
      env,
    }).stdout;
  expect([talk(), talk(adapter)]).toEqual(['Hi!\nHi!\n', 'Yo.\nYo.\n']);
  rmSync(model, { recursive: true });
});

example('memory.mjs', 'the first options do not fit into 0.1 GB, the last do', (run) => {
  const lines = run();
  expect(lines.filter((line) => line.includes(' GB (')).map((line) => line.split(':')[0])).toEqual([
    'too large',
    'too large',
    'fits',
    'fits',
  ]);
});

example('families.mjs', 'a model says what its layers are, and what they take', async (run) => {
  const config = {
    ...{ model_type: 'smollm3', num_hidden_layers: 4, layer_types: undefined, use_sliding_window: true },
    ...{ no_rope_layers: [1, 1, 1, 0], sliding_window: 8, rope_theta: 10_000 },
  };
  const model = await tinyModel({ config });
  const lines = run(model);
  expect(lines[0]).toMatch(/^family: smollm3, \d+ positions$/);
  expect(lines.slice(1, 3).map((line) => line.replace(/, \d+ key heads of \d+/, ''))).toEqual([
    '3 layers: all tokens, rope default',
    '1 layers: a window of 8 tokens, no rotation',
  ]);
  expect(after(lines, 'adapters:').split(', ').sort()).toEqual(
    ['down_proj', 'gate_proj', 'k_proj', 'o_proj', 'q_proj', 'up_proj', 'v_proj'].sort(),
  );
  const [training, serving] = ['training:', 'serving:'].map((label) =>
    Number.parseFloat(after(lines, label)),
  );
  expect(training).toBeGreaterThan(0.05);
  expect(serving).toBeGreaterThan(0.05);
  rmSync(model, { recursive: true });
});

example('quantize.mjs', 'NF4 takes a third of the memory and of the file, and trains', (run) => {
  const lines = run(base, 'model-nf4');
  for (const label of ['weights', 'file']) {
    const [whole, quantized] = after(lines, label)
      .match(/\d+\.\d+/g)!
      .map(Number);
    expect(quantized! / whole!).toBeLessThan(0.4);
  }
  const [whole, quantized] = after(lines, 'loss')
    .match(/\d+\.\d+/g)!
    .map(Number);
  expect(Math.abs(quantized! - whole!)).toBeLessThan(0.1);
  expect(Number(after(lines, 'trained'))).toBeLessThan(whole! - 0.2);
  expect(after(lines, 'again')).toBe(after(lines, 'trained')); // the written codes are those made while loading
});

example('sweep.mjs', 'one row for each rank and rate, all below the base, and the best is named', (run) => {
  const lines = run(base, '4', 'sweep-run');
  expect(lines[0]).toBe('0 of 12 variants are there');
  const rows = lines.filter((line) => /^\| \d/.test(line)).map((line) => line.slice(2, -2).split(' | '));
  // In 4 steps: 5e-5 · 15 · √(32/α) · (2000/128)^0.781.
  expect(rows.map((row) => row.slice(0, 4))).toEqual(
    [
      ['2', '4', ['0.018, auto', '0.002', '0.02'], '18688'] as const,
      ['8', '16', ['0.0091, auto', '0.002', '0.02'], '74752'] as const,
    ].flatMap(([r, alpha, rates, numbers]) => rates.map((rate) => [r, alpha, rate, numbers])),
  );
  const untrained = Number(after(lines, 'the base alone: loss'));
  const medians = rows.map((row) => Number.parseFloat(row[4]!));
  for (const median of medians) expect(median).toBeLessThan(untrained);
  const [, rank, rate] = /^lora-r(\d+)-a\d+-all-linear-lr(.+)$/.exec(after(lines, 'best:'))!;
  const best = rows.findIndex((row) => row[0] === rank && (row[2] === rate || row[2]!.endsWith(rate!)));
  expect(medians[best]).toBe(Math.min(...medians));
  expect(run(base, '4', 'sweep-run')[0]).toBe('12 of 12 variants are there');
});

example('kinds.mjs', 'every kind of adapter learns, and merged it gives the same loss', (run) => {
  const lines = run(base, '6');
  const [untrained] = numbers(lines, /^base: loss (\S+)$/);
  const rows = lines
    .filter((line) => /^\| (LoRA|DoRA)/.test(line))
    .map((line) => line.split('|').map((c) => c.trim()));
  // DoRA has a magnitude for each output more, the whole head its 512·128 numbers.
  expect(rows.map((row) => [row[1], Number(row[2])])).toEqual([
    ['LoRA', 18688],
    ['DoRA', 23552],
    ['LoRA, whole head', 84224],
  ]);
  for (const row of rows) {
    expect(Number(row[3])).toBeLessThan(untrained as number);
    expect(Number(row[4])).toBeCloseTo(Number(row[3]), 2);
  }
});

example('optimizers.mjs', 'every optimizer learns; 8 bits keep a quarter and lose nothing', (run) => {
  const lines = run(base, '40');
  const [untrained] = numbers(lines, /^base: loss (\S+)$/);
  const rows = lines
    .filter((line) => /^\| (adamw|lion|sgd)/.test(line))
    .map((line) => line.split('|').map((c) => c.trim()));
  // Two f32 moments; two bytes with two scales of f32 for each 256; one moment; one velocity.
  expect(rows.map((row) => [row[1], row[2]])).toEqual([
    ['adamw', '8.00'],
    ['adamw8bit', '2.03'],
    ['lion', '4.00'],
    ['sgd', '4.00'],
  ]);
  const losses = rows.map((row) => Number(row[3]));
  for (const loss of losses) expect(loss).toBeLessThan(untrained! / 2);
  expect(Math.abs(losses[1]! / losses[0]! - 1)).toBeLessThan(0.01);
});

example(
  'methods.mjs',
  'every method learns; IA³ is the smallest, and bottlenecks and prompts stay beside the weights',
  (run) => {
    const lines = run(base, '30');
    const [untrained] = numbers(lines, /^base: loss (\S+)$/);
    const table = lines
      .filter((line) => /^\| (lora|dora|ia3|houlsby|pfeiffer|prompt)/.test(line))
      .map((line) => line.split('|').map((c) => c.trim()));
    expect(table.map((row) => [row[1], row[5]])).toEqual([
      ['lora', 'yes'],
      ['dora', 'yes'],
      ['ia3', 'yes'],
      ['houlsby', 'no'],
      ['pfeiffer', 'no'],
      ['prompt', 'no'],
    ]);
    for (const row of table) expect(Number(row[3])).toBeLessThan(untrained!);
    const sizes = table.map((row) => Number(row[2]));
    expect(Math.min(...sizes)).toBe(sizes[2]);
    expect(lines.at(-2)).toMatch(/^loaded: Adapter\('ia3', method ia3, /);
    expect(lines.at(-1)).toBe(
      "[loadAdapter] expected an adapter of method 'lora' but received one of method 'ia3' (peft_type IA3)",
    );
  },
);

example('full.mjs', 'the whole model learns, and its folder is a plain model', (run) => {
  const lines = run(base, '20');
  expect(lines[1]).toMatch(/^trained: (\d+) of \1 numbers$/);
  expect(numbers(lines, /^checkpoint of step (\d+)$/)).toEqual([5, 10, 15, 20]);
  const loss = Number(after(lines, 'after 20 steps: loss'));
  expect(loss).toBeLessThan(Number(after(lines, 'base: loss')));
  // The file has the norms rounded to bf16, which are f32 while they are trained.
  expect(Math.abs(Number(after(lines, 'read again: loss')) / loss - 1)).toBeLessThan(0.02);
  const files = after(lines, 'files:').split(', ');
  expect(files).toEqual(
    expect.arrayContaining(['README.md', 'checkpoint-20', 'config.json', 'model.safetensors']),
  );
  expect(files).not.toContain('checkpoint-15');
  expect(lines).toContain('[addAdapter] the weights of the model are trained: call freeze() first');
  expect(after(lines, 'then:')).toMatch(/^Adapter\('default', r 8, /);
  expect(after(lines, 'only norms:')).toMatch(/^\d+ tensors, \d+ numbers$/);
});

example('evaluate.mjs', 'the checkpoint with the lowest held-out loss is the one that is kept', (run) => {
  const lines = run(base, '40', 'evaluate-run');
  const evals = lines.flatMap((line) => {
    const found = /^step (\d+) {2}held-out loss (\S+) {2}perplexity (\S+)$/.exec(line);
    return found ? [{ step: Number(found[1]), loss: Number(found[2]), perplexity: Number(found[3]) }] : [];
  });
  expect(evals.map(({ step }) => step)).toEqual([10, 20, 30, 40]);
  for (const { loss, perplexity } of evals) expect(perplexity / Math.exp(loss)).toBeCloseTo(1, 1);
  const lowest = Math.min(...evals.map(({ loss }) => loss));
  const [, step, loss] = /^step (\d+), loss (\S+) over 3\d{3} tokens$/.exec(after(lines, 'best:')) ?? [];
  expect(Number(loss)).toBe(lowest);
  expect(evals.find((e) => e.step === Number(step))?.loss).toBe(lowest);
  expect(after(lines, 'base:')).toMatch(/^exactly right 0 % ± 0, F1 0\.\d\d$/);
  const [, f1] = /^right \d+ % ± \d+, F1 (\d\.\d\d)$/.exec(after(lines, 'best: exactly')) ?? [];
  expect(Number(f1)).toBeGreaterThan(0.5);
  expect(after(lines, 'the right day:')).toMatch(/^base \d+ %, adapter \d+ %$/);
});

example('preferences.mjs', 'the better answers of held-out pairs gain more than the worse ones', (run) => {
  const lines = run(base, '40', 'preferences-run');
  const losses = numbers(lines, /^step \d+ {2}loss (\S+) {2}right/);
  expect(losses).toHaveLength(10);
  expect(first(losses)).toBeLessThan(Math.LN2);
  expect(last(losses)).toBeLessThan(first(losses));
  const right = numbers(lines, /right (\d+) %/);
  expect(last(right)).toBeGreaterThan(97);
  expect(last(numbers(lines, /margin (\S+)$/))).toBeGreaterThan(first(numbers(lines, /margin (\S+)$/)));
});

example('intents.mjs', 'a router learns intents that the base does not know', (run) => {
  const lines = run(base, '60', 'router');
  const evaluated = numbers(lines, /^step \d+ {2}loss \S+ {2}accuracy (\S+) %$/);
  expect(evaluated).toHaveLength(4);
  expect(first(numbers(lines, /^base: accuracy (\S+) %/))).toBeLessThan(60);
  expect(first(numbers(lines, /^router: accuracy (\S+) %/))).toBeGreaterThan(95);
  expect(lines.filter((line) => / -> (delivery|refund) \(0\.[5-9]\d\)$| \(1\.00\)$/.test(line))).toHaveLength(
    2,
  );
  expect(folder('router')).toEqual(expect.arrayContaining([...runFiles, 'report.html']));
  const report = readFileSync(join(scratch, 'router/report.html'), 'utf8');
  expect(report).toContain('<h2>Confusion matrix</h2>');
  expect(report).toContain('<td>delivery</td>');
  expect(report).toContain('Samples');
});

example('rewards.mjs', 'JSON is learned from rewards alone', (run) => {
  const lines = run(base, '20');
  expect(first(numbers(lines, /^the base: (\d+) % valid/))).toBeLessThan(30);
  const found = numbers(lines, /^step \d+: (\d+) % valid, held out/);
  expect(found).toHaveLength(4);
  expect(last(found)).toBeGreaterThanOrEqual(90);
  expect(lines.filter((line) => line.startsWith('  {"')).length).toBeGreaterThanOrEqual(2);
});

example('abort.mjs', 'an abort saves, training goes on from there, a generation ends in time', (run) => {
  const lines = run(base, 'abort-run');
  expect(lines).toContain('stopped: 30 steps are enough');
  expect(lines).toContain('saved abort-run/checkpoint-30');
  expect(lines).toContain('goes on after step 30');
  expect(folder('abort-run/checkpoint-30')).toEqual([...runFiles, 'checkpoint.safetensors']);
  expect(folder('abort-run')).toEqual(expect.arrayContaining(adapterFiles));
  expect(numbers(lines, /^step (\d+) /)).toEqual([10, 20, 30, 40, 50]);
  const losses = numbers(lines, /^step \d+ {2}loss (\S+)$/);
  // The continued run begins where the first ended and not at the base.
  expect(losses[3]).toBeLessThan(losses[1] as number);
  expect(last(lines.map((line) => (/\(TimeoutError\)$/.test(line) ? 1 : 0)))).toBe(1);
});

example('merge.mjs', 'adapter, merged, unmerged and exported models write the same', async (run) => {
  const lines = run(base, 'merged-model');
  const text = after(lines, 'adapter');
  expect(Object.keys(JSON.parse(text) as object)).toEqual(fields);
  for (const label of ['merged ', 'unmerged', 'exported']) expect(after(lines, label)).toBe(text);
  expect(folder('merged-model')).toEqual(
    readdirSync(base)
      .filter((f) => /\.json$|tensors$/.test(f))
      .sort(),
  );
});

example('convert.mjs', 'an adapter comes back from GGUF with the same numbers and writes the same', (run) => {
  const lines = run(base, 'adapters');
  expect(after(lines, 'tensors')).toBe(`${2 * 3 * 4}, the same after PEFT → GGUF → PEFT`);
  expect(after(lines, 'back')).toBe(after(lines, 'default'));
  expect(after(lines, 'back')).not.toBe('');
  expect(folder('adapters')).toEqual(['adapter.gguf', 'mlx', 'peft', 'peft-again']);
  expect(folder('adapters/mlx')).toEqual(['adapter_config.json', 'adapters.safetensors']);
});

example(
  'gguf.mjs',
  'an adapter is trained on a GGUF file, and the sum computes the same in both kinds of files',
  async (run) => {
    // The tokenizer of the model of the examples has no kind of llama.cpp's.
    const tiny = await tinyModel({ config: { max_position_embeddings: 512 } });
    const file = join(scratch, 'tiny.gguf');
    await convertModel(tiny, file, { format: 'f32' });
    const lines = run(file, 'from-gguf');
    expect(after(lines, 'model')).toMatch(/^llama, \d+ parameters, f32$/);
    const [before, trained] = ['before', 'trained'].map((label) => Number(after(lines, label)));
    expect(trained).toBeLessThan(before! - 0.5);
    const again = numbers(lines, /^again {4}(\d\.\d+)$/);
    expect(again).toHaveLength(2);
    for (const loss of again) expect(Math.abs(loss - trained!)).toBeLessThan(0.01);
    expect(folder('from-gguf/directory')).toContain('tokenizer.json');
    expect(readFileSync(join(scratch, 'from-gguf/Modelfile'), 'utf8')).toMatch(/^FROM \.\/merged\.gguf$/m);
  },
);

example('peft.mjs', 'it writes what PEFT reads', async (run) => {
  const lines = run(base, 'adapter-from-node');
  const [, before, trained] = /(\S+) before, (\S+) after$/.exec(after(lines, 'held-out loss')) ?? [];
  expect(Number(trained)).toBeLessThan(Number(before));
  const { config, tensors } = await readAdapter(join(scratch, 'adapter-from-node'));
  expect(config).toMatchObject({ peft_type: 'LORA', task_type: 'CAUSAL_LM', r: 8, lora_alpha: 16 });
  expect(tensors.size).toBe(2 * 7 * 4);
  const pair = ['A', 'B'].map((f) => `base_model.model.model.layers.0.mlp.down_proj.lora_${f}.weight`);
  expect(pair.map((name) => tensors.get(name)?.shape)).toEqual([
    [8, 352],
    [128, 8],
  ]); // PEFT's A is [r, in]
  for (const name of pair) expect(lines.join('\n')).toContain(name);
});

const golden = join(sharedData, 'golden/stories260K-all-linear-r8/adapter_final');
const stories = join(sharedData, 'models/stories260K');
const withPeft = existsSync(golden) && existsSync(stories);
(withPeft ? test : test.skip)(
  `peft.mjs: it trains an adapter that PEFT wrote${withPeft ? '' : ` (skipped: ${golden} is absent)`}`,
  async () => {
    const args = [join(examples, 'peft.mjs'), stories, 'from-peft', golden];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      cwd: scratch,
      encoding: 'utf8',
      env,
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain(`${golden}: r 8, alpha 16, on `);
    const [before, written] = [await readAdapter(golden), await readAdapter(join(scratch, 'from-peft'))];
    expect([...written.tensors.keys()].sort()).toEqual([...before.tensors.keys()].sort());
    expect(written.config['peft_version']).toBe(before.config['peft_version']); // fields that we do not know stay
    const [name] = [...before.tensors.keys()].filter((key) => key.includes('lora_B'));
    const bytes = [before, written].map(({ tensors }) => Buffer.from(tensors.get(name as string)!.bytes));
    expect(bytes[0]?.equals(bytes[1] as Buffer)).toBe(false);
  },
  120_000,
);

/** Why a command cannot be run here, or undefined. */
function lacks(command: string, ...args: string[]): string | undefined {
  const { status } = spawnSync(command, args, { stdio: 'ignore' });
  return status === 0 ? undefined : `${[command, ...args].join(' ')} fails here`;
}

const noPeft = lacks('python3', '-c', 'import peft, transformers, torch');
(noPeft ? test.skip : test)(
  `peft_roundtrip.py: PEFT loads what Node wrote, Node loads what PEFT wrote${noPeft ? ` (skipped: ${noPeft})` : ''}`,
  async () => {
    const args = [join(examples, 'peft_roundtrip.py'), base, 'adapter-from-node', 'adapter-from-python'];
    const { status, stdout, stderr } = spawnSync('python3', args, { cwd: scratch, encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
    const model = await CausalLM.fromPretrained(base, { dtype: 'f32' });
    const ids = [model.tokenizer.encode('On Monday Danor sells three black eggs at the park.')];
    await model.loadAdapter(join(scratch, 'adapter-from-node'), { name: 'node' });
    const loss = await model.forward(ids, { labels: ids }).loss.item();
    expect(Number(after(stdout.split('\n'), 'loss'))).toBeCloseTo(loss, 4);
    await model.loadAdapter(join(scratch, 'adapter-from-python'), { name: 'python' });
    const next = await model.forward(ids, { labels: ids, adapter: 'python' }).loss.item();
    expect(next).toBeLessThan(loss);
    await model.dispose();
  },
  300_000,
);

const noPython = lacks('python3', '--version');
(noPython ? test.skip : test)(
  `peft_roundtrip.py: it is valid Python${noPython ? ` (skipped: ${noPython})` : ''}`,
  () => {
    const check = 'import ast, sys; ast.parse(open(sys.argv[1]).read())';
    expect(lacks('python3', '-c', check, join(examples, 'peft_roundtrip.py'))).toBeUndefined();
  },
);

example('adapters.mjs', 'each call gets the adapter that it names', (run) => {
  const lines = run(base, '80');
  expect(Object.keys(JSON.parse(after(lines, 'json  ')) as object)).toEqual(fields);
  expect(after(lines, 'item  ')).toMatch(/^[a-z]+$/);
  expect(after(lines, 'base')).not.toContain('{');
  const first = JSON.parse(after(lines, 'first ')) as string[];
  for (const [i, name] of ['base', 'json', 'item'].entries())
    expect(after(lines, name).startsWith(first[i]!.trim())).toBe(true);
  expect(lines).toContain('json,item; active is item');
  expect(lines).toContain('json at scale 0 writes what the base writes');
});

example('worker.mjs', 'the main thread answers while the worker trains, and uses its adapter', (run) => {
  const lines = run(base, 'worker-run');
  expect(numbers(lines, /^worker: step (\d+) /)).toEqual([20, 40]);
  expect(lines).toContain('main: answered while the worker trained');
  expect(folder('worker-run')).toEqual(runFiles);
  expect(lines).toHaveLength(4);
});

example('bundle.mjs', 'the bundle leaves the package out and runs', (run) => {
  const out = join(testedPackage, 'build', `bundle-example-${process.pid}.mjs`); // from there node finds the package
  try {
    const lines = run(out);
    expect(lines.at(-1)).toMatch(/^saved layer-run\/checkpoint\.safetensors/);
    expect(readFileSync(out, 'utf8')).toMatch(/from "lora-native"/);
  } finally {
    rmSync(out, { force: true });
  }
});

example('layer.mjs', 'the layer learns the difference', (run) => {
  const losses = numbers(run(), /^step \d+ {2}loss (\S+)$/);
  expect(losses).toHaveLength(9);
  expect(last(losses)).toBeLessThan(first(losses) / 1000);
});

example('iris.mjs', 'a network of its own learns the species, also of flowers that it never saw', (run) => {
  const lines = run('iris-run');
  const [seen, unseen] = after(lines, 'right:')
    .match(/\d+\.\d/g)!
    .map(Number);
  expect(seen).toBeGreaterThan(95);
  expect(unseen).toBeGreaterThan(90);
  expect(after(lines, '5.9 × 3.0 and 5.1 × 1.8 cm:')).toMatch(/^virginica /);
});

example(
  'iris-lora.mjs',
  'pairs beside its layers repair it for other measures, and are loaded again',
  (run) => {
    if (!existsSync(join(scratch, 'iris-run')))
      // where this test runs alone
      spawnSync(process.execPath, [join(examples, 'iris.mjs')], { cwd: scratch, env });
    const lines = run('iris-run', 'iris-lora-run');
    const [before] = numbers(lines, /^right before: (\S+)%/);
    const [now] = numbers(lines, /^right after: {2}(\S+)%/);
    expect(before).toBeLessThan(50);
    expect(now).toBeGreaterThan(85);
    expect(after(lines, 'loaded from iris-lora-run:')).toBe('the same');
    expect(readdirSync(join(scratch, 'iris-lora-run/hidden')).sort()).toEqual([
      'adapter_config.json',
      'adapter_model.safetensors',
    ]);
  },
);

example('custom-layer.mjs', 'two layers learn a swap, and their checkpoint gives the same outputs', (run) => {
  const lines = run('custom-layer-run');
  const losses = numbers(lines, /^step \d+ {2}loss (\S+)$/);
  expect(losses).toHaveLength(5);
  expect(last(losses)).toBeLessThan(first(losses) / 100);
  expect(lines.at(-1)).toBe('loaded step 400: the same outputs');
});

example('reproducibility.mjs', 'equal seeds give equal bytes, other seeds do not', (run) => {
  const lines = run(base, 'reproducibility-run');
  const rows = new Map(lines.map((line) => line.split(/ +/, 2) as [string, string]));
  expect([...rows.keys()]).toEqual(['first', 'second', 'other-adapter', 'other-order']);
  expect(rows.get('second')).toBe(rows.get('first'));
  expect(new Set(rows.values()).size).toBe(3);
});

example('device.mjs', 'it says why there is no GPU, and trains on the CPU', (run) => {
  const lines = run(base, 'cuda:9');
  expect(lines[0]).toMatch(/^cpu: .*GiB$/);
  expect(lines).toContainEqual(expect.stringMatching(/^\[device\] cannot open cuda:9/));
  expect(lines).toContainEqual(expect.stringMatching(/^trained on cpu: loss \d/));
  expect(lines.at(-1)).toMatch(/^tensors: \{"cpu":\d+\} bytes now, \d+ at most$/);
});

example('errors.mjs', 'every mistake has a code and a sentence', (run) => {
  const lines = run();
  const codes = lines.flatMap((line) => /^ {2}(ERR_[A-Z_]+) \[\w+\] \S/.exec(line)?.[1] ?? []);
  expect(codes).toEqual([
    'ERR_FILE',
    'ERR_ARGUMENT',
    'ERR_ADAPTER',
    'ERR_DATA',
    'ERR_ARGUMENT',
    'ERR_DISPOSED',
  ]);
  expect(lines.at(-1)).toBe('nothing is wrong: no error');
});

example('sampling.mjs', 'each rule changes the text as its guide says', (run) => {
  const lines = run(base);
  const text = (name: string): string => JSON.parse(after(lines, `${name}:`)) as string;
  const greedy = text('greedy');
  expect(text('hot')).not.toBe(greedy);
  expect(text('hot, min-p')).not.toBe(text('hot'));
  expect(text('less repetition')).not.toBe(greedy);
  expect(greedy).toContain('.');
  expect(text('no full stop')).not.toContain('.');
  const shares = lines.slice(5).map((line) => {
    const [, share, others] = /^".*" ([0-9.]+)%, of (.*)$/.exec(line)!;
    return { share, others: JSON.parse(others!) as [string, string][] };
  });
  expect(shares).toHaveLength(4);
  // Without temperature, the token is the likeliest one.
  for (const { share, others } of shares) {
    expect(others).toHaveLength(2);
    expect(others[0]![1]).toBe(`${share}%`);
  }
  expect(run(base)).toEqual(lines);
});

example(
  'json-schema.mjs',
  'texts are valid, and without the optional package it says what is missing',
  (run) => {
    const lines = run(base);
    expect(lines).toHaveLength(3);
    const values = lines
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(values.length).toBeGreaterThan(0);
    for (const { who, count, colour } of values) {
      expect((who as string).length).toBeLessThanOrEqual(12);
      expect(Number.isInteger(count) && Number(count) >= 0 && Number(count) <= 99).toBe(true);
      expect(['red', 'green', 'blue']).toContain(colour);
    }
    const without = join(root, 'test/support/without_xgrammar.cjs');
    const program = join(examples, 'json-schema.mjs');
    const { stdout } = spawnSync(process.execPath, ['--require', without, program, base], {
      encoding: 'utf8',
      env,
    });
    expect(stdout).toMatch(
      /^skipped: \[generate\] jsonSchema needs the optional package @mlc-ai\/web-xgrammar/,
    );
  },
);

example('speculate.mjs', 'the same texts take fewer steps', (run) => {
  const lines = run(base);
  const counts = lines.flatMap((line) => {
    const found = /^ {2}(\d+) tokens in (\d+) steps instead of (\d+), (\d+) guessed/.exec(line);
    return found ? [found.slice(1).map(Number)] : [];
  });
  expect(counts).toHaveLength(2);
  for (const [tokens, steps, plain, guessed] of counts as [number, number, number, number][]) {
    expect(steps).toBeLessThan(0.8 * plain);
    expect(steps + guessed).toBe(plain);
    expect(plain).toBe(tokens - 1); // the prompt gives the first one
  }
});

/** Why a program that needs an optional package cannot run here; undefined where it can. */
function lacksPackage(name: string): string | undefined {
  try {
    createRequire(join(examples, 'any.mjs')).resolve(name);
    return undefined;
  } catch {
    return `${name} is not installed`;
  }
}

for (const [name, needs, first] of [
  ['ai-sdk.mjs', 'ai', 'object'],
  ['langchain.mjs', '@langchain/core/messages', 'chain'],
] as const) {
  tested.add(name);
  const lacking = lacksPackage(needs);
  (lacking ? test.skip : test)(
    `${name}: a stream, an object and tools in the process${lacking ? ` (skipped: ${lacking})` : ''}`,
    async () => {
      const model = await answeringModel('Hi!', {
        config: { max_position_embeddings: 1024 },
        chatTemplate: llamaToolTemplate,
      });
      const adapter = await answeringAdapter(model, 'Yo.', join(scratch, `yo-${needs.length}`));
      const args = [join(examples, name), model, adapter];
      const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', env });
      expect([status, stderr]).toEqual([0, '']);
      const lines = stdout.trimEnd().split('\n');
      expect(lines[0]).toBe('text: "Yo."');
      expect(lines[1]!.startsWith(first)).toBe(true);
      if (first === 'chain') expect(lines[1]).toBe('chain: "Yo."');
      expect(after(lines, 'object:')).toMatch(/^\{"count":[1-9]\}$/);
      if (first === 'object') {
        expect(after(lines, 'tool:')).toMatch(/^double\(\{"count":[1-9]\}\) is \d+$/);
        expect(after(lines, 'near:')).toMatch(/^-?[01]\.\d{3} -?[01]\.\d{3}$/);
      }
    },
    300_000,
  );
}

for (const name of ['server.mjs', 'serve-and-train.mjs', 'openai-server.mjs']) tested.add(name);
/** A program that listens, on a port that was free. */
const listening = (name: string, args: readonly string[], more: NodeJS.ProcessEnv = {}): ExampleServer =>
  exampleServer(join(examples, name), args, { cwd: scratch, env: { ...env, ...more } });

test('server.mjs: it streams what generate writes, refuses mistakes, and stops for a client that left', async () => {
  const server = listening('server.mjs', [base]);
  try {
    const [, port] = await server.says(/listening on (\d+)\n/);
    const post = (request: unknown, signal?: AbortSignal): Promise<Response> =>
      fetch(`http://127.0.0.1:${port!}/generate`, {
        method: 'POST',
        body: typeof request === 'string' ? request : JSON.stringify(request),
        signal: signal ?? null,
      });

    const response = await post({ prompt: 'On Monday', maxNewTokens: 12, temperature: 0 });
    expect(response.headers.get('content-type')).toBe('text/event-stream');
    const events = (await response.text())
      .split('\n\n')
      .filter((block) => block !== '')
      .map((block) => JSON.parse(block.replace(/^data: /, '')) as { text?: string; tokens?: number });
    const model = await CausalLM.fromPretrained(base);
    const expected = await model.generate('On Monday', { maxNewTokens: 12, temperature: 0 });
    await model.dispose();
    expect(events.map(({ text }) => text ?? '').join('')).toBe(expected.text);
    expect(events.at(-1)).toEqual({ done: true, tokens: expected.ids.length });

    for (const request of [
      'not JSON',
      'null',
      { prompt: 'x', adapter: 'nobody' },
      { prompt: 'x', temperature: -1 },
    ])
      expect((await post(request)).status).toBe(400);
    expect((await fetch(`http://127.0.0.1:${port!}/other`)).status).toBe(404);
    expect(server.said.errors).toBe('');

    // Several, since a text may end before its client has left.
    for (let client = 0; client < 4; client++) {
      const leave = new AbortController();
      const request = { prompt: 'On Monday', maxNewTokens: 500, ignoreEos: true, temperature: 1 };
      const long = await post(request, leave.signal);
      await long.body?.getReader().read();
      leave.abort();
    }
    await server.says(/client left after [1-9]\d* tokens/);
    expect(await server.end('SIGTERM')).toBe(0);
    expect(server.said.errors).toBe('');
  } finally {
    await server.end('SIGKILL');
  }
}, 120_000);

test('serve-and-train.mjs: many clients with their own adapters are answered while a worker trains one more', async () => {
  const model = await CausalLM.fromPretrained(base);
  const dirs: string[] = [];
  for (const [seed, name] of ['one', 'two'].entries()) {
    fillAdapter(model.addAdapter({ r: 4, targetModules: 'all-linear' }, { name }), seed, 0.1);
    dirs.push(`${name}=${join(scratch, name)}`);
    await model.adapters.get(name)!.save(join(scratch, name));
  }
  const server = listening('serve-and-train.mjs', [base, ...dirs], { OUT_DIR: 'serve-run' });
  try {
    const [, port] = await server.says(/listening on (\d+)/);
    const chat = async (request: object): Promise<{ status: number; text?: string; error?: string }> => {
      const response = await fetch(`http://127.0.0.1:${port!}/chat`, {
        method: 'POST',
        body: JSON.stringify(request),
      });
      return { status: response.status, ...((await response.json()) as object) };
    };
    const wishes = [null, 'one', 'two', 'one', 'two', null].map((adapter, i) => ({
      adapter,
      prompt: `On ${['Monday', 'Friday', 'Sunday'][i % 3]!}`,
      maxNewTokens: 10 + i,
      temperature: 0,
    }));
    const answers = await Promise.all(wishes.map(chat));
    expect(server.said.output).not.toContain('trained:'); // the worker is at it
    for (const [i, { prompt, ...options }] of wishes.entries())
      expect(answers[i]).toMatchObject({ status: 200, text: (await model.generate(prompt, options)).text });
    expect(await chat({ prompt: 'x', adapter: 'trained' })).toMatchObject({ status: 400 });
    expect(await chat({ prompt: 'x', maxNewTokens: 513 })).toMatchObject({ status: 400 });
    await server.says(/trained: the new adapter is served/);
    expect(await chat({ prompt: 'On Monday', adapter: 'trained', maxNewTokens: 4 })).toMatchObject({
      status: 200,
    });
    const health = (await (await fetch(`http://127.0.0.1:${port!}/health`)).json()) as object;
    expect(health).toMatchObject({ adapters: ['one', 'two', 'trained'], running: 0, waiting: 0 });
    expect(server.said.errors).toBe('');
    expect(await server.end('SIGTERM')).toBe(0);
  } finally {
    await server.end('SIGKILL');
    await model.dispose();
  }
}, 300_000);

test('openai-server.mjs: it answers as the model does, streams, asks for the key, and drains', async () => {
  const model = await CausalLM.fromPretrained(base);
  fillAdapter(model.addAdapter({ r: 4, targetModules: 'all-linear' }, { name: 'one' }), 5, 0.1);
  await model.adapters.get('one')!.save(join(scratch, 'openai-one'));
  const server = listening('openai-server.mjs', [base, 'one=openai-one'], { API_KEY: 'secret' });
  try {
    const [, port] = await server.says(/listening on (\d+)/);
    const post = (request: object, authorization = 'Bearer secret'): Promise<Response> =>
      fetch(`http://127.0.0.1:${port!}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization },
        body: JSON.stringify({ prompt: 'On Monday', max_tokens: 12, temperature: 0, ...request }),
      });
    for (const [name, adapter] of [
      ['base', null],
      ['one', 'one'],
    ] as const) {
      const { text } = await model.generate('On Monday', { maxNewTokens: 12, temperature: 0, adapter });
      const answer = (await (await post({ model: name })).json()) as { choices: { text: string }[] };
      expect(answer.choices[0]!.text).toBe(text);
    }
    expect((await post({}, 'Bearer other')).status).toBe(401);
    const stream = await post({ stream: true, max_tokens: 300, ignore_eos: true });
    const ended = server.end('SIGTERM');
    expect(await stream.text()).toMatch(/"finish_reason":"length".*\n\ndata: \[DONE\]\n\n$/);
    expect(await ended).toBe(0);
    expect(server.said.errors).toBe('');
  } finally {
    await server.end('SIGKILL');
    await model.dispose();
  }
}, 120_000);

for (const [runtime, ...flags] of [
  ['bun', 'run'],
  ['deno', 'run', '--allow-all'],
] as const) {
  const absent = lacks(runtime, '--version');
  (absent ? test.skip : test)(
    `quickstart.mjs runs in ${runtime}${absent ? ` (skipped: ${absent})` : ''}`,
    () => {
      const args = [
        ...flags,
        join(examples, 'quickstart.mjs'),
        base,
        join(examples, 'data/train.jsonl'),
        '20',
      ];
      rmSync(join(scratch, 'quickstart-run'), { recursive: true, force: true });
      const { status, stdout, stderr } = spawnSync(runtime, args, { cwd: scratch, encoding: 'utf8', env });
      if (status !== 0) throw new Error(`${runtime} ended with ${status}\n${stdout}${stderr}`);
      expect(stdout).toMatch(/^step 20 {2}loss/m);
    },
    120_000,
  );
}

example('fetch-handler.mjs', 'the text comes as generate() writes it', async (run) => {
  const lines = run(base, 'On Monday');
  expect(after(lines, 'models:')).toBe('base');
  const model = await CausalLM.fromPretrained(base);
  const { text } = await model.generate('On Monday', { maxNewTokens: 40, temperature: 0 });
  await model.dispose();
  expect(JSON.parse(after(lines, 'text:'))).toBe(text);
});

tested.add('by-name.mjs');
test('by-name.mjs: a name is downloaded once, its license comes first, and it generates', async () => {
  const hub = await HubServer.start();
  hub.repositories.set('lora/tiny', { files: folderFiles(base), license: 'mit' });
  const home = join(scratch, 'hub-home');
  const run = async (): Promise<string[]> => {
    const args = [join(examples, 'by-name.mjs'), 'lora/tiny', 'On Monday'];
    const child = spawn(process.execPath, args, { cwd: scratch, env: { ...env, ...hub.environment(home) } });
    let out = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (text: Buffer) => (out += text.toString()));
    const [status] = (await once(child, 'close')) as [number | null];
    if (status !== 0) throw new Error(`by-name.mjs ended with ${status}\n${out}`);
    return out.trimEnd().split('\n');
  };
  try {
    const lines = await run();
    expect(lines[0]).toBe('lora/tiny: license mit');
    const bytes = numbers(lines, /^(\d+) of \d+ bytes$/);
    expect(last(bytes)).toBeGreaterThan(1_600_000);
    expect(after(lines, 'in ')).toContain('models--lora--tiny');
    const again = await run();
    expect(again).toEqual(lines.slice(-2)); // the same text, from the cache
  } finally {
    await hub.stop();
  }
}, 300_000);

tested.add('push.mjs');
test('push.mjs: an adapter becomes a private repository, and a second push sends nothing', async () => {
  const hub = await HubServer.start();
  const dir = join(scratch, 'to-push');
  const model = await CausalLM.fromPretrained(base);
  await model.addAdapter({ r: 2 }).save(dir);
  await model.dispose();
  const variables = { ...env, ...hub.environment(join(scratch, 'push-home')), HF_TOKEN: 'hf_write' };
  const run = async (): Promise<string> => {
    const child = spawn(process.execPath, [join(examples, 'push.mjs'), base, dir, 'lora/tiny'], {
      env: variables,
    });
    let out = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (text: Buffer) => (out += text.toString()));
    const [status] = (await once(child, 'close')) as [number | null];
    if (status !== 0) throw new Error(`push.mjs ended with ${status}\n${out}`);
    return out;
  };
  try {
    const out = await run();
    expect(out).toMatch(/^README\.md, adapter_config\.json, adapter_model\.safetensors in [0-9a-f]{40} of /m);
    expect(hub.repositories.get('lora/tiny')?.private).toBe(true);
    expect(out).not.toContain('hf_write');
    expect(await run()).toMatch(/^ in [0-9a-f]{40} of /m);
    expect(hub.uploads.commits).toHaveLength(1);
  } finally {
    await hub.stop();
  }
}, 300_000);

tested.add('distributed.mjs'); // test/lifecycle/mpi.test.ts runs it
// test/e2e/web_applications.test.ts runs these
for (const name of ['express.mjs', 'fastify.mjs', 'hono.mjs', 'next.mjs']) tested.add(name);

test('every program of examples/ has a test here', () => {
  const programs = readdirSync(examples).filter((file) => file.endsWith('.mjs'));
  expect(programs.filter((file) => !tested.has(file))).toEqual([]);
});
