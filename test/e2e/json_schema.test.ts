/** Texts under a JSON Schema, of a model whose weights are random: whatever it draws is valid. */
import { rmSync } from 'node:fs';
import { CausalLM, type GenerateOptions, type JsonSchema } from '../../lib/index';
import { byteIds, chainModel, eos } from '../support/chain_model';
import { pieceCount, pieceTokenizer } from '../support/piece_tokenizer';
import { describeWithData } from '../support/shared_data';
import { tinyModel } from '../support/tiny_model';

/** Byte-level. */
let model: CausalLM;
/** Pieces and bytes, as SentencePiece has them; the vocabulary of the model is padded. */
let pieces: CausalLM;
beforeAll(async () => {
  const config = { max_position_embeddings: 1024 };
  model = await CausalLM.fromPretrained(await tinyModel({ config }));
  pieces = await CausalLM.fromPretrained(
    await tinyModel({ config: { ...config, vocab_size: pieceCount + 3 }, tokenizer: pieceTokenizer() }),
  );
});
afterAll(async () => {
  for (const one of [model, pieces]) {
    await one.dispose();
    rmSync(one.directory, { recursive: true });
  }
});

const prompt = [5, 6, 7, 8];
const hot = { temperature: 1, topK: 0, topP: 1, minP: 0, maxNewTokens: 200 };
const keys = (value: unknown): string[] => Object.keys(value as object);

const cases: [name: string, schema: JsonSchema, holds: (value: unknown) => boolean][] = [
  [
    'a choice',
    { enum: ['red', 7, null, { é: [1] }] },
    (v) => ['red', 7, null].includes(v as null) || keys(v)[0] === 'é',
  ],
  ['characters of several bytes', { const: '\ufeffé字� 🙂' }, (v) => v === '\ufeffé字� 🙂'],
  [
    'an object',
    {
      type: 'object',
      properties: {
        n: { type: 'integer', minimum: -3, maximum: 120 },
        ok: { type: 'boolean' },
        x: { type: 'null' },
      },
      required: ['n', 'x'],
    },
    (v) => {
      const { n, ok = true, x } = v as Record<string, unknown>;
      return (
        Number.isInteger(n) && Number(n) >= -3 && Number(n) <= 120 && typeof ok === 'boolean' && x === null
      );
    },
  ],
  [
    'strings of bounded length',
    { type: 'array', items: { type: 'string', minLength: 1, maxLength: 4 }, minItems: 2, maxItems: 3 },
    (v) =>
      Array.isArray(v) &&
      (v.length === 2 || v.length === 3) &&
      v.every((s: string) => [...s].length >= 1 && [...s].length <= 4),
  ],
  [
    'a date',
    { type: 'string', format: 'date' },
    (v) => new Date(v as string).toISOString().slice(0, 10) === v,
  ],
  [
    'a union as zod prints it',
    {
      oneOf: [
        {
          type: 'object',
          properties: {
            type: { type: 'string', const: 'at' },
            time: {
              type: 'string',
              format: 'date-time',
              pattern: '^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}Z$',
            },
          },
          required: ['type', 'time'],
          additionalProperties: false,
        },
        {
          type: 'object',
          properties: {
            type: { type: 'string', const: 'every' },
            minutes: { type: 'integer', minimum: 1, maximum: 1440, multipleOf: 15 },
          },
          required: ['type', 'minutes'],
          additionalProperties: false,
        },
      ],
    },
    (v) => {
      const { type, time, minutes } = v as { type: string; time: string; minutes: number };
      if (type === 'at') return new Date(time).toISOString().replace('.000', '') === time;
      return type === 'every' && minutes >= 15 && minutes <= 1440 && minutes % 15 === 0;
    },
  ],
  [
    'a list that refers to itself',
    {
      $ref: '#/$defs/node',
      $defs: {
        node: {
          type: 'object',
          properties: {
            v: { type: 'number', exclusiveMinimum: 0, maximum: 1 },
            next: { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] },
          },
          required: ['v', 'next'],
        },
      },
    },
    (v) => {
      for (let node = v as { v: number; next: unknown } | null; node; node = node.next as typeof node)
        if (!(node.v > 0 && node.v <= 1)) return false;
      return true;
    },
  ],
];

