import { join } from 'node:path';
import { loadFiles, type LoadedDataset } from '../data/dataset';
import type { DataSource } from '../data/example';
import { dataFiles, measuringFiles, validFiles, type DataFiles } from '../data/folders';
import { checkedWeights, mixDatasets, type Mix } from '../data/mix';
import { SequencePlan } from '../data/sequence_plan';
import { readText } from '../formats/json';
import { adapterWeightsFile, weightsFile } from '../formats/model_files';
import { flagsOf, valuesOf } from '../options/option';
import { dataRowsOptions } from '../options/data';
import { earlyStoppingOptions } from '../options/early_stopping';
import { adapterOptions, datasetOptions, trainerOptions } from '../options/table';
import type { HeadInput } from '../peft/head';
import { textsOf } from '../train/objectives/objectives';
import { OutputDirectory } from '../train/output';
import { objectiveSettings, runEnds, unknownEnd, type TrainerOptions } from '../train/options';
import { checkRuled } from '../train/rates';
import { Trainer } from '../train/trainer';
import { checkFiles, dataColumns, countsOf, loadModel, modelFlags, note } from './common';
import { flagName } from './args';
import type { ProcessGroup } from '../distributed/process_group';
import {
  configFlag,
  defineCommand,
  helpFlag,
  UsageError,
  type Console,
  type Flags,
  type Values,
} from './command';
import { deviceOfRank, inGroup, refuseRanks } from './distributed';
import { dataHubOptions } from './hub_report';
import { headFlags, headOfData, headOfFlags } from './heads';
import { checkMemory, readModelConfig } from './memory_fit';
import { flagsOfRun } from './resumed';
import { readRewards } from './rewards';
import { methodFlag, methodFlags, readStart, type TrainStart } from './train_method';
import { JsonReport, TextReport } from './training_report';

const { data, evalData, outDir, report } = trainerOptions;

export const trainFlags = {
  ...modelFlags,
  dtype: { ...modelFlags.dtype, choices: ['auto', 'f32', 'bf16'] },
  ...{ data, evalData, outDir },
  method: methodFlag,
  adapter: {
    type: 'string',
    value: 'DIR',
    help: 'train this PEFT adapter on, as it was set up',
    defaultText: 'a new one',
  },
  ...adapterOptions,
  ...methodFlags,
  ...datasetOptions,
  ...dataRowsOptions,
  evalSplit: {
    type: 'string',
    value: 'NAME',
    rare: true,
    help: 'part of --eval-data, or else of --data, that is measured',
    defaultText: 'valid',
  },
  mix: {
    type: 'string',
    value: 'W:W',
    rare: true,
    help: 'weights of several --data, such as 7:2:1',
    defaultText: 'all rows of all',
  },
  ...flagsOf(trainerOptions),
  ...headFlags,
  data: { ...data, repeat: true },
  rewards: {
    type: 'string',
    value: 'FILE',
    rare: true,
    help: 'grpo: a module (.mjs) that exports reward functions',
  },
  outDir: { ...outDir, default: 'lora-run' },
  report: { ...report, default: true },
  patience: earlyStoppingOptions.patience,
  config: configFlag,
  json: { type: 'boolean', help: 'one JSON object per event' },
  help: helpFlag,
} as const satisfies Flags;

type TrainValues = Values<typeof trainFlags>;

export const train = defineCommand({
  summary: 'Fine-tunes a language model and writes a PEFT adapter, or with --method full a model.',
  usage: '--model DIR --data FILE [flags]',
  flags: trainFlags,
  exclusive: [
    runEnds,
    ['packing', 'groupByLength'],
    ...['method', ...Object.keys({ ...adapterOptions, ...methodFlags })].map((option) => ['adapter', option]),
  ],
  json:
    'a line per event of the Trainer: { type: "start" | "step" | "eval" | "checkpoint" | "end", … }; ' +
    'the evaluation of the final adapter may follow "end"',

  async run(values, console) {
    if (values.distributed !== undefined)
      return inGroup(console, (group, own) => trainOnData(values, own, group));
    refuseRanks('train', 'give --distributed mpi');
    return trainOnData(values, console);
  },
});

