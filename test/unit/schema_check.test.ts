/** Whether values are valid, against Ajv. */
import Ajv from 'ajv/dist/2020';
import fc from 'fast-check';
import { isValidJson, schemaCheck } from '../../lib/grammar/schema_check';
import type { ErrorCode } from '../../lib/index';
import { expectThrow } from '../support/errors';

const ajv = new Ajv({ strict: false, validateFormats: false });

/** Schemas of all keywords at once, whose values are small enough to be valid now and then. */
const schemas = fc.letrec<{ schema: Record<string, unknown> | boolean; object: Record<string, unknown> }>(
  (tie) => {
    const small = fc.integer({ min: 0, max: 3 });
    const leaf = fc.constantFrom<unknown>(null, true, 0, 1, 1.5, -2, '', 'a', 'ab', [], [1], {}, { a: 1 });
    const one = tie('schema');
    const some = fc.array(one, { minLength: 1, maxLength: 2 });
    const named = fc.dictionary(fc.constantFrom('a', 'b', 'c'), one, { maxKeys: 2 });
    const types = fc.constantFrom('null', 'boolean', 'string', 'integer', 'number', 'array', 'object');
    const all: Record<string, fc.Arbitrary<unknown>> = {
      type: fc.oneof(types, fc.uniqueArray(types, { minLength: 1, maxLength: 3 })),
      const: leaf,
      enum: fc.array(leaf, { minLength: 1, maxLength: 3 }),
      allOf: some,
      anyOf: some,
      oneOf: some,
      not: one,
      minLength: small,
      maxLength: small,
      pattern: fc.constantFrom('a', '^a', 'b$', '^[ab]+$'),
      minimum: small,
      maximum: small,
      exclusiveMinimum: small,
      exclusiveMaximum: small,
      multipleOf: fc.constantFrom(1, 2, 0.5),
      minItems: small,
      maxItems: small,
      uniqueItems: fc.boolean(),
      prefixItems: some,
      items: one,
      minProperties: small,
      maxProperties: small,
      required: fc.uniqueArray(fc.constantFrom('a', 'b'), { maxLength: 2 }),
      properties: named,
      additionalProperties: one,
      patternProperties: fc.dictionary(fc.constantFrom('^a', 'b$', '[ac]'), one, { maxKeys: 2 }),
      $ref: fc.constantFrom('#/$defs/x', '#/$defs/y'),
    };
    const object = fc
      .uniqueArray(fc.constantFrom(...Object.keys(all)), { maxLength: 3 })
      .chain((keys) => fc.record(Object.fromEntries(keys.map((key) => [key, all[key]!]))));
    return {
      object,
      schema: fc.oneof({ depthSize: 'small', withCrossShrink: true }, fc.boolean(), object),
    };
  },
).object;

// Ajv takes multiples of 1 from 10²¹ on, which JavaScript writes with an exponent, for none, and compares objects by what their
// properties `constructor`, `toString` and `valueOf` are, so that {"toString": ""} makes it throw.
const values = fc
  .jsonValue({ maxDepth: 2 })
  .filter((value) => !/\de\+|"(?:constructor|toString|valueOf)":/.test(JSON.stringify(value)))
  .map((value) => JSON.parse(JSON.stringify(value)) as unknown);
const shortValues = fc.oneof(
  values,
  fc.constantFrom<unknown>(
    'a',
    'ab',
    '\u{1F642}\u{1F642}',
    0,
    1,
    1.5,
    2,
    3,
    null,
    true,
    [],
    [1, 1],
    [1, 'a', {}],
  ),
  fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.constantFrom<unknown>(1, 'a', null, [])),
  fc.array(fc.constantFrom<unknown>(1, 'a', { a: 1, b: 2 }, { b: 2, a: 1 }), { maxLength: 3 }),
);

test('a value is valid where Ajv says so', () => {
  const seen = { valid: 0, invalid: 0 };
  fc.assert(
    fc.property(schemas, fc.array(shortValues, { minLength: 8, maxLength: 8 }), (body, tried) => {
      const $defs = { x: { type: ['string', 'number'] }, y: { items: { $ref: '#/$defs/y' }, minItems: 1 } };
      const schema = { ...body, $defs, title: 'drawn' };
      const check = schemaCheck(schema);
      const theirs = ajv.compile(schema);
      for (const value of tried) {
        const valid = theirs(value);
        seen[valid ? 'valid' : 'invalid']++;
        if (check(value) !== valid)
          throw new Error(
            `${JSON.stringify(value)} is ${valid ? '' : 'in'}valid under ${JSON.stringify(schema)}`,
          );
      }
    }),
    { numRuns: 400 },
  );
  expect(Math.min(seen.valid, seen.invalid)).toBeGreaterThan(300);
});

