import { kindOf } from '../models/config/model_config';
import type { DatasetCounts } from '../data/example';
import type { DataFiles } from '../data/folders';
import { InputFile } from '../formats/input';
import { CausalLM } from '../models/causal_lm';
import { modelOptions } from '../options/table';
import type { HeadInput } from '../peft/head';
import { UsageError, type Console, type Flags, type Values } from './command';
import { hubFlags, hubOptions } from './hub_report';
import { printable } from './printable';

/** What every command that loads a model takes. */
export const wholeModelFlags = {
  model: {
    type: 'string',
    value: 'DIR',
    required: true,
    help: 'a Hugging Face directory, GGUF file, or hub name',
  },
  ...hubFlags,
  dtype: modelOptions.dtype,
  device: modelOptions.device,
} as const satisfies Flags;

/** The same of commands that take a model in few bits. */
export const modelFlags = {
  ...wholeModelFlags,
  quantize: modelOptions.quantize,
} as const satisfies Flags;

/** And of those that generate. */
export const generatingModelFlags = {
  ...modelFlags,
  activations: modelOptions.activations,
} as const satisfies Flags;

/** Loads the model that the flags name, and says on which device it runs. */
export async function loadModel(
  values: Values<typeof wholeModelFlags> & Partial<Values<typeof generatingModelFlags>>,
  console: Console,
  head?: HeadInput,
): Promise<CausalLM> {
  const { device, dtype, quantize, activations } = values;
  const model = await CausalLM.fromPretrained(values.model, {
    device,
    dtype,
    quantize,
    activations,
    head,
    ...hubOptions(console, values),
  });
  note(console, `${model.directory}: ${kindOf(model.config)}, ${model.dtype} on ${model.device}`);
  return model;
}

/** Throws for files of data that cannot be opened: what can be wrong is said before the model is loaded. */
export async function checkFiles(...found: readonly (DataFiles | undefined)[]): Promise<void> {
  for (const path of found.flatMap((data) => data?.files ?? [])) await (await InputFile.open(path)).close();
}

/** The names of columns that flags give, KEY=NAME each; undefined for none. */
export function dataColumns(given: readonly string[]): Record<string, string> | undefined {
  const pairs = given.map((pair): [string, string] => {
    const at = pair.indexOf('=');
    if (at < 1 || at === pair.length - 1)
      throw new UsageError(
        `--columns needs KEY=NAME, such as prompt=question, but received ${printable(pair)}`,
      );
    return [pair.slice(0, at), pair.slice(at + 1)];
  });
  return pairs.length === 0 ? undefined : Object.fromEntries(pairs);
}

/** A data set in numbers. */
export function countsOf({ length, truncated, dropped, duplicates, tokens }: DatasetCounts): string {
  const cut = truncated === 0 ? '' : `, ${truncated} of them cut to the maximum length`;
  const left = dropped === 0 ? '' : `, ${dropped} rows left out because none of their tokens counts`;
  const again =
    duplicates === 0 ? '' : `, ${duplicates} rows left out because an earlier one has the same tokens`;
  return `${length} examples, ${tokens} tokens count${cut}${left}${again}`;
}

/** A line for people; standard output stays free for results. */
export function note({ stderr }: Console, line: string): void {
  stderr.write(`${printable(line)}\n`);
}

/** A result as one line of JSON. */
export function printJson({ stdout }: Console, value: object): void {
  stdout.write(`${printable(JSON.stringify(value))}\n`);
}
