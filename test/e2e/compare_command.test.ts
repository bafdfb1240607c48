/** lora-native compare: flags, the table, the events; the numbers are those of compare.test.ts. */
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Interrupted } from '../../lib/cli/command';
import { CausalLM } from '../../lib/index';
import { commandLine, jsonLines, type Outcome, type Surroundings } from '../support/command_line';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

jest.setTimeout(240_000); // each comparison loads the model, and a machine may be busy
const scratch = temporaryFolder();
let model: string;
const data = join(scratch, 'data.jsonl');
beforeAll(async () => {
  model = await tinyModel();
  const rows = [
    { prompt: 'Who?', completion: 'Mia.' },
    { prompt: 'Where?', completion: 'Park.' },
  ];
  writeFileSync(data, rows.map((row) => JSON.stringify(row)).join('\n'));
});
afterAll(() => rmSync(model, { recursive: true }));
afterEach(() => jest.restoreAllMocks());

function compare(name: string, flags: readonly string[], around: Surroundings = {}): Promise<Outcome> {
  const files = ['--model', model, '--device', 'cpu', '--data', data, '--eval-data', data];
  const few = [
    '--methods',
    'lora',
    '--seeds',
    '1',
    '--max-new-tokens',
    '2',
    '--out-dir',
    join(scratch, name),
  ];
  return commandLine(['compare', ...files, ...few, ...flags], around);
}
const short = ['--budget-steps', '2', '--learning-rates', '0.01,0.02'];

test('a table on standard output, what happens on standard error, and the report', async () => {
  const flags = ['--ranks', '2,4', '--alphas', 'r', '--targets', 'attention,q_proj+v_proj', ...short];
  const { status, out, err } = await compare('table', flags);
  expect([status, err]).toEqual([
    0,
    expect.stringContaining('4 variants, 0 of them measured before; 2 learning'),
  ]);
  const lines = out.trimEnd().split('\n');
  expect(lines[0]!.trim().split(/ {2,}/).slice(0, 9)).toEqual([
    'method',
    'rank',
    'alpha',
    'targets',
    'learning rate',
    'trained',
    'of all %',
    'peak MiB',
    'tokens/s',
  ]);
  expect(lines.slice(1).map((line) => line.trim().split(/ {2,}/).slice(0, 4))).toEqual(
    ['attention', 'q_proj+v_proj'].flatMap((targets) =>
      [
        ['2', '2'],
        ['4', '4'],
      ].map((values) => ['lora', ...values, targets]),
    ),
  );
  expect(new Set(lines.map(({ length }) => length)).size).toBe(1); // columns
  expect(err).toMatch(/^learning rate of lora: 0\.0[12], of 0\.01, 0\.02, at the edge of those tried/m);
  expect(err).toMatch(/^4\/4 lora-r4-a4-q_proj\+v_proj-s0: held-out loss \d\.\d{4}$/m);
  const report = join(scratch, 'table', 'comparison.html');
  expect([err.includes(`report: ${report}\n`), existsSync(report)]).toEqual([true, true]);
});

test('Ctrl-C ends it with its exit code, and the same line goes on', async () => {
  const stop = new AbortController();
  const flags = ['--ranks', '2,3', '--budget-steps', '2', '--learning-rates', '0.01'];
  const onError = (text: string): void => {
    if (/^1\/2 /m.test(text)) stop.abort(new Interrupted('SIGINT'));
  };
  const stopped = await compare('stopped', flags, { onError, signal: stop.signal });
  expect([stopped.status, stopped.out]).toEqual([130, '']);
  const events = jsonLines(await compare('stopped', [...flags, '--json']));
  expect(events[0]).toEqual({ type: 'start', variants: 2, done: 1, trials: 0 });
  expect(events.filter(({ type }) => type === 'variant')).toMatchObject([
    { result: { id: expect.stringContaining('-r3-') as string } },
  ]);
  const { comparison } = events.at(-1) as { comparison: { rows: unknown[] } };
  expect(comparison.rows).toHaveLength(2);
  const other = await compare('stopped', [...flags.slice(2), '--ranks', '4']);
  expect([other.status, other.err]).toEqual([2, expect.stringContaining('ranks was [2,3] and is [4]')]);
});

test.each([
  [['--methods', 'lora,prefix'], "'full' but received 'prefix'"],
  [['--ranks', '4,x'], 'expected --ranks to be numbers with commas but received "4,x"'],
  [['--learning-rates', '0.1,'], 'expected --learning-rates to be numbers with commas but received "0.1,"'],
  [['--alphas', 'two'], 'expected alphas[0] to be a finite number'],
  [
    ['--budget-steps', '2', '--budget-minutes', '1'],
    'compare takes --budget-steps or --budget-minutes, not both',
  ],
  [['--budget-minutes', '0'], 'compare needs --budget-minutes above 0'],
])('%j is refused before the model is loaded', async (flags, sentence) => {
  const load = jest.spyOn(CausalLM, 'fromPretrained');
  const { status, err } = await compare('refused', flags);
  expect([status, err]).toEqual([2, expect.stringContaining(sentence)]);
  expect(load).not.toHaveBeenCalled();
});
