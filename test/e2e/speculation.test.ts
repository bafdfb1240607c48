/** Texts whose next tokens are guessed: they are those of the same request without guesses, bit for bit. */
import type { CausalLM, FromPretrainedOptions, GeneratedToken, GenerationResult } from '../../lib/index';
import { Speculation } from '../../lib/engine/proposals';
import { Match } from '../../lib/grammar/match';
import { adapterOf, addAdapters, loadedModels, text, wishes, type Wish } from '../support/engine_requests';
import { expectReject } from '../support/errors';
import { generator, type TinyModelOptions } from '../support/tiny_model';

const load = loadedModels();
afterEach(() => jest.restoreAllMocks());

interface Told {
  events: GeneratedToken[];
  result: Omit<GenerationResult, 'timings' | 'usage'>;
}

async function told(model: CausalLM, { prompt, ...options }: Wish): Promise<Told> {
  const events: GeneratedToken[] = [];
  const handle = model.generate(prompt, options);
  for await (const event of handle) events.push(event);
  const { timings: _, usage: __, ...result } = await handle.result;
  events.sort((a, b) => (a.index ?? 0) - (b.index ?? 0)); // several texts come in any order
  return { events, result };
}

const plainly = async (model: CausalLM, all: readonly Wish[]): Promise<Told[]> => {
  const found: Told[] = [];
  for (const wish of all) found.push(await told(model, wish));
  return found;
};

const speculating = (model: CausalLM, all: readonly Wish[]): Promise<Told[]> =>
  Promise.all(all.map((wish) => told(model, { ...wish, speculate: true })));

/** Guesses what the texts are known to be, each token wrong now and then. */
function guessKnown(all: readonly Wish[], known: readonly Told[], wrong: number): void {
  const random = generator(5);
  const texts = all.flatMap(({ prompt }, i) =>
    [known[i]!.result, ...(known[i]!.result.choices ?? [])].map(({ ids }) => [...prompt, ...ids]),
  );
  jest.spyOn(Speculation.prototype, 'propose').mockImplementation((tokens, max) => {
    const own = tokens.filter((id) => id >= 0);
    const whole = texts.find((ids) => own.every((id, i) => ids[i] === id)) ?? [];
    const right = whole.slice(own.length, own.length + Math.min(max, 1 + (own.length % 8)));
    return right.map((id) => ((random() + 1) / 2 < wrong ? (id + 1) % 256 : id));
  });
}

const schema = {
  type: 'object',
  properties: {
    kind: { enum: ['alpha', 'beta'] },
    count: { type: 'integer' },
    tags: { type: 'array', items: { type: 'boolean' } },
  },
  required: ['kind', 'count', 'tags'],
  additionalProperties: false,
};

/** Requests of every kind. */
const mixture = (count: number): Wish[] =>
  wishes(count, (i) => ({
    prompt: i % 5 === 0 ? [...text(9, i), ...text(9, i), ...text(5, i)] : text(3 + ((i * 11) % 70), i),
    maxNewTokens: 1 + ((i * 17) % 50),
    ...adapterOf(i),
    ...(i % 7 === 1 && { repetitionPenalty: 1.3 }),
    ...(i % 7 === 2 && { presencePenalty: 0.4, frequencyPenalty: 0.3 }),
    ...(i % 7 === 3 && {
      logitBias: new Map([
        [7 + i, 4],
        [3, -Infinity],
      ]),
    }),
    ...(i % 4 === 1 && { logprobs: i % 3 }),
    ...(i % 6 === 5 && { stop: ['a', 'e', String.fromCharCode(33 + (i % 60))] }),
    ...(i % 9 === 4 && { jsonSchema: schema, ignoreEos: false }),
    ...(i % 9 === 5 && { ignoreEos: false }),
    ...(i % 11 === 6 && { n: 3 }),
    ...(i % 8 === 3 && { temperature: 0.8, topK: 20, topP: 0.9 }),
  }));

