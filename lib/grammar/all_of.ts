/** Several schemas that hold for one value at once, as one schema: what an `allOf` says, with the keywords beside it. */
import { describe, isRecord } from '../validate';
import {
  annotations,
  checkPointer,
  keywordsOf,
  list,
  malformed,
  referredTo,
  typesOf,
  unsupported,
  type Schema,
} from './json_schema_parts';
import { partCheck } from './schema_check';

/** A schema, and its place. */
type Placed = readonly [schema: Schema, path: string];

const maxParts = 64;

const highest = ['minimum', 'exclusiveMinimum', 'minLength', 'minItems'];
const lowest = ['maximum', 'exclusiveMaximum', 'maxLength', 'maxItems'];
/** Keywords of which each part says something about other properties or items than the same keyword of another part. */
const ofObjects = ['properties', 'additionalProperties', 'patternProperties', 'propertyNames', 'required'];
const ofArrays = ['prefixItems', 'items'];

const saying = (schema: Schema): string[] =>
  Object.keys(schema).filter(
    (key) => schema[key] !== undefined && (key === 'format' || !annotations.includes(key)),
  );

/** The schemas of an allOf, those that references and further ones within it lead to, and the keywords beside them. */
function partsOf(root: unknown, given: unknown, path: string, open: readonly string[] = []): Placed[] {
  if (given === true) return [];
  if (!isRecord(given)) malformed(path, 'a schema: an object or true', describe(given));
  const { $ref, allOf, ...own } = given;
  const parts: Placed[] = saying(own).length > 0 ? [[own, path]] : [];
  if ($ref !== undefined) {
    checkPointer($ref, path);
    if (open.includes($ref)) malformed(`${path}/$ref`, 'a reference that comes to a value', describe($ref));
    parts.push(...partsOf(root, referredTo(root, $ref, path), $ref, [...open, $ref]));
  }
  if (allOf !== undefined)
    for (const [i, one] of list(allOf, `${path}/allOf`, 1).entries()) {
      parts.push(...partsOf(root, one, `${path}/allOf/${i}`, open));
      if (parts.length > maxParts) unsupported(`${path}/allOf`, `more than ${maxParts} schemas`);
    }
  const seen = new Set<string>();
  return parts.filter(([part]) => {
    const text = JSON.stringify(part);
    return !seen.has(text) && seen.add(text);
  });
}

/** The schema of a part of the value about which several say something. */
function both(schemas: readonly unknown[]): unknown {
  const different = [...new Map(schemas.map((one) => [JSON.stringify(one), one])).values()];
  if (different.includes(false)) return false;
  const saying = different.filter((one) => one !== true);
  return saying.length > 1 ? { allOf: saying } : (saying[0] ?? true);
}

/** What a part says of a property. @throws ERR_UNSUPPORTED where it may be one of a pattern. */
function propertyOf([schema, path]: Placed, name: string): unknown {
  const { properties = {}, additionalProperties = true } = schema;
  if (!isRecord(properties)) malformed(`${path}/properties`, 'an object of schemas', describe(properties));
  return Object.hasOwn(properties, name) ? properties[name] : additionalProperties;
}

function objectKeywords(parts: readonly Placed[]): Schema {
  const about = parts.filter(([schema]) => ofObjects.some((key) => schema[key] !== undefined));
  const patterned = about.find(([schema]) => schema['patternProperties'] !== undefined);
  if (patterned && about.length > 1)
    unsupported(patterned[1], 'patternProperties beside other schemas of the same object in allOf');
  const named = about.flatMap(([{ properties }]) => Object.keys(properties ?? {}));
  const all = (key: string): unknown[] => about.map(([schema]) => schema[key] ?? true);
  const required = about.flatMap(([schema, path]) => list(schema['required'] ?? [], `${path}/required`, 0));
  return {
    ...(named.length > 0 && {
      properties: Object.fromEntries(
        named.map((name) => [name, both(about.map((part) => propertyOf(part, name)))]),
      ),
    }),
    additionalProperties: both(all('additionalProperties')),
    propertyNames: both(all('propertyNames')),
    ...(patterned && { patternProperties: patterned[0]['patternProperties'] }),
    ...(required.length > 0 && { required: [...new Set(required)] }),
  };
}

