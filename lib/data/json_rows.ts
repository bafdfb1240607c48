/** Rows of a JSONL file, one object on each line, with errors that name file and line. */
import { type ErrorCode, loraError } from '../errors';
import { jsonFault } from '../formats/json_scanner';
import { describe } from '../validate';

/** A line as a file has it. */
export interface RowPlace {
  readonly file: string;
  /** From 1. */
  readonly line: number;
}

const op = 'loadDataset';

/** Throws `message`, with the place. */
export function failAt({ file, line }: RowPlace, message: string, code: ErrorCode = 'ERR_DATA'): never {
  throw loraError(op, code, `${file}:${line}: ${message}`);
}

/** The object that a text holds: a line, or a part of one. @throws ERR_DATA, with the place. */
export function parseRow(
  text: string,
  place: RowPlace,
  expected = 'one JSON object per line',
): Readonly<Record<string, unknown>> {
  let row: unknown;
  try {
    row = JSON.parse(text);
  } catch {
    failAt(place, `expected ${expected}, but this is no JSON: ${jsonFault(text)}`);
  }
  if (typeof row !== 'object' || row === null || Array.isArray(row))
    failAt(place, `expected a JSON object but received ${describe(row)}`);
  return row as Readonly<Record<string, unknown>>;
}
