import { loadDataset } from '../data/dataset';
import { InputFile } from '../formats/input';
import type { Evaluation } from '../models/evaluate';
import { normalizeLoRAConfig } from '../peft/config';
import { optimizerNames } from '../train/optimizer';
import { OutputDirectory } from '../train/output';
import type { TrainerOptions } from '../train/options';
import { Trainer } from '../train/trainer';
import { countsOf, loadModel, modelFlags, note, targets, trainOnFlag } from './common';
import { defineCommand, helpFlag, UsageError, type Flags, type Values } from './command';
import { checkMemory } from './memory_fit';
import { JsonReport, TextReport } from './training_report';

export const trainFlags = {
  ...modelFlags,
  data: {
    type: 'string',
    value: 'FILE',
    required: true,
    help: 'JSONL (see the guide on data) or text; or .gz',
  },
  evalData: { type: 'string', value: 'FILE', help: 'measured at the end (and with --eval-every)' },
  outDir: { type: 'string', value: 'DIR', default: 'lora-run', help: 'where the adapter goes' },
  r: { type: 'integer', minimum: 1, default: 16, help: 'rank' },
  loraAlpha: { type: 'number', help: 'scale is alpha / r', defaultText: '2·r' },
  loraDropout: { type: 'number', value: 'P', minimum: 0, default: 0, help: 'dropout on the LoRA path' },
  targetModules: {
    type: 'string',
    value: 'LIST',
    default: 'all-linear',
    help: 'names with commas, or all-linear',
  },
  maxSteps: { type: 'integer', minimum: 1, help: 'optimizer steps, instead of --epochs' },
  epochs: { type: 'integer', minimum: 1, help: 'passes over the data', defaultText: '1' },
  maxTokens: { type: 'integer', minimum: 1, help: 'tokens to train on, instead of --epochs' },
  batchSize: { type: 'integer', minimum: 1, default: 4, help: 'examples per batch' },
  gradientAccumulationSteps: { type: 'integer', minimum: 1, default: 1, help: 'batches per step' },
  maxLength: { type: 'integer', minimum: 2, default: 512, help: 'tokens per example' },
  packing: { type: 'boolean', help: 'several examples in a row of --max-length tokens' },
  groupByLength: { type: 'boolean', help: 'batches of examples of similar length: less padding' },
  trainOn: trainOnFlag('completion'),
  lr: { type: 'number', value: 'RATE', minimum: 0, default: 2e-4, help: 'learning rate' },
  schedule: {
    type: 'string',
    value: 'NAME',
    choices: ['constant', 'linear', 'cosine', 'wsd'],
    default: 'cosine',
    help: 'of the rate',
  },
  warmupSteps: {
    type: 'number',
    value: 'N',
    minimum: 0,
    default: 0,
    help: 'rising steps, or below 1 a share',
  },
  decaySteps: {
    type: 'number',
    value: 'N',
    minimum: 0,
    help: 'falling steps of wsd, or below 1 a share',
    defaultText: '0.1',
  },
  weightDecay: { type: 'number', value: 'W', minimum: 0, default: 0, help: 'decay of the weights' },
  optimizer: {
    type: 'string',
    value: 'NAME',
    choices: optimizerNames,
    default: 'adamw',
    help: 'optimizer',
  },
  loraPlusRatio: {
    type: 'number',
    value: 'RATIO',
    minimum: 0,
    help: 'LoRA+: up learns at RATIO times --lr',
  },
  evalEvery: { type: 'integer', minimum: 1, help: 'steps between evaluations' },
  saveEvery: { type: 'integer', minimum: 1, help: 'steps between checkpoints' },
  keepBest: { type: 'boolean', help: 'end with the adapter of the best evaluation' },
  patience: { type: 'integer', minimum: 1, help: 'stop after so many evaluations without a better one' },
  gradientCheckpointing: { type: 'boolean', help: 'less memory, more time, the same result' },
  neftuneNoiseAlpha: {
    type: 'number',
    value: 'A',
    minimum: 0,
    default: 0,
    help: 'noise on the embeddings',
  },
  saveLimit: { type: 'integer', minimum: 1, help: 'checkpoints to keep', defaultText: 'all' },
  seed: { type: 'integer', minimum: 0, default: 0, help: 'of the adapter and of the order of data' },
  report: { type: 'boolean', help: 'write report.html into --out-dir (the default)' },
  noReport: { type: 'boolean', help: 'write no report.html' },
  resume: { type: 'boolean', help: 'go on from the newest checkpoint in --out-dir' },
  json: { type: 'boolean', help: 'one JSON object per event' },
  help: helpFlag,
} as const satisfies Flags;

type TrainValues = Values<typeof trainFlags>;

