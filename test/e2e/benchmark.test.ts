/** `npm run bench` in small: the shape of its results, what it leaves out, and what the README says of a results file. Never a time. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../support/temporary';

const root = join(__dirname, '../..');
const folder = temporaryFolder();

interface Spread {
  median: number;
  min: number;
  max: number;
  rounds: number;
}
interface Row {
  kind: string;
  case: string;
  what: string;
  unit: string;
  ours: Spread;
  rivals: Record<string, Spread>;
  ratios: Record<string, number>;
  gflops?: number;
  cost?: { fused: number; least: number };
}
interface Results {
  schema: number;
  command: string;
  machine: Record<string, unknown>;
  versions: Record<string, string>;
  rows: Row[];
  leftOut: { what: string; why: string }[];
  failures: unknown[];
}

function bench(...args: string[]) {
  const child = spawnSync(process.execPath, [join(root, 'benchmarks/run.mjs'), ...args], {
    cwd: root,
    encoding: 'utf8',
  });
  return { ...child, all: child.stdout + child.stderr };
}

test('a quick case without rivals: it is checked, timed, and written with what was left out', () => {
  const out = join(folder, 'results.json');
  const filter = ['--quick', '--no-rivals', '--filter', 'SmolLM2-135M q+k+v f32', '--rounds', '2'];
  const { status, stdout, all } = bench(...filter, '--json', '--out', out);
  if (status !== 0) throw new Error(all);
  const results = JSON.parse(stdout) as Results;
  expect(JSON.parse(readFileSync(out, 'utf8'))).toEqual(results);
  expect(results).toMatchObject({
    schema: 1,
    // Without the file of this machine that the results went to.
    command: "npm run bench -- --quick --no-rivals --filter 'SmolLM2-135M q+k+v f32' --rounds 2 --json",
    machine: { threads: expect.any(Number), instructions: expect.any(String) },
    versions: { 'lora-native': expect.any(String), node: process.version },
    failures: [],
  });
  expect(results.leftOut).toContainEqual({ what: 'torch', why: '--no-rivals' });
  expect(results.rows.map(({ kind, case: id, what }) => `${kind} ${id} ${what}`)).toEqual([
    'lora_linear SmolLM2-135M q+k+v f32 m=512 r=16 forward',
    'lora_linear SmolLM2-135M q+k+v f32 m=512 r=16 step',
  ]);
  for (const { ours, unit, gflops, cost, rivals } of results.rows) {
    expect(unit).toBe('s');
    expect(ours.rounds).toBe(2);
    expect(ours.min).toBeLessThanOrEqual(ours.median);
    expect(ours.median).toBeLessThanOrEqual(ours.max);
    expect(gflops).toBeGreaterThan(0);
    expect(cost!.least).toBeCloseTo(1 + (16 * (3 * 576 + 960)) / (576 * 960), 6);
    expect(rivals).toEqual({});
  }
  expect(existsSync(out.replace('.json', '.svg'))).toBe(true);
});

test('a filter takes the cases that have all its words', () => {
  const ids = (...args: string[]) =>
    bench('--list', ...args)
      .stdout.trim()
      .split('\n');
  const all = ids();
  expect(new Set(all).size).toBe(all.length);
  const taken = ids('--filter', 'Llama-3.2-1B bf16 m=32 ', '--filter', 'attention f32');
  expect(taken).toEqual([
    'attention  SmolLM2-135M f32 512 tokens',
    'lora_linear  Llama-3.2-1B o bf16 m=32 r=16',
    'lora_linear  Llama-3.2-1B o bf16 m=32 r=8',
    'lora_linear  Llama-3.2-1B o bf16 m=32 r=64',
  ]);
  const quick = ids('--quick');
  expect(all).toEqual(expect.arrayContaining(quick));
});

test('the README and its chart say what the results file that they quote holds', () => {
  const script = join(root, 'benchmarks/publish.mjs');
  const { status, stderr, stdout } = spawnSync(process.execPath, [script, '--check'], { encoding: 'utf8' });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toMatch(/^README\.md says what benchmarks\/results\/\S+\.json holds$/m);
});
