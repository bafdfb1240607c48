import { rmSync } from 'node:fs';
import { parseModelConfig } from '../../lib/models/config';
import {
  parseGenerationDefaults,
  planGeneration,
  promptIds,
  type GenerationDefaults,
} from '../../lib/models/generate';
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
    ['what is no number counts as absent', { max_new_tokens: null }, { maxNewTokens: 128 }],
  ])('%s', (_, json, want) => {
    expect(defaults(json)).toMatchObject(want);
  });

  test('end-of-text ids: its own, else those of config.json, else the tokenizer’s', () => {
    const ids = (generation: unknown, model: unknown, withTokenizer = true): readonly number[] =>
      parseGenerationDefaults(
        { eos_token_id: generation },
        config({ eos_token_id: model }),
        withTokenizer ? tokenizer : undefined,
      ).eosTokenIds;
    expect(ids([7, 8], 9)).toEqual([7, 8]);
    expect(ids(7, 9)).toEqual([7]);
    expect(ids(undefined, 9)).toEqual([9]);
    expect(ids([], [9, 10])).toEqual([9, 10]);
    expect(ids(null, null)).toEqual([257]);
    expect(ids(null, null, false)).toEqual([]);
    expect(ids([0, -1, 1.5, '3'], 9)).toEqual([0]);
  });
});

describe('the options of a call', () => {
  const defaults = { eosTokenIds: [7], maxNewTokens: 128, temperature: 0.5, topK: 50, topP: 0.9 };

  test('stand before the defaults, zero included', () => {
    expect(planGeneration({ seed: 0 }, defaults)).toEqual({ ...defaults, seed: 0, stop: [] });
    const own = { maxNewTokens: 0, temperature: 0, topK: 0, topP: 1, seed: 3 };
    expect(planGeneration({ ...own, stop: 'x' }, defaults)).toEqual({
      ...own,
      stop: ['x'],
      eosTokenIds: [7],
    });
    expect(planGeneration({ seed: 0, ignoreEos: true }, defaults).eosTokenIds).toEqual([]);
    const { signal } = new AbortController();
    expect(planGeneration({ stop: ['x', 'y'], signal }, defaults)).toMatchObject({
      stop: ['x', 'y'],
      signal,
    });
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
    [{ seed: -1 }, 'expected seed to be an integer of at least 0 but received -1'],
    [{ ignoreEos: 1 }, 'expected ignoreEos to be true or false but received 1'],
    [{ stop: '' }, "expected stop to be a non-empty string or an array of them but received ''"],
    [{ stop: ['a', 5] }, "expected stop to be a non-empty string or an array of them but received ['a', 5]"],
    [{ signal: {} }, 'expected signal to be an AbortSignal but received an object'],
    [{ max_tokens: 1 }, "unknown option 'max_tokens'"],
  ])('%j is refused', (options, sentence) => {
    const error = expectThrow(() => planGeneration(options, defaults), 'ERR_ARGUMENT', /^\[generate\] /);
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
