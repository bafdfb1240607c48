import { release } from 'node:os';
import { version } from '../../package.json';
import { binding } from '../calls';
import { devices } from '../device';
import type { Arguments, Command } from './args';

export const doctor: Command = {
  summary: 'Prints what a bug report needs: versions, instruction sets, threads, devices.',
  usage: '[--json]',
  flags: { json: { type: 'boolean', help: 'as one JSON object' } },
  run,
};

async function run(args: Arguments): Promise<void> {
  const cpu = binding().cpuInfo();
  const cuda = binding().cudaUnavailableReason();
  const report = {
    'lora-native': version,
    node: process.version,
    platform: `${process.platform}-${process.arch} ${release()}`,
    highway: cpu.highwayVersion,
    'instruction set': cpu.target,
    'compiled and usable': cpu.targets.join(', '),
    threads: cpu.threads,
    'memory limit': process.env['LORA_MEMORY_LIMIT'] ?? 'what the system leaves',
    devices: devices()
      .map(({ id, name }) => `${id} (${name})`)
      .join(', '),
    cuda: cuda === null ? 'available' : `unavailable: ${cuda}`,
  };
  if (args.boolean('json')) {
    process.stdout.write(`${JSON.stringify(report)}\n`);
    return;
  }
  const width = Math.max(...Object.keys(report).map((key) => key.length));
  for (const [key, value] of Object.entries(report)) process.stdout.write(`${key.padEnd(width)}  ${value}\n`);
}
