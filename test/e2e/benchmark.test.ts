/** `npm run bench` in small: the shape of its results, what it leaves out, and what the README says of a results file. Never a time. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { binding } from '../../lib/native/calls';
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
  share?: Spread & { of: string; ceiling: Spread };
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

const bench = (...args: string[]) => benchWith({}, ...args);

function benchWith(env: Record<string, string>, ...args: string[]) {
  const child = spawnSync(process.execPath, [join(root, 'benchmarks/run.mjs'), ...args], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...env },
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
    schema: 2,
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
  for (const { ours, unit, gflops, share, cost, rivals } of results.rows) {
    expect(unit).toBe('s');
    expect(ours.rounds).toBe(2);
    expect(ours.min).toBeLessThanOrEqual(ours.median);
    expect(ours.median).toBeLessThanOrEqual(ours.max);
    expect(gflops).toBeGreaterThan(0);
    expect(cost!.least).toBeCloseTo(1 + (16 * (3 * 576 + 960)) / (576 * 960), 3);
    expect(rivals).toEqual({});
    if (results.leftOut.some(({ what }) => what === "the machine's ceilings")) continue; // no build/cmake
    expect(share).toMatchObject({ of: 'f32', rounds: 2, ceiling: { rounds: 2 } });
    expect(share!.median).toBeGreaterThan(0);
  }
  expect(existsSync(out.replace('.json', '.svg'))).toBe(true);
});

test('the ops that cases time take the arguments that they are given, and give what the reference gives', () => {
  const file = (name: string): string => JSON.stringify(pathToFileURL(join(root, 'benchmarks', name)).href);
  const code = `
    import inputsOf from ${file('inputs.cjs')};
    import { OursProvider } from ${file('providers/ours.mjs')};
    import { checkClose } from ${file('stats.mjs')};
    const loads = {
      Layers: [{ m: 5, in: 24, out: [16, 8], r: 3 }, inputsOf.loraLinearInputs],
      Attention: [{ tokens: 9, heads: 4, kvHeads: 2, d: 8 }, inputsOf.attentionInputs],
      ShortConv: [{ tokens: 9, channels: 6, taps: 3, form: 'gated' }, inputsOf.shortConvInputs],
      DeltaRule: [{ tokens: 9, heads: 2, d: 8 }, inputsOf.deltaRuleInputs],
    };
    const checked = [];
    const methods = Object.getOwnPropertyNames(OursProvider.prototype).filter((name) => name.startsWith('load'));
    for (const method of methods) {
      const [shape, inputs] = loads[method.slice('load'.length)];
      const testCase = { ...shape, dtype: 'f32' };
      const [ours, reference] = ['cpu', 'reference'].map((device) => {
        const provider = new OursProvider(device);
        provider[method](testCase, inputs(testCase));
        return provider;
      });
      const results = await ours.check();
      checkClose(method, results, await reference.check(), 1e-4);
      checked.push([method, Object.keys(results).join(' ')]);
    }
    console.log(JSON.stringify(checked));`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    ...{ cwd: root, encoding: 'utf8' },
  });
  if (status !== 0) throw new Error(stderr);
  expect(JSON.parse(stdout)).toEqual([
    ['loadLayers', 'y0 y1 dx da0 da1 db0 db1'],
    ['loadAttention', 'y dq dk dv'],
    ['loadShortConv', 'y dx'],
    ['loadDeltaRule', 'y dq dk dv dg db'],
  ]);
});

test('the minutes count from the first case, which always runs', () => {
  const out = join(folder, 'minutes.json');
  const filter = ['--no-rivals', '--filter', 'SmolLM2-135M q+k+v f32', '--rounds', '1', '--minutes', '0'];
  const { status, stdout, all } = bench(...filter, '--json', '--out', out);
  if (status !== 0) throw new Error(all);
  const { rows, leftOut } = JSON.parse(stdout) as Results;
  expect(new Set(rows.map(({ case: id }) => id)).size).toBe(1);
  expect(leftOut.filter(({ why }) => why === 'the run had taken its 0 minutes (--minutes)')).not.toEqual([]);
});

test('full fine-tuning steps: their time and their peak, of a process that trains all weights', () => {
  const filter = ['--no-rivals', '--filter', 'full_step bf16', '--rounds', '1'];
  const model = ['--model', join(root, 'examples/base-model')];
  const { status, stdout, all } = bench(...filter, ...model, '--json', '--out', join(folder, 'full.json'));
  if (status !== 0) throw new Error(all);
  const { rows, failures, leftOut } = JSON.parse(stdout) as Results;
  expect(failures).toEqual([]);
  const id = 'SmolLM2-135M bf16 1×512 adamw8bit, stochastic rounding';
  expect(leftOut).toContainEqual({ what: `${id}: PyTorch, lean`, why: '--no-rivals' });
  expect(rows[0]).toMatchObject({ kind: 'full_step', case: id, what: 'step', unit: 's' });
  if (existsSync('/proc/self/status')) expect(rows[1]).toMatchObject({ what: 'peak memory', unit: 'MiB' });
});

test('decode steps: a row for each number of rows and each instruction set from the chosen one down', () => {
  const sets = binding().cpuInfo().targets.slice(-2);
  const [chosen] = sets;
  const filter = [
    '--no-rivals',
    '--filter',
    'decode_blocks q4_k',
    '--filter',
    'decode_blocks nf4',
    '--rounds',
    '1',
  ];
  const out = join(folder, 'blocks.json');
  const { status, stdout, all } = benchWith({ LORA_SIMD: chosen! }, ...filter, '--json', '--out', out);
  if (status !== 0) throw new Error(all);
  const { rows, failures } = JSON.parse(stdout) as Results;
  expect(failures).toEqual([]);
  expect(rows.map(({ case: id, what }) => `${id} ${what}`)).toEqual(
    ['nf4', 'q4_k'].flatMap((format) =>
      [1, 8, 32].flatMap((m) => sets.map((simd) => `Llama-3.2-1B o ${format} bf16 m=${m} ${simd}`)),
    ),
  );
  for (const { what, ours, rivals } of rows) {
    expect(ours.median).toBeGreaterThan(0);
    expect(Object.keys(rivals)).toEqual(what === chosen ? [] : [chosen]);
  }
});

/** What an expression of benchmarks/stats.mjs is. */
function evaluate(expression: string): unknown {
  const url = JSON.stringify(pathToFileURL(join(root, 'benchmarks/stats.mjs')).href);
  const code = `import * as stats from ${url}; console.log(JSON.stringify(await (${expression})));`;
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
  if (child.status !== 0) throw new Error(child.stderr);
  return JSON.parse(child.stdout);
}

