/** Schemas as zod 4 prints them (`z.toJSONSchema`): which texts their grammars allow, and which schemas are refused by name. */
import { Grammars } from '../../lib/grammar/grammars';
import { schemaGrammar, type JsonSchema } from '../../lib/grammar/json_schema';
import { isValidJson, schemaCheck } from '../../lib/grammar/schema_check';
import type { Tokenizer } from '../../lib/text/tokenizer';
import { eos } from '../support/chain_model';
import { expectThrow } from '../support/errors';
import { cpuMilliseconds, endlessMilliseconds } from '../support/gaps';
import { follows, tinyTokenizer, vocabSize } from '../support/grammars';

const grammars = new Grammars(vocabSize, [eos]);
const load = tinyTokenizer();
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await load();
});
afterAll(() => grammars.dispose());

const closed = (properties: Record<string, object>, required = Object.keys(properties)): object => ({
  type: 'object',
  properties,
  required,
  additionalProperties: false,
});
const date =
  '(?:(?:\\d\\d[2468][048]|\\d\\d[13579][26]|\\d\\d0[48]|[02468][048]00|[13579][26]00)-02-29|\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|(?:02)-(?:0[1-9]|1\\d|2[0-8])))';
const time = '(?:[01]\\d|2[0-3]):[0-5]\\d(?::[0-5]\\d(?:\\.\\d+)?)?';
const safe = Number.MAX_SAFE_INTEGER;

