import { existsSync, statSync } from 'node:fs';
import { loraError } from '../errors';
import { SavedFolder } from '../formats/file_group';
import { isGguf } from '../formats/gguf';
import { ggufAt, GgufSet } from '../formats/gguf_set';
import type { GgufValue } from '../formats/gguf_header';
import { readJson } from '../formats/json';
import type { Source } from '../formats/links';
import { checkpointFile } from '../formats/model_files';
import { sourceFolder, type SourceOptions } from '../hub/source';
import { openModelTensors } from '../formats/sharded';
import { StoredTensors } from '../formats/stored_tensors';
import { readAdapter } from '../peft/adapter_files';
import { dataRowsOptions } from '../options/data';
import { datasetOptions } from '../options/table';
import { printJson } from './common';
import { hubFlags, hubOptions } from './hub_report';
import { inspectData } from './inspect_data';
import { printableLine } from './printable';
import { defineCommand, helpFlag } from './command';

export const inspect = defineCommand({
  summary: 'Shows what a model, adapter, checkpoint, safetensors or GGUF file holds, or what counts in data.',
  usage: 'PATH [--model DIR] [--json]',
  flags: {
    model: { type: 'string', value: 'DIR', help: 'PATH is a data set; this reads it' },
    ...hubFlags,
    maxLength: { ...datasetOptions.maxLength, help: 'tokens per example of a data set' },
    trainOn: { ...datasetOptions.trainOn, defaultText: 'as train has it' },
    allowSpecialTokens: datasetOptions.allowSpecialTokens,
    columns: datasetOptions.columns,
    ...dataRowsOptions,
    report: {
      type: 'boolean',
      help: 'of a data set: lengths, what is cut, what counts',
    },
    row: {
      type: 'string',
      value: 'LIST',
      help: 'examples of a data set to show: 3, or 1,5-7',
      defaultText: 'the first',
    },
    json: { type: 'boolean', help: 'the content as one JSON object' },
    help: helpFlag,
  },
  positionals: ['PATH'],
  json:
    'one object: { kind: "model" | "adapter" | "checkpoint" | "safetensors" | "gguf", path, config?, metadata?, parameters, bytes, ' +
    'tensors: [{ name, dtype, shape }] }; of a data set { kind: "data", path, examples, truncated, dropped, duplicates, tokens, ' +
    'first: { inputIds, labels, text, counted }, rows?: [{ row, inputIds, labels, text, counted }], report?: { lengths, cut, counted, repeated } } (rows with --row, report with --report)',

  async run(values, console, [path]) {
    const { json } = values;
    if (values.model !== undefined) {
      await inspectData(path as string, { ...values, model: values.model }, console);
      return;
    }
    const report = await describePath(path as string, hubOptions(console, values));
    if (json) printJson(console, report);
    else console.stdout.write(`${table(report).join('\n')}\n`);
  },
});

interface Entry {
  name: string;
  dtype: string;
  shape: readonly number[];
}
interface Report {
  kind: 'model' | 'adapter' | 'checkpoint' | 'safetensors' | 'gguf';
  path: string;
  config?: unknown;
  metadata?: unknown;
  parameters: number;
  bytes: number;
  tensors: Entry[];
}

const elements = (shape: readonly number[]): number => shape.reduce((product, dim) => product * dim, 1);

interface Sized {
  dtype: string;
  shape: readonly number[];
  byteLength: number;
}

function summed(tensors: Iterable<[string, Sized]>) {
  const entries: Entry[] = [];
  let parameters = 0;
  let bytes = 0;
  for (const [name, { dtype, shape, byteLength }] of tensors) {
    entries.push({ name, dtype, shape: [...shape] });
    parameters += elements(shape);
    bytes += byteLength;
  }
  return { tensors: entries, parameters, bytes };
}

async function describeFile(source: Source, kind: Report['kind']): Promise<Report> {
  const file = await StoredTensors.open(source);
  try {
    return { kind, path: file.file.path, metadata: file.metadata, ...summed(file.tensors) };
  } finally {
    await file.close();
  }
}

/** A tokenizer is hundreds of thousands of values: of long lists the number is told. */
const longestList = 64;

function shownValue(value: GgufValue): unknown {
  if (typeof value === 'bigint') return String(value);
  if (typeof value !== 'object') return value;
  const items = Array.from(value as Iterable<GgufValue>);
  return items.length > longestList ? `${items.length} values` : items.map(shownValue);
}

async function describeGguf(source: Source): Promise<Report> {
  const set = await GgufSet.open(source);
  try {
    const metadata = Object.fromEntries([...set.metadata].map(([key, value]) => [key, shownValue(value)]));
    const sizes = [...set.tensors].map(([name, { block, shape, byteLength }]): [string, Sized] => [
      name,
      { dtype: block.type, shape, byteLength },
    ]);
    return { kind: 'gguf', path: set.path, metadata, ...summed(sizes) };
  } finally {
    await set.close();
  }
}

export async function describePath(source: string, options: SourceOptions = {}): Promise<Report> {
  const path = await sourceFolder(source, 'inspect', 'any', options);
  if (!existsSync(path)) throw loraError('inspect', 'ERR_FILE', `${path} does not exist`);
  if (!statSync(path).isDirectory())
    return (await isGguf(path)) ? describeGguf(path) : describeFile(path, 'safetensors');
  const folder = await SavedFolder.open(path);
  if (folder.has('adapter_config.json')) {
    const { config, tensors } = await readAdapter(path);
    const sizes = [...tensors].map(([name, { dtype, shape, bytes }]): [string, Sized] => [
      name,
      { dtype, shape, byteLength: bytes.byteLength },
    ]);
    return { kind: 'adapter', path, config, ...summed(sizes) };
  }
  const gguf = await ggufAt(path);
  if (gguf !== undefined) return describeGguf(gguf);
  if (folder.has('config.json')) {
    const config = await readJson(folder.file('config.json'));
    const model = await openModelTensors(path);
    try {
      const all = model.names.map((name): [string, Sized] => [name, model.get(name)]);
      return { kind: 'model', path, config, ...summed(all) };
    } finally {
      await model.close();
    }
  }
  // Beside a whole model it holds the state of its training alone.
  if (folder.has(checkpointFile)) return describeFile(folder.file(checkpointFile), 'checkpoint');
  throw loraError(
    'inspect',
    'ERR_FILE',
    `${path}: expected config.json, adapter_config.json, checkpoint.safetensors or one GGUF model in it`,
  );
}

/** A file may hold names and metadata of megabytes; --json gives them whole. */
const maxCharacters = { name: 200, column: 100, config: 4000 } as const;

/** The report for people: what it is, its sums, a line per tensor. */
function table(report: Report): string[] {
  const mebibytes = (report.bytes / 1024 / 1024).toFixed(1);
  const lines = [
    `${report.kind} ${printableLine(report.path, maxCharacters.config)}`,
    `${report.tensors.length} tensors, ${report.parameters} parameters, ${mebibytes} MiB`,
  ];
  for (const key of ['config', 'metadata'] as const)
    if (report[key] !== undefined)
      lines.push(`${key}: ${printableLine(JSON.stringify(report[key]), maxCharacters.config)}`);
  const names = report.tensors.map(({ name }) => printableLine(name, maxCharacters.name));
  const width = names.reduce((most, { length }) => Math.max(most, length), 0);
  for (const [i, { dtype, shape }] of report.tensors.entries())
    lines.push(
      `  ${names[i]!.padEnd(Math.min(width, maxCharacters.column))}  ${dtype}  [${shape.join(', ')}]`,
    );
  return lines;
}
