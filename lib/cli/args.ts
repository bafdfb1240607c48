import { parseArgs } from 'node:util';
import { allows, checkValue, expectation, lackOf } from '../options/option';
import { check, checkOptions, describe, isRecord, suggest } from '../validate';
import { UsageError, type AnyValues, type Command, type Flag } from './command';
import { noConfig, type ConfigFile } from './config_file';

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

/** A boolean that holds unless it is refused: --no-report. */
const refusal = (key: string, flag: Flag): string[] =>
  flag.type === 'boolean' && flag.default === true ? [`no-${flagName(key)}`] : [];

type Words = Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>;

/** A flag where it stands on a command line. */
interface Given {
  readonly name: string;
  /** As it was typed: --port, -h. */
  readonly rawName: string;
  readonly value?: string | undefined;
  /** Whether the value follows an equals sign. */
  readonly inlineValue?: boolean | undefined;
}

/** Numbers are negative where they begin with a dash; other values are a flag whose value was forgotten. */
const numeric = new Set(['number', 'integer', 'steps']);

/** @throws UsageError for a flag that there is not, without the value that it needs, or with one that it does not take. */
function checkGiven(command: string, flags: ReadonlyMap<string, Flag>, given: Given): void {
  const { name, rawName, value, inlineValue } = given;
  const fail = (sentence: string): never => {
    throw new UsageError(`${sentence} See lora-native ${command} --help`);
  };
  const flag = flags.get(name);
  if (flag === undefined) {
    const known = [...flags.keys()];
    const long = rawName.startsWith('--');
    const near = long ? (suggest(name, known) ?? suggest(camel(name), known.map(camel))) : undefined;
    return fail(`unknown flag ${rawName}${near === undefined ? '.' : `; did you mean --${flagName(near)}?`}`);
  }
  if (flag.type === 'boolean') return value === undefined ? undefined : fail(`${rawName} takes no value.`);
  const word = placeholder(flag);
  if (value === undefined) return fail(`${command} needs ${word} after ${rawName}.`);
  if (inlineValue || !/^-./.test(value) || (numeric.has(flag.type) && /^-\.?\d/.test(value))) return;
  fail(
    `${command} needs ${word} after ${rawName}: one that begins with a dash is written ${rawName}=${value}.`,
  );
}

/** The words of a command line, by flag. */
function wordsOf(
  name: string,
  { flags }: Command,
  argv: readonly string[],
): { values: Words; positionals: readonly string[] } {
  const known = new Map<string, Flag>();
  const options = Object.entries(flags).flatMap(([key, flag]) => {
    const { type, short, repeat = type === 'numbers' } = flag;
    const kind = type === 'boolean' ? ('boolean' as const) : ('string' as const);
    const named = [flagName(key), { type: kind, ...(short ? { short } : {}), multiple: repeat }] as const;
    const others = [...refusal(key, flag), ...(flag.formerly === undefined ? [] : [flagName(flag.formerly)])];
    const all = [named, ...others.map((other) => [other, { type: kind }] as const)];
    for (const [spelt] of all) known.set(spelt, flag);
    return all;
  });
  // Not strict: its sentences are those of Node's parser, and it takes no negative number after a space.
  const { values, positionals, tokens } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    strict: false,
    tokens: true,
    options: Object.fromEntries(options),
  });
  for (const token of tokens) if (token.kind === 'option') checkGiven(name, known, token);
  return { values, positionals };
}

/** The value of one flag out of its words, or a UsageError that says what is expected. */
function valueOf(command: string, key: string, flag: Flag, given: Words[string]): unknown {
  const fail = (expected: string): never => {
    throw new UsageError(
      `expected --${flagName(key)} to be ${expected} but received ${JSON.stringify(given)}`,
    );
  };
  const { type, above, repeat } = flag;
  if (type === 'boolean' || repeat) return given;
  if (type === 'numbers') return Object.fromEntries((given as string[]).map((pair) => numberOf(pair, fail)));
  const text = given as string;
  if (type === 'names')
    return text === (flag.word ?? flag.default) ? text : text.split(',').map((part) => part.trim());
  if (type === 'string') return allows(flag, text) ? text : fail(expectation(flag));
  if (type === 'number' && text === flag.word) return text;
  const value = text.trim() === '' ? Number.NaN : Number(text);
  if (above !== undefined && value <= above)
    throw new UsageError(`${command} needs --${flagName(key)} above ${above}`);
  if (type === 'steps' && value > 1 && !Number.isInteger(value))
    throw new UsageError(`${command} needs --${flagName(key)} as a whole number or below 1`);
  return allows(flag, value) ? value : fail(expectation(flag));
}

/** v_proj=4. A pattern may have an equals sign, too. */
function numberOf(pair: string, fail: (expected: string) => never): [string, number] {
  const [, pattern = '', number = ''] = /^(.+)=(.+)$/s.exec(pair) ?? [];
  return Number.isFinite(Number(number)) && number.trim() !== ''
    ? [pattern, Number(number)]
    : fail('PATTERN=N');
}

/** The file that --config names, where the command takes one. */
export function configPath(name: string, command: Command, argv: readonly string[]): string | undefined {
  const { config } = command.flags['config'] === undefined ? {} : wordsOf(name, command, argv).values;
  return config as string | undefined;
}

