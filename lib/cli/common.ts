import { bestDevice } from '../native/device';
import { CausalLM } from '../models/causal_lm';
import type { Console, Flags, Values } from './command';

/** What every command that loads a model takes. */
export const modelFlags = {
  model: { type: 'string', value: 'DIR', required: true, help: 'a Hugging Face directory' },
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

/** Loads the model that the flags name, and says on which device it runs. */
export async function loadModel(
  { model: directory, device, dtype }: Values<typeof modelFlags>,
  console: Console,
): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(directory, {
    device: device === 'auto' ? bestDevice() : device,
    dtype,
    signal: console.signal,
  });
  note(console, `${model.directory}: ${model.config.modelType}, ${model.dtype} on ${model.device}`);
  return model;
}

/** A line for people; standard output stays free for results. */
export function note({ stderr }: Console, line: string): void {
  stderr.write(`${line}\n`);
}

/** A result as one line of JSON. */
export function printJson({ stdout }: Console, value: object): void {
  stdout.write(`${JSON.stringify(value)}\n`);
}
