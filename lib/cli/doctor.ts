import { readFileSync } from 'node:fs';
import { release, version as osVersion } from 'node:os';
import { version } from '../../package.json';
import { binding } from '../calls';
import { devices } from '../device';
import { defineCommand, helpFlag, type Console } from './command';
import { printJson } from './common';

export const doctor = defineCommand({
  summary: 'Prints what a bug report needs: versions, instruction sets, threads, devices.',
  usage: '[--json]',
  flags: { json: { type: 'boolean', help: 'the report as one JSON object' }, help: helpFlag },
  json: 'one object with the lines of the report: { "lora-native", node, platform, cpu, threads, devices, cuda, … }',
  run: async ({ json }, console) => report(json, console),
});

function report(json: boolean, console: Console): void {
  const cpu = binding().cpuInfo();
  const cuda = binding().cudaUnavailableReason();
  const [host, ...gpus] = devices();
  const lines: Record<string, string | number> = {
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
    lines[id === 'cuda' ? 'cuda:0' : id] =
      `${name}, compute capability ${computeCapability}, ${gib(memoryBytes)}`;
  if (json) {
    printJson(console, lines);
    return;
  }
  const width = Math.max(...Object.keys(lines).map((key) => key.length));
  for (const [key, value] of Object.entries(lines)) console.stdout.write(`${key.padEnd(width)}  ${value}\n`);
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
