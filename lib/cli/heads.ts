/** The head of classes that commands load a model with: that of flags, of adapters, or of the labels in data. */
import { loadFiles } from '../data/dataset';
import type { ClassLabel } from '../data/class_rows';
import type { DataFiles } from '../data/folders';
import { unnamed } from '../models/config/head';
import { problemTypes, type ProblemType } from '../options/problem_types';
import type { AdapterFiles } from '../peft/adapter_files';
import type { HeadInput } from '../peft/head';
import { UsageError, type Flags } from './command';

export const headFlags = {
  labels: {
    type: 'names',
    value: 'LIST',
    rare: true,
    help: 'classify: names with commas, in the order of their scores',
    defaultText: "the model's, or those in the data",
  },
  problemType: {
    type: 'string',
    value: 'NAME',
    choices: problemTypes,
    rare: true,
    help: 'classify: what the scores are',
    defaultText: 'as labels in the data are',
  },
} as const satisfies Flags;

interface HeadValues {
  readonly labels?: string | readonly string[] | undefined;
  readonly problemType?: ProblemType | undefined;
}

/** The head that flags name; undefined: none. */
export function headOfFlags({ labels, problemType }: HeadValues): HeadInput | undefined {
  if (labels === undefined) return undefined;
  const names = typeof labels === 'string' ? labels.split(',').map((name) => name.trim()) : labels;
  return { type: 'classify', labels: names, ...(problemType && { problemType }) };
}

/** The head that the files of adapters were trained with: the first that names one. The others are compared with it when they are loaded. */
export function headOfAdapters(files: Iterable<Pick<AdapterFiles, 'head'>>): HeadInput | undefined {
  for (const { head } of files) if (head) return head;
  return undefined;
}

type LabeledText = { readonly label: ClassLabel | readonly ClassLabel[] };

/** Labels as the rows of data have them. Their texts are not encoded: the tokenizer comes with the model, whose head depends on the labels. */
async function labelsIn(
  files: readonly DataFiles[],
  options: { columns: Record<string, string> | undefined; signal: AbortSignal },
): Promise<(ClassLabel | readonly ClassLabel[])[]> {
  const found: (ClassLabel | readonly ClassLabel[])[] = [];
  for (const each of files) {
    const rows = await loadFiles(each, {
      ...options,
      tokenizer: { encode: () => [0] },
      objective: 'classify',
    });
    for (const row of rows as unknown as Iterable<LabeledText>) found.push(row.label);
  }
  return found;
}

/**
 * The head of the labels in data: names in the order of their letters; of indices alone, LABEL_0 and so on. Lists are several labels for a text, and numbers that
 * are no indices regression.
 */
export async function headOfData(
  files: readonly DataFiles[],
  { problemType }: HeadValues,
  options: { columns: Record<string, string> | undefined; signal: AbortSignal },
): Promise<HeadInput> {
  const rows = await labelsIn(files, options);
  const all = rows.flatMap((label): readonly ClassLabel[] => (typeof label === 'object' ? label : [label]));
  const several = rows.some((label) => Array.isArray(label));
  const isIndex = (label: ClassLabel): boolean => Number.isInteger(label) && (label as number) >= 0;
  const numbers = all.every((label) => typeof label === 'number');
  const found: ProblemType =
    numbers && !all.every(isIndex)
      ? 'regression'
      : several
        ? 'multi_label_classification'
        : 'single_label_classification';
  const type = problemType ?? found;
  if (type === 'regression') {
    const width = several ? (rows[0] as ClassLabel[]).length : 1;
    return { type: 'classify', labels: unnamed(width), problemType: type };
  }
  if (numbers) {
    const most = all.reduce<number>((largest, label) => Math.max(largest, label), 0);
    return { type: 'classify', labels: unnamed(most + 1), problemType: type };
  }
  const names = [...new Set(all.filter((label) => typeof label === 'string'))].sort();
  if (type === 'single_label_classification' && names.length < 2)
    throw new UsageError(
      `train --objective classify needs data with two labels at least but found ${names.join(', ')}: give --labels`,
    );
  return { type: 'classify', labels: names, problemType: type };
}
