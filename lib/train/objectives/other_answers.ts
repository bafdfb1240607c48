/** Answers that nobody gave to a prompt: KTO measures its divergence on them. */
import type { LabeledRow } from '../../data/preference_rows';
import { keyOf, otherData } from './reference';

/** The answer to another prompt that the prompt of each row of a batch gets. */
export type OtherAnswers = (rows: readonly LabeledRow[]) => readonly (readonly number[])[];

/** That of the row before it in its batch, the first row that of the last. */
export const ofBatch: OtherAnswers = (rows) => rows.map((_, i) => rows.at(i - 1)!.completionIds);

/** That of the row before it in the data, whatever batch the row is in, so that a reference can be computed once: what TRL does. */
export class OtherAnswersOfData {
  readonly #answers = new Map<string, Int32Array>();

  /** Takes the next rows of the data. */
  add(rows: readonly LabeledRow[]): void {
    for (const [i, answer] of ofBatch(rows).entries()) {
      const key = keyOfRow(rows[i]!);
      if (!this.#answers.has(key)) this.#answers.set(key, Int32Array.from(answer));
    }
  }

  readonly of: OtherAnswers = (rows) =>
    rows.map((row) => [...(this.#answers.get(keyOfRow(row)) ?? otherData())]);
}

const keyOfRow = ({ promptIds, completionIds }: LabeledRow): string => keyOf(promptIds, completionIds);
