/** The grammar of a schema: which texts it allows, and which schemas are refused. */
import { Grammars } from '../../lib/grammar/grammars';
import { schemaGrammar, type JsonSchema } from '../../lib/grammar/json_schema';
import type { Tokenizer } from '../../lib/text/tokenizer';
import { eos } from '../support/chain_model';
import { expectThrow } from '../support/errors';
import { follows, tinyTokenizer, vocabSize } from '../support/grammars';

const grammars = new Grammars(vocabSize, [eos]);
const load = tinyTokenizer();
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await load();
});
afterAll(() => grammars.dispose());

async function allows(schema: JsonSchema, text: string): Promise<boolean> {
  const [constraint] = await grammars.start(schemaGrammar(schema), 1, tokenizer);
  const { ends } = await follows(constraint!, text);
  constraint!.end();
  return ends;
}

const many = <T>(count: number, of: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => of(i));
const anyOf = (...schemas: object[]): JsonSchema => ({ anyOf: schemas });
const string = (length: number): string => JSON.stringify('x'.repeat(length));

test.each<[string, JsonSchema, good: string[], bad: string[]]>([
  [
    'a number above 0',
    { type: 'number', exclusiveMinimum: 0 },
    ['0.01', '1', '1.0', '12.5'],
    ['0', '0.0', '0.00', '-0.0', '-1', '00.1'],
  ],
  [
    'a number below 0',
    { type: 'number', exclusiveMaximum: 0 },
    ['-0.01', '-1', '-12.5'],
    ['-0', '-0.0', '0', '0.0', '1'],
  ],
  [
    'bounds, and equal ones that do not belong to it',
    { type: 'number', minimum: 3, exclusiveMinimum: 3, maximum: 5, exclusiveMaximum: 5 },
    ['3.1', '4', '4.9'],
    ['3', '3.0', '5', '5.0', '2.9', '5.1'],
  ],
  [
    'whole ones',
    { type: 'integer', minimum: 3, exclusiveMinimum: 3, maximum: 5, exclusiveMaximum: 5 },
    ['4'],
    ['3', '5', '4.0'],
  ],
  [
    'bounds of which the other one decides',
    { type: 'integer', minimum: 3, exclusiveMinimum: 1, maximum: 5, exclusiveMaximum: 9 },
    ['3', '5'],
    ['2', '6'],
  ],
  [
    'strings with one length in common',
    anyOf({ type: 'string', minLength: 2 }, { type: 'string', minLength: 2, maxLength: 4 }),
    [string(2), string(9)],
    [string(1)],
  ],
  [
    'a string within lengths beside one that has a least length only',
    {
      type: 'array',
      prefixItems: [
        { type: 'string', minLength: 2 },
        { type: 'string', minLength: 2, maxLength: 4 },
        { type: 'string', maxLength: 128 },
        { type: 'string', minLength: 2, maxLength: 128 },
      ],
    },
    [
      `[${string(9)},${string(4)},${string(128)},${string(128)}]`,
      `[${string(2)},${string(2)},"",${string(2)}]`,
    ],
    [
      `[${string(9)},${string(5)},"",${string(2)}]`,
      `[${string(1)},${string(4)},"",${string(2)}]`,
      `[${string(2)},${string(2)},${string(129)},${string(2)}]`,
      `[${string(2)},${string(2)},"",${string(129)}]`,
    ],
  ],
  [
    'references to names that have to be escaped',
    {
      type: 'array',
      prefixItems: ['a~01', 'a~1', '%C3%A9%25'].map((part) => ({ $ref: `#/$defs/${part}` })),
      $defs: { 'a~1': { const: 1 }, 'a/': { const: 2 }, 'é%': { const: 3 } },
    },
    ['[1,2,3]'],
    ['[2,1,3]', '[2,2,3]'],
  ],
  [
    'multiples within bounds, one by one',
    { type: 'integer', multipleOf: 7, minimum: 50, maximum: 105 },
    ['56', '98', '105'],
    ['49', '50', '57', '112', '0', '-56'],
  ],
  [
    'multiples within bounds, by their remainders',
    { type: 'integer', multipleOf: 7, minimum: 500, maximum: 5000 },
    ['504', '1001', '4998'],
    ['497', '500', '505', '5005', '0', '-504'],
  ],
  [
    'multiples that end in zeros',
    { type: 'integer', multipleOf: 300, minimum: 1000, maximum: 2100 },
    ['1200', '2100'],
    ['0', '900', '1000', '1300', '2400'],
  ],
  [
    'multiples below 0',
    { type: 'integer', multipleOf: 6, minimum: -20, exclusiveMaximum: -6 },
    ['-12', '-18'],
    ['-24', '-20', '-6', '0', '12'],
  ],
  [
    'multiples about 0',
    { type: 'number', multipleOf: 0.25, minimum: -1, exclusiveMaximum: 1 },
    ['-1', '-0.75', '-0.5', '0', '0.25', '0.50', '0.75'],
    ['-1.25', '-0.3', '0.2', '0.251', '1', '1.0'],
  ],
  ['a list of anything', { type: 'array' }, ['[]', '[1]', '["a",[null]]'], ['{}', '[1', '[,]']],
  [
    'a list of what prefixItems says, and no more',
    { type: 'array', prefixItems: [{ const: 1 }, { const: 2 }] },
    ['[1,2]'],
    ['[1,2,3]', '[2,1]'],
  ],
  [
    'a backspace in a class of a pattern',
    { type: 'string', pattern: '^[\\b]$' },
    [JSON.stringify('\b')],
    ['"b"', '"\\\\b"', '""'],
  ],
  ['no name', { type: 'object', propertyNames: false }, ['{}'], ['{"":1}', '{"a":1}']],
  [
    'a oneOf of values that enums list',
    { oneOf: [{ enum: [1, 2] }, { enum: [3] }] },
    ['1', '2', '3'],
    ['4', '12'],
  ],
])('%s', async (_, schema, good, bad) => {
  const allowed = await Promise.all([...good, ...bad].map((text) => allows(schema, text)));
  expect([...good, ...bad].filter((_, i) => allowed[i])).toEqual(good);
});

