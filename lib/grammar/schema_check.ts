/**
 * Whether a JSON value is valid under a JSON Schema (draft 2020-12, https://json-schema.org/draft/2020-12): for texts that were
 * written freely. It knows more keywords than a grammar can hold a text to; one that it does not know is refused.
 */
import { isDeepStrictEqual } from 'node:util';
import { linearRegex } from '../text/linear_regex';
import { describe, isRecord, listed } from '../validate';
import { accepts } from './automaton';
import {
  annotations,
  checkPointer,
  count,
  isOfType,
  list,
  malformed,
  referredTo,
  typesOf,
  unsupported,
  type Schema,
} from './json_schema_parts';
import { stringStates } from './string_language';
import { patternBudget } from './terms';

/** Whether a value that JSON.parse() gave is valid. */
export type SchemaCheck = (value: unknown) => boolean;

/** What a keyword asks for; `within` makes the check of a schema that is its part. */
type Keyword = (schema: Schema, path: string, within: Within) => SchemaCheck;
interface Within {
  /** Of the same value. */
  same(schema: unknown, path: string): SchemaCheck;
  /** Of a part of the value. */
  part(schema: unknown, path: string): SchemaCheck;
  /** Of the schema that a pointer names. */
  reference(pointer: unknown, path: string): SchemaCheck;
}

const characters = (text: string): number => [...text].length;
const length =
  (
    name: string,
    holds: (length: number, bound: number) => boolean,
    of: (value: unknown) => number | undefined,
  ): Keyword =>
  (schema, path) => {
    const bound = count(schema, name, path, Number.MAX_SAFE_INTEGER)!;
    return (value) => {
      const measured = of(value);
      return measured === undefined || holds(measured, bound);
    };
  };
const least = (a: number, b: number): boolean => a >= b;
const most = (a: number, b: number): boolean => a <= b;
const ofText = (value: unknown) => (typeof value === 'string' ? characters(value) : undefined);
const ofList = (value: unknown) => (Array.isArray(value) ? value.length : undefined);
const ofObject = (value: unknown) => (isRecord(value) ? Object.keys(value).length : undefined);

const bound =
  (name: string, holds: (value: number, bound: number) => boolean): Keyword =>
  (schema, path) => {
    const given = schema[name];
    if (typeof given !== 'number' || (name === 'multipleOf' && given <= 0))
      malformed(`${path}/${name}`, name === 'multipleOf' ? 'a number above 0' : 'a number', describe(given));
    return (value) => typeof value !== 'number' || holds(value, given);
  };

