/**
 * scripts/gpu-check from its first line to its last, on a machine whose GPU, tools and programs are scripts of the test:
 * what it runs, in which order and for how long, and what the results file holds, also of a run that is cut off.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { temporaryFolder } from '../support/temporary';

const root = join(__dirname, '../..');
const scratch = temporaryFolder();
const parts = ['first', 'selftest', 'numerics', 'js', 'bench', 'sass', 'ptx', 'sanitizer'];
const programs = ['gpu_self_test', 'gpu_check', 'gpu_bench'];

/** Ends as END_<its name> says, or with 0. `cut` ends all of gpu-check at once, as a machine that is taken away does. */
const ends = `
name=$(basename "$0" | tr - _)
echo "$name printed this"
[ -z "\${JSON:-}" ] || [ "\${1:-}" != --json ] || echo '{"figures": 1}' >"$2"
end=END_$name
if [ "\${!end:-}" = cut ]; then
  for _ in {1..200}; do grep -q "$name printed" "$HOME/results.log" && break; sleep 0.05; done
  kill -9 0
fi
[ "\${!end:-}" = 77 ] && echo 'skipped: no NVIDIA driver was found'
exit "\${!end:-0}"
`;
const tools: Record<string, string> = {
  'nvidia-smi': `case "$*" in *=name*) echo 'NVIDIA A100' ;; *compute_cap*) echo 8.0 ;; *) echo 1 ;; esac`,
  nvcc: 'echo release',
  python3: '',
  // "Builds" the targets that it is asked for.
  cmake: `for target; do [ ! -e "$PROGRAMS/$target" ] || { mkdir -p build/gpu/native/test/gpu; cp "$PROGRAMS/$target" build/gpu/native/test/gpu/; }; done`,
  node: `[ "$2" = doctor ] && echo 'devices  cpu, cuda'; echo 'tests passed'`,
  // Notes how long a command may take; one whose name holds $LATE takes longer.
  timeout: `[ "$1" = -k ] && shift 2
seconds=$1; shift
echo "$seconds $*" >>"$CALLS"
[ -n "\${LATE:-}" ] && [[ $* == *$LATE* ]] && exit 124
exec "$@"`,
  'compute-sanitizer': ends,
  cuobjdump: '',
};