export const train = defineCommand({
  summary: 'Fine-tunes a language model with LoRA and writes a PEFT adapter.',
  usage: '--model DIR --data FILE [flags]',
  flags: trainFlags,
  json:
    'a line per event: { type: "start" | "step" | "eval" | "checkpoint" | "end", … }, as the events of Trainer; ' +
    'the evaluation of the final adapter follows "end" where the run did not make it',

  async run(values, console) {
    checkFlags(values);
    const { r, loraAlpha, loraDropout, seed, outDir } = values;
    const config = { r, loraAlpha, loraDropout, targetModules: targets(values.targetModules) };
    // What can be wrong is said before the model is loaded.
    normalizeLoRAConfig(config);
    if (values.resume !== true) await new OutputDirectory(outDir).check();
    for (const path of [values.data, values.evalData])
      if (path !== undefined) await (await InputFile.open(path)).close();
    await checkMemory(values, console);
    const model = await loadModel(values, console);
    try {
      const { maxLength, trainOn } = values;
      const load = (path: string) =>
        loadDataset(path, { tokenizer: model.tokenizer, maxLength, trainOn, signal: console.signal });
      const data = await load(values.data);
      const evalData = values.evalData === undefined ? undefined : await load(values.evalData);
      const adapter = model.addAdapter(config, { seed });
      note(console, countsOf(data));
      const trainer = new Trainer({ ...trainerOptions(values), model, data, evalData });
      const report = values.json
        ? new JsonReport(console)
        : new TextReport(console, model.parameterCount, outDir);
      const { batchSize } = values;
      const evaluate = async (): Promise<Evaluation | undefined> =>
        evalData && model.evaluate(evalData, { adapter, batchSize, signal: console.signal });
      await follow(trainer, report, evaluate, console.signal);
    } finally {
      await model.dispose();
    }
  },
});

/** Throws UsageError for flags that do not go together. */
function checkFlags(values: TrainValues): void {
  const ends = [values.maxSteps, values.epochs, values.maxTokens].filter((end) => end !== undefined);
  if (ends.length > 1) throw new UsageError('train takes one of --max-steps, --epochs and --max-tokens');
  if (values.evalEvery !== undefined && values.evalData === undefined)
    throw new UsageError('train needs --eval-data FILE, since --eval-every is given');
  if (values.evalEvery === undefined && (values.keepBest === true || values.patience !== undefined))
    throw new UsageError(
      `train needs --eval-every N, since ${values.keepBest ? '--keep-best' : '--patience'} is given`,
    );
  for (const flag of ['warmupSteps', 'decaySteps'] as const)
    if (!Number.isInteger(values[flag] ?? 0) && values[flag]! > 1)
      throw new UsageError(
        `train needs --${flag === 'warmupSteps' ? 'warmup' : 'decay'}-steps as a whole number or below 1`,
      );
  if (values.decaySteps !== undefined && values.schedule !== 'wsd')
    throw new UsageError('train needs --schedule wsd, since --decay-steps is given');
  if (values.packing === true && values.groupByLength === true)
    throw new UsageError('train takes --packing or --group-by-length, not both');
  if (values.loraPlusRatio === 0) throw new UsageError('train needs --lora-plus-ratio above 0');
  if (values.report === true && values.noReport === true)
    throw new UsageError('train takes --report or --no-report, not both');
}

/** The options of a Trainer that flags give. */
function trainerOptions(values: TrainValues): Omit<TrainerOptions, 'model' | 'data'> {
  return {
    outDir: values.outDir,
    maxSteps: values.maxSteps,
    epochs: values.epochs,
    batchSize: values.batchSize,
    gradientAccumulationSteps: values.gradientAccumulationSteps,
    lr: values.lr,
    schedule: values.schedule,
    warmupSteps: values.warmupSteps,
    decaySteps: values.decaySteps,
    weightDecay: values.weightDecay,
    optimizer: values.optimizer,
    loraPlusRatio: values.loraPlusRatio,
    seed: values.seed,
    evalEvery: values.evalEvery,
    saveEvery: values.saveEvery,
    saveLimit: values.saveLimit,
    packing: values.packing,
    groupByLength: values.groupByLength,
    maxTokens: values.maxTokens,
    keepBest: values.keepBest,
    earlyStopping: values.patience === undefined ? undefined : { patience: values.patience },
    neftuneNoiseAlpha: values.neftuneNoiseAlpha,
    gradientCheckpointing: values.gradientCheckpointing,
    report: values.noReport !== true,
    resume: values.resume,
  };
}

/** Shows the events of a run, and at its end the evaluation of the final adapter, unless the run has made it. */
async function follow(
  trainer: Trainer,
  report: TextReport | JsonReport,
  evaluate: () => Promise<Evaluation | undefined>,
  signal: AbortSignal,
): Promise<void> {
  /** The step of the final adapter. */
  let final: number | undefined;
  const evaluated = new Set<number>();
  try {
    for await (const event of trainer.run({ signal })) {
      report.show(event);
      if (event.type === 'eval') evaluated.add(event.step);
      else if (event.type === 'end') final = event.adapterStep;
    }
    if (final === undefined || evaluated.has(final)) return;
    const evaluation = await evaluate();
    if (evaluation === undefined) return;
    const event = { type: 'eval' as const, step: final, ...evaluation };
    await trainer.addEvaluation(event);
    report.show(event);
  } catch (error) {
    if (final === undefined) report.cutOff(trainer.reportPath);
    throw error;
  } finally {
    report.close();
  }
}
