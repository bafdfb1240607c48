/** The head that labels in data, flags and adapters ask for. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { headOfAdapters, headOfData, headOfFlags } from '../../lib/cli/heads';
import type { ClassRow } from '../../lib/index';
import type { HeadInput } from '../../lib/peft/head';
import type { ProblemType } from '../../lib/options/problem_types';
import { temporaryFolder } from '../support/temporary';

const root = temporaryFolder();
let made = 0;

/** Of files with these labels. */
async function headOf(files: readonly ClassRow['label'][][], problemType?: ProblemType): Promise<HeadInput> {
  const data = files.map((labels) => {
    const path = join(root, `${made++}.jsonl`);
    writeFileSync(path, labels.map((label) => `${JSON.stringify({ text: 'a', label })}\n`).join(''));
    return { path, files: [path] };
  });
  const options = { columns: undefined, signal: new AbortController().signal };
  return headOfData(data, { problemType }, options);
}

test.each<[what: string, files: ClassRow['label'][][], labels: string[], problemType: ProblemType]>([
  ['names', [['c', 'a', 'b', 'a']], ['a', 'b', 'c'], 'single_label_classification'],
  ['several files', [['b'], ['a', 'c']], ['a', 'b', 'c'], 'single_label_classification'],
  ['indices', [[2, 0]], ['LABEL_0', 'LABEL_1', 'LABEL_2'], 'single_label_classification'],
  ['lists', [['b', ['c', 'a'], []]], ['a', 'b', 'c'], 'multi_label_classification'],
  ['lists behind names', [['x', 'y'], [['z']]], ['x', 'y', 'z'], 'multi_label_classification'],
  ['a number that is no index', [[1, 2.5]], ['LABEL_0'], 'regression'],
  ['a number below 0', [[3, -1]], ['LABEL_0'], 'regression'],
  [
    'lists of numbers',
    [
      [
        [0.5, 1],
        [2, 3],
      ],
    ],
    ['LABEL_0', 'LABEL_1'],
    'regression',
  ],
])('%s', async (_, files, labels, problemType) => {
  expect(await headOf(files)).toEqual({ type: 'classify', labels, problemType });
});

test('what is asked for stands before what the labels look like', async () => {
  expect(await headOf([[1, 4, 2]], 'regression')).toMatchObject({ labels: ['LABEL_0'] });
  await expect(headOf([['a', 'a']])).rejects.toThrow(/with two labels at least but found a: give --labels/);
});

test('names of a flag have no spaces around them, and the first head of adapters is taken', () => {
  expect(headOfFlags({ labels: 'a, b b ,c' })).toEqual({ type: 'classify', labels: ['a', 'b b', 'c'] });
  expect(headOfFlags({ labels: undefined, problemType: 'regression' })).toBeUndefined();
  const problemType = 'multi_label_classification';
  const [first, second] = [['a', 'b'], ['c']].map((labels) => ({
    head: { type: 'classify', labels, problemType } as const,
  }));
  expect(headOfAdapters([{}, first!, second!])).toEqual(first!.head);
  expect(headOfAdapters([{}])).toBeUndefined();
});
