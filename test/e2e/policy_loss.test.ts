// policyLoss: the losses, figures and weights of TRL's formulas, step by step.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AdamW, CausalLM, groupAdvantages, policyLoss, type PolicySettings } from '../../lib/index';
import { expectThrow } from '../support/errors';
import { describeWithData } from '../support/shared_data';

interface Row {
  prompt_ids: number[];
  completion_ids: number[];
  reward: number;
}
interface Recorded {
  settings: Record<string, unknown> & { batch_size: number; gradient_accumulation_steps: number };
  steps: { loss: number; metrics: Record<string, number> }[];
  generations: { advantages: number[]; old_log_probs: number[][]; ref_log_probs: number[][] }[];
}

const camel = (word: string): string => word.replace(/_(.)/g, (_, c: string) => c.toUpperCase());
const ours = ['beta', 'epsilon', 'epsilon_high', 'loss_type', 'importance_sampling_level', 'temperature'];

describeWithData('policyLoss', 'golden-objectives', (folder) => {
  const read = <T>(...path: string[]): T => JSON.parse(readFileSync(join(folder, ...path), 'utf8')) as T;
  const opened = async (name: string): Promise<CausalLM> => {
    const model = await CausalLM.fromPretrained(join(folder, 'model'), { dtype: 'f32' });
    await model.loadAdapter(join(folder, name, 'adapter_init'), { name: 'policy', trainable: true });
    model.setAdapter('policy');
    return model;
  };

  test.each(['grpo', 'grpo-kl', 'bnpo', 'dr-grpo', 'dapo', 'gspo'])('%s', async (name) => {
    const { settings, steps, generations } = read<Recorded>(name, 'record.json');
    const rows = read<Row[]>(name, 'rows.json');
    const { batch_size: size, gradient_accumulation_steps: batches } = settings;
    const words = Object.fromEntries(
      [...ours, 'max_completion_length'].map((word) => [camel(word), settings[word]]),
    ) as PolicySettings;
    const model = await opened(name);
    const optimizer = new AdamW(model.activeAdapter!.parameters(), {
      lr: settings['lr'] as number,
      weightDecay: 0,
    });
    for (const [step, want] of steps.entries()) {
      const generation = Math.floor(step / (settings['num_iterations'] as number));
      const all = rows.slice(generation * size * batches, (generation + 1) * size * batches);
      const { advantages, old_log_probs: old, ref_log_probs: reference } = generations[generation]!;
      let total = 0;
      const figures: Record<string, number> = {};
      for (let b = 0; b < batches; b++) {
        const cut = <T>(list: readonly T[]): T[] => list.slice(b * size, (b + 1) * size);
        const { loss, metrics } = policyLoss({
          model,
          promptIds: cut(all).map((row) => row.prompt_ids),
          completionIds: cut(all).map((row) => row.completion_ids),
          advantages: cut(advantages),
          oldLogProbs: cut(old),
          refLogProbs: cut(reference),
          ...words,
          ...(words.lossType === 'dapo' && {
            numItemsInBatch: all.reduce((sum, row) => sum + row.completion_ids.length, 0),
          }),
        });
        const share = words.lossType === 'dapo' ? loss : loss.div(batches);
        share.backward();
        total += await share.item();
        for (const [key, value] of Object.entries(await metrics()))
          figures[key] = (figures[key] ?? 0) + value / batches;
      }
      expect(Math.abs(total - want.loss)).toBeLessThan(1e-5);
      expect(Object.keys(figures).sort()).toEqual(Object.keys(want.metrics).sort());
      for (const [key, value] of Object.entries(want.metrics))
        expect(Math.abs(figures[key]! - value)).toBeLessThan(1e-4);
      optimizer.step();
      optimizer.zeroGrad();
    }
    await model.dispose();
  });

  test('without old log-probabilities ratios are 1; what is wrong is said', async () => {
    const model = await opened('grpo');
    const batch = {
      model,
      promptIds: [
        [1, 5],
        [1, 5],
      ],
      completionIds: [
        [7, 2],
        [9, 8, 2],
      ],
    };
    const advantages = groupAdvantages([1, 0], { numGenerations: 2 });
    const { loss, metrics } = policyLoss({ ...batch, advantages, lossType: 'grpo' });
    expect(await loss.item()).toBeCloseTo(0, 6);
    expect(await metrics()).toMatchObject({ 'clip_ratio/region_mean': 0, 'clip_ratio/low_min': 0 });
    const refused = (options: object, code: 'ERR_ARGUMENT' | 'ERR_DATA', text: RegExp): void =>
      void expectThrow(() => policyLoss({ ...batch, advantages, ...options }), code, text);
    refused({ beta: 0.1 }, 'ERR_ARGUMENT', /refLogProbs/);
    refused({ oldLogProbs: [[0], [0, 0, 0]] }, 'ERR_ARGUMENT', /oldLogProbs of completion 0 to be 2/);
    refused({ advantages: [1] }, 'ERR_ARGUMENT', /advantages to be 2/);
    refused({ completionIds: [[7], []] }, 'ERR_DATA', /at least one token/);
    refused({ lossType: 'ppo' }, 'ERR_ARGUMENT', /lossType/);
    refused({ epsilon: -1 }, 'ERR_ARGUMENT', /epsilon/);
    await model.dispose();
  });
});