test.each<[pattern: string, good: string[], bad: string[]]>([
  ['x^a|b', ['b', 'ab'], ['a', 'xa']],
  ['(?:x|yz)^a|b', ['b'], ['a', 'xa', 'yza']],
  ['x+^a|b', ['b'], ['a', 'xa']],
  ['(?=a)^a', ['a', 'ab'], ['b', 'ba']],
  ['(?!b)^[ab]', ['a', 'ab'], ['b', 'ba']],
  ['x{0}^a', ['a', 'ab'], ['b', 'ba']],
  ['(?:^|x)a', ['a', 'xa', 'bxa'], ['b', 'ba']],
  ['(?:(?=x)^)?xa', ['xa', 'bxa'], ['a', 'bx']],
  ['^(?:a(?=b))?b', ['b', 'ab'], ['a', 'aab']],
  ['(?:x*y)^a|b', ['b', 'ab'], ['ya', 'xya']],
])('where a text begins: %s', async (pattern, good, bad) => {
  const texts = [...good, ...bad];
  expect(texts.filter((text) => new RegExp(pattern, 'u').test(text))).toEqual(good);
  const allowed = await Promise.all(texts.map((text) => allows({ type: 'string', pattern }, `"${text}"`)));
  expect(texts.filter((_, i) => allowed[i])).toEqual(good);
});

test.each(['x*^a', '(?:x|)^a', '(?:x?(?=a))^a'])('where a text begins is not known: %s', (pattern) => {
  expectThrow(
    () => schemaGrammar({ type: 'string', pattern }),
    'ERR_UNSUPPORTED',
    `[generate] jsonSchema at #/pattern: no support for '${pattern}': ^ behind what may be empty`,
  );
});