/** Whether a pattern matches somewhere in a text. An automaton reads what RE2 does not know, which is lookahead. */
function matcherOf(pattern: string, path: string): (text: string) => boolean {
  try {
    const regex = linearRegex(pattern);
    return (text) => regex.test(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    const rules = { patterns: [pattern], formats: [], least: 0, most: Infinity };
    const states = stringStates(patternBudget(), rules, path);
    return (text) => accepts(states, text);
  }
}

/** Digits behind the point of a number, as it is written. */
function digitsBehind(value: number): number {
  const [, fraction = '', exponent = '0'] = /^-?\d+(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(value)) ?? [];
  return Math.max(0, fraction.length - Number(exponent));
}

/** In units of the last digit of both, since 0.07 / 0.01 is not 7. */
function isMultiple(value: number, divisor: number): boolean {
  const unit = 10 ** Math.max(digitsBehind(value), digitsBehind(divisor));
  return Number.isInteger(value / divisor) || Math.round(value * unit) % Math.round(divisor * unit) === 0;
}

/** The checks of a list of schemas for the same value. */
const each = (schema: Schema, name: string, path: string, within: Within): SchemaCheck[] =>
  list(schema[name], `${path}/${name}`, 1).map((one, i) => within.same(one, `${path}/${name}/${i}`));

/** Different by JSON's own rules: the order of properties does not count. */
const different = (values: readonly unknown[]): boolean =>
  values.every((value, i) => values.slice(0, i).every((other) => !isDeepStrictEqual(value, other)));

const keywords: Readonly<Record<string, Keyword>> = {
  $ref: (schema, path, within) => within.reference(schema['$ref'], path),
  type: (schema, path) => {
    const types = typesOf(schema, path);
    return (value) => types.some((type) => isOfType(type, value));
  },
  const: (schema) => (value) => isDeepStrictEqual(value, schema['const']),
  enum: (schema, path) => {
    const values = list(schema['enum'], `${path}/enum`, 1);
    return (value) => values.some((one) => isDeepStrictEqual(value, one));
  },
  allOf: (schema, path, within) => {
    const checks = each(schema, 'allOf', path, within);
    return (value) => checks.every((holds) => holds(value));
  },
  anyOf: (schema, path, within) => {
    const checks = each(schema, 'anyOf', path, within);
    return (value) => checks.some((holds) => holds(value));
  },
  oneOf: (schema, path, within) => {
    const checks = each(schema, 'oneOf', path, within);
    return (value) => checks.filter((holds) => holds(value)).length === 1;
  },
  not: (schema, path, within) => {
    const holds = within.same(schema['not'], `${path}/not`);
    return (value) => !holds(value);
  },
  minLength: length('minLength', least, ofText),
  maxLength: length('maxLength', most, ofText),
  pattern: (schema, path) => {
    const { pattern } = schema;
    if (typeof pattern !== 'string') malformed(`${path}/pattern`, 'a text', describe(pattern));
    const matches = matcherOf(pattern, path);
    return (value) => typeof value !== 'string' || matches(value);
  },
  minimum: bound('minimum', least),
  maximum: bound('maximum', most),
  exclusiveMinimum: bound('exclusiveMinimum', (value, limit) => value > limit),
  exclusiveMaximum: bound('exclusiveMaximum', (value, limit) => value < limit),
  multipleOf: bound('multipleOf', isMultiple),
  minItems: length('minItems', least, ofList),
  maxItems: length('maxItems', most, ofList),
  uniqueItems: (schema, path) => {
    const { uniqueItems } = schema;
    if (typeof uniqueItems !== 'boolean')
      malformed(`${path}/uniqueItems`, 'true or false', describe(uniqueItems));
    return (value) => !uniqueItems || !Array.isArray(value) || different(value);
  },
  prefixItems: (schema, path, within) => {
    const checks = list(schema['prefixItems'], `${path}/prefixItems`, 1).map((one, i) =>
      within.part(one, `${path}/prefixItems/${i}`),
    );
    return (value) =>
      !Array.isArray(value) || checks.every((holds, i) => i >= value.length || holds(value[i]));
  },
  items: (schema, path, within) => {
    const from = Array.isArray(schema['prefixItems']) ? schema['prefixItems'].length : 0;
    const holds = within.part(schema['items'], `${path}/items`);
    return (value) => !Array.isArray(value) || value.slice(from).every((item) => holds(item));
  },
  minProperties: length('minProperties', least, ofObject),
  maxProperties: length('maxProperties', most, ofObject),
  required: (schema, path) => {
    const names = list(schema['required'], `${path}/required`, 0);
    const wrong = names.find((name) => typeof name !== 'string');
    if (wrong !== undefined) malformed(`${path}/required`, 'names of properties', describe(wrong));
    return (value) => !isRecord(value) || names.every((name) => Object.hasOwn(value, name as string));
  },
  properties: (schema, path, within) => {
    const { properties } = schema;
    if (!isRecord(properties)) malformed(`${path}/properties`, 'an object of schemas', describe(properties));
    const checks = Object.entries(properties).map(
      ([name, one]) => [name, within.part(one, `${path}/properties/${name}`)] as const,
    );
    return (value) =>
      !isRecord(value) || checks.every(([name, holds]) => !Object.hasOwn(value, name) || holds(value[name]));
  },
  propertyNames: (schema, path, within) => {
    const holds = within.part(schema['propertyNames'], `${path}/propertyNames`);
    return (value) => !isRecord(value) || Object.keys(value).every((name) => holds(name));
  },
  additionalProperties: (schema, path, within) => {
    const holds = within.part(schema['additionalProperties'], `${path}/additionalProperties`);
    const { properties, patternProperties } = schema;
    const named = new Set(isRecord(properties) ? Object.keys(properties) : []);
    const patterns = Object.keys(isRecord(patternProperties) ? patternProperties : {});
    const matches = patterns.map((pattern) => matcherOf(pattern, `${path}/patternProperties`));
    const isOther = (name: string): boolean => !named.has(name) && !matches.some((match) => match(name));
    return (value) =>
      !isRecord(value) || Object.entries(value).every(([name, one]) => !isOther(name) || holds(one));
  },
  patternProperties: (schema, path, within) => {
    const { patternProperties: given } = schema;
    const at = `${path}/patternProperties`;
    if (!isRecord(given)) malformed(at, 'an object of schemas', describe(given));
    const checks = Object.entries(given).map(
      ([pattern, one]) => [matcherOf(pattern, at), within.part(one, `${at}/${pattern}`)] as const,
    );
    return (value) =>
      !isRecord(value) ||
      checks.every(([matches, holds]) =>
        Object.entries(value).every(([name, one]) => !matches(name) || holds(one)),
      );
  },
};

const supported = Object.keys(keywords);

class Checks {
  /** The check of each schema that a $ref named; undefined while it is being made. */
  readonly #referred = new Map<string, SchemaCheck | undefined>();
  /** The references that a schema leads to without going into a part of the value. */
  readonly #leads = new Map<string, Set<string>>();

  constructor(private readonly root: unknown) {}

  /** `owner`: the pointer to the schema that this one is a part of, of the same value. */
  of(schema: unknown, path: string, owner?: string): SchemaCheck {
    if (typeof schema === 'boolean') return () => schema;
    if (!isRecord(schema)) malformed(path, 'a schema: an object, true or false', describe(schema));
    const given = Object.keys(schema).filter((key) => !annotations.includes(key));
    const unknown = given.filter((key) => !Object.hasOwn(keywords, key));
    if (unknown.length > 0) unsupported(path, `${listed(unknown)}; supported are ${supported.join(', ')}`);
    const within: Within = {
      same: (one, at) => this.of(one, at, owner),
      part: (one, at) => this.of(one, at),
      reference: (pointer, at) => this.#reference(pointer, at, owner),
    };
    const checks = given.map((key) => keywords[key]!(schema, path, within));
    return (value) => checks.every((holds) => holds(value));
  }

  #reference(pointer: unknown, path: string, owner: string | undefined): SchemaCheck {
    checkPointer(pointer, path);
    if (owner !== undefined) {
      if (!this.#leads.has(owner)) this.#leads.set(owner, new Set());
      this.#leads.get(owner)!.add(pointer);
    }
    if (!this.#referred.has(pointer)) {
      this.#referred.set(pointer, undefined);
      this.#referred.set(pointer, this.of(referredTo(this.root, pointer, path), pointer, pointer));
    }
    return (value) => this.#referred.get(pointer)!(value);
  }

  /** Throws where references lead to each other, and to no keyword that asks for something. */
  checkReferences(): void {
    const closed = new Set<string>();
    const follow = (pointer: string, open: readonly string[]): void => {
      if (open.includes(pointer))
        malformed(`${pointer}/$ref`, 'a reference that comes to a value', describe(pointer));
      if (closed.has(pointer)) return;
      for (const next of this.#leads.get(pointer) ?? []) follow(next, [...open, pointer]);
      closed.add(pointer);
    };
    for (const pointer of this.#leads.keys()) follow(pointer, []);
  }
}

/**
 * The check of a schema.
 *
 * @throws ERR_ARGUMENT for what is no JSON Schema; ERR_UNSUPPORTED for a keyword that is not known. Both name the place.
 */
export function schemaCheck(schema: unknown): SchemaCheck {
  const checks = new Checks(schema);
  const check = checks.of(schema, '#', '#');
  checks.checkReferences();
  return check;
}

/** The check of a schema that is a part of another one, in which its references are. @throws as schemaCheck() does. */
export const partCheck = (root: unknown, schema: unknown, path: string): SchemaCheck =>
  new Checks(root).of(schema, path);

/** Whether a text is JSON that is valid. One that is nested beyond what the stack holds, some thousand levels, is not. */
export function isValidJson(text: string, check: SchemaCheck): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return check(JSON.parse(JSON.stringify(value))); // −0 is the number 0 of a schema
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof RangeError) return false;
    throw error;
  }
}
