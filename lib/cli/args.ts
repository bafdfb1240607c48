import { parseArgs } from 'node:util';
import { LoRAError } from '../errors';
import { suggest } from '../validate';

/** A flag of a command: what it takes, and the help line. */
export interface Flag {
  type: 'string' | 'number' | 'boolean';
  help: string;
  /** Shown in the help, in capitals: DIR, FILE, N. */
  value?: string;
  required?: boolean;
}

export interface Command {
  summary: string;
  usage: string;
  flags: Record<string, Flag>;
  positionals?: number;
  /** `signal` is aborted with Interrupted on the first Ctrl-C; a second one ends the process at once. */
  run(args: Arguments, signal: AbortSignal): Promise<void>;
}

export interface Arguments {
  string(name: string): string | undefined;
  number(name: string): number | undefined;
  boolean(name: string): boolean;
  positionals: string[];
}

/** The reason of what the user stopped: exit code 130. */
export class Interrupted extends Error {
  constructor() {
    super('interrupted');
  }
}

/** Wrong usage: printed without a stack, exit code 2. */
export class UsageError extends Error {}

const kebab = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

/** Parses `argv` strictly: an unknown flag is an error that names the near one. */
export function parse(name: string, command: Command, argv: string[]): Arguments {
  const flags = new Map(Object.entries(command.flags).map(([key, flag]) => [kebab(key), { key, flag }]));
  const known = [...flags.keys()];
  for (const argument of argv) {
    if (argument === '--') break;
    const [, given] = /^--([^=]+)/.exec(argument) ?? [];
    if (given === undefined || flags.has(given)) continue;
    const near = suggest(given, known) ?? suggest(camel(given), known.map(camel));
    throw new UsageError(
      `unknown flag --${given}${near === undefined ? '' : `; did you mean --${kebab(near)}?`} See lora-native ${name} --help`,
    );
  }
  let parsed;
  try {
    parsed = parseArgs({
      args: argv,
      allowPositionals: true,
      strict: true,
      options: Object.fromEntries(
        [...flags].map(
          ([
            flag,
            {
              flag: { type },
            },
          ]) => [flag, { type: type === 'boolean' ? ('boolean' as const) : ('string' as const) }],
        ),
      ),
    });
  } catch (error) {
    throw new UsageError(`${(error as Error).message}. See lora-native ${name} --help`);
  }
  const values = new Map<string, string | boolean>();
  for (const [flag, { key, flag: rule }] of flags) {
    const value = parsed.values[flag];
    if (value === undefined) {
      if (rule.required) throw new UsageError(`${name} needs --${flag} ${rule.value ?? ''}`.trim());
      continue;
    }
    if (rule.type === 'number' && (value === '' || !Number.isFinite(Number(value))))
      throw new UsageError(`expected --${flag} to be a number but received ${JSON.stringify(value)}`);
    values.set(key, value);
  }
  const allowed = command.positionals ?? 0;
  if (parsed.positionals.length > allowed)
    throw new UsageError(
      `unexpected argument ${JSON.stringify(parsed.positionals[allowed])}. See lora-native ${name} --help`,
    );
  return {
    string: (key) => values.get(key) as string | undefined,
    number: (key) => (values.has(key) ? Number(values.get(key)) : undefined),
    boolean: (key) => values.get(key) === true,
    positionals: parsed.positionals,
  };
}

const camel = (name: string): string => name.replace(/-([a-z])/g, (_, c: string) => c.toUpperCase());

/** Usage and one line per flag: fits a screen. */
export function help(name: string, command: Command): string {
  const rows = Object.entries(command.flags).map(([key, flag]) => [
    `  --${kebab(key)}${flag.type === 'boolean' ? '' : ` ${flag.value ?? (flag.type === 'number' ? 'N' : 'TEXT')}`}`,
    flag.help,
  ]);
  const width = Math.max(0, ...rows.map(([left]) => (left as string).length));
  return [
    `${command.summary}\n`,
    `Usage: lora-native ${name} ${command.usage}\n`,
    ...rows.map(([left, right]) => `${(left as string).padEnd(width)}  ${right}`),
  ].join('\n');
}

/** Only the entries that were given, so that the library's own defaults hold. */
export function given<T extends object>(entries: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

export function failure(error: unknown): string {
  if (error instanceof LoRAError) return `${error.message} (${error.code})`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
