#!/usr/bin/env node
import { version } from '../../package.json';
import { LoRAError } from '../errors';
import { suggest } from '../validate';
import { failure, help, Interrupted, parse, UsageError, type Command } from './args';
import { doctor } from './doctor';
import { generate } from './generate';
import { inspect } from './inspect';
import { merge } from './merge';
import { train } from './train';

const commands: Record<string, Command> = { train, generate, merge, inspect, doctor };

const interruption = new AbortController();
const interrupt = (): void => interruption.abort(new Interrupted());

function overview(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  return [
    `lora-native ${version}: LoRA fine-tuning and generation in Node.js\n`,
    'Usage: lora-native COMMAND [flags]   (lora-native COMMAND --help)\n',
    ...Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`),
  ].join('\n');
}

async function main(argv: string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(`${overview()}\n`);
    return name === undefined ? 2 : 0;
  }
  if (name === '--version' || name === '-v') {
    process.stdout.write(`${version}\n`);
    return 0;
  }
  try {
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
    if (!command) {
      const near = suggest(name, Object.keys(commands));
      throw new UsageError(`unknown command ${name}${near === undefined ? '' : `; did you mean ${near}?`}`);
    }
    if (rest.includes('--help') || rest.includes('-h')) {
      process.stdout.write(`${help(name, command)}\n`);
      return 0;
    }
    const args = parse(name, command, rest);
    process.once('SIGINT', interrupt);
    await command.run(args, interruption.signal);
    return interruption.signal.aborted ? 130 : 0;
  } catch (error) {
    if (error instanceof Interrupted) return 130;
    const usage = error instanceof UsageError;
    process.stderr.write(`lora-native: ${usage ? error.message : failure(error)}\n`);
    return usage || (error instanceof LoRAError && error.code === 'ERR_ARGUMENT') ? 2 : 1;
  } finally {
    process.off('SIGINT', interrupt);
  }
}

void main(process.argv.slice(2)).then((code) => {
  process.exitCode = code;
});
