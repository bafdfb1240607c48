/** The parts of a JSON Schema, read with errors that name their place. */
import { loraError } from '../errors';
import { describe, isRecord } from '../validate';
import { digitsBehind, steppedFractions, type Fractions } from './json_numbers';

export const op = 'generate';
export type Schema = Record<string, unknown>;

/** Keywords that say nothing about what is valid. `format` is one too; what is generated follows some formats nevertheless. */
export const annotations = [
  '$schema',
  '$id',
  'id',
  '$comment',
  '$defs',
  'definitions',
  'title',
  'description',
  'default',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  'contentEncoding',
  'contentMediaType',
  'format',
];

/** The keywords that a type may have beside it. */
export const keywordsOf: Readonly<Record<string, readonly string[]>> = {
  null: [],
  boolean: [],
  string: ['minLength', 'maxLength', 'pattern'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems', 'uniqueItems'],
  object: ['properties', 'required', 'additionalProperties', 'propertyNames', 'patternProperties'],
};
const types = Object.keys(keywordsOf);

/** The keywords that bound a number. */
export const bounds = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'] as const;

export function typesOf({ type }: Schema, path: string): string[] {
  if (type === undefined) return [];
  const named: unknown[] = Array.isArray(type) ? type : [type];
  const wrong = named.find((one) => typeof one !== 'string' || !types.includes(one));
  if (named.length === 0 || wrong !== undefined)
    malformed(`${path}/type`, `one of ${types.join(', ')}, or a list of them`, describe(wrong ?? type));
  const all = [...new Set(named as string[])];
  return all.includes('number') ? all.filter((one) => one !== 'integer') : all;
}

export function isOfType(type: string, value: unknown): boolean {
  switch (type) {
    case 'null':
      return value === null;
    case 'array':
      return Array.isArray(value);
    case 'object':
      return isRecord(value);
    case 'integer':
      return Number.isInteger(value);
    default:
      return typeof value === type;
  }
}

export function list(value: unknown, path: string, least: number): unknown[] {
  if (!Array.isArray(value) || value.length < least)
    malformed(path, `a list${least > 0 ? ' that is not empty' : ''}`, describe(value));
  return value as unknown[];
}

export function count(schema: Schema, name: string, path: string, limit: number): number | undefined {
  const value = schema[name];
  if (value === undefined) return undefined;
  if (!Number.isSafeInteger(value) || (value as number) < 0)
    malformed(`${path}/${name}`, 'a count', describe(value));
  if ((value as number) > limit) unsupported(`${path}/${name}`, `more than ${limit}`);
  return value as number;
}

export function ordered(least: number, most: number, path: string, low: string, high: string): void {
  if (least > most) malformed(path, `${low} of at most ${high}`, `${least} and ${most}`);
}

export function malformed(path: string, expected: string, received: string): never {
  throw loraError(op, 'ERR_ARGUMENT', `jsonSchema at ${path}: expected ${expected} but received ${received}`);
}

export function unsupported(path: string, what: string): never {
  throw loraError(op, 'ERR_UNSUPPORTED', `jsonSchema at ${path}: no support for ${what}`);
}

/** Throws unless a reference stays within its schema. */
export function checkPointer(pointer: unknown, path: string): asserts pointer is string {
  if (typeof pointer !== 'string' || !/^#(\/|$)/.test(pointer))
    unsupported(
      `${path}/$ref`,
      `${describe(pointer)}: a reference begins with #/ and stays within the schema`,
    );
}

/** The part of a schema that a JSON pointer names. */
export function referredTo(root: unknown, pointer: string, path: string): unknown {
  let target = root;
  for (const part of pointer.split('/').slice(1)) {
    const name = decodePart(part, path).replaceAll('~1', '/').replaceAll('~0', '~');
    target =
      (isRecord(target) || Array.isArray(target)) && Object.hasOwn(target, name)
        ? (target as Schema)[name]
        : undefined;
  }
  if (target === undefined)
    malformed(`${path}/$ref`, 'a reference to a part of the schema', describe(pointer));
  return target;
}

function decodePart(part: string, path: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return malformed(`${path}/$ref`, 'a URI fragment', describe(part));
  }
}

/** The text of a keyword, where a schema has it. */
export function textsOf(schema: Schema, key: string, path: string): string[] {
  const text = schema[key];
  if (text === undefined) return [];
  if (typeof text !== 'string') malformed(`${path}/${key}`, 'a text', describe(text));
  return [text];
}

/** A schema of a string, and its place. */
export type StringPart = readonly [schema: Schema, path: string];

/** The parts of a string whose `allOf` says more of it, as where it has several patterns; undefined for other schemas. */
export function stringParts(
  schema: Schema,
  given: readonly string[],
  path: string,
): StringPart[] | undefined {
  const { allOf } = schema;
  if (!Array.isArray(allOf) || (allOf.length < 2 && given.length < 2)) return undefined;
  const { allOf: _, ...own } = schema;
  const parts = [own, ...(allOf as unknown[])].map(
    (part, i) => [part, i === 0 ? path : `${path}/allOf/${i - 1}`] as const,
  );
  const known = ['type', ...keywordsOf['string']!, ...annotations];
  const isPart = (part: readonly [unknown, string]): part is StringPart =>
    isRecord(part[0]) &&
    (part[0]['type'] ?? 'string') === 'string' &&
    Object.keys(part[0]).every((key) => known.includes(key));
  if (!parts.every(isPart)) return undefined;
  return parts.some(([{ type }]) => type === 'string') ? parts : undefined;
}

/** What numbers are multiples of: a count of units of so many digits behind the point. */
export interface Step {
  readonly count: number;
  readonly digits: number;
}

/** Fractions that are listed one by one. */
const maxFractions = 1000;

/** The multipleOf of a schema. */
export function stepOf({ multipleOf }: Schema, path: string): Step | undefined {
  if (multipleOf === undefined) return undefined;
  const at = `${path}/multipleOf`;
  if (typeof multipleOf !== 'number' || !(multipleOf > 0))
    malformed(at, 'a number above 0', describe(multipleOf));
  const [whole, fraction = ''] = String(multipleOf).split('.');
  const step = { count: Number(whole! + fraction), digits: fraction.length };
  const parts = 10 ** step.digits / step.count;
  const isKnown =
    Number.isSafeInteger(step.count) &&
    (step.digits === 0 || (Number.isInteger(parts) && (step.count === 1 || parts <= maxFractions)));
  if (!isKnown) unsupported(at, `${multipleOf}: whole numbers, and fractions that divide 1, such as 0.25`);
  return step;
}

/** What may stand behind the point of multiples of a step that divides 1. */
export const fractionsOf = ({ count, digits }: Step, rule: (body: string) => string): Fractions =>
  count === 1 ? digitsBehind(digits) : steppedFractions(count, digits, rule);
