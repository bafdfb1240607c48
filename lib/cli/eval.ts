import { measuringFiles } from '../data/folders';
import { loraError } from '../errors';
import { writeFileAtomic } from '../formats/atomic';
import { readJson } from '../formats/json';
import { schemaCheck } from '../grammar/schema_check';
import type { JsonSchema } from '../grammar/json_schema';
import type { TaskEvaluation, TaskProgress, TaskResult, TaskScores } from '../tasks/options';
import { dataRowsOptions } from '../options/data';
import { datasetOptions } from '../options/table';
import { adaptersFlag, baseName, loadAdapters, readAdapters } from './adapters';
import { defineCommand, helpFlag, UsageError } from './command';
import { checkFiles, generatingModelFlags, loadModel, note, printJson } from './common';
import { retrievalReport, retrievalTable } from './eval_retrieval';
import { dataHubOptions } from './hub_report';
import { headOfAdapters } from './heads';
import { printable } from './printable';
import { StatusLine } from './status_line';
import { textTable } from './text_table';

export const evaluate = defineCommand({
  summary: 'Measures a model and its adapters on held-out data: loss, answers, or choices.',
  usage: '--model DIR --data FILE [--adapter [NAME=]DIR …] [flags]',
  flags: {
    ...generatingModelFlags,
    ...adaptersFlag,
    base: { type: 'boolean', default: true, help: 'measure the model without an adapter too' },
    data: {
      type: 'string',
      value: 'FILE',
      required: true,
      help: 'as of train, or JSONL of questions with choices',
    },
    objective: {
      type: 'string',
      value: 'NAME',
      choices: ['contrastive', 'rank'],
      help: 'what vectors or an order are worth',
      defaultText: 'by the rows',
    },
    split: { ...dataRowsOptions.split, defaultText: 'valid' },
    limit: { type: 'integer', minimum: 1, help: 'only the first rows', defaultText: 'all' },
    batchSize: { type: 'integer', minimum: 1, default: 4, help: 'rows per forward pass' },
    maxLength: {
      type: 'integer',
      minimum: 2,
      help: 'tokens per example',
      defaultText: 'what the model reads',
    },
    trainOn: { ...datasetOptions.trainOn, defaultText: 'as train has it' },
    allowSpecialTokens: datasetOptions.allowSpecialTokens,
    generate: { type: 'boolean', default: true, help: 'write answers, and not the loss alone' },
    maxNewTokens: {
      type: 'integer',
      minimum: 1,
      help: 'most tokens of an answer',
      defaultText: "twice the data's",
    },
    stop: {
      type: 'string',
      repeat: true,
      help: 'ends an answer; may be repeated',
      defaultText: "the model's",
    },
    jsonSchema: {
      type: 'string',
      value: 'FILE',
      help: 'a JSON Schema; says how many answers are valid',
      defaultText: 'none',
    },
    addSpecialTokens: { type: 'boolean', help: 'before queries of choices' },
    samples: { type: 'boolean', help: 'also give each answer, in JSON' },
    out: { type: 'string', value: 'FILE', help: 'write the JSON object there, too' },
    json: { type: 'boolean', help: 'the result as one JSON object instead of a table' },
    help: helpFlag,
  },
  json:
    'one object: { model, data, kind: "examples" | "choices" | "labels", rows, answers?, truncated, results: [{ adapter, loss, perplexity, tokens, ' +
    'exactMatch, f1, validJson, cut, acc, accNorm, accBytes, accuracy, macroF1, mae, pearson, confusion, stderr, samples }] }, of which a result has what the data allow; adapter null for the base alone; ' +
    'with --objective { model, data, kind: "contrastive" | "rank", rows, results: [{ adapter, loss?, metrics }] }',

  async run(values, console) {
    const { data, base, jsonSchema: schemaFile, out, stop } = values;
    if (!base && values.adapter.length === 0)
      throw new UsageError('eval needs --adapter, since --no-base is given');
    if (!values.generate && schemaFile !== undefined)
      throw new UsageError('eval takes --json-schema or --no-generate, not both');
    // What can be wrong is said before the model is loaded.
    const found = await measuringFiles(data, { ...dataHubOptions(console, values), split: values.split });
    await checkFiles(found);
    const [file, ...others] = found.files;
    if (others.length > 0)
      throw loraError(
        'eval',
        'ERR_UNSUPPORTED',
        `expected data of one file but ${data} has ${found.files.length}: name one, such as ${file}`,
      );
    const jsonSchema = schemaFile === undefined ? undefined : ((await readJson(schemaFile)) as JsonSchema);
    if (jsonSchema !== undefined) schemaCheck(jsonSchema);
    const files = await readAdapters(values, console);
    const model = await loadModel(values, console, headOfAdapters(files.values()));
    const status = new StatusLine(console);
    try {
      const names = await loadAdapters(model, files);
      const adapters = base ? [null, ...names] : names;
      const { batchSize, limit, objective } = values;
      if (objective !== undefined) {
        const { signal } = console;
        const measured = await retrievalReport(model, file!, {
          objective,
          adapters,
          batchSize,
          limit,
          signal,
        });
        const report = { model: values.model, data, ...measured };
        if (out !== undefined) await writeFileAtomic(out, `${JSON.stringify(report, null, 2)}\n`);
        if (values.json) return printJson(console, report);
        for (const line of retrievalTable(measured)) console.stdout.write(`${printable(line)}\n`);
        return;
      }
      const evaluation = await model.evaluateTask(file!, {
        ...{ adapters, batchSize, limit },
        maxLength: values.maxLength,
        trainOn: values.trainOn,
        allowSpecialTokens: values.allowSpecialTokens,
        generate: values.generate,
        maxNewTokens: values.maxNewTokens,
        stop: stop.length > 0 ? stop : undefined,
        jsonSchema,
        addSpecialTokens: values.addSpecialTokens,
        samples: values.samples,
        signal: console.signal,
        onProgress: (progress) => status.show(progressText(progress)),
      });
      status.end();
      const report = { model: values.model, data, ...evaluation };
      if (out !== undefined) await writeFileAtomic(out, `${JSON.stringify(report, null, 2)}\n`);
      if (values.json) return printJson(console, report);
      note(console, countsOf(evaluation));
      for (const line of [...table(evaluation), ...evaluation.results.flatMap(confusionTable)])
        console.stdout.write(`${printable(line)}\n`);
    } finally {
      status.end();
      await model.dispose();
    }
  },
});

