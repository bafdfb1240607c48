import { readFileSync } from 'node:fs';
import { release, version as osVersion } from 'node:os';
import { version } from '../../package.json';
import { binding } from '../native/calls';
import { deviceFacts, devices, instructionSet } from '../native/device';
import { LoRAError } from '../errors';
import { findBinary, platformName, platformPackage, thisHost } from '../native/loader';
import { mpiFacts } from '../distributed/mpi';
import { cacheFolder, endpointOf, findToken, isOffline } from '../hub/settings';
import { defineCommand, helpFlag } from './command';
import { printJson } from './common';

export const doctor = defineCommand({
  summary: 'Prints what a bug report needs: versions, the binary, instruction sets, threads, devices.',
  usage: '[--json]   (exit code 1 where no binary loads)',
  flags: { json: { type: 'boolean', help: 'the report as one JSON object' }, help: helpFlag },
  json: 'one object with the lines of the report: { "lora-native", node, platform, binary, cpu, threads, devices, cuda, … }',
  async run({ json }, console) {
    const { report, works } = await examine();
    if (json) printJson(console, report);
    else {
      const width = Math.max(...Object.keys(report).map((key) => key.length));
      for (const [key, value] of Object.entries(report))
        console.stdout.write(`${key.padEnd(width)}  ${value}\n`);
    }
    return works ? 0 : 1;
  },
});

type Report = Record<string, string | number>;

/** The report is complete where no binary loads, too: that is what it is asked for most. */
async function examine(): Promise<{ report: Report; works: boolean }> {
  const report = { ...aboutSystem(), ...(await aboutHub()), mpi: mpiFacts() };
  try {
    const { path, source } = findBinary();
    return { report: { ...report, binary: path, 'binary from': source, ...aboutBinary() }, works: true };
  } catch (error) {
    if (!(error instanceof LoRAError && error.code === 'ERR_BINARY')) throw error;
    return { report: { ...report, binary: `none: ${error.message}` }, works: false };
  }
}

/** What can be said without the binary. */
function aboutSystem(): Report {
  const host = thisHost();
  return {
    'lora-native': version,
    node: process.version,
    ...runtime(),
    platform: `${platformName(host)} ${release()}`,
    'operating system': systemName(),
    ...(host.libc === null ? {} : { 'C library': `${host.libc} ${host.libcVersion ?? ''}`.trim() }),
    'platform package': platformPackage(host) ?? 'none is published for this platform',
  };
}

/** Where models of the hub come from and are kept. A token is never told, only where it is. */
async function aboutHub(): Promise<Report> {
  const orReason = async (ask: () => string | Promise<string>): Promise<string> => {
    try {
      return await ask();
    } catch (error) {
      if (error instanceof LoRAError) return error.message;
      throw error;
    }
  };
  const hub = await orReason(() => endpointOf('doctor'));
  return {
    hub: isOffline() ? `${hub}, of which nothing is asked: HF_HUB_OFFLINE` : hub,
    'hub cache': cacheFolder(),
    'hub token': await orReason(async () => (await findToken('doctor')).from),
  };
}

/** Bun and Deno report a version of Node.js too, the one that they are compatible with. */
function runtime(): Report {
  const name = (['bun', 'deno', 'electron'] as const).find((key) => process.versions[key] !== undefined);
  return name === undefined ? {} : { [name]: process.versions[name]! };
}

function aboutBinary(): Report {
  const cpu = binding().cpuInfo();
  const set = instructionSet();
  const found = devices();
  const [host, ...gpus] = found;
  const report: Report = {
    cpu: `${host!.name}, ${gib(host!.memoryBytes)}`,
    highway: cpu.highwayVersion,
    'instruction set': set.problem ?? set.name,
    'compiled and usable': cpu.targets.join(', '),
    threads: cpu.threads,
    'memory limit': process.env['LORA_MEMORY_LIMIT'] ?? 'what the system leaves',
    devices: found.map(({ id, name }) => `${id} (${name})`).join(', '),
    ...deviceFacts(),
  };
  for (const { id, name, memoryBytes, computeCapability } of gpus)
    report[id === 'cuda' ? 'cuda:0' : id] =
      `${name}, compute capability ${computeCapability}, ${gib(memoryBytes)}`;
  return report;
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
