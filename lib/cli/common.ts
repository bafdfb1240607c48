import { binding } from '../calls';
import type { CausalLM } from '../models/causal_lm';
import type { Arguments, Flag } from './args';

export const modelFlags: Record<string, Flag> = {
  model: { type: 'string', value: 'DIR', required: true, help: 'a Hugging Face directory' },
  dtype: { type: 'string', value: 'TYPE', help: 'auto (default), f32, bf16; f16 on a GPU, not for training' },
  device: { type: 'string', value: 'NAME', help: 'cpu, cuda or auto (default): the best there is' },
};

/** --device, where 'auto' and nothing mean the best there is. */
export function chosenDevice(args: Arguments): string {
  const name = args.string('device') ?? 'auto';
  if (name !== 'auto') return name;
  return binding().cudaUnavailableReason() === null ? 'cuda' : 'cpu';
}

/** Says on which device the model runs. */
export function noteModel(model: CausalLM): void {
  note(`${model.directory}: ${model.config.modelType}, ${model.dtype} on ${model.device}`);
}

/** A line for people; standard output stays free for results. */
export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}
