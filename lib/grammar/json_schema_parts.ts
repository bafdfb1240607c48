/** The parts of a JSON Schema, read with errors that name their place. */
import { LoRAError } from '../errors';
import { isRecord } from '../formats/json';
import { describe } from '../validate';

export const op = 'generate';
export type Schema = Record<string, unknown>;

/** Keywords that say nothing about what is valid. `format` is one too; what is generated follows some formats nevertheless. */
export const annotations = [
  '$schema',
  '$id',
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
  'format',
];

/** The keywords that a type may have beside it. */
export const keywordsOf: Readonly<Record<string, readonly string[]>> = {
  null: [],
  boolean: [],
  string: ['minLength', 'maxLength'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  object: ['properties', 'required', 'additionalProperties'],
};
const types = Object.keys(keywordsOf);

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
  throw new LoRAError(
    'ERR_ARGUMENT',
    `[${op}] jsonSchema at ${path}: expected ${expected} but received ${received}`,
    { op },
  );
}

export function unsupported(path: string, what: string): never {
  throw new LoRAError('ERR_UNSUPPORTED', `[${op}] jsonSchema at ${path}: no support for ${what}`, { op });
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
