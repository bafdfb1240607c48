/** What a command is: one table of flags that the parser, the help and the reference of the command line read. */
import type { Readable, Writable } from 'node:stream';
import type { Option, Options, Values } from '../options/option';

export type { Values };
export type Flag = Option;
export type Flags = Options;

/** The values of a command whose table is not known to the compiler. */
export type AnyValues = Readonly<Record<string, unknown>>;

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
  /** Flags of which one may be given. */
  exclusive?: readonly (readonly string[])[];
  /** What `--json` prints: the shape of the object, or of the object on each line. */
  json: string;
  /** Gives the exit code where it is not 0; 0 itself where it ends so although it was interrupted. */
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

/** Of the commands whose options a file may hold. */
export const configFlag = {
  type: 'string',
  value: 'FILE',
  help: 'JSON or YAML with options by their names; flags come first',
} as const satisfies Flag;

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
