/**
 * Grammars of schemas that are drawn at random, against Ajv: texts that are drawn from a grammar are valid, and values that are valid may be
 * written, in the way that grammars write them. `--globals '{"pairs": 10000}'` draws more than 300 schemas.
 */
import Ajv from 'ajv/dist/2020';
import fc from 'fast-check';
import type { TokenConstraint } from '../../lib/grammar/constraint';
import { Grammars } from '../../lib/grammar/grammars';
import { schemaGrammar, type JsonSchema } from '../../lib/grammar/json_schema';
import type { Tokenizer } from '../../lib/text/tokenizer';
import { eos } from '../support/chain_model';
import { allowed, follows, tinyTokenizer, vocabSize } from '../support/grammars';
import { generator } from '../support/tiny_model';

const { pairs = 300 } = globalThis as { pairs?: number };
/** Texts that are drawn from each grammar, and at each end of a property test. */
const textsEach = 4;

const grammars = new Grammars(vocabSize, [eos]);
const load = tinyTokenizer();
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await load();
});
afterAll(() => grammars.dispose());

/** A schema, and values that are valid under it in the order and form that grammars write. */
interface Case {
  readonly schema: Record<string, unknown> | true;
  readonly values: fc.Arbitrary<unknown>;
}

/** Whether it has no half of a surrogate pair, which is no character. */
const wellFormed = (text: string): boolean => !/\p{Cs}/u.test(text);
const finite = (least: number, most: number): fc.Arbitrary<number> => fc.integer({ min: least, max: most });
const character = fc.oneof(
  fc.constantFrom(...'ab"\\/ \n\u0001\u007f~é字\u{1F642}\u2028'),
  fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }).filter(wellFormed),
);
const text = (least: number, most: number): fc.Arbitrary<string> =>
  fc.array(character, { minLength: least, maxLength: most }).map((parts) => parts.join(''));

// Ajv cannot compare objects whose properties have the names of methods that its comparison calls.
const anyValue = fc
  .jsonValue({ maxDepth: 2, noUnicodeString: true })
  .filter((value) => !/"(toString|valueOf|constructor)":/.test(JSON.stringify(value)));
const any: fc.Arbitrary<Case> = fc.constant({ schema: true, values: anyValue.filter(plain) });

/** Whether its numbers are written without an exponent and with 15 digits at most, and its texts are characters. */
function plain(value: unknown): boolean {
  const json = JSON.stringify(value);
  return !/\de|(\d\.?){16}|\\ud[89a-f]/i.test(json);
}

const lengths = fc.record({
  least: fc.option(finite(0, 4), { nil: undefined }),
  more: fc.option(finite(0, 4), { nil: undefined }),
});
const strings: fc.Arbitrary<Case> = lengths.map(({ least, more }) => {
  const most = more === undefined ? undefined : (least ?? 0) + more;
  return {
    schema: {
      type: 'string',
      ...(least !== undefined && { minLength: least }),
      ...(most !== undefined && { maxLength: most }),
    },
    values: text(least ?? 0, most ?? (least ?? 0) + 6),
  };
});