test('what no pattern of names matches is additional', () => {
  const check = schemaCheck({
    properties: { own: {} },
    patternProperties: { '^a': { type: 'number' }, b$: { type: 'string' } },
    additionalProperties: false,
  });
  const texts = ['{"own":1}', '{"a":1}', '{"cb":"x"}', '{"c":1}', '{"a":"x"}', '{"cb":1}', '{"ab":1}'];
  expect(texts.map((text) => isValidJson(text, check))).toEqual([
    true,
    true,
    true,
    false,
    false,
    false,
    false,
  ]);
});

test('names of Object.prototype are names like others', () => {
  const check = schemaCheck({ enum: [{}, null, { toString: '' }, { constructor: [], valueOf: 1 }] });
  const values = ['{}', 'null', '{"toString": ""}', '{"constructor": [], "valueOf": 1}'];
  expect(values.map((text) => isValidJson(text, check))).toEqual([true, true, true, true]);
  const others = [
    '{"toString": "a"}',
    '{"valueOf": 1}',
    '{"constructor": {}, "valueOf": 1}',
    '{"__proto__": null}',
  ];
  expect(others.map((text) => isValidJson(text, check))).toEqual([false, false, false, false]);
});

test('a text is valid where it is JSON, and nothing else, that is', () => {
  const check = schemaCheck({ type: 'object', required: ['a'] });
  const texts = [
    '{"a": 1}',
    ' {"a": 1}\n',
    '{"a": 1} and so on',
    '```{"a": 1}```',
    '{"b": 1}',
    '',
    '{"a": 1',
  ];
  expect(texts.map((text) => isValidJson(text, check))).toEqual([
    true,
    true,
    false,
    false,
    false,
    false,
    false,
  ]);
  expect(isValidJson('-0', schemaCheck({ const: 0 }))).toBe(true);
  const lists = schemaCheck({ items: { $ref: '#' } });
  expect(isValidJson('['.repeat(50) + ']'.repeat(50), lists)).toBe(true);
  expect(isValidJson('['.repeat(1e6) + ']'.repeat(1e6), lists)).toBe(false);
});

test.each<[object, ErrorCode, string]>([
  [
    { properties: { x: { contains: {} } } },
    'ERR_UNSUPPORTED',
    '#/properties/x: no support for contains; supported are $ref, type',
  ],
  [{ type: 'text' }, 'ERR_ARGUMENT', '#/type: expected one of null, boolean'],
  [{ items: [] }, 'ERR_ARGUMENT', '#/items: expected a schema: an object, true or false but received []'],
  [{ minLength: -1 }, 'ERR_ARGUMENT', '#/minLength: expected a count but received -1'],
  [{ pattern: '(?<=a)b' }, 'ERR_UNSUPPORTED', "#/pattern: no support for '(?<=a)b': lookbehind"],
  [{ multipleOf: 0 }, 'ERR_ARGUMENT', '#/multipleOf: expected a number above 0 but received 0'],
  [{ required: [1] }, 'ERR_ARGUMENT', '#/required: expected names of properties but received 1'],
  [
    { $ref: '#/$defs/none' },
    'ERR_ARGUMENT',
    "#/$ref: expected a reference to a part of the schema but received '#/$defs/none'",
  ],
  [{ $ref: 'https://x' }, 'ERR_UNSUPPORTED', "#/$ref: no support for 'https://x'"],
  [{ $ref: '#' }, 'ERR_ARGUMENT', '#/$ref: expected a reference that comes to a value'],
  [
    // The one is first met in a part of the value.
    {
      properties: { x: { $ref: '#/$defs/b' } },
      $ref: '#/$defs/a',
      $defs: { a: { allOf: [{ $ref: '#/$defs/b' }] }, b: { not: { $ref: '#/$defs/a' } } },
    },
    'ERR_ARGUMENT',
    'expected a reference that comes to a value',
  ],
])('%j is refused', (schema, code, sentence) => {
  const error = expectThrow(() => schemaCheck(schema), code, /jsonSchema at #/);
  expect(error.message).toContain(sentence);
});
