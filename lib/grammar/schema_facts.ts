/** What can be told of schemas without a value: the values that they list, whether two have one in common, the members of an object. */
import { isDeepStrictEqual } from 'node:util';
import { describe, isRecord } from '../validate';
import { schemaOfAll } from './all_of';
import { checkPointer, list, malformed, referredTo, unsupported, type Schema } from './json_schema_parts';
import { partCheck } from './schema_check';

/** References that are followed, and schemas within others that are looked at. */
const maxDepth = 16;
/** Values and schemas that are looked at for one schema: a few references can stand for very many. */
const maxLooks = 50_000;
/** Schemas of a oneOf that are compared by pairs. */
const maxPairs = 16;

const alternativesOf = (schema: Schema): unknown[] | undefined => {
  const all = schema['anyOf'] ?? schema['oneOf'];
  return Array.isArray(all) ? all : undefined;
};

const typeOf = (value: unknown): string =>
  value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value;

/** Whether values that are no lists or objects are all different. */
function differ(lists: readonly (readonly unknown[] | undefined)[]): boolean {
  const seen = new Set<unknown>();
  for (const values of lists) {
    if (!values || values.some((value) => typeof value === 'object' && value !== null)) return false;
    if (values.some((value) => seen.has(value))) return false;
    for (const value of values) seen.add(value);
  }
  return true;
}

const requiredOf = (schema: Schema): string[] => {
  const { properties, required } = schema;
  if (!isRecord(properties) || !Array.isArray(required)) return [];
  return required.filter(
    (name): name is string => typeof name === 'string' && Object.hasOwn(properties, name),
  );
};
const propertyOf = (schema: Schema, name: string): unknown => (schema['properties'] as Schema)[name];

/** A schema, and its place. */
type Placed = readonly [schema: unknown, path: string];

/** What an object is made of: the properties that it may have, in their order, and those that it needs. */
export interface Members {
  readonly properties: ReadonlyMap<string, Placed>;
  readonly needed: ReadonlySet<string>;
  /** Whether it names none, so that any may be made. */
  readonly free: boolean;
  readonly patterns: readonly NamePattern[];
}

/** What a schema says of the properties whose names match a pattern. */
export interface NamePattern {
  readonly pattern: string;
  readonly placed: Placed;
  readonly matches: (name: string) => boolean;
}

/** What is told of the parts of one schema. */
export class SchemaFacts {
  #looks = 0;
  /** What schemas with an allOf are by themselves. */
  readonly #ofAll = new Map<Schema, Schema | true>();

  constructor(private readonly root: unknown) {}

