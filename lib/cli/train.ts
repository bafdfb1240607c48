import { join } from 'node:path';
import { loadDataset } from '../data/dataset';
import type { DataSource } from '../data/example';
import { measuringFile, splitFile, validFile } from '../data/folders';
import { SequencePlan } from '../data/sequence_plan';
import { InputFile } from '../formats/input';
import { readText } from '../formats/json';
import { adapterWeightsFile, weightsFile } from '../formats/model_files';
import { flagsOf, valuesOf } from '../options/option';
import { adapterOptions, datasetOptions, earlyStoppingOptions, trainerOptions } from '../options/table';
import { textsOf } from '../train/objectives/objectives';
import { OutputDirectory } from '../train/output';
import { objectiveSettings, runEnds, unknownEnd, type TrainerOptions } from '../train/options';
import { Trainer } from '../train/trainer';
import { dataColumns, countsOf, loadModel, modelFlags, note } from './common';
import { flagName } from './args';
import type { ProcessGroup } from '../distributed/process_group';
import { defineCommand, helpFlag, UsageError, type Console, type Flags, type Values } from './command';
import { deviceOfRank, inGroup, refuseRanks } from './distributed';
import { checkMemory } from './memory_fit';
import { flagsOfRun } from './resumed';
import { readRewards } from './rewards';
import { methodFlag, methodFlags, readStart } from './train_method';
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
  ...flagsOf(trainerOptions),
  rewards: {
    type: 'string',
    value: 'FILE',
    rare: true,
    help: 'grpo: a module (.mjs) that exports reward functions',
  },
  outDir: { ...outDir, default: 'lora-run' },
  report: { ...report, default: true },
  patience: earlyStoppingOptions.patience,
  config: { type: 'string', value: 'FILE', help: 'JSON with options by their names; flags come first' },
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
  if (values.resume !== true && !group?.rank) await new OutputDirectory(outDir).check();
  const files = await dataFiles(values);
  const columns = dataColumns(values.columns);
  for (const path of [files.data, files.evalData])
    if (path !== undefined) await (await InputFile.open(path)).close();
  const chatTemplate = values.chatTemplate === undefined ? undefined : await readText(values.chatTemplate);
  await checkMemory({ ...values, batchSize: texts }, started.memory, console);
  const device = group ? deviceOfRank(values.device, group) : values.device;
  const model = await loadModel({ ...values, device }, console);
  try {
    const { tokenizer } = model;
    const { signal } = console;
    const { allowSpecialTokens } = values;
    const adapter = await started.begin(model);
    const { maxTextLength } = new SequencePlan(adapter, model.config.maxPositionEmbeddings);
    const maxLength = Math.min(values.maxLength, maxTextLength);
    const { objective } = values;
    const how = { tokenizer, maxLength, chatTemplate, allowSpecialTokens, columns, signal };
    const load = (path: string) =>
      objective === 'sft'
        ? loadDataset(path, { ...how, trainOn })
        : loadDataset(path, { ...how, ...(trainOn && { trainOn }), objective });
    const data = await load(files.data);
    const evalData = files.evalData === undefined ? undefined : await load(files.evalData);
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

/** The files of the data: those of a folder are train, and what measures the run where there is one. */
async function dataFiles({
  data,
  evalData,
}: TrainValues): Promise<{ data: string; evalData?: string | undefined }> {
  return {
    data: await splitFile(data, undefined),
    evalData: evalData === undefined ? await validFile(data) : await measuringFile(evalData),
  };
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
  return {
    ...{ ...options, lossType, lossWeights },
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
