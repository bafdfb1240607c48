/** What a run was, in rows of a name and a value: the model card and the report show them. */
import { kindOf } from '../models/config/model_config';
import { baseModelId, nameOfFolder } from '../hub/cache';
import { basename } from 'node:path';
import type { DataSource } from '../data/example';
import type { CausalLM } from '../models/causal_lm';
import type { EvalEvent } from './events';
import type { ResolvedOptions } from './options';
import type { Metrics } from './metrics';
import type { Objective } from './objectives/objective';
import type { RunRecord } from './record';
import type { TrainingSubject } from './subject';

/** A name and a value, which may come from strangers and is not escaped. */
export type Fact = readonly [name: string, value: string];

export interface RunFacts {
  readonly model: CausalLM;
  readonly subject: TrainingSubject;
  readonly objective: Objective;
  readonly data: DataSource<unknown>;
  readonly options: ResolvedOptions;
  readonly record: RunRecord;
}

const wordings = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
/** 1,234,567. */
export const grouped = (value: number): string => wordings.format(value);

/** Of the base in `directory`. */
export const baseModelName = (directory: string): string => baseModelId(directory) ?? nameOfFolder(directory);

const lastPart = (path: string): string => path.slice(path.lastIndexOf('.') + 1);

/** What is trained, and on what. */
export function subjectFacts({ model, subject, data, record }: RunFacts): Fact[] {
  const { path, length, tokens } = data as Partial<Record<'path' | 'length' | 'tokens', unknown>>;
  const examples = typeof length === 'number' ? `${grouped(length)} examples` : undefined;
  const counted = typeof tokens === 'number' ? `${grouped(tokens)} tokens that count` : undefined;
  const file = typeof path === 'string' ? basename(path) : undefined;
  const what = [file, examples, counted].filter((part) => part !== undefined).join(', ');
  const modules = [...new Set(subject.facts.modules.map(lastPart))].sort();
  const { parameterCount } = model;
  const frozen = parameterCount - (subject.adapter === null ? record.trainableParameters : 0);
  const share = (100 * record.trainableParameters) / (frozen + record.trainableParameters);
  return [
    ['Base model', baseModelName(model.directory)],
    ['Kind', `${kindOf(model.config)}, ${grouped(parameterCount)} parameters, ${model.dtype}`],
    ['Data', what || 'examples of a program, which did not say how many'],
    ['Trained', `${grouped(record.trainableParameters)} parameters (${share.toFixed(2)}%)`],
    ...(modules.length > 0 ? [['Layers', modules.join(', ')] as const] : []),
  ];
}

/** How it was trained. */
export function settingFacts({ subject, objective, options }: RunFacts): Fact[] {
  const { batchSize, batchesPerStep: batches, packing, groupByLength } = options;
  const { lr, schedule, warmupSteps, weightDecay, maxGradNorm, neftuneNoiseAlpha, seed } = options;
  const { optimizer, loraPlusRatio, lrReason } = options;
  return [
    ...objective.facts,
    ...subject.facts.settings,
    ['Learning rate', `${lr}, ${schedule}${warmupSteps > 0 ? ` after ${warmupSteps} steps of warm-up` : ''}`],
    ...(lrReason === undefined ? [] : [['Learning rate by', lrReason] as const]),
    ...(optimizer === 'adamw' ? [] : [['Optimizer', optimizer] as const]),
    ...(loraPlusRatio === undefined ? [] : [['LoRA+ ratio', String(loraPlusRatio)] as const]),
    [
      'Batch',
      `${batchSize} ${packing ? 'packed rows' : `examples${groupByLength ? ' of similar length' : ''}`}${batches > 1 ? `, ${batches} batches a step` : ''}`,
    ],
    ...(weightDecay > 0 ? [['Weight decay', String(weightDecay)] as const] : []),
    ['Clipped gradient norm', maxGradNorm === 0 ? 'none' : String(maxGradNorm)],
    ...(neftuneNoiseAlpha > 0 ? [['NEFTune noise', String(neftuneNoiseAlpha)] as const] : []),
    ...(options.gradientCheckpointing ? [['Gradient checkpointing', 'every block'] as const] : []),
    ['Seed', String(seed)],
  ];
}

/** The evaluation of the adapter that is there in the end; of one by an earlier process only the loss is known. */
export function evaluationOf({ kept, evaluations, lastEval }: RunRecord): AdapterEvaluation | undefined {
  return kept === undefined ? lastEval : (evaluations.findLast(({ step }) => step === kept.step) ?? kept);
}
type AdapterEvaluation = Pick<EvalEvent, 'step' | 'loss' | 'score' | 'metrics' | 'confusion'> &
  Partial<Pick<EvalEvent, 'tokens' | 'perplexity'>>;

const metricFacts = (when: string, of: { readonly metrics?: Metrics } | undefined): Fact[] =>
  Object.entries(of?.metrics ?? {}).map(([name, value]) => [`${when} ${name}`, value.toFixed(4)]);

/** How it ended, or where it stands. */
export function resultFacts({ record, objective, options }: RunFacts): Fact[] {
  const { lastStep, lastEval, resumedAt, tokens, ended, kept, best } = record;
  const step = lastStep?.step ?? resumedAt;
  const from = resumedAt > 0 ? ` (this run continued one of ${grouped(resumedAt)} steps)` : '';
  const evaluation = evaluationOf(record);
  const after = (at: AdapterEvaluation): string =>
    `${(at.score ?? at.loss).toFixed(4)} after step ${at.step}`;
  const compared = ({ score }: AdapterEvaluation): string => (score === undefined ? 'loss' : 'score');
  const details = ({ loss, tokens: counted }: AdapterEvaluation): string => {
    const parts = [
      ...(objective.isPerToken ? [`perplexity ${Math.exp(loss).toFixed(2)}`] : []),
      ...(counted === undefined ? [] : [`${grouped(counted)} tokens`]),
    ];
    return parts.length === 0 ? '' : ` (${parts.join(', ')})`;
  };
  const facts: (Fact | false | undefined)[] = [
    [
      'Steps',
      `${grouped(step)}${options.totalSteps === undefined ? '' : ` of ${grouped(options.totalSteps)}`}${from}`,
    ],
    ended !== undefined && ['Ended', ended],
    kept && ['Adapter', `that of step ${kept.step}, the best evaluation`],
    ['Tokens', `${grouped(tokens)}${resumedAt > 0 ? ' since it was continued' : ''}`],
    lastStep && ['Training loss', `${lastStep.loss.toFixed(4)} in step ${lastStep.step}`],
    ...metricFacts('Training', lastStep),
    evaluation && [`Evaluation ${compared(evaluation)}`, `${after(evaluation)}${details(evaluation)}`],
    ...metricFacts('Evaluation', evaluation),
    kept &&
      lastEval &&
      lastEval.step > kept.step && [`Last evaluation ${compared(lastEval)}`, after(lastEval)],
    !kept &&
      best &&
      options.keepBest && [
        `Best evaluation ${compared(best)}`,
        `${after(best)}, whose adapter is in checkpoint-${best.step}`,
      ],
  ];
  return facts.filter((fact) => fact !== undefined && fact !== false);
}
