/** What a target of the fuzzer is. */
import type { Dice } from './random';

export interface Target {
  /** The input of some dice, as bytes: what is kept when it finds something. */
  make(dice: Dice): Uint8Array;
  /** Reads it; throws what is not a LoRAError for a fault. `dir` is a folder for files. */
  run(input: Uint8Array, dir: string): unknown;
  /** What an input is one of, where a target has kinds. Each kind must be accepted often enough (kinds.ts). */
  kindOf?(input: Uint8Array): string;
  /** Kinds of which no input is accepted. */
  readonly neverAccepted?: readonly string[];
}

/** Throws where a reader gave one text, and another was expected. */
export function same(made: string, expected: string): void {
  if (made !== expected)
    throw new Error(`gave ${made.slice(0, 500)} where ${expected.slice(0, 500)} was expected`);
}
