/** lora-native eval: flags, the table and the JSON; the numbers are those of evaluate_task.test.ts. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Interrupted } from '../../lib/cli/command';
import { CausalLM, type TaskEvaluation } from '../../lib/index';
import { answeringAdapter, answeringModel } from '../support/answering_model';
import { commandLine, jsonLines, type Outcome } from '../support/command_line';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();
let base: string;
const write = (name: string, rows: readonly object[]): string => {
  writeFileSync(join(dir, name), rows.map((row) => JSON.stringify(row)).join('\n'));
  return join(dir, name);
};
const answers = (): string =>
  write('answers.jsonl', [
    { prompt: 'a', completion: 'Yo.' },
    { prompt: 'b', completion: 'Hi!' },
    { prompt: 'c', completion: 'Yo.' },
    { prompt: 'd', completion: 'Yo. Yo?' },
  ]);
const choices = (): string => write('choices.jsonl', [{ query: 'q', choices: ['a', 'bc'], gold: 1 }]);
beforeAll(async () => {
  base = await answeringModel('Hi!');
  await answeringAdapter(base, 'Yo.', join(dir, 'yo'));
});
afterAll(() => rmSync(base, { recursive: true }));
afterEach(() => jest.restoreAllMocks());

const evaluate = (data: string, ...flags: string[]): Promise<Outcome> =>
  commandLine(['eval', '--model', base, '--device', 'cpu', '--data', data, ...flags]);
const yo = (): string[] => ['--adapter', join(dir, 'yo')];

test('a table compares the base and its adapters, on one model that is loaded once', async () => {
  const loads = jest.spyOn(CausalLM, 'fromPretrained');
  const { status, out, err } = await evaluate(answers(), ...yo(), '--adapter', `again=${join(dir, 'yo')}`);
  expect([status, loads.mock.calls.length]).toEqual([0, 1]);
  expect(err).toContain('4 examples with 4 answers\n');
  const number = '-?\\d+\\.\\d+';
  const scores = (exact: string, f1: string): string => ` *${number} +${number} +${exact} +${f1} +0`;
  expect(out).toMatch(
    new RegExp(
      [
        '^ +loss +perplexity +exact match % +F1 % +cut',
        `base ${scores('25.0 ± 25.0', '25.0 ± 25.0')}`,
        `yo ${scores('50.0 ± 28.9', '66.7 ± 23.6')}`,
        `again ${scores('50.0 ± 28.9', '66.7 ± 23.6')}\\n$`,
      ].join('\\n'),
    ),
  );
  expect(
    new Set(
      out
        .trimEnd()
        .split('\n')
        .map(({ length }) => length),
    ).size,
  ).toBe(1); // columns
});

test('--json prints the evaluation, --out writes it, --samples has each answer', async () => {
  const out = join(dir, 'result.json');
  const flags = [...yo(), '--no-base', '--samples', '--limit', '2', '--out', out, '--json'];
  const [json] = jsonLines(await evaluate(answers(), ...flags));
  expect(JSON.parse(readFileSync(out, 'utf8'))).toEqual(json);
  expect(json).toMatchObject({ model: base, data: join(dir, 'answers.jsonl'), kind: 'examples', rows: 2 });
  const { results } = json as unknown as TaskEvaluation;
  expect(results).toHaveLength(1);
  expect(results[0]).toMatchObject({ adapter: 'yo', exactMatch: 0.5, stderr: { exactMatch: 0.5 } });
  expect(results[0]!.samples).toMatchObject([
    { prompt: '<|user|>a<|assistant|>', expected: 'Yo.', text: 'Yo.', exactMatch: true, f1: 1 },
    { expected: 'Hi!', text: 'Yo.', exactMatch: false, f1: 0 },
  ]);
});

test('questions with choices, a schema, stops and no answers have columns of their own', async () => {
  const heads = async (...words: string[]): Promise<string[]> => {
    const [data, ...flags] = words;
    const { status, out, err } = await evaluate(data!, ...flags);
    if (status !== 0) throw new Error(err);
    return out.split('\n')[0]!.trim().split(/ {2,}/);
  };
  expect(await heads(choices(), '--add-special-tokens')).toEqual(['acc %', 'acc_norm %', 'acc by bytes %']);
  expect(await heads(answers(), '--no-generate')).toEqual(['loss', 'perplexity']);
  const schema = write('schema.json', [{ type: 'string' }]);
  expect(await heads(answers(), '--json-schema', schema)).toContain('valid JSON %');
  const stopped = await evaluate(
    answers(),
    ...['--stop', 'i', '--stop', 'o', '--samples', '--json', '--limit', '1'],
  );
  expect(stopped.out).toContain('"text":"H"');
});

test('how far it is shares a line of a terminal', async () => {
  const { err } = await commandLine(['eval', '--model', base, '--device', 'cpu', '--data', answers()], {
    columns: 80,
  });
  expect(err).toContain('\r\x1b[2K4 of 4 examples');
  expect(err).toMatch(/4 of 4 answers\n4 examples with 4 answers\n$/);
});

test('a signal ends it with the exit code of the signal', async () => {
  const stop = new AbortController();
  const onError = (text: string): void => {
    if (text.includes(' answers')) stop.abort(new Interrupted('SIGINT'));
  };
  const argv = ['eval', '--model', base, '--device', 'cpu', '--data', answers()];
  const { status, out } = await commandLine(argv, { columns: 80, onError, signal: stop.signal });
  expect([status, out]).toEqual([130, '']);
});

describe('before the model is loaded', () => {
  const bad = (): string => write('bad.json', [{ contains: 1 }]);
  test.each<[string, () => string[], number, string]>([
    ['no such data', () => ['nowhere.jsonl'], 1, 'nowhere.jsonl'],
    [
      'a schema that cannot be checked',
      () => [answers(), '--json-schema', bad()],
      1,
      'no support for contains',
    ],
    [
      'no adapter and no base',
      () => [answers(), '--no-base'],
      2,
      'eval needs --adapter, since --no-base is given',
    ],
    [
      'a schema without answers',
      () => [answers(), '--json-schema', bad(), '--no-generate'],
      2,
      'eval takes --json-schema or --no-generate, not both',
    ],
  ])('%s is refused', async (_what, words, status, sentence) => {
    const load = jest.spyOn(CausalLM, 'fromPretrained');
    const [data, ...flags] = words();
    const outcome = await evaluate(data!, ...flags);
    expect([outcome.status, outcome.err]).toEqual([status, expect.stringContaining(sentence)]);
    expect(load).not.toHaveBeenCalled();
  });
});

test('a bad row is named by its line, and --out is not written', async () => {
  const data = write('rows.jsonl', [{ prompt: 'a', completion: 'b' }, { prompt: 'a' }]);
  const out = join(dir, 'none.json');
  const { status, err } = await evaluate(data, '--out', out);
  expect([status, err]).toEqual([1, expect.stringContaining(`${data}:2: expected one of`)]);
  expect(() => readFileSync(out)).toThrow('ENOENT');
});
