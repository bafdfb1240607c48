/** Where the text of a generation ends: end-of-text tokens, stop strings and lengths, on models whose text is known. */
import { rmSync } from 'node:fs';
import { CausalLM, type GenerateOptions } from '../../lib/index';
import { byteIds, chainModel, eos } from '../support/chain_model';
import { type TinyModelOptions } from '../support/tiny_model';

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

/** The pieces of text as they come, and the result. */
async function run(model: CausalLM, prompt: string, options: GenerateOptions) {
  const handle = model.generate(byteIds(prompt), options);
  const pieces: string[] = [];
  for await (const { text } of handle) pieces.push(text);
  const { timings, ...result } = await model.generate(byteIds(prompt), options);
  expect(timings.totalMs).toBeGreaterThan(0);
  expect(result.text).toBe(pieces.join(''));
  return { pieces, ...result };
}

let letters: CausalLM;
beforeAll(async () => {
  letters = await load([...byteIds('abcdef'), eos]);
});

test('each token gives its text, and the end-of-text token ends it without one', async () => {
  expect(await run(letters, 'a', {})).toEqual({
    pieces: ['b', 'c', 'd', 'e', 'f', ''],
    text: 'bcdef',
    ids: [...byteIds('bcdef'), eos],
    finishReason: 'stop',
    usage: { promptTokens: 1, completionTokens: 6, cachedTokens: 0 },
  });
});

test('past the end-of-text token when it is ignored', async () => {
  const { ids, text, finishReason } = await run(letters, 'a', { ignoreEos: true, maxNewTokens: 8 });
  expect([ids.slice(5), text, finishReason]).toEqual([[eos, eos, eos], 'bcdef', 'length']);
});

test('a stop string over several tokens ends the text before it', async () => {
  const cut = await run(letters, 'a', { stop: ['xyz', 'cde'] });
  expect([cut.pieces, cut.finishReason]).toEqual([['b', '', '', ''], 'stop']);
  expect(cut.ids).toEqual(byteIds('bcde'));
});

test('what could have begun a stop string appears when the next token decides', async () => {
  const { pieces, finishReason } = await run(letters, 'a', { stop: 'cdx' });
  expect([pieces, finishReason]).toEqual([['b', '', '', 'cde', 'f', ''], 'stop']);
});

test('what could have begun a stop string appears at the end-of-text token', async () => {
  const { pieces, finishReason } = await run(letters, 'a', { stop: 'efg' });
  expect([pieces, finishReason]).toEqual([['b', 'c', 'd', '', '', 'ef'], 'stop']);
});

test('what could have begun a stop string appears when the length is reached', async () => {
  const { pieces, finishReason } = await run(letters, 'a', { stop: 'cdx', maxNewTokens: 2 });
  expect([pieces, finishReason]).toEqual([['b', 'c'], 'length']);
});

test('a stop string in the last token that fits is a stop', async () => {
  const { text, finishReason } = await run(letters, 'a', { stop: 'cd', maxNewTokens: 3 });
  expect([text, finishReason]).toEqual(['b', 'stop']);
});

test('a character of two bytes comes whole', async () => {
  const accented = await load([...byteIds('aé'), eos]);
  expect((await run(accented, 'a', {})).pieces).toEqual(['', 'é', '']);
});

describe('a tokenizer that takes out spaces before punctuation', () => {
  const tokenizerConfig = { clean_up_tokenization_spaces: true };
  let listing: CausalLM;
  beforeAll(async () => {
    listing = await load([...byteIds('ab ,c.'), eos], { tokenizerConfig });
  });

  test('a space is held until it is certain, and nothing else is lost', async () => {
    const { pieces, ids } = await run(listing, 'a', {});
    expect(pieces).toEqual(['b', '', ',', 'c', '.', '']);
    expect(listing.tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('b,c.');
  });

  test('a space that is held appears at the length', async () => {
    const { pieces, finishReason } = await run(listing, 'a', { maxNewTokens: 2 });
    expect([pieces, finishReason]).toEqual([['b', ' '], 'length']);
  });

  test('a space that is held appears at the end-of-text token', async () => {
    const ending = await load([...byteIds('ab '), eos], { tokenizerConfig });
    expect((await run(ending, 'a', {})).pieces).toEqual(['b', '', ' ']);
  });

  test('stop strings are looked for in the text that is shown', async () => {
    expect(await run(listing, 'a', { stop: 'b,c' })).toMatchObject({ text: '', finishReason: 'stop' });
    expect(await run(listing, 'a', { stop: ' ,' })).toMatchObject({ text: 'b,c.', finishReason: 'stop' });
    const spaced = await load([...byteIds('ab c'), eos], { tokenizerConfig });
    expect(await run(spaced, 'a', { stop: 'b ' })).toMatchObject({ text: '', ids: byteIds('b c') });
    expect(await run(spaced, 'a', { stop: 'b ', maxNewTokens: 2 })).toMatchObject({
      text: '',
      finishReason: 'stop',
    });
  });
});

test('no tokens are asked for', async () => {
  const { ids, text, finishReason } = await run(letters, 'a', { maxNewTokens: 0 });
  expect([ids, text, finishReason]).toEqual([[], '', 'length']);
});

test('max_new_tokens of generation_config.json is the length, and without it 128', async () => {
  const four = await load(byteIds('ab'), { generation: { max_new_tokens: 4 } });
  expect((await run(four, 'a', {})).ids).toEqual(byteIds('bbbb'));
  expect((await four.generate(byteIds('a'), { maxNewTokens: 2 })).ids).toEqual(byteIds('bb'));
  const endless = await load(byteIds('ab'), { config: { max_position_embeddings: 256 } });
  expect((await endless.generate(byteIds('a'))).ids).toHaveLength(128);
  const short = await load(byteIds('ab'), { config: { max_position_embeddings: 100 } });
  expect((await short.generate(byteIds('a'))).ids).toHaveLength(99); // what the context leaves
});

test('a signal that was aborted before the start draws no token', async () => {
  const reason = new Error('enough');
  const handle = letters.generate(byteIds('a'), { signal: AbortSignal.abort(reason) });
  await expect(handle[Symbol.asyncIterator]().next()).rejects.toBe(reason);
});

test('stop_strings of the file are for texts: ids come without them where there is no tokenizer', async () => {
  const generation = { stop_strings: ['c'] };
  const silent = await load(byteIds('abc'), { generation, tokenizer: false });
  expect((await silent.generate(byteIds('a'), { maxNewTokens: 4, ignoreEos: true })).ids).toEqual(
    byteIds('bccc'),
  );
  await expect(silent.generate(byteIds('a'), { stop: 'c' })).rejects.toMatchObject({
    code: 'ERR_UNSUPPORTED',
  });
});
