/** What estimateMemory() says, against the peak of a process that loads, trains or serves: its resident memory, all of it. */
import { spawnSync } from 'node:child_process';
import { join, resolve } from 'node:path';

const root = resolve(__dirname, '../..');

/** A shape of benchmarks/random_model.mjs, and flags of benchmarks/memory.mjs. */
test.each<[model: string, what: string, flags: string]>([
  ['SmolLM2-135M', 'training in bf16', '--length 256'],
  ['SmolLM2-135M', 'with blocks computed twice', '--dtype f32 --length 256 --gradient-checkpointing'],
  ['SmolLM2-135M', 'on NF4', '--length 256 --quantize nf4'],
  [
    'SmolLM2-135M',
    'on NF4, with blocks computed twice',
    '--length 256 --quantize nf4 --gradient-checkpointing',
  ],
  ['Llama-68M', 'training in f32', '--dtype f32 --batch-size 4 --length 256'],
  ['Llama-68M', 'in packed rows', '--batch-size 2 --length 512 --packing'],
  ['Llama-68M', 'in f32 on NF4', '--dtype f32 --batch-size 4 --length 256 --quantize nf4'],
  ['Llama-68M', 'serving 8 texts on NF4', '--length 512 --streams 8 --quantize nf4'],
])(
  '%s, %s: the estimate is within a tenth of the peak',
  (model, _, flags) => {
    const part = flags.includes('--streams') ? 'serve' : 'train';
    const args = [join(root, 'benchmarks/memory.mjs'), '--json', '--parts', part, ...flags.split(' '), model];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, '']);
    const { peaks, estimate } = JSON.parse(stdout) as { peaks: [number]; estimate: number };
    expect(estimate / peaks[0]).toBeGreaterThan(0.9);
    expect(estimate / peaks[0]).toBeLessThan(1.1);
  },
  120_000,
);