const honored: [kind: string, schema: object, good: unknown[], bad: unknown[]][] = [
  [
    'z.email()',
    {
      type: 'string',
      format: 'email',
      pattern:
        "^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$",
    },
    ['ada@example.org', "o'neil+x@a-b.example.com"],
    ['ada', '.ada@example.org', 'a..b@example.org', 'ada@example', 'ada@example.o', 'ä@example.org'],
  ],
  [
    'z.uuid()',
    {
      type: 'string',
      format: 'uuid',
      pattern:
        '^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}|00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$',
    },
    ['3f1de4a0-9c0b-4d6e-8f00-0123456789ab', '00000000-0000-0000-0000-000000000000'],
    ['3f1de4a0-9c0b-9d6e-8f00-0123456789ab', '3f1de4a0-9c0b-4d6e-7f00-0123456789ab', '3f1de4a0'],
  ],
  [
    'z.iso.datetime()',
    { type: 'string', format: 'date-time', pattern: `^${date}T(?:${time}(?:Z))$` },
    ['2024-02-29T23:59:59Z', '2026-11-29T08:03:00.125Z'],
    [
      '2023-02-29T23:59:59Z',
      '2026-11-29T08:03:00+01:00',
      '2026-11-29T24:00:00Z',
      '2026-11-29',
      '2026-11-29T08:03Z',
    ],
  ],
  [
    'z.iso.date()',
    { type: 'string', format: 'date', pattern: `^${date}$` },
    ['2024-02-29', '2000-02-29', '1999-12-31'],
    ['1900-02-29', '2023-02-30', '2023-13-01', '2023-04-31'],
  ],
  [
    'z.iso.time()',
    { type: 'string', pattern: `^${time}$` },
    ['08:03', '08:03:01.5'],
    ['8:03', '24:00', '08:03:60'],
  ],
  [
    'z.iso.duration()',
    {
      type: 'string',
      format: 'duration',
      pattern:
        '^P(?:(\\d+W)|(?!.*W)(?=\\d|T\\d)(\\d+Y)?(\\d+M)?(\\d+D)?(T(?=\\d)(\\d+H)?(\\d+M)?(\\d+([.,]\\d+)?S)?)?)$',
    },
    ['P3W', 'P1Y2M', 'PT5M', 'P1DT12H'],
    ['P', 'PT', 'P1W2D', 'P1DT', '1D'],
  ],
  [
    'z.string().regex(/^[A-Z]{2}\\d{4}$/)',
    { type: 'string', pattern: '^[A-Z]{2}\\d{4}$' },
    ['AB1234'],
    ['ab1234', 'AB123', 'AB12345'],
  ],
  [
    'z.string().min(2).max(4).regex(/é+/)',
    { type: 'string', minLength: 2, maxLength: 4, pattern: 'é+' },
    ['aé', '"é"', 'é\né'],
    ['é', 'ab', 'aaaaé'],
  ],
  [
    "z.string().startsWith('a').endsWith('z')",
    { type: 'string', allOf: [{ pattern: '^a.*' }, { pattern: '.*z$' }] },
    ['az', 'a to z'],
    ['a', 'z', 'za'],
  ],
  ['z.templateLiteral', { type: 'string', pattern: '^(item-)(-?\\d+)$' }, ['item-12'], ['item-', 'item12']],
  [
    'z.url()',
    { type: 'string', format: 'uri' },
    ['https://example.org/a?b=%20#c', 'http://a.b:80'],
    ['example.org', 'https://', 'https://a b'],
  ],
  [
    'an address of IPv4, without a pattern',
    { type: 'string', format: 'ipv4' },
    ['0.0.0.0', '9.10.199.200', '249.250.255.1'],
    ['256.0.0.1', '1.2.3', '01.2.3.4', '1.2.3.00', '1.2.3.4.5'],
  ],
  [
    'z.ipv4()',
    {
      type: 'string',
      format: 'ipv4',
      pattern:
        '^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])\\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])$',
    },
    ['127.0.0.1', '255.255.255.0'],
    ['256.0.0.1', '1.2.3', '01.2.3.4'],
  ],
  [
    'z.ipv6()',
    { type: 'string', format: 'ipv6' },
    ['::', '::1', '2001:db8::ff00:42:8329', '1:2:3:4:5:6:7:8'],
    ['1:2', ':::', '1:2:3:4:5:6:7:8:9', '1::2::3'],
  ],
  [
    'z.nanoid()',
    { type: 'string', format: 'nanoid', pattern: '^[a-zA-Z0-9_-]{21}$' },
    ['abcdefghijklmnopqrst_'],
    ['abc'],
  ],
  [
    'z.base64()',
    {
      type: 'string',
      format: 'base64',
      contentEncoding: 'base64',
      pattern: '^$|^(?:[0-9a-zA-Z+/]{4})*(?:(?:[0-9a-zA-Z+/]{2}==)|(?:[0-9a-zA-Z+/]{3}=))?$',
    },
    ['', 'YQ==', 'YWI=', 'YWJj'],
    ['Y', 'YQ=', 'Y!=='],
  ],
  ['z.string().lowercase()', { type: 'string', pattern: '^[^A-Z]*$' }, ['', 'ähnlich 1'], ['Ab']],
  [
    'z.discriminatedUnion',
    {
      oneOf: [
        closed({
          type: { type: 'string', const: 'cat' },
          lives: { type: 'integer', minimum: 0, maximum: 9 },
        }),
        closed({ type: { type: 'string', const: 'dog' }, name: { type: 'string' } }),
      ],
    },
    [
      { type: 'cat', lives: 9 },
      { type: 'dog', name: 'Rex' },
    ],
    [{ type: 'cat', name: 'Rex' }, { type: 'cow' }, { lives: 9 }],
  ],
  ['z.union', { anyOf: [{ type: 'string' }, { type: 'number' }] }, ['a', 1], [true]],
  ['z.nullable', { anyOf: [{ type: 'boolean' }, { type: 'null' }] }, [true, null], [0]],
  [
    'z.record(z.string(), z.number())',
    { type: 'object', propertyNames: { type: 'string' }, additionalProperties: { type: 'number' } },
    [{}, { a: 1, 'b c': 2.5 }],
    [{ a: 'x' }, []],
  ],
  [
    'z.record(z.string().regex(/^[a-z]+$/), z.boolean())',
    {
      type: 'object',
      propertyNames: { type: 'string', pattern: '^[a-z]+$' },
      additionalProperties: { type: 'boolean' },
    },
    [{}, { ab: true, c: false }],
    [{ A: true }, { '': true }, { ab: 1 }],
  ],
  [
    "z.record(z.enum(['a', 'b']), z.int())",
    {
      type: 'object',
      propertyNames: { type: 'string', enum: ['a', 'b'] },
      additionalProperties: { type: 'integer', minimum: -safe, maximum: safe },
      required: ['a', 'b'],
    },
    [{ a: 1, b: -2 }],
    [{ a: 1 }, { b: 1, c: 1 }, { a: 1.5, b: 1 }],
  ],
  [
    "z.partialRecord(z.enum(['a', 'b']), z.int())",
    {
      type: 'object',
      propertyNames: { type: 'string', enum: ['a', 'b'] },
      additionalProperties: { type: 'integer' },
    },
    [{}, { a: 1 }, { b: 1 }, { a: 1, b: 2 }],
    [{ c: 1 }],
  ],
  [
    'z.looseObject, and a catch-all',
    { type: 'object', properties: { a: { type: 'number' } }, required: ['a'], additionalProperties: {} },
    [{ a: 1 }],
    [{}, { b: 1 }],
  ],
  ['z.number().multipleOf(5)', { type: 'number', multipleOf: 5 }, [0, 5, -15, 1234567895], [1, 5.5, 12, '5']],
  [
    'z.int().multipleOf(7)',
    { type: 'integer', minimum: 10, maximum: 99999, multipleOf: 7 },
    [14, 77, 98, 7007, 99995],
    [7, 15, 99999, 100002, 10],
  ],
  [
    'z.int().multipleOf(300)',
    { type: 'integer', multipleOf: 300, minimum: -safe, maximum: safe },
    [0, 300, -900, 123000],
    [30, 100, 1000],
  ],
  [
    'z.number().multipleOf(0.01).min(0).max(100)',
    { type: 'number', minimum: 0, maximum: 100, multipleOf: 0.01 },
    [0, 0.07, 9.99, 12.5, 100],
    [0.005, 100.01, -1, 3.141],
  ],
  [
    'z.number().multipleOf(0.25)',
    { type: 'number', multipleOf: 0.25 },
    [0, 0.25, -1.5, 3.75],
    [0.2, 0.3, 1.125],
  ],
  ['z.int()', { type: 'integer', minimum: -safe, maximum: safe }, [0, -12, 123456789], [1.5]],
  ['z.number().positive()', { type: 'number', exclusiveMinimum: 0 }, [0.5, 3], [0, -1]],
  ["z.enum(['a', 'b'])", { type: 'string', enum: ['a', 'b'] }, ['a'], ['c']],
  ['z.literal(1)', { type: 'number', const: 1 }, [1], [2]],
  [
    'z.tuple([z.string(), z.int()])',
    {
      type: 'array',
      prefixItems: [{ type: 'string' }, { type: 'integer' }],
      items: false,
      minItems: 2,
      maxItems: 2,
    },
    [['a', 1]],
    [['a'], ['a', 1, 1]],
  ],
  [
    'z.array, with a default and a name',
    { type: 'array', items: { type: 'boolean' }, minItems: 1, default: [true], id: 'Flags' },
    [[true, false]],
    [[]],
  ],
  [
    'z.intersection of loose objects',
    {
      allOf: [
        { type: 'object', properties: { a: { type: 'string' } }, required: ['a'], additionalProperties: {} },
        { type: 'object', properties: { b: { type: 'number' } }, required: ['b'], additionalProperties: {} },
      ],
    },
    [{ a: 'x', b: 1 }],
    [{ a: 'x' }, { b: 1 }, { a: 1, b: 1 }, {}],
  ],
  [
    'z.looseRecord(z.string().regex(/^x/), z.int())',
    {
      type: 'object',
      patternProperties: { '^x': { type: 'integer', minimum: -safe, maximum: safe } },
    },
    [{}, { x: 1 }, { x: 1, xy: 2 }],
    [{ x: 'a' }, { x: 1, xy: 'a' }],
  ],
  [
    'a schema that refers to itself',
    {
      ...closed({ v: { type: 'number' }, next: { anyOf: [{ $ref: '#' }, { type: 'null' }] } }),
      $schema: 'https://json-schema.org/draft/2020-12/schema',
    },
    [{ v: 1, next: { v: 2, next: null } }],
    [{ v: 1 }],
  ],
];