/** Draws eight texts: those that end are valid, and at least one does. The pieces of a stream are the text. */
async function expectValid(
  drawn: CausalLM,
  options: GenerateOptions,
  holds: (value: unknown) => boolean,
): Promise<void> {
  const handle = drawn.generate(prompt, { ...options, n: 8, seed: 1 });
  const streamed = Array.from({ length: 8 }, () => '');
  for await (const { text, index } of handle) streamed[index!] += text;
  const { choices } = await handle.result;
  expect(choices!.map(({ text }) => text)).toEqual(streamed);
  const ended = choices!.filter(({ finishReason }) => finishReason === 'stop');
  expect(ended.length).toBeGreaterThan(0);
  for (const { text } of ended) expect([text, holds(JSON.parse(text))]).toEqual([text, true]);
}

describe.each([
  ['byte-level', () => model],
  ['pieces and bytes', () => pieces],
])('%s', (_, drawn) => {
  test.each(cases)('%s: every text that ends is valid', async (_, jsonSchema, holds) => {
    await expectValid(drawn(), { ...hot, jsonSchema }, holds);
  });
});

describeWithData('stories260K, which was trained with SentencePiece', 'models/stories260K', (dir) => {
  let stories: CausalLM;
  beforeAll(async () => {
    stories = await CausalLM.fromPretrained(dir);
  });
  afterAll(() => stories.dispose());

  test.each(cases)('%s: every text that ends is valid', async (_, jsonSchema, holds) => {
    await expectValid(stories, { ...hot, jsonSchema }, holds);
  });

  test('greedy texts are made of its pieces', async () => {
    const { text, ids } = await stories.generate('Once upon a time, there was a little girl named', {
      temperature: 0,
      jsonSchema: {
        type: 'object',
        properties: { name: { type: 'string', maxLength: 20 } },
        required: ['name'],
      },
    });
    expect(JSON.parse(text)).toEqual({ name: expect.any(String) as string });
    expect(ids.length).toBeLessThan(text.length);
  });
});

test.each<[string, () => CausalLM, number[]]>([
  ['the first byte of two', () => model, [97, 0xc3]],
  ['three bytes of four', () => model, [97, 0xf0, 0x9f, 0x99]],
  ['nothing but such a byte', () => model, [0xe2]],
  ['a byte beside pieces', () => pieces, [97, 0xc3]],
])('a prompt that ends within a character, %s: the text is JSON, in pieces too', async (_, of, begin) => {
  for (let seed = 0; seed < 8; seed++) {
    const handle = of().generate(begin, { ...hot, seed, jsonSchema: { enum: [true, 'é', { a: 1 }] } });
    let streamed = '';
    for await (const { text } of handle) streamed += text;
    const { text, finishReason } = await handle.result;
    expect([streamed, finishReason]).toEqual([text, 'stop']);
    expect([true, 'é', { a: 1 }]).toContainEqual(JSON.parse(text));
  }
});

test('a text is the same alone and among texts with other schemas and with none', async () => {
  const options: GenerateOptions[] = cases.map(([, jsonSchema], i) => ({
    ...hot,
    maxNewTokens: 60,
    jsonSchema,
    seed: i,
  }));
  options.push(
    { ...hot, maxNewTokens: 60, seed: 9 },
    { ...hot, maxNewTokens: 60, seed: 9, jsonSchema: true, frequencyPenalty: 1 },
  );
  const alone: number[][] = [];
  for (const one of options) alone.push((await model.generate(prompt, one)).ids);
  const together = await Promise.all(options.map((one) => model.generate(prompt, one)));
  expect(together.map(({ ids }) => ids)).toEqual(alone);
});

