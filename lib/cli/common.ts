import { bestDevice } from '../native/device';
import type { Dataset } from '../data/dataset';
import { CausalLM } from '../models/causal_lm';
import { quantisedFormats } from '../tensor/frozen_weight';
import type { Console, Flags, Values } from './command';
import { hubFlags, hubOptions } from './hub_report';
import { printable } from './printable';

/** What every command that loads a model takes. */
export const wholeModelFlags = {
  model: {
    type: 'string',
    value: 'DIR',
    required: true,
    help: 'a Hugging Face directory, or a name of the hub',
  },
  ...hubFlags,
  dtype: {
    type: 'string',
    value: 'TYPE',
    choices: ['auto', 'f32', 'bf16', 'f16'],
    default: 'auto',
    help: 'of activations',
  },
  device: {
    type: 'string',
    value: 'NAME',
    default: 'auto',
    help: 'cpu, cuda, cuda:N; auto is the best there is',
  },
} as const satisfies Flags;

/** The same of commands that take a model in few bits. */
export const modelFlags = {
  ...wholeModelFlags,
  quantize: {
    type: 'string',
    value: 'NAME',
    choices: quantisedFormats,
    help: 'keep weights in 4 or 8 bits',
    defaultText: 'as they are',
  },
} as const satisfies Flags;

/** Which tokens of examples count; `defaultText` says what holds without the flag. */
export const trainOnFlag = (defaultText: string) =>
  ({
    type: 'string',
    value: 'WHICH',
    choices: ['completion', 'all'],
    help: 'tokens that count',
    defaultText,
  }) as const satisfies Flags[string];

/** Loads the model that the flags name, and says on which device it runs. */
export async function loadModel(
  values: Values<typeof wholeModelFlags> & Partial<Values<typeof modelFlags>>,
  console: Console,
): Promise<CausalLM> {
  const { device, dtype, quantize } = values;
  const model = await CausalLM.fromPretrained(values.model, {
    device: device === 'auto' ? bestDevice() : device,
    dtype,
    quantize,
    ...hubOptions(console, values),
  });
  note(console, `${model.directory}: ${model.config.modelType}, ${model.dtype} on ${model.device}`);
  return model;
}

/** The modules that a flag lists. */
export function targets(list: string): string | string[] {
  return list === 'all-linear' ? list : list.split(',').map((name) => name.trim());
}

/** A data set in numbers. */
export function countsOf({ length, truncated, dropped, tokens }: Dataset): string {
  const cut = truncated === 0 ? '' : `, ${truncated} of them cut to the maximum length`;
  const left = dropped === 0 ? '' : `, ${dropped} rows left out because none of their tokens counts`;
  return `${length} examples, ${tokens} tokens count${cut}${left}`;
}

/** A line for people; standard output stays free for results. */
export function note({ stderr }: Console, line: string): void {
  stderr.write(`${printable(line)}\n`);
}

/** A result as one line of JSON. */
export function printJson({ stdout }: Console, value: object): void {
  stdout.write(`${printable(JSON.stringify(value))}\n`);
}
