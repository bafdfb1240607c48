import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const root = join(__dirname, '../..');
const cli = join(root, 'dist/cli.js');
const base = join(root, 'examples/base-model');
let scratch: string;
beforeAll(() => {
  if (!existsSync(cli)) throw new Error('dist/cli.js is missing: npm run build:js');
  scratch = mkdtempSync(join(tmpdir(), 'cli-'));
});
afterAll(() => rmSync(scratch, { recursive: true }));

function run(...args: string[]): { status: number | null; out: string; err: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, ...args], {
    encoding: 'utf8',
    cwd: scratch,
  });
  return { status, out: stdout, err: stderr };
}

test('train, generate, merge and inspect work on one adapter', () => {
  writeFileSync(
    join(scratch, 'data.jsonl'),
    '{"text":"Mia finds three red apples."}\n{"text":"Leo hides two hats."}\n',
  );
  const train = run(
    'train',
    '--model',
    base,
    '--data',
    'data.jsonl',
    '--max-steps',
    '3',
    '--r',
    '4',
    '--out-dir',
    'run',
  );
  expect(train).toMatchObject({ status: 0, out: '' });
  expect(train.err).toMatch(/training \d+ parameters \(\d+\.\d+%\)/);
  expect(train.err).toMatch(/step 3\/3 {2}loss \d+\.\d+ {2}lr .* tokens\/s/);
  expect(existsSync(join(scratch, 'run/adapter_model.safetensors'))).toBe(true);

  const generate = run(
    'generate',
    '--model',
    base,
    '--adapter',
    'run',
    '--prompt',
    'Mia finds',
    '--temperature',
    '0',
    '--max-new-tokens',
    '8',
    '--device',
    'auto',
    '--json',
  );
  expect(generate.status).toBe(0);
  expect(generate.err).toMatch(/: llama, bf16 on (cpu|cuda)\n/); // which device it took
  const result = JSON.parse(generate.out) as {
    text: string;
    ids: number[];
    finishReason: string;
    usage: object;
  };
  expect(result.ids.length).toBeGreaterThan(0);
  expect(typeof result.text).toBe('string');
  expect(result.usage).toMatchObject({ completionTokens: result.ids.length });

  const merge = run('merge', '--model', base, '--adapter', 'run', '--out-dir', 'merged');
  expect(merge).toMatchObject({ status: 0 });
  expect(merge.err).toMatch(/: llama, bf16 on (cpu|cuda)\n/);
  const merged = run(
    'generate',
    '--model',
    'merged',
    '--prompt',
    'Mia finds',
    '--temperature',
    '0',
    '--max-new-tokens',
    '4',
  );
  expect(merged.status).toBe(0);

  expect(run('inspect', 'run').out).toMatch(/^adapter run\n\d+ tensors, \d+ parameters/);
  expect(run('inspect', 'merged').out).toMatch(/^model merged\n/);
  const file = run('inspect', 'run/adapter_model.safetensors', '--json');
  expect(JSON.parse(file.out)).toMatchObject({ kind: 'safetensors', path: 'run/adapter_model.safetensors' });
});

test('train --json gives one event per line', () => {
  writeFileSync(join(scratch, 'j.jsonl'), '{"text":"Mia finds three red apples."}\n');
  const { status, out } = run(
    'train',
    '--model',
    base,
    '--data',
    'j.jsonl',
    '--max-steps',
    '2',
    '--out-dir',
    'json-run',
    '--json',
  );
  expect(status).toBe(0);
  const events = out
    .trim()
    .split('\n')
    .map((line) => (JSON.parse(line) as { type: string }).type);
  expect(events).toEqual(['start', 'step', 'step', 'end']);
});

test('doctor names versions, instruction set, devices and why CUDA is unavailable', () => {
  const { status, out } = run('doctor');
  expect(status).toBe(0);
  for (const word of [
    'lora-native',
    'node',
    'system',
    'highway',
    'instruction set',
    'threads',
    'cpu',
    'cuda',
  ])
    expect(out).toContain(word);
  expect(JSON.parse(run('doctor', '--json').out)).toMatchObject({ node: process.version });
});

