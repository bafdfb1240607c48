/** The rows of model cards and reports, each with the record or the option that it depends on. */
import { resultFacts, settingFacts, subjectFacts, type RunFacts } from '../../lib/train/facts';
import { supervised } from '../../lib/train/objectives/supervised';
import type { Objective } from '../../lib/train/objectives/objective';
import { RunRecord } from '../../lib/train/record';
import { bottleneck } from '../../lib/peft/bottleneck';
import { ia3 } from '../../lib/peft/ia3';
import { textBlock } from '../../lib/train/report/document';

const evaluation = { type: 'eval', step: 20, loss: 1, tokens: 1234 };
function results(changes: object, options: object = {}, objective = supervised): Record<string, string> {
  const record = Object.assign(new RunRecord(), { tokens: 5000 }, changes);
  return Object.fromEntries(resultFacts({ record, objective, options } as unknown as RunFacts));
}

test.each<[what: string, rows: Record<string, string>, expected: Record<string, string>]>([
  ['of a run that has not begun', results({}), { Steps: '0', Tokens: '5,000' }],
  [
    'of one that ended early',
    results({ lastStep: { step: 1200, loss: 0.5 }, ended: 'stopped' }, { totalSteps: 3000 }),
    { Steps: '1,200 of 3,000', Ended: 'stopped', Tokens: '5,000', 'Training loss': '0.5000 in step 1200' },
  ],
  [
    'of one that goes on with another',
    results({ resumedAt: 1000 }),
    {
      Steps: '1,000 (this run continued one of 1,000 steps)',
      Tokens: '5,000 since it was continued',
    },
  ],
  [
    'with an evaluation',
    results({ lastEval: evaluation }),
    {
      Steps: '0',
      Tokens: '5,000',
      'Evaluation loss': '1.0000 after step 20 (perplexity 2.72, 1,234 tokens)',
    },
  ],
  [
    'whose adapter is that of an earlier step',
    results({
      kept: { step: 10, loss: 0.5 },
      lastEval: evaluation,
      evaluations: [{ type: 'eval', step: 10, loss: 0.5, tokens: 99 }, evaluation],
    }),
    {
      Steps: '0',
      Adapter: 'that of step 10, the best evaluation',
      Tokens: '5,000',
      'Evaluation loss': '0.5000 after step 10 (perplexity 1.65, 99 tokens)',
      'Last evaluation loss': '1.0000 after step 20',
    },
  ],
  [
    'whose best evaluation was of an earlier process',
    results({ kept: { step: 10, loss: 0.5 } }),
    {
      Steps: '0',
      Adapter: 'that of step 10, the best evaluation',
      Tokens: '5,000',
      'Evaluation loss': '0.5000 after step 10 (perplexity 1.65)',
    },
  ],
  [
    'whose best adapter lies in a checkpoint',
    results({ best: { step: 10, loss: 0.5 } }, { keepBest: true }),
    {
      Steps: '0',
      Tokens: '5,000',
      'Best evaluation loss': '0.5000 after step 10, whose adapter is in checkpoint-10',
    },
  ],
  ['that does not keep it', results({ best: { step: 10, loss: 0.5 } }), { Steps: '0', Tokens: '5,000' }],
])('results %s', (_, rows, expected) => expect(rows).toEqual(expected));

test('results of an objective have its figures, and its score', () => {
  const objective = { isPerToken: false } as Objective;
  const metrics = { 'rewards/margins': 0.25 };
  const rows = results(
    {
      lastStep: { step: 3, loss: 0.5, metrics },
      lastEval: { ...evaluation, loss: 0.5, score: 0.75, metrics: { kl: 2 } },
      best: { step: 10, loss: 0.5, score: 0.9 },
    },
    { keepBest: true },
    objective,
  );
  expect(rows).toMatchObject({
    'Training loss': '0.5000 in step 3',
    'Training rewards/margins': '0.2500',
    'Evaluation score': '0.7500 after step 20 (1,234 tokens)',
    'Evaluation kl': '2.0000',
    'Best evaluation score': '0.9000 after step 10, whose adapter is in checkpoint-10',
  });
});