const allows = async (schema: object, value: unknown): Promise<boolean> => {
  const [constraint] = await grammars.start(schemaGrammar(schema), 1, tokenizer);
  const { ends } = await follows(constraint!, JSON.stringify(value));
  constraint!.end();
  return ends;
};

test.each(honored)('%s is honored', async (_, schema, good, bad) => {
  const all = [...good, ...bad];
  const allowed = await Promise.all(all.map((value) => allows(schema, value)));
  expect(all.filter((_, i) => allowed[i])).toEqual(good);
  const check = schemaCheck(schema);
  expect(good.map((value) => isValidJson(JSON.stringify(value), check))).toEqual(good.map(() => true));
});

test.each<[kind: string, schema: JsonSchema, place: string, what: string]>([
  ['z.never()', { not: {} }, '#', 'not; supported are '],
  [
    'z.xor of what overlaps',
    {
      oneOf: [
        { type: 'string', minLength: 1 },
        { type: 'string', maxLength: 5 },
      ],
    },
    '#/oneOf',
    'oneOf of schemas 0 and 1, under which one value may be valid: let a property that they require be another const in each, or use anyOf',
  ],
  [
    'a union of very many references',
    {
      oneOf: [{ $ref: '#/$defs/a9' }, { const: 2 }],
      $defs: Object.fromEntries([
        ['a0', { const: 1 }],
        ...Array.from({ length: 9 }, (_, i) => [
          `a${i + 1}`,
          { anyOf: Array.from({ length: 16 }, () => ({ $ref: `#/$defs/a${i}` })) },
        ]),
      ]),
    },
    '#/oneOf',
    'schemas of which more than 50000 parts are compared',
  ],
  [
    'z.emoji()',
    { type: 'string', pattern: '^(\\p{Extended_Pictographic}|\\p{Emoji_Component})+$' },
    '#/pattern',
    "'^(\\p{Extended_Pictographic}|\\p{Emoji_Component})+$': \\p, the properties of Unicode",
  ],
  [
    'a reference to a group',
    { type: 'string', pattern: '^(a|b)\\1$' },
    '#/pattern',
    "'^(a|b)\\1$': references to groups",
  ],
  ['lookbehind', { type: 'string', pattern: '(?<=a)b' }, '#/pattern', "'(?<=a)b': lookbehind"],
  [
    'a pattern of many states',
    { type: 'string', pattern: '(a|b)*a(a|b){20}$' },
    '#',
    "'(a|b)*a(a|b){20}$': more than 2000 states, or too many steps to find them",
  ],
  [
    'z.number().multipleOf(2.5)',
    { type: 'number', multipleOf: 2.5 },
    '#/multipleOf',
    '2.5: whole numbers, and fractions that divide 1, such as 0.25',
  ],
])('%s is refused by name', (_, schema, place, what) => {
  const begin = cpuMilliseconds();
  const error = expectThrow(() => schemaGrammar(schema), 'ERR_UNSUPPORTED', /./);
  expect(error.message).toContain(`[generate] jsonSchema at ${place}: no support for ${what}`);
  expect(cpuMilliseconds() - begin).toBeLessThan(endlessMilliseconds);
});

