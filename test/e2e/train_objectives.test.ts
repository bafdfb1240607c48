/** lora-native train --objective: preferences on the command line. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setThreads } from '../../lib/index';
import { commandLine, type Outcome } from '../support/command_line';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const out = temporaryFolder();
let model: string;
let made = 0;
const fresh = (): string => join(out, `run-${made++}`);
const pairs = join(out, 'pairs.jsonl');
const labeled = join(out, 'labeled.jsonl');

beforeAll(async () => {
  setThreads(1); // tiny matrices
  const rows = (row: object): string => `${JSON.stringify(row)}\n`.repeat(4);
  writeFileSync(pairs, rows({ prompt: 'a', chosen: 'bc', rejected: 'd' }));
  writeFileSync(labeled, rows({ prompt: 'a', completion: 'bc', label: true }));
  model = await tinyModel();
});
afterAll(() => rmSync(model, { recursive: true }));

const train = (data: string, outDir: string, ...flags: string[]): Promise<Outcome> =>
  commandLine([
    ...['train', '--model', model, '--data', data, '--out-dir', outDir, '--max-steps', '2'],
    ...['--device', 'cpu', '--json', ...flags],
  ]);
const eventsOf = ({ out: lines }: Outcome): Record<string, unknown>[] =>
  lines
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

test('pairs train an adapter, with their figures in events, card and report', async () => {
  const outDir = fresh();
  const flags = ['--objective', 'dpo', '--beta', '0.2', '--eval-data', pairs, '--save-every', '1'];
  const result = await train(pairs, outDir, ...flags);
  expect(result.status === 0 ? '' : result.err).toBe('');
  const events = eventsOf(result);
  const [step] = events.filter(({ type }) => type === 'step');
  expect(step!['loss']).toBeCloseTo(Math.LN2, 6);
  expect(step!['lr']).toBeCloseTo(1e-5, 12);
  expect(step!['metrics']).toMatchObject({ 'rewards/margins': 0, 'rewards/accuracies': 0 });
  const found = events.find(({ type }) => type === 'eval')!;
  expect(Object.keys(found)).toEqual(['type', 'step', 'loss', 'tokens', 'metrics']);
  expect(readFileSync(join(outDir, 'README.md'), 'utf8')).toContain('- Objective: `dpo, beta 0.2');
  const report = readFileSync(join(outDir, 'report.html'), 'utf8');
  expect(report).toContain('rewards/margins');
  expect(report).not.toContain('perplexity');
  // It goes on with the flags of the run.
  const resumed = await train(pairs, outDir, '--resume', '--max-steps', '3');
  expect(resumed.status === 0 ? '' : resumed.err).toBe('');
  expect(eventsOf(resumed).filter(({ type }) => type === 'step')).toHaveLength(1);
  const other = await train(pairs, outDir, '--resume', '--beta', '0.3');
  expect([other.status, other.err]).toEqual([2, expect.stringContaining('--beta 0.2')]);
});

test('several losses have weights; answers that are good or bad have labels', async () => {
  const several = ['--objective', 'dpo', '--loss-type', 'sigmoid,sft', '--loss-weights', '1,0.5'];
  const first = await train(pairs, fresh(), ...several);
  expect(first.status === 0 ? '' : first.err).toBe('');
  expect(eventsOf(first).find(({ type }) => type === 'step')!['loss']).toBeGreaterThan(Math.LN2 + 0.5);
  const kto = await train(labeled, fresh(), '--objective', 'kto', '--undesirable-weight', '2');
  expect(kto.status === 0 ? '' : kto.err).toBe('');
});

test('all weights need a reference that is computed before', async () => {
  const flags = ['--objective', 'dpo', '--method', 'full'];
  expect((await train(pairs, fresh(), ...flags)).err).toContain('precomputeReference');
  const result = await train(pairs, fresh(), ...flags, '--precompute-reference');
  expect(result.status === 0 ? '' : result.err).toBe('');
  expect(eventsOf(result).find(({ type }) => type === 'step')!['lr']).toBeCloseTo(1e-6, 12);
});

test.each<[flags: string[], message: string]>([
  [['--objective', 'dppo'], 'sft, dpo, orpo, kto, cpo'],
  [['--objective', 'dpo', '--packing', '--schedule', 'constant'], 'packing is for supervised'],
  [['--beta', '0.2'], 'beta with the objective'],
  [['--objective', 'dpo', '--train-on', 'all'], 'trainOn'],
  [['--objective', 'kto', '--batch-size', '1'], 'batchSize of at least 2'],
])('%j is refused', async (flags, message) => {
  const { status, err } = await train(pairs, fresh(), ...flags);
  expect(status).not.toBe(0);
  expect(err).toContain(message);
});