test('a ratio is that of each round: a round in which everything was slow does not change it', () => {
  const half = { median: 0.5, min: 0.5, max: 0.5, rounds: 3 };
  expect(evaluate('stats.ratio([1, 2, 30], [2, 4, 60])')).toEqual(half);
  expect(evaluate('stats.rivalOf([1, 2, 30], [2, 4, 60])')).toEqual({
    median: 4,
    min: 2,
    max: 60,
    rounds: 3,
    ratio: half,
  });
  expect(evaluate("stats.shareOfCeiling('read', [1, 2, 30], [2, 4, 60])")).toEqual({
    of: 'read',
    ...half,
    ceiling: { median: 4, min: 2, max: 60, rounds: 3 },
  });
  expect(evaluate("stats.shareOfCeiling('read', [1], []) ?? null")).toBeNull();
});

test('a ceiling is measured right before and after the first turn of each round', () => {
  const run = `(async () => {
    const calls = [];
    const turns = ['ours', 'theirs'].map((name) => async (round) => { calls.push(name + round); });
    const ceiling = async () => calls.push('ceiling');
    const ceilings = await stats.inRounds(turns, { rounds: 2, gap: 0 }, ceiling);
    return { calls, ceilings };
  })()`;
  expect(evaluate(run)).toEqual({
    calls: ['ceiling', 'ours0', 'ceiling', 'theirs0', 'ceiling', 'ours1', 'ceiling', 'theirs1'],
    ceilings: [2, 6], // the means of what push answered
  });
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

test.each([
  ['README.md and its chart', 'publish.mjs', /^README\.md says what benchmarks\/results\/\S+\.json holds$/m],
  [
    'the guide on memory',
    'publish.mjs',
    /^docs\/guides\/fit-into-memory\.md says what benchmarks\/results\/\S+\.json holds$/m,
  ],
  [
    'the guide on choosing a model',
    'publish.mjs',
    /^docs\/guides\/which-model\.md says what benchmarks\/results\/\S+\.json holds$/m,
  ],
  [
    'the comparison of methods',
    'comparison.mjs',
    /^docs\/concepts\/comparison\.md says what the results hold$/m,
  ],
])('%s: they say what the results files that they quote hold', (_, script, said) => {
  const { status, stderr, stdout } = spawnSync(
    process.execPath,
    [join(root, 'benchmarks', script), '--check'],
    { encoding: 'utf8' },
  );
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toMatch(said);
});

describe('the table of formats', () => {
  const module = JSON.stringify(pathToFileURL(join(root, 'benchmarks/report/formats.mjs')).href);
  const spread = (median: number): Spread => ({ median, min: median, max: median, rounds: 1 });
  const row = (format: string, what: string, seconds: number, theirs?: number) => ({
    ...{ kind: 'gguf', model: 'M', format, what, tokens: 100, ours: spread(seconds) },
    rivals: theirs === undefined ? {} : { 'node-llama-cpp': spread(theirs) },
  });
  const results = {
    machine: { threads: 2, cpu: 'C', instructions: 'I' },
    rows: [row('q8_0', 'prefill', 0.1, 0.2), row('q8_0', 'decode', 2, 4), row('nf4', 'decode', 5)],
    ...{ date: '2026-12-01T00:00:00Z', commit: 'abc' },
  };
  const block = (load: number): string => {
    const given = JSON.stringify({ ...results, load: [load] });
    const code = `import * as formats from ${module}; console.log(formats.formatsSummary(${given}, 'benchmarks/results/x.json'));`;
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
    return stdout;
  };

  test('has a line for each format, and dashes for what was not measured', () => {
    const lines = block(0.5).split('\n');
    expect(lines).toContain('| M | GGUF Q8_0 | 50.0 | 25.0 | 1000 | 500 |');
    expect(lines).toContain('| M | NF4 | 20.0 | – | – | – |');
  });

  test('has no figures of a run beside other programs', () => {
    expect(block(2)).toMatch(/\[all rows\].*Other programs were at work then \(load 2\.00\)/);
    expect(block(2)).not.toContain('| M |');
  });
});

describe('the table of families', () => {
  const module = JSON.stringify(pathToFileURL(join(root, 'benchmarks/report/families.mjs')).href);
  const spread = (median: number, ratio?: number) => ({
    ...{ median, min: median, max: median, rounds: 1 },
    ...(ratio && { ratio: { median: ratio } }),
  });
  const shape = 'shape of LFM2-350M bf16 512 tokens of texts of 128';
  const row = (end: string, what: string, seconds: number, rivals: Record<string, number>) => ({
    ...{ kind: 'family', case: `${shape}${end}`, what, tokens: 100, ours: spread(seconds) },
    rivals: Object.fromEntries(
      Object.entries(rivals).map(([name, median]) => [name, spread(median, seconds / median)]),
    ),
  });
  const results = {
    ...{ machine: { threads: 2, cpu: 'C', instructions: 'I' }, rivals: { torch: { version: '2' } } },
    rows: [
      row('', 'step', 0.5, { torch: 2 }),
      row('', 'peak memory of steps', 700, {}),
      row(', bf16', 'decode', 2, { torch: 10, 'node-llama-cpp': 4 }),
      row(', q8_0', 'decode', 1, {}),
      {
        ...{ kind: 'delta_rule', case: 'Qwen3.5-0.8B bf16 2048 tokens', what: 'step', ours: spread(1) },
        rivals: { attention: spread(4, 0.25) },
      },
    ],
    ...{ date: '2026-12-01T00:00:00Z', commit: 'abc' },
  };
  const block = (load: number): string => {
    const given = JSON.stringify({ ...results, load: [load] });
    const code = `import * as families from ${module}; console.log(families.familiesSummary(${given}, 'benchmarks/results/x.json'));`;
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
    return stdout;
  };

  test('has a line for each layout, and what the delta rule takes of attention', () => {
    const text = block(0.5);
    expect(text.split('\n')).toContain('| LFM2-350M | 200, 50.0 | 50.0, 10.0, 25.0 | 100, – |');
    expect(text).toContain('2,048 tokens: 0.25 (bf16, forward and backward).');
    expect(text).toContain('PyTorch 2, 2026-12-01, commit abc: [all rows](../../benchmarks/results/x.json)');
  });

  test('has only ratios of a run beside other programs', () => {
    const text = block(2);
    expect(text).toMatch(
      /\[all rows\].*Other programs were at work then \(load 2\.00\), so that only ratios/,
    );
    const lines = text.split('\n');
    expect(lines).toContain('| LFM2-350M | 0.25 | 0.20, 0.50 | – |');
    expect(lines.find((line) => line.startsWith('| layout of'))).not.toContain('tokens/s');
  });
});