const plain = {
  lr: 0.001,
  schedule: 'linear',
  warmupSteps: 0,
  weightDecay: 0,
  maxGradNorm: 1,
  neftuneNoiseAlpha: 0,
  seed: 7,
  optimizer: 'adamw',
  batchSize: 4,
  batchesPerStep: 1,
};
const settings = (options: object): Record<string, string> =>
  Object.fromEntries(
    settingFacts({
      objective: supervised,
      subject: { facts: { settings: [['Rank', '8']] } },
      options: { ...plain, ...options },
    } as never),
  );
const rows = {
  Rank: '8',
  'Learning rate': '0.001, linear',
  Batch: '4 examples',
  'Clipped gradient norm': '1',
  Seed: '7',
};

test.each<[options: object, expected: Record<string, string>]>([
  [{}, {}],
  [{ warmupSteps: 5 }, { 'Learning rate': '0.001, linear after 5 steps of warm-up' }],
  [{ optimizer: 'lion' }, { Optimizer: 'lion' }],
  [{ loraPlusRatio: 16 }, { 'LoRA+ ratio': '16' }],
  [{ packing: true, batchesPerStep: 2 }, { Batch: '4 packed rows, 2 batches a step' }],
  [{ groupByLength: true }, { Batch: '4 examples of similar length' }],
  [{ weightDecay: 0.01 }, { 'Weight decay': '0.01' }],
  [{ maxGradNorm: 0 }, { 'Clipped gradient norm': 'none' }],
  [{ neftuneNoiseAlpha: 5 }, { 'NEFTune noise': '5' }],
  [{ gradientCheckpointing: true }, { 'Gradient checkpointing': 'every block' }],
])('settings of %j', (options, expected) => expect(settings(options)).toEqual({ ...rows, ...expected }));

test.each<[data: object, expected: string]>([
  [{}, 'examples of a program, which did not say how many'],
  [{ length: 1200 }, '1,200 examples'],
  [
    { path: '/home/a/rows.jsonl', length: 3, tokens: 4000 },
    'rows.jsonl, 3 examples, 4,000 tokens that count',
  ],
])('data %j', (data, expected) => {
  const of = (adapter: object | null, modules: string[]): Record<string, string> =>
    Object.fromEntries(
      subjectFacts({
        model: {
          directory: '/models/org',
          config: { modelType: 'llama' },
          parameterCount: 900,
          dtype: 'f32',
        },
        subject: { adapter, facts: { modules } },
        data,
        record: { trainableParameters: 100 },
      } as never),
    );
  const common = { 'Base model': 'org', Kind: 'llama, 900 parameters, f32', Data: expected };
  expect(of({}, ['layers.1.k_proj', 'layers.0.q_proj', 'layers.0.k_proj'])).toEqual({
    ...common,
    Trained: '100 parameters (10.00%)', // beside the model's
    Layers: 'k_proj, q_proj',
  });
  expect(of(null, [])).toEqual({ ...common, Trained: '100 parameters (11.11%)' }); // of the model's
});

test('a bottleneck says its dropout where it has one', () => {
  const config = { placement: 'houlsby', bottleneckSize: 8, activation: 'relu', dropout: 0 } as const;
  const rows = { Method: 'bottleneck adapters, houlsby', 'Bottleneck size': '8', Activation: 'relu' };
  const of = (dropout: number): unknown => Object.fromEntries(bottleneck.facts({ ...config, dropout }));
  expect(of(0)).toEqual(rows);
  expect(of(0.1)).toEqual({ ...rows, Dropout: '0.1' });
});

test('IA³ says of which layers it scales the input, and where it is none', () => {
  const of = (feedforwardModules: string[]): unknown =>
    Object.fromEntries(ia3.facts({ targetModules: ['k_proj', 'v_proj'], feedforwardModules } as never));
  const rows = { Method: 'IA³', 'Scaled layers': 'k_proj, v_proj' };
  expect(of(['v_proj'])).toEqual({ ...rows, 'of these at their input': 'v_proj' });
  expect(of([])).toEqual({ ...rows, 'of these at their input': 'none' });
});

test.each([
  [2000, ''],
  [2001, '…'],
])('of a text of %i letters a report shows 2,000, and says where it is cut', (length, end) => {
  const shown = `${'x'.repeat(2000)}${end}`;
  expect(textBlock('Prompt', 'x'.repeat(length))).toBe(`<h3>Prompt</h3>\n<pre>${shown}</pre>`);
});