test.each<[string, JsonSchema, string]>([
  [
    'no regular expression',
    { type: 'string', pattern: '(' },
    "#/pattern: expected a regular expression but received '(': ",
  ],
  [
    'a format and a pattern of no text',
    { type: 'string', format: 'date', pattern: '^a' },
    "#: expected what a text can match but received the format date, '^a'",
  ],
  [
    'lengths that a format does not have',
    { type: 'string', format: 'date', maxLength: 3 },
    '#: expected what a text can match but received the format date, maxLength 3',
  ],
  [
    'a multiple out of bounds',
    { type: 'integer', multipleOf: 7, minimum: 1, maximum: 6 },
    '#: expected bounds that a number can be within',
  ],
  [
    'z.intersection of objects that forbid what the other one requires',
    { allOf: [closed({ a: { type: 'string' } }), closed({ b: { type: 'string' } })] },
    "#/required: expected properties that all schemas of the object allow but received 'a'",
  ],
  [
    'a step of 0',
    { type: 'number', multipleOf: 0 },
    '#/multipleOf: expected a number above 0 but received 0',
  ],
  [
    'a name that propertyNames forbids',
    { type: 'object', properties: { a: {} }, propertyNames: { pattern: '^b' } },
    "#: expected properties whose names propertyNames allows but received 'a'",
  ],
])('%s is no schema of a value', (_, schema, message) => {
  const error = expectThrow(() => schemaGrammar(schema), 'ERR_ARGUMENT', /./);
  expect(error.message).toContain(`[generate] jsonSchema at ${message}`);
});