/** Begins a training that does not end by itself. */
function trainForLong(outDir: string, ...more: string[]): string[] {
  writeFileSync(join(scratch, 'c.jsonl'), '{"text":"Mia finds three red apples."}\n');
  const length = ['--max-steps', '1000000'];
  return [cli, 'train', '--model', base, '--data', 'c.jsonl', ...length, '--out-dir', outDir, ...more];
}

/** The steps of the checkpoints in a folder, and whether the final adapter is there. */
function saved(outDir: string): { checkpoints: number; final: boolean } {
  const names = readdirSync(join(scratch, outDir));
  const whole = names.filter((name) => existsSync(join(scratch, outDir, name, 'checkpoint.safetensors')));
  return { checkpoints: whole.length, final: names.includes('adapter_config.json') };
}

test.each([
  ['SIGINT', 'Ctrl-C', 130],
  ['SIGTERM', 'SIGTERM', 143],
] as const)('%s while training saves a checkpoint', async (signal, name, status) => {
  const outDir = `stopped-by-${signal}`;
  const child = spawn(process.execPath, trainForLong(outDir), { cwd: scratch });
  let err = '';
  child.stderr.setEncoding('utf8').on('data', (piece: string) => {
    if (!err.includes('step 1/') && (err + piece).includes('step 1/')) child.kill(signal);
    err += piece;
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  expect(err).toContain(`\nstopping; ${name} again ends at once\n`);
  expect(err).toMatch(new RegExp(`\nsaved ${outDir}/checkpoint-\\d+\\nreport: ${outDir}/report.html\\n$`));
  expect(code).toBe(status);
  expect(saved(outDir)).toEqual({ checkpoints: 1, final: false });
});

/** Runs a program until its output has `lines`, and reads no further; how it ended. */
async function readLines(args: string[], lines: number): Promise<{ code: unknown; err: string }> {
  const child = spawn(process.execPath, args, { cwd: scratch });
  let out = '';
  let err = '';
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    out += piece;
    if (out.split('\n').length > lines) child.stdout.destroy();
  });
  child.stderr.setEncoding('utf8').on('data', (piece: string) => (err += piece));
  const code = await new Promise((resolve) => child.on('close', resolve));
  return { code, err };
}

test('a reader that leaves, as head does, ends training quietly, with the run saved', async () => {
  const { code, err } = await readLines(trainForLong('left', '--json'), 2);
  expect(code).toBe(141);
  expect(err).toMatch(/: llama, .*\n1 examples, \d+ tokens count\n$/);
  expect(saved('left')).toEqual({ checkpoints: 1, final: false });
});

test('a reader that leaves ends a generation quietly', async () => {
  const args = [
    'generate',
    '--model',
    base,
    '--prompt',
    'Mia',
    '--max-new-tokens',
    '400',
    '--temperature',
    '3',
  ];
  const { code, err } = await readLines([cli, ...args], 0);
  expect(code).toBe(141);
  expect(err).toMatch(/^.*: llama, .*\n$/);
});

const onLinux = process.platform === 'linux' ? test : test.skip;
onLinux('an output that cannot be written is an error, and the run is saved', async () => {
  const full = openSync('/dev/full', 'w');
  const args = trainForLong('full', '--json');
  const { status, stderr } = spawnSync(process.execPath, args, {
    cwd: scratch,
    encoding: 'utf8',
    stdio: ['ignore', full, 'pipe'],
  });
  closeSync(full);
  expect(stderr).toContain('lora-native: Error: ENOSPC');
  expect(status).toBe(1);
  expect(saved('full')).toEqual({ checkpoints: 1, final: false });
});

test('Ctrl-C while generating exits with 130', async () => {
  const args = [
    'generate',
    '--model',
    base,
    '--prompt',
    'Mia',
    '--max-new-tokens',
    '500',
    '--temperature',
    '3',
  ];
  const child = spawn(process.execPath, [cli, ...args], { cwd: scratch });
  child.stderr.once('data', () => child.kill('SIGINT')); // the line that names the device
  const code = await new Promise((resolve) => child.on('close', resolve));
  expect(code).toBe(130);
});

