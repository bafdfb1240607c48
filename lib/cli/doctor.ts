import { readFileSync } from 'node:fs';
import { release, version as osVersion } from 'node:os';
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
  const [host, ...gpus] = devices();
  const report: Record<string, string | number> = {
    'lora-native': version,
    node: process.version,
    platform: `${process.platform}-${process.arch} ${release()}`,
    'operating system': systemName(),
    cpu: `${host!.name}, ${gib(host!.memoryBytes)}`,
    highway: cpu.highwayVersion,
    'instruction set': cpu.target,
    'compiled and usable': cpu.targets.join(', '),
    threads: cpu.threads,
    'memory limit': process.env['LORA_MEMORY_LIMIT'] ?? 'what the system leaves',
    devices: devices()
      .map(({ id, name }) => `${id} (${name})`)
      .join(', '),
    cuda: cuda === null ? 'available' : `unavailable: ${cuda}`,
    ...binding().cudaFacts(),
  };
  for (const { id, name, memoryBytes, computeCapability } of gpus)
    report[id === 'cuda' ? 'cuda:0' : id] =
      `${name}, compute capability ${computeCapability}, ${gib(memoryBytes)}`;
  if (args.boolean('json')) {
    process.stdout.write(`${JSON.stringify(report)}\n`);
    return;
  }
  const width = Math.max(...Object.keys(report).map((key) => key.length));
  for (const [key, value] of Object.entries(report)) process.stdout.write(`${key.padEnd(width)}  ${value}\n`);
}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** The distribution's name for itself, or the kernel's. */
function systemName(): string {
  try {
    const name = /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync('/etc/os-release', 'utf8'));
    if (name) return name[1]!;
  } catch {
    // not a Linux that says so
  }
  return osVersion();
}
