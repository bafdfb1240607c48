/** Rows of preferences for a tiny model. */
import type { LabeledRow, ObjectiveName, PreferenceRow } from '../../lib/index';

const ids = (n: number, seed: number): number[] =>
  Array.from({ length: n }, (_, t) => (seed * 31 + t * 17) % 256);

export const pairs: PreferenceRow[] = Array.from({ length: 12 }, (_, i) => ({
  promptIds: ids(2 + (i % 3), i),
  chosenIds: ids(1 + ((i * 2) % 5), i + 40),
  rejectedIds: ids(1 + ((i * 3) % 4), i + 80),
}));

export const labeled: LabeledRow[] = pairs.map(({ promptIds, chosenIds }, i) => ({
  promptIds,
  completionIds: chosenIds,
  label: i % 3 !== 1,
}));

export type Preference = Exclude<ObjectiveName, 'sft' | 'grpo'>;
export const objectives: Preference[] = ['dpo', 'orpo', 'cpo', 'kto'];
export const rowsOf = (objective: ObjectiveName): PreferenceRow[] | LabeledRow[] =>
  objective === 'kto' ? labeled : pairs;
