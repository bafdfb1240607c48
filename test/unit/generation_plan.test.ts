import { rmSync } from 'node:fs';
import { LogitAdjuster } from '../../lib/engine/logit_adjuster';
import { defaultLimits } from '../../lib/formats/limits';
import { parseModelConfig } from '../../lib/models/families';
import {
  planGeneration,
  plainDefaults,
  tokenLimit,
  type GenerationDefaults,
} from '../../lib/engine/sampling';
import { parseGenerationDefaults } from '../../lib/models/files/generation_config';
import { promptIds } from '../../lib/models/running/generate';
import { Tokenizer } from '../../lib/text/tokenizer';
import { expectReject, expectThrow } from '../support/errors';
import { tinyConfig, tinyModel } from '../support/tiny_model';

let tokenizer: Tokenizer;
beforeAll(async () => {
  const dir = await tinyModel();
  tokenizer = (await Tokenizer.fromDirectory(dir))!;
  rmSync(dir, { recursive: true });
});

describe('generation_config.json', () => {
  const config = (changes: object = {}) => parseModelConfig({ ...tinyConfig, ...changes });
  const defaults = (json: unknown): GenerationDefaults => parseGenerationDefaults(json, config());

  test.each<[string, unknown, Partial<GenerationDefaults>]>([
    ['a server draws with 1 where nothing is said', {}, { servedTemperature: 1 }],
    ['with what the file names', { temperature: 0.6 }, { servedTemperature: 0.6, temperature: 0 }],
    ['with 0 where it says not to sample', { do_sample: false, temperature: 0.6 }, { servedTemperature: 0 }],
    ['and as it says to', { do_sample: true, temperature: 0.3 }, { servedTemperature: 0.3 }],
    ['nothing: greedy, 128 tokens', {}, { maxNewTokens: 128, temperature: 0, topK: 0, topP: 1 }],
    ['no object', null, { maxNewTokens: 128, temperature: 0, topK: 0, topP: 1 }],
    [
      'do_sample alone: the values of transformers',
      { do_sample: true },
      { temperature: 1, topK: 50, topP: 1 },
    ],
    [
      'do_sample with values',
      { do_sample: true, temperature: 0.6, top_k: 20, top_p: 0.9, max_new_tokens: 7 },
      { maxNewTokens: 7, temperature: 0.6, topK: 20, topP: 0.9 },
    ],
    ['a top_k of 0 is all', { do_sample: true, top_k: 0 }, { topK: 0 }],
    [
      'values without do_sample count nothing',
      { temperature: 0.6, top_k: 20, top_p: 0.9 },
      { temperature: 0, topK: 0, topP: 1 },
    ],
    ['do_sample must be true', { do_sample: 1, top_k: 20 }, { temperature: 0, topK: 0 }],
    ['null counts as absent', { max_new_tokens: null }, { maxNewTokens: 128 }],
    ['min_p where it samples', { do_sample: true, min_p: 0.05 }, { minP: 0.05 }],
    ['and not where it does not', { min_p: 0.05 }, { minP: 0 }],
    ['a penalty in any case', { repetition_penalty: 1.1 }, { repetitionPenalty: 1.1 }],
    ['max_length bounds prompt and text', { max_length: 40 }, { maxNewTokens: undefined, maxLength: 40 }],
    [
      'max_new_tokens stands before it',
      { max_length: 40, max_new_tokens: 7 },
      { maxNewTokens: 7, maxLength: 40 },
    ],
    ['lengths at least', { min_new_tokens: 3, min_length: 9 }, { minNewTokens: 3, minLength: 9 }],
    [
      'biases of single tokens',
      { suppress_tokens: [3, 9999], bad_words_ids: [[4]], sequence_bias: [[[5], 1.5]] },
      {
        logitBias: new Map([
          [5, 1.5],
          [4, -Infinity],
          [3, -Infinity],
        ]),
      },
    ],
    ['what may not begin', { begin_suppress_tokens: [1, 2] }, { beginSuppressTokens: new Set([1, 2]) }],
    ['one text that ends it', { stop_strings: 'x' }, { stop: ['x'] }],
    ['or several', { stop_strings: ['x', 'y'] }, { stop: ['x', 'y'] }],
  ])('%s', (_, json, want) => {
    expect(defaults(json)).toMatchObject(want);
  });

  const warningOf = (json: object): string[] => {
    const warn = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
    try {
      defaults(json);
      for (const [, options] of warn.mock.calls as unknown[][])
        expect(options).toEqual({ code: 'LORA_GENERATION_CONFIG' });
      return warn.mock.calls.map(([text]) => String(text));
    } finally {
      warn.mockRestore();
    }
  };

  test('one warning names what is not supported', () => {
    expect(warningOf({ num_beams: 4, no_repeat_ngram_size: 3, typical_p: 0.9, temperature: 'hot' })).toEqual([
      'generation_config.json: no_repeat_ngram_size, num_beams, typical_p, temperature not supported, and ignored',
    ]);
    expect(warningOf({ num_return_sequences: 2, guidance_scale: 2 })).toEqual([
      'generation_config.json: guidance_scale, num_return_sequences not supported, and ignored',
    ]);
    expect(warningOf({ bad_words_ids: [[4, 5], [6]], sequence_bias: { x: 1 }, stop_strings: [''] })).toEqual([
      'generation_config.json: sequence_bias, bad_words_ids, stop_strings not supported, and ignored',
    ]);
    expect(warningOf({ repetition_penalty: 0, top_p: 2, min_p: -1, top_k: 1.5, min_length: 'x' })).toEqual([
      'generation_config.json: top_k, top_p, min_p, min_length, repetition_penalty not supported, and ignored',
    ]);
  });

  test('none is given for what does nothing here', () => {
    expect(
      warningOf({
        num_beams: 1,
        typical_p: 1,
        guidance_scale: null,
        pad_token_id: 0,
        use_cache: true,
        transformers_version: '4.50.0',
        repetition_penalty: 1.1,
        eos_token_id: [1, 2],
      }),
    ).toEqual([]);
  });

  test('end-of-text ids: its own, else those of config.json, else the tokenizer’s', () => {
    const ids = (generation: unknown, model: unknown, withTokenizer = true): number[] => [
      ...parseGenerationDefaults(
        { eos_token_id: generation },
        config({ eos_token_id: model }),
        withTokenizer ? tokenizer : undefined,
      ).eosTokenIds,
    ];
    expect(ids([7, 8], 9)).toEqual([7, 8]);
    expect(ids(7, 9)).toEqual([7]);
    expect(ids(undefined, 9)).toEqual([9]);
    expect(ids([], [9, 10])).toEqual([9, 10]);
    expect(ids(null, null)).toEqual([257]);
    expect(ids(null, null, false)).toEqual([]);
    expect(ids([0, -1, 1.5, '3'], 9)).toEqual([0]);
  });
});