const kind = (value: unknown): object => ({ properties: { kind: { const: value } }, required: ['kind'] });
const kinds = (count: number): object => ({ anyOf: many(count, (i) => ({ type: 'object', ...kind(i) })) });
test.each<[string, unknown[]]>([
  ['what is no schema', [null, { type: 'string' }]],
  ['what is no list of schemas', [{ anyOf: 5 }, { type: 'string' }]],
  ['any value', [{}, { type: 'string' }]],
  ['a value that both list', [{ enum: [1, 2] }, { enum: [2, 3] }]],
  ['more schemas than are compared', [kinds(17), { type: 'object', ...kind('other') }]],
])('oneOf with %s is not told apart', (_, oneOf) => {
  expectThrow(
    () => schemaGrammar({ oneOf }),
    'ERR_UNSUPPORTED',
    /^\[generate\] jsonSchema at #\/oneOf: no support for oneOf of schemas 0 and 1, /,
  );
});

test('oneOf with as many schemas as are compared', async () => {
  const oneOf = [kinds(16), { type: 'object', ...kind('other') }];
  expect(await allows({ oneOf }, '{"kind":15}')).toBe(true);
  expect(await allows({ oneOf }, '{"kind":16}')).toBe(false);
});

const properties = (count: number, of: (i: number) => object): JsonSchema => ({
  type: 'object',
  properties: Object.fromEntries(many(count, (i) => [`p${i}`, of(i)])),
});

test('a schema is so long at most', () => {
  const text = (length: number): JsonSchema => ({
    description: 'x'.repeat(length - '{"description":""}'.length),
  });
  expect(schemaGrammar(text(131_072)).states).toBe(0);
  expectThrow(
    () => schemaGrammar(text(131_073)),
    'ERR_ARGUMENT',
    '[generate] jsonSchema at #: expected at most 131072 characters of JSON but received 131073',
  );
});

test('schemas are within so many others at most', () => {
  const list = (depth: number): JsonSchema =>
    depth === 0 ? { const: 1 } : { type: 'array', items: list(depth - 1) };
  expect(schemaGrammar(list(64)).states).toBe(0);
  expectThrow(
    () => schemaGrammar(list(65)),
    'ERR_ARGUMENT',
    `[generate] jsonSchema at #${'/items'.repeat(65)}: expected schemas within at most 64 others but received more`,
  );
});

test('what occurs often is written once', () => {
  const number = (i: number): object => ({
    type: 'number',
    minimum: -123456789012345 + i,
    maximum: 987654321098765,
  });
  const length = (schema: JsonSchema): number => schemaGrammar(schema).text.length;
  const base = length({ type: 'array', prefixItems: [number(0)] });
  const same: JsonSchema = { type: 'array', prefixItems: many(100, () => number(0)) };
  expect(length(same)).toBeLessThan(base + 100 * 20);
  expect(length(anyOf(...many(100, () => ({ type: 'array', items: number(0) }))))).toBeLessThan(base + 100);
  // Digits are counted by rules that all numbers share.
  expect(length({ type: 'array', prefixItems: many(100, number) })).toBeLessThan(100 * 2000);
  expect(schemaGrammar(properties(10, () => ({ type: 'string', maxLength: 100 }))).states).toBe(100);
  // Behind its least length a string has no states of its own.
  expect(schemaGrammar(properties(10, () => ({ type: 'string', minLength: 3 }))).states).toBe(3);
});

const tooLong =
  '[generate] jsonSchema at #: no support for a schema whose grammar has more than 262144 characters';
test.each<[string, JsonSchema]>([
  ['optional properties', properties(10_000, () => ({}))],
  ['numbers with bounds', properties(2000, (i) => ({ type: 'number', minimum: -123456789012345 + i }))],
  ['strings with lengths', properties(129, (i) => ({ type: 'string', minLength: i, maxLength: 128 }))],
  ['a text of characters that take long to write', { const: '\u{1F600}'.repeat(16_000) }],
])('%s make a grammar that is too long', (_, schema) => {
  const begin = performance.now();
  expectThrow(() => schemaGrammar(schema), 'ERR_UNSUPPORTED', tooLong);
  expect(performance.now() - begin).toBeLessThan(2000);
});