test('a request that loses its pages goes on where it was', async () => {
  const jsonSchema: JsonSchema = { type: 'array', items: { type: 'string', minLength: 20 }, minItems: 40 };
  const options = (seed: number): GenerateOptions => ({ ...hot, maxNewTokens: 150, jsonSchema, seed });
  const alone = [
    (await model.generate(prompt, options(1))).ids,
    (await model.generate(prompt, options(2))).ids,
  ];
  const { kvCacheBytes } = model.engineStats();
  model.configureEngine({ kvCacheBytes: 4 * 64 * 3 * 2 * 2 * 6 * 4 });
  try {
    const iterator = model.generate(prompt, options(1))[Symbol.asyncIterator]();
    const first: number[] = [];
    for (let i = 0; i < 100; i++) first.push((await iterator.next()).value!.id);
    expect((await model.generate(prompt, options(2))).ids).toEqual(alone[1]); // while the first one sleeps
    for (let next = await iterator.next(); !next.done; next = await iterator.next())
      first.push(next.value.id);
    expect(first).toEqual(alone[0]);
    expect(model.engineStats().preemptions).toBeGreaterThan(0);
  } finally {
    model.configureEngine({});
  }
  expect(kvCacheBytes).toBeGreaterThanOrEqual(0);
});

test('only the end-of-text token follows a complete text, and greedy texts obey too', async () => {
  const letters = await CausalLM.fromPretrained(await chainModel([...byteIds('abcdef'), eos]));
  try {
    const { text, ids, finishReason } = await letters.generate(byteIds('a'), {
      temperature: 0,
      jsonSchema: { enum: ['bcd'] },
      logprobs: 1,
    });
    expect([text, ids.at(-1), finishReason]).toEqual(['"bcd"', eos, 'stop']);
    const tokens = [];
    for await (const token of letters.generate(byteIds('a'), {
      temperature: 0,
      jsonSchema: { enum: ['bcd'] },
      logprobs: 1,
    }))
      tokens.push(token);
    // Log-probabilities are those of the model without the schema.
    expect(tokens[0]!.topLogprobs![0]!.id).toBe(byteIds('b')[0]);
    expect(tokens[0]!.id).toBe(byteIds('"')[0]);
  } finally {
    await letters.dispose();
    rmSync(letters.directory, { recursive: true });
  }
});

test('least lengths of generation_config.json do not hold back the end of a text under a schema', async () => {
  const generation = { min_new_tokens: 30, min_length: 60 };
  const eager = await CausalLM.fromPretrained(await tinyModel({ generation }));
  try {
    for (const jsonSchema of [{ enum: [true] }, { type: 'integer', minimum: 10, maximum: 99 }]) {
      const { text, finishReason } = await eager.generate(prompt, { ...hot, maxNewTokens: 60, jsonSchema });
      expect([text, finishReason]).toEqual([expect.stringMatching(/^(true|[1-9]\d)$/), 'stop']);
    }
    const { ids } = await eager.generate(prompt, { ...hot, maxNewTokens: 60 });
    expect(ids.length).toBeGreaterThan(30);
  } finally {
    await eager.dispose();
    rmSync(eager.directory, { recursive: true });
  }
});

test('a schema is checked at the call', async () => {
  const said = (jsonSchema: unknown, more: GenerateOptions = {}) =>
    expect(Promise.resolve(model.generate(prompt, { ...more, jsonSchema: jsonSchema as JsonSchema })))
      .rejects;
  await said('string').toThrow('[generate] jsonSchema at #: expected a JSON Schema');
  await said({ type: 'strin' }).toThrow('jsonSchema at #/type: expected one of null, boolean');
  await said({ type: 'object', properties: { a: { not: {} } } }).toThrow(
    'jsonSchema at #/properties/a: no support for not',
  );
  await said({ type: 'object', required: ['a'], additionalProperties: false }).toThrow(
    'jsonSchema at #/required: expected names of "properties"',
  );
  await said({ enum: [] }).toThrow('jsonSchema at #/enum: expected a list that is not empty');
  await said({ $ref: '#' }).toThrow('expected a reference that comes to a value');
  await said(true, { ignoreEos: true }).toThrow('expected ignoreEos to be false beside jsonSchema');
});

test('an abort while the grammar compiles rejects with its reason', async () => {
  const controller = new AbortController();
  const jsonSchema: JsonSchema = { type: 'string', maxLength: 100 };
  const running = model.generate(prompt, { jsonSchema, signal: controller.signal });
  setTimeout(() => controller.abort(new Error('enough')), 5);
  await expect(running).rejects.toThrow('enough');
});