describe('lists as long as a stranger likes', () => {
  const ids = Array.from({ length: 50_000 }, (_, i) => i);
  const config = parseModelConfig({ ...tinyConfig, vocab_size: 50_000 });
  const limits = { ...defaultLimits, generationIds: 10 ** 6 };

  test.each<[string, object]>([
    ['of ends', { eos_token_id: ids, min_new_tokens: 3 }],
    ['of ends of long texts', { eos_token_id: ids, min_length: 10 ** 6 }],
    ['of tokens that never come', { suppress_tokens: ids }],
    ['of tokens that do not begin', { begin_suppress_tokens: ids }],
    ['of bad words', { bad_words_ids: ids.map((id) => [id]) }],
    ['of biases', { sequence_bias: ids.map((id) => [[id], 1]) }],
    ['of one id', { eos_token_id: ids.map(() => 7), suppress_tokens: ids, min_new_tokens: 9 }],
  ])('%s: refused with the bound, and no longer than its length where that is raised', (_, json) => {
    expectThrow(
      () => parseGenerationDefaults(json, config),
      'ERR_FILE',
      /^\[from_pretrained\] generation_config\.json names 5000[01] ids or more: the limit is 16384, which limits\.generationIds raises$/,
    );
    const plan = planGeneration({}, parseGenerationDefaults(json, config, undefined, limits));
    const adjuster = new LogitAdjuster(plan, [1, 2, 3]);
    for (let id = 0; id < 100; id++) adjuster.push(id);
    expect(adjuster.size).toBe(50_000);
  });

  test('stop strings, of a file and of a call', () => {
    const stop = Array.from({ length: 129 }, (_, i) => `stop ${i}`);
    const long = 'x'.repeat(1025);
    const of = (strings: string[], more = {}): GenerationDefaults =>
      parseGenerationDefaults({ stop_strings: strings }, config, undefined, { ...defaultLimits, ...more });
    expectThrow(
      () => of(stop),
      'ERR_FILE',
      '[from_pretrained] generation_config.json has 129 stop_strings: the limit is 128, which limits.stopStrings raises',
    );
    expect(planGeneration({}, of(stop, { stopStrings: 129 })).stop).toHaveLength(129);
    expectThrow(
      () => of(['a', long]),
      'ERR_FILE',
      '[from_pretrained] generation_config.json has one of stop_strings with 1025 characters: the limit is 1024',
    );
    expectThrow(
      () => planGeneration({ stop }, plainDefaults),
      'ERR_ARGUMENT',
      '[generate] expected stop to be at most 128 strings but received 129',
    );
    expectThrow(
      () => planGeneration({ stop: long }, plainDefaults),
      'ERR_ARGUMENT',
      '[generate] expected stop strings of at most 1024 characters but received one of 1025',
    );
    expect(planGeneration({ stop: stop.slice(1) }, plainDefaults).stop).toHaveLength(128);
  });
});