const bound = fc.oneof(
  finite(-12, 12),
  finite(-1200, 1200),
  finite(-(10 ** 12), 10 ** 12),
  fc.constantFrom(0, 9, 10, 99, 100, -1, -9, -10),
);
const bounds = fc.record(
  { minimum: bound, maximum: bound, exclusiveMinimum: bound, exclusiveMaximum: bound },
  { requiredKeys: [] },
);
/** Whether a number is within bounds; a number of few digits, which grammars write. */
function within(
  value: number,
  { minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Record<string, number | undefined>,
): boolean {
  return (
    value >= (minimum ?? -Infinity) &&
    value <= (maximum ?? Infinity) &&
    value > (exclusiveMinimum ?? -Infinity) &&
    value < (exclusiveMaximum ?? Infinity)
  );
}
/** Numbers about the bounds of a schema. */
function near(keywords: Record<string, number | undefined>, type: string): fc.Arbitrary<number> {
  const ends = Object.values(keywords).filter((end) => end !== undefined);
  const about = ends.flatMap((end) => [
    end - 1,
    end,
    end + 1,
    ...(type === 'number' ? [end - 0.5, end + 0.25, end + 0.001] : []),
  ]);
  const drawn = fc.oneof(
    fc.constantFrom(0, 1, -1, ...about),
    finite(-2000, 2000),
    finite(-(10 ** 12), 10 ** 12),
    ...(ends.length > 1 ? [finite(Math.min(...ends), Math.max(...ends))] : []),
  );
  const parts =
    type === 'number'
      ? fc.tuple(drawn, fc.constantFrom(0, 0, 0.5, 0.125, 0.01)).map(([a, b]) => a + b)
      : drawn;
  return parts.map((value) => value + 0); // -0 is written as 0
}
const numbers = (type: 'integer' | 'number'): fc.Arbitrary<Case> =>
  bounds
    .filter((keywords) => {
      const low = Math.max(keywords.minimum ?? -Infinity, (keywords.exclusiveMinimum ?? -Infinity) + 1);
      const high = Math.min(keywords.maximum ?? Infinity, (keywords.exclusiveMaximum ?? Infinity) - 1);
      return low <= high;
    })
    .map((keywords) => ({
      schema: { type, ...keywords },
      values: near(keywords, type).filter((value) => within(value, keywords) && plain(value)),
    }));

/** Strings in which a pattern matches, beside the lengths of some of them. */
const patterns: fc.Arbitrary<Case> = fc
  .constantFrom(
    '^[a-z]{2,5}$',
    '^(?:ab|c)+$',
    'x\\d',
    '^[^\\s"]+$',
    '^é*[à-ü\\u{1F600}-\\u{1F64F}]\\n?$',
    '^"?\\\\[\\t/]$',
    'a|b$',
    '^\\w+@[\\w.-]+$',
  )
  .chain((pattern) => {
    const texts = fc
      .stringMatching(new RegExp(pattern, 'u'), { maxLength: 12 })
      .filter((value) => wellFormed(value) && [...value].length <= 12);
    return fc.record({ bounded: fc.boolean(), dots: fc.boolean() }).map(({ bounded, dots }) => ({
      schema: {
        type: 'string',
        ...(bounded && { maxLength: 12 }),
        ...(dots ? { allOf: [{ pattern }, { pattern: '^(?!.*\\.\\.)' }] } : { pattern }),
      },
      values: dots ? texts.filter((value) => /^(?!.*\.\.)/.test(value)) : texts,
    }));
  });

const steps: fc.Arbitrary<Case> = fc
  .record({
    step: fc.constantFrom(2, 3, 5, 7, 10, 12, 300, 0.1, 0.01, 0.5, 0.25),
    least: fc.option(finite(-1000, 1000), { nil: undefined }),
    room: finite(400, 100_000),
    bounded: fc.boolean(),
  })
  .map(({ step, least, room, bounded }) => {
    const most = bounded ? (least ?? -500) + room : undefined;
    const units = finite(
      Math.ceil((least ?? -1000) / step),
      Math.floor((most ?? (least ?? 0) + 1000) / step),
    );
    const parts = Math.round(1 / step);
    return {
      schema: {
        type: 'number',
        multipleOf: step,
        ...(least !== undefined && { minimum: least }),
        ...(most !== undefined && { maximum: most }),
      },
      values: units.map((unit) => (step < 1 ? unit / parts : unit * step) + 0),
    };
  });

const literals: fc.Arbitrary<Case> = fc
  .array(
    anyValue.filter((value) => wellFormed(JSON.stringify(value))),
    { minLength: 1, maxLength: 4 },
  )
  .map((values) => values.map((value) => JSON.parse(JSON.stringify(value)) as unknown))
  .map((values) => ({
    schema: values.length === 1 ? { const: values[0] } : { enum: values },
    values: fc.constantFrom(...values),
  }));

const leaf = fc.oneof(
  strings,
  patterns,
  steps,
  numbers('integer'),
  numbers('number'),
  literals,
  any,
  fc.constant<Case>({ schema: { type: 'boolean' }, values: fc.boolean() }),
  fc.constant<Case>({ schema: { type: ['null', 'boolean'] }, values: fc.constantFrom(null, true, false) }),
);

const arrays = (inner: fc.Arbitrary<Case>): fc.Arbitrary<Case> =>
  fc
    .record({
      prefix: fc.array(inner, { maxLength: 2 }),
      items: inner,
      open: fc.boolean(),
      least: fc.option(finite(0, 3), { nil: undefined }),
      more: fc.option(finite(0, 3), { nil: undefined }),
    })
    .map(({ prefix, items, open, least, more }) => {
      const closed = prefix.length > 0 && !open;
      const low = Math.max(least ?? 0, prefix.length);
      const high = closed ? prefix.length : low + (more ?? 2);
      const limits = {
        ...(least !== undefined && { minItems: closed ? Math.min(least, prefix.length) : least }),
        ...(more !== undefined && { maxItems: high }),
      };
      const schema = {
        type: 'array',
        ...(prefix.length > 0 && { prefixItems: prefix.map((one) => one.schema) }),
        ...(closed ? {} : { items: items.schema }),
        ...limits,
      };
      const rest = fc.array(items.values, {
        minLength: closed ? 0 : low - prefix.length,
        maxLength: high - prefix.length,
      });
      const values = fc
        .tuple(fc.tuple(...prefix.map((one) => one.values)), rest)
        .map(([head, tail]) => [...head, ...tail]);
      return { schema, values };
    });

const name = fc
  .oneof(fc.constantFrom('a', 'b', 'é', 'a/b', '~', '"', '', '$ref'), text(0, 3))
  .filter((key) => key !== '__proto__' && !/^\d+$/.test(key));
const objects = (inner: fc.Arbitrary<Case>): fc.Arbitrary<Case> =>
  fc
    .tuple(
      fc.uniqueArray(fc.tuple(name, inner, fc.boolean()), { maxLength: 4, selector: ([key]) => key }),
      inner,
      fc.constantFrom('absent', 'closed', 'typed'),
    )
    .map(([members, others, kind]) => {
      const schema = {
        type: 'object',
        ...(members.length > 0 && {
          properties: Object.fromEntries(members.map(([key, one]) => [key, one.schema])),
        }),
        ...(members.some(([, , needed]) => needed) && {
          required: members.filter(([, , needed]) => needed).map(([key]) => key),
        }),
        ...(kind === 'closed' && { additionalProperties: false }),
        ...(kind === 'typed' && { additionalProperties: others.schema }),
      };
      const values: fc.Arbitrary<unknown> =
        members.length > 0
          ? fc
              .tuple(
                ...members.map(([key, one, needed]) =>
                  fc.tuple(fc.constant(key), one.values, needed ? fc.constant(true) : fc.boolean()),
                ),
              )
              .map((chosen) =>
                Object.fromEntries(chosen.filter(([, , there]) => there).map(([key, value]) => [key, value])),
              )
          : kind === 'closed'
            ? fc.constant({})
            : fc.dictionary(name, kind === 'typed' ? others.values : anyValue.filter(plain), { maxKeys: 3 });
      return { schema, values };
    });

const choices = (inner: fc.Arbitrary<Case>): fc.Arbitrary<Case> =>
  fc.array(inner, { minLength: 1, maxLength: 3 }).map((cases) => ({
    schema: { anyOf: cases.map(({ schema }) => schema) },
    values: fc.oneof(...cases.map(({ values }) => values)),
  }));

/** Objects of which a property says the kind. */
const kinds = (inner: fc.Arbitrary<Case>): fc.Arbitrary<Case> =>
  fc.array(inner, { minLength: 1, maxLength: 3 }).map((cases) => ({
    schema: {
      oneOf: cases.map(({ schema }, i) => ({
        type: 'object',
        properties: { kind: { const: `k${i}` }, value: schema },
        required: ['kind', 'value'],
        additionalProperties: false,
      })),
    },
    values: fc.oneof(...cases.map(({ values }, i) => values.map((value) => ({ kind: `k${i}`, value })))),
  }));

/** Objects whose names a schema is about. */
const records = (inner: fc.Arbitrary<Case>): fc.Arbitrary<Case> =>
  fc.tuple(inner, fc.boolean(), fc.boolean()).map(([{ schema, values }, listed, needed]) => ({
    schema: {
      type: 'object',
      propertyNames: listed ? { enum: ['a', 'b'] } : { type: 'string', pattern: '^[a-c]+$' },
      additionalProperties: schema,
      ...(needed && { required: ['a', 'b'] }),
    },
    values:
      listed || needed
        ? fc.record({ a: values, b: values })
        : fc.dictionary(fc.stringMatching(/^[a-c]{1,3}$/), values, { maxKeys: 3 }),
  }));

/** Objects that two schemas describe, one of which says what is required. */
const extended = (inner: fc.Arbitrary<Case>): fc.Arbitrary<Case> =>
  fc.tuple(inner, inner, bounds, fc.boolean()).map(([first, second, { minimum }, closed]) => ({
    schema: {
      allOf: [
        {
          type: 'object',
          properties: { a: first.schema, n: { type: 'number' } },
          ...(closed && { additionalProperties: false }),
        },
        {
          properties: {
            n: { type: ['integer', 'null'], ...(minimum !== undefined && { minimum }) },
            ...(!closed && { b: second.schema }),
          },
        },
        { required: ['n'] },
      ],
    },
    values: fc.tuple(first.values, second.values, fc.nat(1000), fc.boolean()).map(([a, b, more, there]) => ({
      ...(there && { a }),
      n: (minimum ?? 0) + more,
      ...(!closed && there && { b }),
    })),
  }));

/** Objects whose properties are described by patterns of their names. */
const named = (inner: fc.Arbitrary<Case>): fc.Arbitrary<Case> =>
  fc.tuple(inner, inner, fc.boolean()).map(([first, second, listed]) => ({
    schema: {
      type: 'object',
      patternProperties: { '^x': first.schema, '^[yz]+$': second.schema },
      ...(listed && { properties: { x: {}, other: { const: 1 } }, required: ['x'] }),
      additionalProperties: !listed,
    },
    values: listed
      ? fc.record({ x: first.values, other: fc.constant(1) })
      : fc
          .tuple(
            fc.dictionary(fc.stringMatching(/^x[a-c]{0,2}$/), first.values, { maxKeys: 2 }),
            fc.dictionary(fc.stringMatching(/^[yz]{1,3}$/), second.values, { maxKeys: 2 }),
          )
          .map(([some, others]) => ({ ...some, ...others })),
  }));

/** Lists of different ones of a few values. */
const sets: fc.Arbitrary<Case> = fc
  .tuple(
    fc.uniqueArray(fc.constantFrom<unknown>('a', 'b', 1, null, true, [], { a: 1 }), {
      minLength: 1,
      maxLength: 4,
    }),
    fc.nat(4),
    fc.nat(4),
  )
  .map(([values, a, b]) => {
    const [least, most] = [Math.min(a, b, values.length), Math.max(a, b)];
    return {
      schema: {
        type: 'array',
        items: { enum: values },
        uniqueItems: true,
        minItems: least,
        maxItems: most,
      },
      values: fc.shuffledSubarray(values, { minLength: least, maxLength: Math.min(most, values.length) }),
    };
  });

/** One that occurs in two places, by reference, and within itself. */
const referring = (inner: fc.Arbitrary<Case>): fc.Arbitrary<Case> =>
  inner.map(({ schema, values }) => ({
    schema: {
      type: 'array',
      items: { anyOf: [{ $ref: '#/$defs/x~1y' }, { $ref: '#/$defs/list' }] },
      $defs: { 'x/y': schema, list: { type: 'array', items: { $ref: '#/$defs/list' } } },
    },
    values: fc.array(fc.oneof(values, fc.constantFrom([], [[]], [[], [[]]])), { maxLength: 3 }),
  }));

const nested = (depth: number): fc.Arbitrary<Case> => {
  if (depth === 0) return leaf;
  const inner = nested(depth - 1);
  return fc.oneof(
    { arbitrary: leaf, weight: 2 },
    arrays(inner),
    { arbitrary: objects(inner), weight: 2 },
    choices(inner),
    kinds(inner),
    records(inner),
    extended(leaf),
    named(leaf),
    sets,
  );
};
/** References are those of the root. */
const cases = fc.oneof({ arbitrary: nested(2), weight: 8 }, referring(nested(1)));

/** Draws a text, rather its end than more of it; undefined where it does not end soon. */
async function draw(constraint: TokenConstraint, random: () => number): Promise<string | undefined> {
  const bytes: number[] = [];
  for (let length = 0; length < 150; length++) {
    const next = await allowed(constraint);
    const endings = next.filter((id) => '"]}'.includes(String.fromCharCode(id)));
    if (next.includes(eos) && (next.length === 1 || random() < 0.3)) return Buffer.from(bytes).toString();
    const from = endings.length > 0 && random() < 0.4 ? endings : next.filter((id) => id !== eos);
    const id = from[Math.floor(((random() + 1) / 2) * from.length)]!;
    bytes.push(id);
    constraint.accept([id]);
  }
  return undefined;
}

const ajv = new Ajv({ strict: false, logger: false });
// Ajv compares the quotient with a whole number by an absolute bound, but 576814166.4 / 0.1 is 5768141663.999999.
ajv.removeKeyword('multipleOf').addKeyword({
  keyword: 'multipleOf',
  type: 'number',
  schemaType: 'number',
  validate: (step: number, x: number) =>
    Math.abs(Math.round(x / step) * step - x) <= Number.EPSILON * Math.abs(x),
});

/** Draws texts from the grammar of a schema, and writes values by it; gives how many of the texts ended. */
async function hold(schema: JsonSchema, values: readonly unknown[], seed: number): Promise<number> {
  // Parsed here, since Ajv compares constructors, which those of fast-check are not.
  const valid = ajv.compile(schema === true ? {} : (JSON.parse(JSON.stringify(schema)) as object));
  const texts = await grammars.start(schemaGrammar(schema), 2 * textsEach, tokenizer);
  try {
    const random = generator(seed);
    const drawn = await Promise.all(texts.slice(textsEach).map((one) => draw(one, random)));
    const ended = drawn.filter((json) => json !== undefined);
    for (const json of ended) expect([schema, json, valid(JSON.parse(json))]).toEqual([schema, json, true]);
    for (const [i, value] of values.entries()) {
      const json = JSON.stringify(value);
      const { ends } = await follows(texts[i]!, json);
      expect([schema, json, valid(JSON.parse(json)), ends]).toEqual([schema, json, true, true]);
    }
    return ended.length;
  } finally {
    for (const one of texts) one.end();
  }
}

const drawn = fc.tuple(
  cases.chain(({ schema, values }) =>
    fc.tuple(fc.constant(schema), fc.array(values, { minLength: textsEach, maxLength: textsEach })),
  ),
  fc.nat(),
);

test(
  'texts are valid, and valid values can be written',
  async () => {
    let schemas = 0;
    let ended = 0;
    // Some at once, since each token is a question to the thread.
    const property = fc.asyncProperty(fc.array(drawn, { minLength: 1, maxLength: 20 }), async (some) => {
      schemas += some.length;
      const counts = await Promise.all(some.map(([[schema, values], seed]) => hold(schema, values, seed)));
      ended += counts.reduce((sum, count) => sum + count, 0);
    });
    while (schemas < pairs) await fc.assert(property, { numRuns: 10, seed: schemas });
    expect(ended).toBeGreaterThan(pairs);
  },
  // Ends what hangs; on a machine that others keep busy a pair takes long by the clock.
  600_000 + 1000 * pairs,
);