  /** The schema that a reference leads to, where it is one. */
  #resolved(schema: unknown, path: string): unknown {
    let found = schema;
    this.#look(path);
    for (let i = 0; i < maxDepth && isRecord(found) && found['$ref'] !== undefined; i++) {
      const pointer = found['$ref'];
      checkPointer(pointer, path);
      found = referredTo(this.root, pointer, path);
    }
    if (!isRecord(found) || found['allOf'] === undefined) return found;
    const known = this.#ofAll.get(found);
    if (known !== undefined) return known;
    const merged = schemaOfAll(this.root, found, path);
    this.#ofAll.set(found, merged);
    return merged;
  }

  #look(path: string, count = 1): void {
    this.#looks += count;
    if (this.#looks > maxLooks)
      unsupported(path, `schemas of which more than ${maxLooks} parts are compared`);
  }

  /** The values that a schema lists; undefined where others may be valid too. */
  #values(given: unknown, path: string, depth = 0): unknown[] | undefined {
    const schema = this.#resolved(given, path);
    if (!isRecord(schema) || depth > maxDepth) return undefined;
    if (schema['const'] !== undefined) return [schema['const']];
    const { enum: listed } = schema;
    if (Array.isArray(listed)) {
      this.#look(path, listed.length);
      return listed as unknown[];
    }
    if (schema['type'] === 'null') return [null];
    const all = alternativesOf(schema)?.map((one) => this.#values(one, path, depth + 1));
    return all?.every((values) => values !== undefined) ? all.flat() : undefined;
  }

  /** The types that values may have; undefined for any. */
  #types(given: unknown, path: string, depth = 0): string[] | undefined {
    const schema = this.#resolved(given, path);
    if (!isRecord(schema) || depth > maxDepth) return undefined;
    const values = this.#values(schema, path);
    if (values) return values.map(typeOf);
    const { type } = schema;
    if (type !== undefined)
      return ([type].flat() as string[]).map((one) => (one === 'integer' ? 'number' : one));
    const all = alternativesOf(schema)?.map((one) => this.#types(one, path, depth + 1));
    return all?.every((types) => types !== undefined) ? all.flat() : undefined;
  }

  /** Whether only strings are valid. */
  isOfStrings(schema: unknown, path: string): boolean {
    return this.#types(schema, path)?.every((type) => type === 'string') === true;
  }

  /** Whether no value is valid under both. */
  #areApart(a: unknown, b: unknown, path: string, depth = 0): boolean {
    const [one, other] = [this.#resolved(a, path), this.#resolved(b, path)];
    if (one === false || other === false) return true;
    if (!isRecord(one) || !isRecord(other) || depth > maxDepth) return false;
    for (const [some, rest] of [
      [alternativesOf(one), other],
      [alternativesOf(other), one],
    ] as const)
      if (some)
        return some.length <= maxPairs && some.every((part) => this.#areApart(part, rest, path, depth + 1));
    if (differ([this.#values(one, path), this.#values(other, path)])) return true;
    const [types, others] = [this.#types(one, path), this.#types(other, path)];
    if (types && others && !types.some((type) => others.includes(type))) return true;
    const both = requiredOf(one).filter((name) => requiredOf(other).includes(name));
    return both.some((name) =>
      this.#areApart(propertyOf(one, name), propertyOf(other, name), path, depth + 1),
    );
  }

  /**
   * Throws unless one schema of a oneOf is valid for a value at most, so that it is an anyOf: where they list different values, have different
   * types, or all require a property that tells them apart, as a discriminator does.
   */
  checkApart(all: readonly unknown[], path: string): void {
    if (differ(all.map((one) => this.#values(one, path)))) return;
    const schemas = all.map((one) => this.#resolved(one, path));
    const [first] = schemas;
    const discriminates = (name: string): boolean =>
      differ(
        schemas.map((one) =>
          isRecord(one) && requiredOf(one).includes(name)
            ? this.#values(propertyOf(one, name), path)
            : undefined,
        ),
      );
    if (isRecord(first) && requiredOf(first).some(discriminates)) return;
    const pairs = all.flatMap((_, i) => all.slice(0, i).map((_, k) => [k, i] as const));
    const common =
      all.length <= maxPairs
        ? pairs.find(([i, k]) => !this.#areApart(all[i], all[k], path))
        : ([0, 1] as const);
    if (common)
      unsupported(
        path,
        `oneOf of schemas ${common.join(' and ')}, under which one value may be valid: let a property that they require be another const in each, or use anyOf`,
      );
  }

  /** The values of the items of an array, where there are few. @throws ERR_UNSUPPORTED where others may be valid, or there are more. */
  fewValues(items: unknown, most: number, path: string): unknown[] {
    const holds = partCheck(this.root, items, `${path}/items`);
    const valid = (this.#values(items, `${path}/items`) ?? []).filter((value) => holds(value));
    const different = valid.filter(
      (value, i) => !valid.slice(0, i).some((one) => isDeepStrictEqual(one, value)),
    );
    if (different.length === 0 || different.length > most)
      unsupported(`${path}/uniqueItems`, `uniqueItems but where items is an enum of at most ${most} values`);
    return different;
  }

  #patternsOf({ patternProperties: given = {} }: Schema, path: string): NamePattern[] {
    const at = `${path}/patternProperties`;
    if (!isRecord(given)) malformed(at, 'an object of schemas', describe(given));
    return Object.entries(given).map(([pattern, one]) => ({
      pattern,
      placed: [one, `${at}/${pattern}`],
      matches: partCheck(this.root, { pattern }, at),
    }));
  }

  /** The properties that a schema names: those of `properties`, or else those that `propertyNames` lists, and those of `required`. */
  membersOf(schema: Schema, path: string): Members {
    const { properties: given = {}, required = [], additionalProperties: others = true } = schema;
    if (!isRecord(given)) malformed(`${path}/properties`, 'an object of schemas', describe(given));
    const patterns = this.#patternsOf(schema, path);
    const properties = new Map<string, Placed>();
    const forbidden = new Set<unknown>();
    /** A property is what its own schema and those of all patterns of its name say. */
    const set = (name: string, own: Placed | undefined): void => {
      const of = patterns.filter(({ matches }) => matches(name)).map(({ placed }) => placed);
      const all: readonly Placed[] = own ? [own, ...of] : of.length > 0 ? of : [additional];
      if (all.some(([one]) => one === false)) return void forbidden.add(name);
      properties.set(name, all.length === 1 ? all[0]! : [{ allOf: all.map(([one]) => one) }, all[0]![1]]);
    };
    const additional: Placed = [others, `${path}/additionalProperties`];
    for (const [name, one] of Object.entries(given)) set(name, [one, `${path}/properties/${name}`]);
    const add = (name: string): void => {
      if (!Object.hasOwn(given, name) && !properties.has(name)) set(name, undefined);
    };
    const { propertyNames: keys } = schema;
    const listed = this.#values(keys, `${path}/propertyNames`);
    if (properties.size === 0) for (const name of listed ?? []) if (typeof name === 'string') add(name);
    const needed = new Set<string>();
    for (const name of list(required, `${path}/required`, 0)) {
      if (typeof name === 'string') add(name);
      if (forbidden.has(name) && (Object.hasOwn(given, name as string) || patterns.length > 0))
        malformed(`${path}/required`, 'properties that all schemas of the object allow', describe(name));
      if (typeof name !== 'string' || !properties.has(name))
        malformed(`${path}/required`, 'names of "properties"', describe(name));
      needed.add(name);
    }
    if (keys !== undefined && properties.size > 0) {
      const holds = partCheck(this.root, keys, `${path}/propertyNames`);
      const wrong = [...properties.keys()].find((name) => !holds(name));
      if (wrong !== undefined)
        malformed(path, 'properties whose names propertyNames allows', describe(wrong));
    }
    return { properties, needed, free: Object.keys(given).length === 0 && properties.size === 0, patterns };
  }
}