describe('the options of a call', () => {
  const defaults: GenerationDefaults = {
    ...plainDefaults,
    eosTokenIds: new Set([7]),
    temperature: 0.5,
    topK: 50,
    topP: 0.9,
    minP: 0.1,
    repetitionPenalty: 1.1,
    logitBias: new Map([[3, -Infinity]]),
    stop: ['z'],
  };
  const rest = {
    presencePenalty: 0,
    frequencyPenalty: 0,
    logprobs: undefined,
    signal: undefined,
    n: 1,
    ownLimit: false,
    servedTemperature: undefined,
    speculate: false,
  };

  test('stand before the defaults, zero included', () => {
    expect(planGeneration({ seed: 0 }, defaults)).toEqual({ ...defaults, ...rest, seed: 0 });
    const own = { maxNewTokens: 0, temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 3 };
    expect(planGeneration({ ...own, stop: 'x' }, defaults)).toEqual({
      ...defaults,
      ...rest,
      ...own,
      ownLimit: true,
      stop: ['x'],
    });
    expect(planGeneration({ seed: 0, ignoreEos: true }, defaults).eosTokenIds).toEqual(new Set());
    const { signal } = new AbortController();
    const more = { presencePenalty: -1, frequencyPenalty: 0.5, logprobs: 0 };
    expect(planGeneration({ stop: ['x', 'y'], signal, ...more }, defaults)).toMatchObject({
      stop: ['x', 'y'],
      signal,
      ...more,
    });
  });

  test('biases join those of the file, and stand before them', () => {
    const biasOf = (bias: [number, number][]) =>
      planGeneration({ logitBias: new Map(bias) }, defaults).logitBias;
    expect(biasOf([[5, 2]])).toEqual(
      new Map([
        [3, -Infinity],
        [5, 2],
      ]),
    );
    expect(biasOf([[3, 0]])).toEqual(new Map([[3, 0]]));
  });

  test('say how many tokens may come', () => {
    const limit = (options: object, file: Partial<GenerationDefaults>): number =>
      tokenLimit(planGeneration(options, { ...defaults, ...file }), 30);
    expect(limit({}, {})).toBe(128);
    expect(limit({}, { maxNewTokens: undefined, maxLength: 40 })).toBe(10);
    expect(limit({}, { maxNewTokens: undefined, maxLength: 20 })).toBe(0);
    expect(limit({ maxNewTokens: 50 }, { maxNewTokens: undefined, maxLength: 40 })).toBe(50);
  });

  test('give another seed to every call that names none', () => {
    const seeds = Array.from({ length: 8 }, () => planGeneration({}, defaults).seed);
    expect(new Set(seeds).size).toBe(8);
    for (const seed of seeds) expect(seed).toBeGreaterThanOrEqual(0);
  });

  test.each<[object, string]>([
    [{ maxNewTokens: -1 }, 'expected maxNewTokens to be an integer of at least 0 but received -1'],
    [{ temperature: -0.1 }, 'expected temperature to be a finite number of at least 0 but received -0.1'],
    [{ topK: 1.5 }, 'expected topK to be an integer of at least 0 but received 1.5'],
    [{ topP: 0 }, 'expected topP to be above 0 and at most 1 but received 0'],
    [{ topP: 1.01 }, 'expected topP to be above 0 and at most 1 but received 1.01'],
    [{ topP: '1' }, "expected topP to be above 0 and at most 1 but received '1'"],
    [{ temperature: 1e39 }, 'expected temperature to be a number of f32 but received 1e+39'],
    [{ topP: 1e-60 }, 'expected topP to be above 0 and at most 1 but received 1e-60'],
    [{ minP: -0.1 }, 'expected minP to be from 0 to 1 but received -0.1'],
    [{ minP: 1.1 }, 'expected minP to be from 0 to 1 but received 1.1'],
    [{ repetitionPenalty: 0 }, 'expected repetitionPenalty to be a finite number above 0 but received 0'],
    [
      { repetitionPenalty: 1e-50 },
      'expected repetitionPenalty to be a finite number above 0 but received 1e-50',
    ],
    [{ presencePenalty: NaN }, 'expected presencePenalty to be a finite number but received NaN'],
    [{ frequencyPenalty: '1' }, "expected frequencyPenalty to be a finite number but received '1'"],
    [{ logitBias: { 5: 1 } }, 'expected logitBias to be a Map of ids to numbers but received an object'],
    [{ logitBias: new Map([[262, 1]]) }, 'expected the ids of logitBias from 0 to 261 but received 262'],
    [{ logitBias: new Map([['5', 1]]) }, "expected the ids of logitBias from 0 to 261 but received '5'"],
    [
      { logitBias: new Map([[5, Infinity]]) },
      'expected logitBias of 5 to be a number or -Infinity but received Infinity',
    ],
    [{ logprobs: -1 }, 'expected logprobs to be an integer of at least 0 but received -1'],
    [{ logprobs: 21 }, 'expected logprobs of at most 20 but received 21'],
    [{ min_p: 0.1 }, "unknown option 'min_p'; did you mean 'minP'?"],
    [{ seed: -1 }, 'expected seed to be an integer of at least 0 but received -1'],
    [{ ignoreEos: 1 }, 'expected ignoreEos to be true or false but received 1'],
    [{ stop: '' }, "expected stop to be a non-empty string or an array of them but received ''"],
    [{ stop: ['a', 5] }, "expected stop to be a non-empty string or an array of them but received ['a', 5]"],
    [{ signal: {} }, 'expected signal to be an AbortSignal but received an object'],
    [{ max_tokens: 1 }, "unknown option 'max_tokens'"],
  ])('%j is refused', (options, sentence) => {
    const error = expectThrow(() => planGeneration(options, defaults, 262), 'ERR_ARGUMENT', /^\[generate\] /);
    expect(error.message).toContain(sentence);
  });
});

