import { native } from '../binding';
import type { Device } from '../device';
import type { Flag } from './args';

export const modelFlags: Record<string, Flag> = {
  model: { type: 'string', value: 'DIR', required: true, help: 'a Hugging Face directory' },
  dtype: { type: 'string', value: 'TYPE', help: 'auto (default), f32 or bf16' },
  device: { type: 'string', value: 'NAME', help: 'cpu or cuda (default: the best there is)' },
};

export function bestDevice(): Device {
  return native().cudaUnavailableReason() === null ? 'cuda' : 'cpu';
}

/** A line for people; standard output stays free for results. */
export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}
