/** Supervised fine-tuning: the mean of −log p over the tokens that count, in whichever batch of the step they stand. */
import { ignoredLabel, type DataSource, type Example } from '../../data/example';
import { exampleRows } from '../../data/row_groups';
import type { Objective } from './objective';

export const supervised: Objective = {
  rows: exampleRows,
  settings: {},
  facts: [],
  isPerToken: true,
  dropout: true,
  weightless: `expected labels that count but all are ${ignoredLabel}`,

  weightOf: ({ labels, segmentIds }, plan) => plan.countedLabels(labels, segmentIds),

  async loss(model, { inputIds, labels, segmentIds }, pass) {
    const options = { ...pass, labels, segmentIds, reduction: 'sum' as const };
    return { sum: (await model.forwardInSlices(inputIds, options)).loss };
  },

  async evaluate(model, data, pass) {
    const figures = await model.evaluate(data as DataSource<Example>, pass);
    return { figures, higherIsBetter: false };
  },
};
