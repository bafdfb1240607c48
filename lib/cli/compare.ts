import { compareMethods } from '../compare/compare';
import type { MethodName } from '../compare/methods';
import type { ChosenRate, CompareEvent, Comparison } from '../compare/results';
import { columnsOf, spreadText } from '../compare/table';
import { dataFiles, measuringFiles } from '../data/folders';
import type { RunHandle } from '../handle';
import { readText } from '../formats/json';
import { bestDevice } from '../native/device';
import { flagsOf, valuesOf } from '../options/option';
import { compareOptions } from '../options/compare';
import { datasetOptions } from '../options/table';
import { flagName } from './args';
import { defineCommand, helpFlag, UsageError, type Console, type Flags, type Values } from './command';
import { checkFiles, dataColumns, modelFlags, note, printJson } from './common';
import { refuseRanks } from './distributed';
import { dataHubOptions, hubOptions } from './hub_report';
import { printable } from './printable';
import { StatusLine } from './status_line';
import { textTable } from './text_table';

/** Flags of both commands that compare. */
export const comparingFlags = {
  budgetSteps: { type: 'integer', minimum: 1, help: 'optimizer steps of each variant', defaultText: '200' },
  budgetMinutes: { type: 'number', above: 0, help: 'minutes of training of each variant, instead' },
  ...datasetOptions,
  json: { type: 'boolean', help: 'one JSON object per event' },
  help: helpFlag,
} as const satisfies Flags;

const flags = {
  ...modelFlags,
  ...flagsOf(compareOptions),
  outDir: { ...compareOptions.outDir, default: 'comparison' },
  ...comparingFlags,
} as const satisfies Flags;

type CompareValues = Values<typeof flags>;

export const compare = defineCommand({
  summary: 'Trains a model by several methods, ranks and targets, and compares cost and quality.',
  usage: '--model DIR --data FILE --eval-data FILE [flags]',
  flags,
  exclusive: [['budgetSteps', 'budgetMinutes']],
  json:
    'a line per event: { type: "start" | "trial" | "rate" | "step" | "variant" | "end", … }, as the events of compareMethods; ' +
    '"end" has the comparison: { rows, results, rates, base, question, report, file }',

  async run(values, console) {
    refuseRanks('compare', 'start it without mpirun');
    const { methods, stop, learningRates } = values;
    const options = {
      ...valuesOf(compareOptions, values),
      ...(await sharedOptions(values, console)),
      methods: listOf(methods) as MethodName[] | undefined,
      learningRates: numbersOf<never>('learningRates', learningRates),
      stop: stop.length > 0 ? stop : undefined,
    };
    await follow(() => compareMethods(options), values, console);
  },
});

type SharedValues = Omit<CompareValues, 'methods' | 'maxNewTokens' | 'stop'>;

/** Shows the events of a comparison. */
export async function follow(
  begin: () => RunHandle<CompareEvent, Comparison>,
  values: SharedValues,
  console: Console,
): Promise<void> {
  // What can be wrong is said before the model is loaded.
  const hub = dataHubOptions(console, values);
  await checkFiles(await dataFiles(values.data, hub), await measuringFiles(values.evalData, hub));
  const status = new StatusLine(console);
  try {
    for await (const event of begin()) {
      if (values.json) printJson(console, event);
      else show(event, console, status);
    }
  } finally {
    status.end();
  }
}

/** The numbers of a flag, or beside them `word`. */
export function numbersOf<Word extends string = never>(
  name: 'ranks' | 'learningRates',
  value: string | readonly string[] | undefined,
  word?: Word,
): (number | Word)[] | undefined {
  const words = listOf(value);
  const found = words?.map((one): number | Word =>
    one === word ? word : one === '' ? Number.NaN : Number(one),
  );
  if (found?.some(Number.isNaN))
    throw new UsageError(
      `expected --${flagName(name)} to be numbers${word === undefined ? '' : `, or ${word},`} with commas but received "${words!.join(',')}"`,
    );
  return found;
}

/** The options that flags give, beside those of one command. */
export async function sharedOptions(values: SharedValues, console: Console) {
  const { model, data, evalData, outDir, budgetSteps: steps = 200, budgetMinutes: minutes } = values;
  const { device, dtype, quantize, targets, chatTemplate } = values;
  return {
    ...{ model, data, evalData, outDir, dtype, quantize },
    ...hubOptions(console, values),
    device: device === 'auto' ? bestDevice() : device,
    budget: minutes === undefined ? { steps } : { minutes },
    ranks: numbersOf<never>('ranks', values.ranks),
    alphas: listOf(values.alphas)?.map((word) => (word.endsWith('r') ? word : Number(word))),
    targets: listOf(targets),
    ...{ maxLength: values.maxLength, trainOn: values.trainOn, columns: dataColumns(values.columns) },
    allowSpecialTokens: values.allowSpecialTokens,
    chatTemplate: chatTemplate === undefined ? undefined : await readText(chatTemplate),
    signal: console.signal,
  };
}

const listOf = (value: string | readonly string[] | undefined): string[] | undefined =>
  value === undefined ? undefined : [value].flat();

const loss = (value: number | null | undefined): string => value?.toFixed(4) ?? 'no number';

function rateText({ method, lr, atEdge, trials }: ChosenRate): string {
  const edge = atEdge ? ', at the edge of those tried: others may be better (--learning-rates)' : '';
  return `learning rate of ${method}: ${lr}${trials.length === 0 ? '' : `, of ${trials.map((trial) => trial.lr).join(', ')}${edge}`}`;
}

/** An event for people. */
function show(event: CompareEvent, console: Console, status: StatusLine): void {
  if (event.type === 'step') {
    const of = event.maxSteps === undefined ? '' : `/${event.maxSteps}`;
    return status.show(`${event.id}  step ${event.step}${of}  loss ${event.loss.toFixed(4)}`);
  }
  status.end();
  if (event.type === 'start')
    note(
      console,
      `${event.variants} variants, ${event.done} of them measured before${event.trials > 0 ? `; ${event.trials} learning rates to try` : ''}`,
    );
  else if (event.type === 'trial')
    note(console, `${event.method} with learning rate ${event.lr}: held-out loss ${loss(event.loss)}`);
  else if (event.type === 'rate') note(console, rateText(event));
  else if (event.type === 'variant') {
    const { id, loss: own, failed } = event.result;
    note(console, `${event.done}/${event.variants} ${id}: ${failed ?? `held-out loss ${loss(own)}`}`);
  } else showTable(event.comparison, console);
}

function showTable({ rows, base, best, report }: Comparison, console: Console): void {
  const columns = columnsOf(rows).map(({ head, cell }) => [head, ...rows.map(cell)]);
  for (const line of textTable(columns)) console.stdout.write(`${printable(line)}\n`);
  note(console, `the base alone: held-out loss ${loss(base.loss)}`);
  const row = rows.find(({ id }) => id === best);
  if (row?.loss)
    note(console, `best: ${row.id}, held-out loss ${spreadText(row, row.loss, (value) => value.toFixed(4))}`);
  note(console, `report: ${report}`);
}