const models: [string, TinyModelOptions, FromPretrainedOptions][] = [
  ['f32', { config: { tie_word_embeddings: false } }, {}],
  ['bf16', { dtype: 'BF16', config: { tie_word_embeddings: false, torch_dtype: 'bfloat16' } }, {}],
  [
    'a sliding window',
    { config: { model_type: 'mistral', sliding_window: 5, tie_word_embeddings: false } },
    {},
  ],
  ['NF4', { dtype: 'BF16' }, { quantize: 'nf4' }],
  ['int8 activations', { dtype: 'BF16' }, { quantize: 'int8', activations: 'int8' }],
];

describe.each([12, 100])('%i requests of every kind', (count) => {
  test.each(models)('%s', async (_, options, loading) => {
    const model = await load(options, 'cpu', loading);
    addAdapters(model);
    const all = mixture(count);
    const plain = await plainly(model, all);
    expect(model.engineStats()).toMatchObject({ proposedTokens: 0, acceptedTokens: 0 });
    model.configureEngine();
    expect(await speculating(model, all)).toEqual(plain);
    const { proposedTokens } = model.engineStats();
    expect(proposedTokens).toBeGreaterThan(count);
    model.configureEngine({ maxBatchSize: 8 });
    guessKnown(all, plain, 0.15);
    expect(await speculating(model, all)).toEqual(plain);
    const stats = model.engineStats();
    expect(stats.acceptedTokens).toBeGreaterThan(stats.proposedTokens / 4);
    expect(stats.acceptedTokens).toBeLessThan(stats.proposedTokens);
    expect(stats.preemptions).toBe(0);
  });
});

test('penalties count tokens that are proposed', async () => {
  const model = await load();
  const all = [{ repetitionPenalty: 3 }, { presencePenalty: 4 }, { frequencyPenalty: 2 }].map(
    (penalty, i) => ({
      ...{ prompt: text(9, i), maxNewTokens: 40, ignoreEos: true, temperature: 0 },
      ...penalty,
    }),
  );
  const plain = await plainly(model, all);
  guessKnown(all, plain, 0);
  expect(await speculating(model, all)).toEqual(plain);
  const { proposedTokens, acceptedTokens } = model.engineStats();
  expect(acceptedTokens).toBe(proposedTokens);
});

test('where nothing tells what a grammar allows behind a token, none is proposed', async () => {
  const model = await load();
  const all = wishes(3, () => ({ jsonSchema: schema, ignoreEos: false, maxNewTokens: 40 }));
  const plain = await plainly(model, all);
  guessKnown(all, plain, 0);
  jest.spyOn(Match.prototype, 'lookAhead').mockReturnValue();
  expect(await speculating(model, all)).toEqual(plain);
  expect(model.engineStats().proposedTokens).toBe(0);
});

test('what a grammar forces takes few steps', async () => {
  const model = await load();
  const jsonSchema = {
    type: 'object',
    properties: { 'a name that nobody has a choice of': { const: 'a value of which this is true as well' } },
    required: ['a name that nobody has a choice of'],
    additionalProperties: false,
  };
  const wish = { prompt: text(9, 1), maxNewTokens: 110, jsonSchema };
  const plain = await told(model, wish);
  const { steps } = model.engineStats();
  expect(await told(model, { ...wish, speculate: true })).toEqual(plain);
  expect(model.engineStats().steps - steps).toBeLessThan(steps / 2);
});

test('a text that repeats itself takes fewer steps', async () => {
  const model = await load();
  const wish = { prompt: text(8, 1), maxNewTokens: 60, ignoreEos: true, logitBias: new Map([[65, 1000]]) };
  const plain = await told(model, wish);
  const { steps } = model.engineStats();
  expect(await told(model, { ...wish, speculate: true })).toEqual(plain);
  const stats = model.engineStats();
  expect(stats.steps - steps).toBeLessThan(steps / 4);
  expect(stats.tokens).toBe(120);
  expect(stats.acceptedTokens).toBe(59 - (stats.steps - steps));
});

test('what is no boolean is refused', async () => {
  await expectReject(
    (await load()).generate([1], { speculate: 'yes' as unknown as boolean }),
    'ERR_ARGUMENT',
    "[generate] expected speculate to be true or false but received 'yes'",
  );
});
