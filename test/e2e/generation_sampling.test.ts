/** What the options of sampling do to whole generations, on models whose text is known. */
import { rmSync } from 'node:fs';
import { CausalLM, noGrad, type GenerateOptions } from '../../lib/index';
import { byteIds, chainModel, eos } from '../support/chain_model';
import { tinyModel, type TinyModelOptions } from '../support/tiny_model';

const models: CausalLM[] = [];
async function load(chain: readonly number[], options: TinyModelOptions = {}): Promise<CausalLM> {
  const model = await CausalLM.fromPretrained(await chainModel(chain, options));
  models.push(model);
  return model;
}
afterAll(async () => {
  for (const model of models) {
    await model.dispose();
    rmSync(model.directory, { recursive: true });
  }
});

let letters: CausalLM;
let random: CausalLM;
const prompt = [5, 6, 7, 8];
beforeAll(async () => {
  letters = await load([...byteIds('abcdef'), eos]);
  random = await CausalLM.fromPretrained(await tinyModel());
  models.push(random);
});

const idsOf = async (model: CausalLM, options: GenerateOptions): Promise<number[]> =>
  (await model.generate(prompt, { ignoreEos: true, maxNewTokens: 24, seed: 3, ...options })).ids;

test('a bias moves the choice, and -Infinity forbids a token', async () => {
  const [b, c] = byteIds('bc') as [number, number];
  const first = async (logitBias: [number, number][]): Promise<number> =>
    (
      await letters.generate(byteIds('a'), {
        maxNewTokens: 1,
        temperature: 0,
        logitBias: new Map(logitBias),
      })
    ).ids[0]!;
  expect(await first([])).toBe(b);
  expect(await first([[c, 1e4]])).toBe(c);
  expect(await first([[b, -Infinity]])).not.toBe(b);
});

test('penalties keep tokens from coming again', async () => {
  const ids = await idsOf(random, { temperature: 0, frequencyPenalty: 1e4 });
  expect(new Set(ids).size).toBe(24);
  const present = await idsOf(random, { temperature: 0, presencePenalty: 1e4 });
  expect(present).toEqual(ids);
  const repeated = await idsOf(random, { temperature: 0, repetitionPenalty: 1e4 });
  expect(new Set([...prompt, ...repeated]).size).toBe(28);
  const liked = await idsOf(random, { temperature: 0, frequencyPenalty: -1e4 });
  expect(new Set(liked).size).toBe(1);
});

test('minP of 1 leaves the likeliest, and 0 leaves all', async () => {
  const drawn = { temperature: 1.5, topK: 0, topP: 1 };
  const greedy = await idsOf(random, { temperature: 0 });
  expect(await idsOf(random, { ...drawn, minP: 1 })).toEqual(greedy);
  const free = await idsOf(random, { ...drawn, minP: 0 });
  expect(await idsOf(random, drawn)).toEqual(free);
  expect(free).not.toEqual(greedy);
});

test('log-probabilities are those of the model, before temperature and penalties', async () => {
  const options = { maxNewTokens: 5, temperature: 2, frequencyPenalty: 2, seed: 1, ignoreEos: true };
  const tokens = [];
  for await (const token of random.generate(prompt, { ...options, logprobs: 3 })) tokens.push(token);
  const ids = tokens.map(({ id }) => id);
  expect(await idsOf(random, options)).toEqual(ids);
  const logits = noGrad(() => random.forward([[...prompt, ...ids]]).logits);
  const values = await logits.data();
  const { vocabSize } = random.config;
  for (const [i, token] of tokens.entries()) {
    const at = (prompt.length - 1 + i) * vocabSize;
    const row = [...values.subarray(at, at + vocabSize)];
    const largest = Math.max(...row);
    const total = largest + Math.log(row.reduce((sum, z) => sum + Math.exp(z - largest), 0));
    expect(token.logprob).toBeCloseTo(row[token.id]! - total, 3);
    const order = row.map((_, id) => id).sort((a, b) => row[b]! - row[a]!);
    expect(token.topLogprobs!.map(({ id }) => id)).toEqual(order.slice(0, 3));
    for (const { id, logprob } of token.topLogprobs!) expect(logprob).toBeCloseTo(row[id]! - total, 3);
  }
  logits.dispose();

  for await (const token of random.generate(prompt, { ...options, logprobs: 0 })) {
    expect(token.logprob).toBeLessThanOrEqual(0);
    expect(token).not.toHaveProperty('topLogprobs');
  }
  const { ids: made, logprobs } = await random.generate(prompt, { ...options, logprobs: 0 });
  expect(logprobs?.map(({ id }) => id)).toEqual(made);
  for await (const token of random.generate(prompt, options)) expect(token).not.toHaveProperty('logprob');
});

