import { parseArgs } from 'node:util';
import { suggest } from '../validate';
import { UsageError, type AnyValues, type Command, type Flag } from './command';

/** maxSteps → max-steps. */
export const flagName = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
const camel = (name: string): string => name.replace(/-([a-z])/g, (_, c: string) => c.toUpperCase());

/** What a command line says, checked against the table of the command. */
export interface Parsed {
  values: AnyValues;
  positionals: readonly string[];
}

/** Whether help is asked for: `--` ends the flags. */
export function wantsHelp(argv: readonly string[]): boolean {
  const end = argv.indexOf('--');
  return (end < 0 ? argv : argv.slice(0, end)).some((word) => word === '--help' || word === '-h');
}

function checkNames(name: string, command: Command, argv: readonly string[]): void {
  const known = Object.keys(command.flags).map(flagName);
  for (const argument of argv) {
    if (argument === '--') break;
    const [, given] = /^--([^=]+)/.exec(argument) ?? [];
    if (given === undefined || known.includes(given)) continue;
    const near = suggest(given, known) ?? suggest(camel(given), known.map(camel));
    throw new UsageError(
      `unknown flag --${given}${near === undefined ? '.' : `; did you mean --${flagName(near)}?`} See lora-native ${name} --help`,
    );
  }
}

/** The value of one flag, or a UsageError that says what is expected. */
function valueOf(name: string, flag: Flag, given: string): string | number {
  const fail = (expected: string): never => {
    throw new UsageError(
      `expected --${flagName(name)} to be ${expected} but received ${JSON.stringify(given)}`,
    );
  };
  const { choices, minimum = -Infinity } = flag;
  if (flag.type === 'string') {
    if (choices && !choices.includes(given)) return fail(`one of ${choices.join(', ')}`);
    return given;
  }
  const number = Number(given);
  const whole = flag.type === 'integer';
  const right = given.trim() !== '' && (whole ? Number.isSafeInteger(number) : Number.isFinite(number));
  if (!right || number < minimum)
    return fail(`a ${whole ? 'whole ' : ''}number${minimum === -Infinity ? '' : ` of at least ${minimum}`}`);
  return number;
}

/** Parses `argv` strictly: an unknown flag is an error that names the near one. */
export function parse(name: string, command: Command, argv: readonly string[]): Parsed {
  checkNames(name, command, argv);
  let parsed;
  try {
    parsed = parseArgs({
      args: [...argv],
      allowPositionals: true,
      strict: true,
      options: Object.fromEntries(
        Object.entries(command.flags).map(([key, { type, short, repeat = false }]) => [
          flagName(key),
          {
            type: type === 'boolean' ? ('boolean' as const) : ('string' as const),
            ...(short ? { short } : {}),
            multiple: repeat,
          },
        ]),
      ),
    });
  } catch (error) {
    throw new UsageError(`${(error as Error).message}. See lora-native ${name} --help`);
  }
  const values: Record<string, AnyValues[string]> = {};
  for (const [key, flag] of Object.entries(command.flags)) {
    const given = parsed.values[flagName(key)];
    if (flag.type === 'boolean') values[key] = given === true;
    else if (flag.repeat) values[key] = (given as string[] | undefined) ?? [];
    else if (typeof given === 'string') values[key] = valueOf(key, flag, given);
    else if (flag.required) throw new UsageError(`${name} needs --${flagName(key)} ${placeholder(flag)}`);
    else values[key] = flag.default;
  }
  const wanted = command.positionals ?? [];
  const missing = wanted[parsed.positionals.length];
  if (missing !== undefined) throw new UsageError(`${name} needs a ${missing}`);
  const extra = parsed.positionals[wanted.length];
  if (extra !== undefined)
    throw new UsageError(`unexpected argument ${JSON.stringify(extra)}. See lora-native ${name} --help`);
  return { values, positionals: parsed.positionals };
}

/** What stands for the value of a flag: '' for one that takes none. */
export function placeholder(flag: Flag): string {
  if (flag.type === 'boolean') return '';
  return flag.value ?? (flag.type === 'string' ? 'TEXT' : 'N');
}

/** What a flag does when it is not given, in words; undefined where nothing is to be said. */
export function defaultOf(flag: Flag): string | undefined {
  return flag.default === undefined ? flag.defaultText : String(flag.default);
}

const width = 100;

/** Breaks a text at spaces, so that no line is longer than the screen. */
function wrap(text: string): string {
  const lines = [''];
  for (const word of text.split(' ')) {
    const line = lines.at(-1) as string;
    if (line === '') lines[lines.length - 1] = word;
    else if (line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = `${line} ${word}`;
  }
  return lines.join('\n');
}

/** Usage and one line per flag: fits a screen. */
export function help(name: string, command: Command): string {
  const rows = Object.entries(command.flags).map(([key, flag]) => {
    const letter = flag.short === undefined ? '' : `-${flag.short}, `;
    const choices = flag.choices === undefined ? '' : `: ${flag.choices.join(', ')}`;
    const standard = flag.required ? 'required' : defaultOf(flag);
    return [
      `  ${`${letter}--${flagName(key)} ${placeholder(flag)}`.trimEnd()}`,
      `${flag.help}${choices}${standard === undefined ? '' : ` (${flag.required ? '' : 'default '}${standard})`}`,
    ] as const;
  });
  const left = Math.max(...rows.map(([words]) => words.length));
  return [
    `${command.summary}\n`,
    `Usage: lora-native ${name} ${command.usage}\n`,
    ...rows.map(([words, text]) => `${words.padEnd(left)}  ${text}`),
    `\n${wrap(`--json prints ${command.json}`)}`,
  ].join('\n');
}