function arrayKeywords(parts: readonly Placed[]): Schema {
  const prefixes = parts.map(([{ prefixItems }, path]) =>
    prefixItems === undefined ? [] : list(prefixItems, `${path}/prefixItems`, 1),
  );
  const length = Math.max(...prefixes.map((prefix) => prefix.length));
  const at = (i: number): unknown => both(parts.map(([{ items = true }], k) => prefixes[k]![i] ?? items));
  const given = parts.flatMap(([{ items }]) => (items === undefined ? [] : [items]));
  return {
    ...(length > 0 && { prefixItems: Array.from({ length }, (_, i) => at(i)) }),
    ...(given.length > 0 && { items: both(given) }),
  };
}

/** The types that all parts allow. */
function commonTypes(parts: readonly Placed[], path: string): string[] | undefined {
  const named = parts.map((part) => typesOf(...part)).filter((types) => types.length > 0);
  if (named.length === 0) return undefined;
  const common = named.reduce((types, others) => [
    ...new Set(
      types.flatMap((type) => {
        if (others.includes(type)) return [type];
        if (type === 'integer' && others.includes('number')) return ['integer'];
        return type === 'number' && others.includes('integer') ? ['integer'] : [];
      }),
    ),
  ]);
  return common.length > 0
    ? common
    : malformed(path, 'schemas of one value that have a type in common', 'none');
}

/** A keyword that several parts may have, where one value stands for all of them. */
function oneOf(parts: readonly Placed[], key: string): unknown {
  const given = parts.filter(([schema]) => schema[key] !== undefined);
  const values = given.map(([schema]) => schema[key]);
  if (values.every((value) => typeof value === 'number')) {
    if (highest.includes(key)) return Math.max(...values);
    if (lowest.includes(key)) return Math.min(...values);
  }
  if (key === 'uniqueItems') return values.find((value) => value !== false) ?? false;
  if (new Set(values.map((value) => JSON.stringify(value))).size > 1)
    unsupported(given[1]![1], `another ${key} than that of ${given[0]![1]}, which holds for the same value`);
  return values[0];
}

/** The values that one part lists, as far as the others allow them. */
function listedValues(root: unknown, parts: readonly Placed[], path: string): Schema | undefined {
  const lister = parts.find(([schema]) => schema['const'] !== undefined || schema['enum'] !== undefined);
  if (!lister) return undefined;
  const [{ const: one, enum: listed = [one] }, at] = lister;
  const checks = parts.map(([schema, place]) => partCheck(root, schema, place));
  const valid = list(listed, `${at}/enum`, 1).filter((value) => checks.every((holds) => holds(value)));
  if (valid.length === 0) malformed(path, 'schemas that one of the listed values is valid under', 'none');
  return { enum: valid };
}

/**
 * The schema that says what a schema, its allOf and its $ref say together. Of a string with several patterns or formats an allOf is left.
 * @throws ERR_ARGUMENT where nothing is valid; ERR_UNSUPPORTED for what has no schema of its own.
 */
export function schemaOfAll(root: unknown, schema: Schema, path: string): Schema | true {
  const parts = partsOf(root, schema, path);
  if (parts.length < 2) return parts[0]?.[0] ?? true;
  const listed = listedValues(root, parts, path);
  if (listed) return listed;
  const types = commonTypes(parts, path);
  const known = types?.flatMap((type) => keywordsOf[type]!);
  const typed = Object.values(keywordsOf).flat();
  const keys = new Set(parts.flatMap(([part]) => saying(part)));
  const kept = [...keys].filter((key) => !known || !typed.includes(key) || known.includes(key));
  const has = (some: readonly string[]): boolean => some.some((key) => kept.includes(key));
  const texts = !types || types.includes('string') ? ['pattern', 'format'] : [];
  const apart = ['type', 'pattern', 'format', ...ofObjects, ...ofArrays];
  const said = parts.flatMap(([part]) => texts.flatMap((key) => (key in part ? [{ [key]: part[key] }] : [])));
  const textParts = [...new Map(said.map((one) => [JSON.stringify(one), one])).values()];
  if (textParts.length > 1 && types?.join() !== 'string')
    unsupported(path, 'several patterns or formats in allOf of a value that may be no string');
  return {
    ...(types && { type: types.length === 1 ? types[0] : types }),
    ...Object.fromEntries(kept.filter((key) => !apart.includes(key)).map((key) => [key, oneOf(parts, key)])),
    ...(has(ofObjects) && objectKeywords(parts)),
    ...(has(ofArrays) && arrayKeywords(parts)),
    ...(textParts.length > 1 ? { allOf: textParts } : textParts[0]),
  };
}