/** Trains, with the other processes of a group where there is one. */
async function trainOnData(values: TrainValues, console: Console, group?: ProcessGroup): Promise<void> {
  const { outDir, trainOn } = values;
  // What can be wrong is said before the model is loaded.
  checkSchedule(values);
  const rewards = values.rewards === undefined ? undefined : await readRewards(values.rewards);
  const options = { ...optionsOf(values), rewards };
  const texts = values.batchSize * textsOf(objectiveSettings(options));
  const started = await readStart(values, console);
  if (values.lr === 'auto') checkRuled('train', options, started.method);
  if (values.resume !== true && !group?.rank) await new OutputDirectory(outDir).check();
  if (values.mix !== undefined) checkedWeights('--mix', values.mix, values.data.length, 'train');
  const files = await filesOf(values, console);
  const columns = dataColumns(values.columns);
  await checkFiles(...files.data, files.evalData);
  const chatTemplate = values.chatTemplate === undefined ? undefined : await readText(values.chatTemplate);
  const head = await headOf(values, files, started, console);
  await checkMemory({ ...values, batchSize: texts }, started.memory, console, head);
  const device = group ? deviceOfRank(values.device, group) : values.device;
  const model = await loadModel({ ...values, device }, console, head);
  try {
    const { tokenizer } = model;
    const { signal } = console;
    const { allowSpecialTokens } = values;
    const adapter = await started.begin(model);
    const { maxTextLength } = new SequencePlan(adapter, model.config.maxPositionEmbeddings);
    const maxLength = Math.min(values.maxLength, maxTextLength);
    const { objective } = values;
    const how = { tokenizer, maxLength, chatTemplate, allowSpecialTokens, columns, signal };
    const load = (found: DataFiles, rows: object = {}): Promise<LoadedDataset> =>
      loadFiles(found, { ...how, ...rows, ...(trainOn && { trainOn }), objective });
    const { maxRows, deduplicate, mix: weights, seed } = values;
    const sets: LoadedDataset[] = [];
    for (const found of files.data) sets.push(await load(found, { maxRows, deduplicate }));
    const data = sets.length === 1 ? sets[0]! : mixDatasets(sets, { weights, seed });
    const evalData = files.evalData === undefined ? undefined : await load(files.evalData);
    if ('sources' in data) for (const line of mixLines(data)) note(console, line);
    note(console, countsOf(data));
    const trainer = new Trainer({ ...options, model, data, evalData, distributed: group });
    trainer.remember(flagsOfRun({ flags: trainFlags }, values));
    const report = values.json
      ? new JsonReport(console)
      : new TextReport(console, {
          frozen: model.parameterCount - (adapter === null ? model.numTrainable : 0),
          file: join(outDir, adapter === null ? weightsFile : adapterWeightsFile),
        });
    await follow(trainer, report, group?.rank ? undefined : evalData, signal);
  } finally {
    await model.dispose();
  }
}

function checkSchedule(values: TrainValues): void {
  const end = unknownEnd(values);
  if (end !== undefined && values.schedule !== 'constant')
    throw new UsageError(
      `train needs --max-steps for --schedule ${values.schedule}, since --${flagName(end)} does not tell how many steps there are`,
    );
}

/** The head of classes that the model gets; undefined: what its files end in. */
async function headOf(
  values: TrainValues,
  { data }: { data: readonly DataFiles[] },
  { head }: TrainStart,
  console: Console,
): Promise<HeadInput | undefined> {
  if (values.objective !== 'classify') {
    if (values.labels ?? values.problemType)
      throw new UsageError('train takes --labels and --problem-type with --objective classify');
    return undefined;
  }
  const given = headOfFlags(values) ?? head;
  if (given) return given;
  const { problemType } = values;
  if ((await readModelConfig(values, console)).head) return problemType && { type: 'classify', problemType };
  return headOfData(data, values, { columns: dataColumns(values.columns), signal: console.signal });
}

/** The files of the data: those of a folder are train, and what measures the run where there is some. */
async function filesOf(
  values: TrainValues,
  console: Console,
): Promise<{ data: DataFiles[]; evalData?: DataFiles | undefined }> {
  const { data, evalData, split, evalSplit } = values;
  const hub = dataHubOptions(console, values);
  const found: DataFiles[] = [];
  for (const source of data) found.push(await dataFiles(source, { ...hub, split }));
  const [first, ...others] = data;
  const measured = evalData ?? (evalSplit === undefined ? undefined : first);
  if (measured !== undefined)
    return { data: found, evalData: await measuringFiles(measured, { ...hub, split: evalSplit }) };
  return { data: found, evalData: others.length === 0 ? await validFiles(first!) : undefined };
}

/** What a mix is made of, a line for each data set. */
function mixLines({ sources, length }: Mix & { length: number }): string[] {
  return sources.map(({ path, rows, of, tokens }) => {
    const share = (100 * rows) / length;
    return `${share.toFixed(1)}% ${path}: ${rows === of ? `all ${of}` : `${rows} of ${of}`} rows, ${tokens} tokens count`;
  });
}

/** The options of a Trainer that flags give. */
function optionsOf(values: TrainValues): Omit<TrainerOptions, 'model' | 'data' | 'evalData' | 'distributed'> {
  const {
    data: _,
    evalData: __,
    rewards: ___,
    distributed: ____,
    ...options
  } = valuesOf(trainerOptions, values);
  const { patience } = values;
  // The Trainer checks its words.
  const lossType = options.lossType as TrainerOptions['lossType'];
  const lossWeights = options.lossWeights as TrainerOptions['lossWeights'];
  const classWeights = options.classWeights as TrainerOptions['classWeights'];
  const matryoshkaDims = options.matryoshkaDims as TrainerOptions['matryoshkaDims'];
  const matryoshkaWeights = options.matryoshkaWeights as TrainerOptions['matryoshkaWeights'];
  const log = (options.log === undefined ? undefined : [options.log].flat()) as TrainerOptions['log'];
  return {
    ...{ ...options, lossType, lossWeights, classWeights, matryoshkaDims, matryoshkaWeights, log },
    earlyStopping: patience === undefined ? undefined : { patience },
  };
}

/** Shows the events of a run, and at its end the evaluation of the final adapter, unless the run has made it. */
async function follow(
  trainer: Trainer,
  report: TextReport | JsonReport,
  evalData: DataSource<unknown> | undefined,
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
    if (evalData !== undefined) report.show(await trainer.evaluate(final, evalData, signal));
  } catch (error) {
    if (final === undefined) report.cutOff(trainer.reportPath);
    throw error;
  } finally {
    report.close();
  }
}