describe('the ids of a prompt', () => {
  const ids = (prompt: unknown): Promise<number[]> => promptIds(prompt as never, 262, () => tokenizer);

  test('of a text begin with the special tokens, of a conversation come from the template', async () => {
    expect(await ids('Hi')).toEqual([256, 72, 105]);
    expect(await ids([{ role: 'user', content: 'Hi' }])).toEqual([258, 72, 105, 259]);
    expect(await ids([0, 261])).toEqual([0, 261]);
    expect(await ids(Int32Array.of(5, 6))).toEqual([5, 6]);
  });

  test.each<[unknown, string]>([
    [[262], 'expected ids from 0 to 261 but received 262'],
    [[0, -1], 'expected ids from 0 to 261 but received -1'],
    [[1.5], 'expected ids from 0 to 261 but received 1.5'],
    [['a'], "expected ids from 0 to 261 but received 'a'"],
    [[], 'expected a prompt of at least one token but received none'],
    [null, 'expected the prompt to be a text, ids or messages but received null'],
  ])('%j is refused before the model runs', async (prompt, sentence) => {
    await expectReject(ids(prompt), 'ERR_ARGUMENT', `[generate] ${sentence}`);
  });

  test('a text of no tokens is refused', async () => {
    const empty = { encodeAsync: async () => [] } as unknown as Tokenizer;
    await expectReject(
      promptIds('', 262, () => empty),
      'ERR_ARGUMENT',
      /at least one token but received none/,
    );
  });
});