/** @throws ERR_ARGUMENT, with the file's name and the line, for what is no option of the command, and for a wrong value. */
function checkFile({ path, values, where }: ConfigFile, { flags }: Command): void {
  const names = Object.keys(flags).filter((key) => key !== 'config' && key !== 'help');
  check(isRecord(values), path, () => `expected an object of options but received ${describe(values)}`);
  for (const [key, value] of Object.entries(values)) {
    checkOptions(where(key), { [key]: value }, names);
    if (value !== undefined && value !== null) checkValue(where(key), key, flags[key]!, value);
  }
}

/** Parses `argv` strictly: an unknown flag is an error that names the near one. What it does not say, a file may. */
export function parse(
  name: string,
  command: Command,
  argv: readonly string[],
  file: ConfigFile = noConfig,
): Parsed {
  const words = wordsOf(name, command, argv);
  checkFile(file, command);
  const values: Record<string, unknown> = {};
  const given = new Set<string>();
  for (const [key, flag] of Object.entries(command.flags)) {
    const value = givenValue(name, key, flag, words.values) ?? file.values[key] ?? undefined;
    if (value !== undefined && value !== false) given.add(key);
    if (value === undefined && flag.required)
      throw new UsageError(`${name} needs --${flagName(key)} ${placeholder(flag)}`);
    values[key] = flag.repeat && typeof value === 'string' ? [value] : (value ?? standardOf(flag));
  }
  checkTogether(name, command, values, given);
  const wanted = command.positionals ?? [];
  const missing = wanted[words.positionals.length];
  if (missing !== undefined) throw new UsageError(`${name} needs a ${missing}`);
  const extra = words.positionals[wanted.length];
  if (extra !== undefined)
    throw new UsageError(`unexpected argument ${JSON.stringify(extra)}. See lora-native ${name} --help`);
  return { values, positionals: words.positionals };
}

/** What a command line says of one flag; undefined: nothing. */
function givenValue(name: string, key: string, flag: Flag, words: Words): unknown {
  const said = words[flagName(key)] ?? (flag.formerly && words[flagName(flag.formerly)]);
  const refused = refusal(key, flag).some((no) => words[no] === true);
  if (refused && said === true)
    throw new UsageError(`${name} takes --${flagName(key)} or --no-${flagName(key)}, not both`);
  if (refused) return false;
  return said === undefined ? undefined : valueOf(name, key, flag, said);
}

/** The values of the flags that a command line names. */
export function givenValues(
  name: string,
  command: Command,
  argv: readonly string[],
): Readonly<Record<string, unknown>> {
  const { values: words } = wordsOf(name, command, argv);
  const values = Object.entries(command.flags).map(([key, flag]) => [
    key,
    givenValue(name, key, flag, words),
  ]);
  return Object.fromEntries(values.filter(([, value]) => value !== undefined)) as Record<string, unknown>;
}

/** What a flag gives that is not given. */
export function standardOf({ type, repeat, default: standard }: Flag): unknown {
  if (type === 'boolean') return standard ?? false;
  return repeat ? [] : standard;
}

/** Throws UsageError for flags that do not go together. */
function checkTogether(name: string, command: Command, values: AnyValues, given: ReadonlySet<string>): void {
  for (const flags of command.exclusive ?? []) {
    if (flags.filter((key) => given.has(key)).length < 2) continue;
    const words = flags.map((key) => `--${flagName(key)}`);
    const last = words.pop()!;
    const sentence =
      words.length === 1 ? `${words[0]} or ${last}, not both` : `one of ${words.join(', ')} and ${last}`;
    throw new UsageError(`${name} takes ${sentence}`);
  }
  const lack = lackOf(command.flags, values, (key) => given.has(key));
  if (lack === undefined) return;
  const { option, needs, word = placeholder(command.flags[needs]!) } = lack;
  throw new UsageError(
    `${name} needs ${`--${flagName(needs)} ${word}`.trimEnd()}, since --${flagName(option)} is given`,
  );
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

/** How a flag is written. */
export function spelling(key: string, flag: Flag): string {
  return `--${refusal(key, flag).length > 0 ? '[no-]' : ''}${flagName(key)}`;
}

/** Usage and one line per flag: fits a screen, for which the rare ones are named alone unless `all` are wanted. */
export function help(name: string, command: Command, all = false): string {
  const flags = Object.entries(command.flags);
  const shown = flags.filter(([, flag]) => all || !flag.rare);
  const rare = flags.filter((entry) => !shown.includes(entry));
  const words = (key: string, flag: Flag): string => `${spelling(key, flag)} ${placeholder(flag)}`.trimEnd();
  const rows = shown.map(([key, flag]) => {
    const letter = flag.short === undefined ? '' : `-${flag.short}, `;
    // More would not fit into a line: they are told where another word is given.
    const few = flag.choices !== undefined && flag.choices.length <= 6 ? flag.choices : undefined;
    const choices = few === undefined ? '' : `: ${few.join(', ')}`;
    const standard = flag.required ? 'required' : defaultOf(flag);
    return [
      `  ${letter}${words(key, flag)}`,
      `${flag.help}${choices}${standard === undefined ? '' : ` (${flag.required ? '' : 'default '}${standard})`}`,
    ] as const;
  });
  const left = Math.max(...rows.map(([said]) => said.length));
  const more = rare.map(([key, flag]) => words(key, flag)).join(', ');
  return [
    `${command.summary}\n`,
    `Usage: lora-native ${name} ${command.usage}\n`,
    ...rows.map(([said, text]) => `${said.padEnd(left)}  ${text}`),
    ...(more === '' ? [] : [`\n${wrap(`More, told by lora-native ${name} --help --all: ${more}`)}`]),
    `\n${wrap(`--json prints ${command.json}`)}`,
  ].join('\n');
}
