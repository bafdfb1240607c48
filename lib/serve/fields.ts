/** Reads the fields of a request; null is what OpenAI's clients write for a field that is left out. */
import { describe, isRecord } from '../validate';
import { invalid, unsupported } from './api_error';

/** The body of a request. */
export type Fields = Readonly<Record<string, unknown>>;

interface Range {
  readonly least?: number;
  readonly most?: number;
}

function numberOf(fields: Fields, name: string, range: Range, whole: boolean): number | undefined {
  const value = fields[name] ?? undefined;
  if (value === undefined) return undefined;
  const { least = -Infinity, most = Infinity } = range;
  const right =
    typeof value === 'number' &&
    (whole ? Number.isSafeInteger(value) : Number.isFinite(value)) &&
    value >= least &&
    value <= most;
  if (right) return value;
  const kind = whole ? 'a whole number' : 'a number';
  const bounds =
    most < Infinity ? ` from ${least} to ${most}` : least > -Infinity ? ` of at least ${least}` : '';
  throw invalid(`expected ${name} to be ${kind}${bounds} but received ${describe(value)}`, name);
}

export const numberField = (fields: Fields, name: string, range: Range = {}): number | undefined =>
  numberOf(fields, name, range, false);

export const integerField = (fields: Fields, name: string, range: Range = {}): number | undefined =>
  numberOf(fields, name, range, true);

export function booleanField(fields: Fields, name: string): boolean | undefined {
  const value = fields[name] ?? undefined;
  if (value === undefined || typeof value === 'boolean') return value;
  throw invalid(`expected ${name} to be true or false but received ${describe(value)}`, name);
}

export function stringField(fields: Fields, name: string): string | undefined {
  const value = fields[name] ?? undefined;
  if (value === undefined || typeof value === 'string') return value;
  throw invalid(`expected ${name} to be a text but received ${describe(value)}`, name);
}

export function recordField(fields: Fields, name: string): Fields | undefined {
  const value = fields[name] ?? undefined;
  if (value === undefined || isRecord(value)) return value;
  throw invalid(`expected ${name} to be an object but received ${describe(value)}`, name);
}

/** A field that has to be there. */
export function needed<T>(value: T | undefined, name: string): T {
  if (value !== undefined) return value;
  throw invalid(`you must provide ${name}`, name, 'missing_required_parameter');
}

/** Refuses fields by name, with the reason, unless they say what holds without them. */
export function refuseFields(fields: Fields, refused: Readonly<Record<string, string>>): void {
  for (const [name, why] of Object.entries(refused)) {
    const value = fields[name] ?? false;
    const nothing = value === false || value === 'none' || (Array.isArray(value) && value.length === 0);
    if (!nothing) throw unsupported(name, why);
  }
}