let folders = 0;
interface Run {
  status: number | null;
  results: string;
  log: string;
  /** What was run under a limit: "SECONDS COMMAND". */
  calls: string[];
}
function gpuCheck(env: Record<string, string> = {}, without: string[] = [], flags: string[] = []): Run {
  const folder = join(scratch, String(folders++));
  const at = (...names: string[]): string => join(folder, ...names);
  const script = (path: string, text: string): void => {
    writeFileSync(path, `#!/usr/bin/env bash\n${text}\n`);
    chmodSync(path, 0o755);
  };
  for (const name of ['bin', 'programs', 'scripts', 'dist', 'build/Release', 'node_modules/jest/bin'])
    mkdirSync(at(name), { recursive: true });
  for (const name of ['gpu-check', 'sass-mix.awk']) cpSync(join(root, 'scripts', name), at('scripts', name));
  for (const name of [
    'dist/index.js',
    'build/Release/lora_native.node',
    'node_modules/jest/bin/jest.js',
    'calls',
  ])
    writeFileSync(at(name), '');
  for (const name of programs) script(at('programs', name), ends);
  for (const [name, text] of Object.entries(tools))
    script(at('bin', name), without.includes(name) ? 'exit 1' : text);
  // In a session of its own: what cuts it off ends all of its processes.
  const { status } = spawnSync(
    'setsid',
    ['bash', at('scripts/gpu-check'), ...flags, '--out', at('results.md')],
    {
      encoding: 'utf8',
      env: {
        PATH: [at('bin'), process.env['PATH']].join(delimiter),
        HOME: folder,
        CALLS: at('calls'),
        PROGRAMS: at('programs'),
        ...env,
      },
    },
  );
  const read = (name: string): string => readFileSync(at(name), 'utf8');
  return {
    status,
    results: read('results.md').replace(/\(\d+ s\)/g, '(N s)'),
    log: read('results.log'),
    calls: read('calls').trim().split('\n'),
  };
}
const headings = ({ results }: Run): string[] =>
  [...results.matchAll(/^## (\w+)$/gm)].map(([, name]) => name!);

test('every part runs, the sanitizers last, none for longer than ten minutes', () => {
  const run = gpuCheck();
  expect(run.results).toMatch(/\*\*gpu-check: ok\*\*\s*$/);
  expect(run.status).toBe(0);
  expect(headings(run)).toEqual(parts);
  for (const part of parts) expect(run.results).toMatch(new RegExp(`^\\*\\*${part}\\*\\*: ok`, 'm'));
  const limits = run.calls.map((call) => call.split(' ')[0]).map(Number);
  expect(limits).toEqual([30, 90, 120, 570, 400, 570, 570, 120, 450, 280, 280]);
  expect(run.calls.at(-1)).toMatch(/ \S*compute-sanitizer --tool racecheck /);
  const slow = gpuCheck({}, [], ['--slow']);
  expect(slow.status).toBe(0);
  expect(slow.calls.map((call) => Number(call.split(' ')[0]))).toEqual(limits.map((limit) => 3 * limit));
});

test('the first part tells in two minutes whether the main job runs', () => {
  const first = (env: Record<string, string>, without?: string[]): string =>
    gpuCheck(env, without).results.split('## selftest')[0]!;
  const runs = '**The main job runs here.**';
  const fails = '**The main job does not run here**';
  expect(first({})).toContain(runs);
  for (const [name, value] of [
    ['END_gpu_self_test', '1'],
    ['END_gpu_check', '1'],
    ['LATE', 'gpu_check'],
  ] as const) {
    const text = first({ [name]: value });
    expect(text).toContain(fails);
    expect(text).not.toContain(runs);
  }
  const none = first({ END_gpu_self_test: '77' }, ['nvidia-smi']);
  expect(none).not.toContain(runs);
  expect(none).not.toContain(fails);
});

test('the cases of the main job are those of tests that there are', () => {
  const listed = /main_job='(.*)'\nmain_job\+='(.*)'/.exec(
    readFileSync(join(root, 'scripts/gpu-check'), 'utf8'),
  )!;
  const titles = ['ops', 'cuda'].flatMap((layer) =>
    readdirSync(join(root, 'native/test', layer))
      .filter((name) => name.endsWith('_test.cc'))
      .flatMap((name) =>
        [
          ...readFileSync(join(root, 'native/test', layer, name), 'utf8').matchAll(
            /TEST_CASE\(\s*"([^"]*)"/g,
          ),
        ].map(([, title]) => title!),
      ),
  );
  for (const pattern of (listed[1]! + listed[2]!).split(',')) {
    expect(pattern).toMatch(/\*$/);
    expect(titles.filter((title) => title.startsWith(pattern.slice(0, -1)))).not.toEqual([]);
  }
});

test('the results hold the figures of the benchmark', () => {
  expect(gpuCheck({ JSON: '1' }).results).toMatch(/```json\n{"figures": 1}\n+```\n/);
});

test('a run that is cut off leaves what came before, and what the program had printed', () => {
  const run = gpuCheck({ END_gpu_check: 'cut' });
  expect(run.status).not.toBe(0);
  expect(headings(run)).toEqual(['first']);
  expect(run.results).toMatch(/^\*\*first\*\*: ok/m);
  expect(run.log).toMatch(/gpu_self_test printed this\n\$ \S*gpu_check -tc=.*\ngpu_check printed this\n$/);
});

test('a failure is named, and the parts behind it run', () => {
  const run = gpuCheck({ END_gpu_self_test: '1', END_compute_sanitizer: '9' });
  expect(run.status).toBe(1);
  expect(headings(run)).toEqual(parts);
  expect(run.results).toContain(
    '**gpu-check: 5 failed**\n- first: FAILED with exit status 1 (N s)\n- selftest: FAILED with exit status 1 (N s)\n- ptx: FAILED with exit status 1 (N s)\n' +
      '- sanitizer: FAILED with exit status 9 (N s)\n- sanitizer: FAILED with exit status 9 (N s)\n',
  );
});

test('a part that takes too long is ended, and said', () => {
  const run = gpuCheck({ LATE: 'gpu_bench' });
  expect(run.status).toBe(1);
  expect(run.results).toContain('**gpu-check: 1 failed**\n- bench: FAILED: it ran past 570 s\n');
});

test('without a GPU nothing passes; a GPU that cannot be used is a failure', () => {
  const skipping = { END_gpu_self_test: '77', END_gpu_check: '77', END_gpu_bench: '77' };
  const none = gpuCheck({ ...skipping, END_compute_sanitizer: '77' }, ['nvidia-smi', 'node', 'cuobjdump']);
  expect(none.results).toContain('**selftest**: skipped: no NVIDIA driver was found');
  const unusable = gpuCheck(skipping, ['node']);
  expect(unusable.status).toBe(1);
  expect(unusable.results).toContain(
    '- numerics: FAILED: nvidia-smi names NVIDIA A100, but no NVIDIA driver was found\n',
  );
});