test('generation_config.json: lengths, what may not come, and texts that end it', async () => {
  const run = async (generation: Record<string, unknown>): Promise<string> => {
    const model = await load([...byteIds('abcdef'), eos], { generation });
    const { text } = await model.generate(byteIds('a'), { temperature: 0 });
    return text;
  };
  expect(await run({ max_length: 4 })).toBe('bcd');
  expect(await run({ stop_strings: ['de'] })).toBe('bc');
  expect((await run({ suppress_tokens: byteIds('d'), max_new_tokens: 3 })).slice(0, 2)).toBe('bc');
  expect(await run({ suppress_tokens: byteIds('d'), max_new_tokens: 3 })).not.toContain('d');
  expect(await run({ begin_suppress_tokens: byteIds('b'), max_new_tokens: 1 })).not.toBe('b');
  const model = await load([...byteIds('abcdef'), eos], { generation: { min_new_tokens: 8 } });
  const { ids } = await model.generate(byteIds('a'), { temperature: 0, maxNewTokens: 8 });
  expect(ids.slice(0, 5)).toEqual(byteIds('bcdef'));
  expect(ids).toHaveLength(8);
  expect(ids.slice(0, 8)).not.toContain(eos);
});

test('a bias outside of the vocabulary is refused', async () => {
  await expect(random.generate(prompt, { logitBias: new Map([[1e6, 1]]) })).rejects.toThrow(
    `[generate] expected the ids of logitBias from 0 to ${random.config.vocabSize - 1} but received 1000000`,
  );
});

describe.each([0, 6])('at least %i tokens, by generation_config.json', (least) => {
  const words = ['red', 'rest', 'r', 'wood', 'doors', 'Zoo'].map((word) => JSON.stringify(word));
  const schemas = [undefined, { enum: words.map((word) => JSON.parse(word) as string) }];
  const stops = [undefined, ['es', 'oo', 'L]'], ['d"', 's"', 'ZZZ']];
  const bias = (text: string, end: number): Map<number, number> =>
    new Map([...byteIds(text).map((id): [number, number] => [id, 3.5]), [eos, end]]);
  const penalties: GenerateOptions[] = [
    {},
    { repetitionPenalty: 1.5 },
    { presencePenalty: 1, frequencyPenalty: 0.5 },
    { logitBias: bias('est"', 4), frequencyPenalty: 0.3 },
    { logitBias: bias('oowd"', 3), repetitionPenalty: 1.2 },
    { logitBias: bias('Z', 9), frequencyPenalty: 3, presencePenalty: -1 },
  ];
  const all = schemas.flatMap((jsonSchema) =>
    stops.flatMap((stop) =>
      penalties.map((options) => ({ ...options, ...(jsonSchema && { jsonSchema }), ...(stop && { stop }) })),
    ),
  );

  /** The greedy text, one forward pass for each token. */
  async function plainly(model: CausalLM, options: GenerateOptions) {
    const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0, logitBias, stop } = options;
    const stopStrings = typeof stop === 'string' ? [stop] : (stop ?? []);
    const ids: number[] = [];
    const text = (): string => Buffer.from(ids.filter((id) => id < 256)).toString();
    const may = (id: number): boolean => {
      if (options.jsonSchema === undefined) return id !== eos || ids.length >= least;
      if (id === eos) return words.includes(text());
      return id < 256 && words.some((word) => word.startsWith(text() + String.fromCharCode(id)));
    };
    while (ids.length < 14) {
      const logits = noGrad(() => model.forward([[...prompt, ...ids]]).logits);
      const { vocabSize } = model.config;
      const row = (await logits.data()).slice(-vocabSize);
      logits.dispose();
      row.forEach((z, id) => {
        const count = ids.filter((other) => other === id).length;
        const seen = count > 0 || prompt.includes(id);
        const factor = seen ? repetitionPenalty : 1;
        const penalty = (count > 0 ? presencePenalty : 0) + count * frequencyPenalty;
        row[id] = may(id)
          ? (z > 0 ? z / factor : z * factor) + (logitBias?.get(id) ?? 0) - penalty
          : -Infinity;
      });
      const id = row.indexOf(Math.max(...row));
      ids.push(id);
      const ends = stopStrings.map((one) => text().indexOf(one)).filter((at) => at >= 0);
      if (ends.length > 0) return { ids, text: text().slice(0, Math.min(...ends)), finishReason: 'stop' };
      if (id === eos) return { ids, text: text(), finishReason: 'stop' };
    }
    return { ids, text: text(), finishReason: 'length' };
  }

  test('a schema, stop strings, penalties and biases together are what a plain loop makes of them', async () => {
    const eager = await CausalLM.fromPretrained(await tinyModel({ generation: { min_new_tokens: least } }));
    models.push(eager);
    const options = { temperature: 0, maxNewTokens: 14 };
    const results = await Promise.all(all.map((one) => eager.generate(prompt, { ...options, ...one })));
    const seen = new Set<string>();
    for (const [i, one] of all.entries()) {
      const { ids, text, finishReason } = results[i]!;
      const wanted = await plainly(eager, one);
      // Bytes that are no character, of which the end may cut one, are the tokenizer's own matter.
      const clean = (shown: string): string => shown.replaceAll('\ufffd', '');
      expect({ one, ids, text: clean(text), finishReason }).toEqual({
        one,
        ...wanted,
        text: clean(wanted.text),
      });
      seen.add(`${finishReason} ${String(ids)}`);
    }
    expect(seen.size).toBeGreaterThan(all.length / 3);
  });
});
