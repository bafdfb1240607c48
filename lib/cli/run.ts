import { version } from '../../package.json';
import { LoRAError } from '../errors';
import { suggest } from '../validate';
import { configPath, help, parse, wantsHelp } from './args';
import { exitCodes, Interrupted, UsageError, type Console } from './command';
import { commands } from './commands';
import { readConfig } from './config_file';
import { printable } from './printable';
import { withFlagsOfRun } from './resumed';

function overview(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  return [
    `lora-native ${version}: LoRA fine-tuning and generation in Node.js\n`,
    'Usage: lora-native COMMAND [flags]   (lora-native COMMAND --help)\n',
    ...Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`),
    '\nEvery command takes --json: results as JSON on standard output, everything else on standard error.',
    `Exit codes: ${Object.entries(exitCodes)
      .map(([code, meaning]) => `${code} ${meaning}`)
      .join(', ')}.`,
    'lora-native --version prints the version.',
  ].join('\n');
}

function failure(error: unknown): string {
  if (error instanceof LoRAError) return printable(`${error.message} (${error.code})`);
  return printable(error instanceof Error ? (error.stack ?? error.message) : String(error));
}

/** Runs one command line, the words after `lora-native`, and gives its exit code. */
export async function runCommandLine(argv: readonly string[], console: Console): Promise<number> {
  // The help of a command may be asked for from either side.
  const [name, ...rest] = argv[0] === 'help' && argv.length > 1 ? [...argv.slice(1), '--help'] : argv;
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    console.stdout.write(`${overview()}\n`);
    return name === undefined ? 2 : 0;
  }
  if (name === '--version' || name === '-v') {
    console.stdout.write(`${version}\n`);
    return 0;
  }
  try {
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
    if (!command) {
      const near = suggest(name, Object.keys(commands));
      throw new UsageError(
        `unknown command ${name}${near === undefined ? '.' : `; did you mean ${near}?`} See lora-native --help`,
      );
    }
    if (wantsHelp(rest)) {
      console.stdout.write(`${help(name, command, rest.includes('--all'))}\n`);
      return 0;
    }
    const path = configPath(name, command, rest);
    const config = path === undefined ? undefined : await readConfig(path);
    const file = await withFlagsOfRun(name, command, rest, config);
    const { values, positionals } = parse(name, command, rest, file);
    const code = await command.run(values, console, positionals);
    if (code !== 0) console.signal.throwIfAborted(); // with 0 it has ended as it was asked to
    return code ?? 0;
  } catch (error) {
    if (error instanceof Interrupted) return error.exitCode;
    const usage = error instanceof UsageError;
    console.stderr.write(`lora-native: ${printable(usage ? error.message : failure(error))}\n`);
    return usage || (error instanceof LoRAError && error.code === 'ERR_ARGUMENT') ? 2 : 1;
  }
}