test('a second Ctrl-C ends the process at once, though a step is far from done', async () => {
  // One step over all of this takes minutes.
  const row = JSON.stringify({ inputIds: Array.from({ length: 200 }, (_, i) => i % 50) });
  writeFileSync(join(scratch, 'long.jsonl'), `${row}\n`.repeat(6_000));
  const args = ['train', '--model', base, '--data', 'long.jsonl', '--out-dir', 'twice'];
  const child = spawn(process.execPath, [cli, ...args, '--gradient-accumulation-steps', '6000'], {
    cwd: scratch,
  });
  const giveUp = setTimeout(() => child.kill('SIGKILL'), 100_000);
  let err = '';
  let interrupts = 0;
  child.stderr.setEncoding('utf8').on('data', (piece: string) => {
    err += piece;
    const due = err.includes('Ctrl-C again ends at once') ? 2 : err.includes('training ') ? 1 : 0;
    for (; interrupts < due; interrupts++) child.kill('SIGINT');
  });
  const signal = await new Promise((resolve) => child.on('close', (_, by) => resolve(by)));
  clearTimeout(giveUp);
  expect({ signal, interrupts }).toEqual({ signal: 'SIGINT', interrupts: 2 });
  expect(err).not.toContain('saved');
}, 120_000);

test('SIGTERM ends a build and its compiler', async () => {
  // A package whose build takes for ever.
  const folder = join(scratch, 'package');
  mkdirSync(join(folder, 'scripts'), { recursive: true });
  cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true });
  cpSync(join(root, 'package.json'), join(folder, 'package.json'));
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  writeFileSync(
    join(folder, 'scripts/build.mjs'),
    'console.error(`compiles ${process.env.LORA_CUDA_BUILD} as ${process.pid}`); setInterval(() => {}, 1000);',
  );
  const args = [join(folder, 'dist/cli.js'), 'build', '--cuda', 'native'];
  const child = spawn(process.execPath, args, { cwd: scratch });
  let err = '';
  child.stderr.setEncoding('utf8').on('data', (piece: string) => {
    if (/compiles/.test((err += piece)) && !/stopping/.test(err)) child.kill('SIGTERM');
  });
  const code = await new Promise((resolve) => child.on('close', resolve)); // with the standard error of both
  expect(code).toBe(143);
  expect(err).toMatch(/^compiles native as \d+\nstopping; SIGTERM again ends at once\n$/);
});

test('a wrong LORA_THREADS is a sentence, not a stack', () => {
  const { status, stderr } = spawnSync(process.execPath, [cli, 'doctor'], {
    encoding: 'utf8',
    env: { ...process.env, LORA_THREADS: 'x' },
  });
  expect(status).toBe(2);
  expect(stderr).toBe(
    'lora-native: [device] expected LORA_THREADS to be a number from 1 to 1024 but received "x" (ERR_ARGUMENT)\n',
  );
});

test('train --rewards learns from the functions of a module, and names one that has none', () => {
  writeFileSync(
    join(scratch, 'prompts.jsonl'),
    '{"prompt":"On Monday","word":"a"}\n{"prompt":"Mia","word":"e"}\n',
  );
  writeFileSync(
    join(scratch, 'rewards.mjs'),
    'export const says = ({ completion, row }) => Number(completion.includes(row.word));\n' +
      'export const short = async ({ completion }) => -completion.length / 100;\n',
  );
  writeFileSync(join(scratch, 'none.mjs'), 'export const x = 3;\n');
  const flags = ['--model', base, '--data', 'prompts.jsonl', '--objective', 'grpo', '--out-dir', 'rewarded'];
  const short = ['--num-generations', '2', '--max-completion-length', '4', '--max-steps', '2'];
  const wrong = run('train', ...flags, ...short, '--rewards', 'none.mjs');
  expect(wrong.err).toContain('expected --rewards none.mjs to export functions');
  expect(wrong.status).toBe(2);
  const { out, err, status } = run('train', ...flags, ...short, '--rewards', 'rewards.mjs', '--json');
  expect([status, err]).toEqual([0, expect.anything()]);
  const steps = out.split('\n').filter((line) => line.includes('"type":"step"'));
  expect(steps).toHaveLength(2);
  const { metrics } = JSON.parse(steps[0]!) as { metrics: Record<string, number> };
  expect(metrics['reward']).toBeCloseTo(metrics['rewards/says/mean']! + metrics['rewards/short/mean']!, 6);
});