const phases = { loss: 'examples', answers: 'answers', choices: 'questions', labels: 'texts' } as const;
const progressText = ({ phase, done, total }: TaskProgress): string => `${done} of ${total} ${phases[phase]}`;

function countsOf({ kind, rows, answers, truncated }: TaskEvaluation): string {
  const counts = {
    examples: `${rows} examples with ${answers} answers`,
    choices: `${rows} questions`,
    labels: `${rows} texts`,
  };
  const what = counts[kind];
  return truncated === 0 ? what : `${what}; ${truncated} rows were cut`;
}

const percent = (share: number): string => (100 * share).toFixed(1);
const scored = (name: keyof TaskScores) => (result: TaskResult) => {
  const value = result[name];
  return value === undefined ? undefined : `${percent(value)} ± ${percent(result.stderr[name]!)}`;
};

/** A column is shown where a result has a value for it. */
const columns: readonly (readonly [head: string, cell: (result: TaskResult) => string | undefined])[] = [
  ['', ({ adapter }) => adapter ?? baseName],
  ['loss', ({ loss }) => loss?.toFixed(4)],
  ['perplexity', ({ perplexity }) => perplexity?.toFixed(2)],
  ['exact match %', scored('exactMatch')],
  ['F1 %', scored('f1')],
  ['valid JSON %', scored('validJson')],
  ['acc %', scored('acc')],
  ['acc_norm %', scored('accNorm')],
  ['acc by bytes %', scored('accBytes')],
  ['accuracy %', scored('accuracy')],
  ['macro F1 %', ({ macroF1 }) => (macroF1 === undefined ? undefined : percent(macroF1))],
  ['mean error', ({ mae }) => mae?.toFixed(4)],
  ['correlation', ({ pearson }) => pearson?.toFixed(4)],
  ['cut', ({ cut }) => cut?.toString()],
];

/** How often texts of the label of each line got the label of each column. */
function confusionTable({ adapter, confusion }: TaskResult): string[] {
  if (!confusion) return [];
  const { labels, counts } = confusion;
  const columns = labels.map((label, i) => [label, ...counts.map((row) => String(row[i]))]);
  return ['', ...textTable([[adapter ?? baseName, ...labels], ...columns])];
}

/** A line for the names of the columns, and one for each adapter. */
const table = ({ results }: TaskEvaluation): string[] =>
  textTable(columns.map(([head, cell]) => [head, ...results.map((result) => cell(result) ?? '')]));
