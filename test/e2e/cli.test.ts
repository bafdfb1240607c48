import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
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

test('Ctrl-C while training saves a checkpoint and exits with 130', async () => {
  writeFileSync(join(scratch, 'c.jsonl'), '{"text":"Mia finds three red apples."}\n');
  const args = [
    'train',
    '--model',
    base,
    '--data',
    'c.jsonl',
    '--max-steps',
    '1000000',
    '--out-dir',
    'stopped',
  ];
  const child = spawn(process.execPath, [cli, ...args], { cwd: scratch });
  let err = '';
  child.stderr.setEncoding('utf8').on('data', (piece: string) => {
    if (!err.includes('step 1/') && (err + piece).includes('step 1/')) child.kill('SIGINT');
    err += piece;
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  expect(err).toMatch(/saved stopped\/checkpoint-\d+\n$/);
  expect(code).toBe(130);
  const saved = /checkpoint-\d+/.exec(err)![0];
  expect(existsSync(join(scratch, 'stopped', saved, 'checkpoint.safetensors'))).toBe(true);
  expect(existsSync(join(scratch, 'stopped/adapter_config.json'))).toBe(false); // not the final adapter
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
