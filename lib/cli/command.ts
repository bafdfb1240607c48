/** What a command is: one table of flags that the parser, the help and the reference of the command line read. */
import type { Readable, Writable } from 'node:stream';

/** A flag of a command. */
export interface Flag {
  /** 'integer' is a whole number. */
  type: 'string' | 'number' | 'integer' | 'boolean';
  /** What it sets, without its default. */
  help: string;
  /** What stands for the value in the help: DIR, FILE, N. */
  value?: string;
  required?: boolean;
  /** Taken when the flag is not given. */
  default?: string | number;
  /** Says what happens without the flag, where that is no constant; for the help alone. */
  defaultText?: string;
  /** The words that are allowed. */
  choices?: readonly string[];
  /** The least number that is allowed. */
  minimum?: number;
  /** May be given several times: its values are a list. For texts. */
  repeat?: boolean;
  /** One letter: -h. */
  short?: string;
}

export type Flags = Readonly<Record<string, Flag>>;

type Plain<F extends Flag> = F extends { type: 'string' }
  ? F extends { choices: readonly (infer Word)[] }
    ? Word
    : string
  : number;

/** What a command gets for one flag: undefined only where the flag may be left out and has no default. */
export type ValueOf<F extends Flag> = F extends { type: 'boolean' }
  ? boolean
  : F extends { repeat: true }
    ? readonly string[]
    : F extends { required: true } | { default: string | number }
      ? Plain<F>
      : Plain<F> | undefined;

/** Values by the names of the table: camelCase, as the options of the library. */
export type Values<F extends Flags> = { readonly [Name in keyof F]: ValueOf<F[Name]> };

/** The values of a command whose table is not known to the compiler. */
export type AnyValues = Readonly<Record<string, string | number | boolean | readonly string[] | undefined>>;

/** A terminal, or what a test puts in its place. */
export interface Console {
  /** Results only. */
  stdout: Writable;
  /** Lines for people. */
  stderr: Writable & { isTTY?: boolean; columns?: number };
  stdin: Readable & { isTTY?: boolean };
  /**
   * Aborted with Interrupted on the first Ctrl-C or SIGTERM (a second one ends the process at once) and when nobody reads
   * the output any more, with the error when the output fails in another way.
   */
  signal: AbortSignal;
}

export interface Command {
  summary: string;
  /** What follows `lora-native NAME`. */
  usage: string;
  flags: Flags;
  /** Names of the arguments without a flag, all of them required. */
  positionals?: readonly string[];
  /** What `--json` prints: the shape of the object, or of the object on each line. */
  json: string;
  /** Gives the exit code where it is not 0. */
  run(values: AnyValues, console: Console, positionals: readonly string[]): Promise<number | void>;
}

interface TypedCommand<F extends Flags> extends Command {
  flags: F;
  run(values: Values<F>, console: Console, positionals: readonly string[]): Promise<number | void>;
}

/** Types the values that `run` gets by the table of flags. */
export function defineCommand<const F extends Flags>(command: TypedCommand<F>): Command {
  return command;
}

/** Every command has it. */
export const helpFlag = { type: 'boolean', short: 'h', help: 'this text' } as const satisfies Flag;

const interruptions = { SIGINT: 130, SIGTERM: 143, SIGPIPE: 141 } as const;

/** The reason of what was stopped from outside; its exit code is that of the signal. */
export class Interrupted extends Error {
  readonly exitCode: number;

  /** 'SIGPIPE': nobody reads the output any more. */
  constructor(signal: keyof typeof interruptions) {
    super(`interrupted by ${signal}`);
    this.exitCode = interruptions[signal];
  }
}

/** Wrong usage: printed without a stack, exit code 2. */
export class UsageError extends Error {}

export const exitCodes: Readonly<Record<number, string>> = {
  0: 'done',
  1: 'failed',
  2: 'wrong usage',
  130: 'interrupted by Ctrl-C (training has saved a checkpoint)',
  141: 'nobody reads the output any more, as in `lora-native train --json … | head -2` (the same)',
  143: 'interrupted by SIGTERM (the same)',
};
