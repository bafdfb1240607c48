/** Supervised fine-tuning: the mean of −log p over the tokens that count, in whichever batch of the step they stand. */
import { ignoredLabel, type DataSource, type Example } from '../../data/example';
import { exampleRows } from '../../data/row_groups';
import { SequencePlan } from '../../data/sequence_plan';
import type { CausalLM } from '../../models/causal_lm';
import { lossSum, meanLoss, type LossSum } from '../../models/running/evaluate';
import { noGrad } from '../../tensor/scope';
import type { EvaluationPass, Objective } from './objective';

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
    const { ranks, ...options } = pass;
    const examples = data as DataSource<Example>;
    const figures =
      ranks.size === 1
        ? await model.evaluate(examples, options)
        : meanLoss(await ranks.gather(await ownLossSum(model, examples, pass)));
    return { figures, higherIsBetter: false };
  },
};

/** The loss of the batches of this rank. */
async function ownLossSum(
  model: CausalLM,
  data: DataSource<Example>,
  { adapter, batchSize, signal, ranks }: EvaluationPass,
): Promise<LossSum> {
  const release = model.core.adapters.acquire('evaluate', adapter);
  try {
    const how = { adapter, train: false, reduction: 'sum' as const };
    return await lossSum(
      (inputIds, labels) =>
        noGrad(async () => (await model.forwardInSlices(inputIds, { ...how, labels })).loss),
      data,
      { batchSize, signal, plan: new SequencePlan(adapter) },
      (index) => index % ranks.size === ranks.rank,
    );
  } finally {
    release();
  }
}
