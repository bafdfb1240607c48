/** Threads of grammars: what is bounded, what an abort ends, and whom a failure leaves alone. */
import type { TokenConstraint } from '../../lib/grammar/constraint';
import { Grammars } from '../../lib/grammar/grammars';
import { GrammarThread, type ThreadLimits } from '../../lib/grammar/grammar_thread';
import { schemaGrammar, type JsonSchema, type SchemaGrammar } from '../../lib/grammar/json_schema';
import { Match } from '../../lib/grammar/match';
import { vocabularyOf } from '../../lib/grammar/vocabulary';
import { inSlices } from '../../lib/tensor/pace';
import type { Tokenizer } from '../../lib/text/tokenizer';
import { byteIds, eos } from '../support/chain_model';
import { expectReject } from '../support/errors';
import { allowed, allowedBy, follows, tinyTokenizer, vocabSize } from '../support/grammars';

const load = tinyTokenizer();
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await load();
});

const open: Grammars[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((grammars) => grammars.dispose()));
});
function begin(
  limits?: Partial<ThreadLimits>,
): (grammar: SchemaGrammar, signal?: AbortSignal) => Promise<TokenConstraint> {
  const grammars = new Grammars(vocabSize, [eos], { milliseconds: 60_000, bytes: 2 ** 28, ...limits });
  open.push(grammars);
  return async (grammar, signal) => (await grammars.start(grammar, 1, tokenizer, signal))[0]!;
}

/** Rules that name each other: what compiling them takes grows with the square of their number. */
function tangle(count: number, name = 'r'): SchemaGrammar {
  const rules = Array.from({ length: count }, (_, i) => `${name}${i}`);
  const bodies = rules.map((rule, i) => {
    const other = rules[(i * 7 + 1) % count];
    return `${rule} ::= "[" (${other} ("," ${other} | ";" ${rule})*)? "]"`;
  });
  return { text: [`root ::= ${rules.join(' | ')}`, ...bodies].join('\n'), states: 0 };
}
/** Compiling it takes minutes. */
const endless = tangle(20_000);
const word = (text: string): SchemaGrammar => ({ text: `root ::= "${text}"`, states: 0 });
/** One that is kept apart from those that are compiled in no time. */
const heavy = (text: string): SchemaGrammar => ({ ...word(text), states: 2 ** 13 });

test('while grammars compile that take long, others go on, and an abort ends them', async () => {
  const start = begin();
  const controllers = Array.from({ length: 4 }, () => new AbortController());
  const slow = controllers.map((controller, i) => start(tangle(20_000, `r${i}_`), controller.signal));
  const ends = slow.map((one) => one.catch((error: Error) => error.message));
  const text = await start(schemaGrammar({ type: 'boolean' }));
  expect(await follows(text, 'true')).toEqual({ taken: 4, ends: true });
  for (const [i, controller] of controllers.entries()) {
    controller.abort(new Error(`enough of ${i}`));
    expect(await ends[i]).toBe(`enough of ${i}`);
  }
  // Nothing is left of them: a grammar that takes a while is next.
  const next = await start(heavy('next'));
  expect(await follows(next, 'next')).toEqual({ taken: 4, ends: true });
});

test.each<[string, (values: number[]) => JsonSchema]>([
  ['an enum', (values) => ({ enum: values })],
  ['constants', (values) => ({ anyOf: values.map((value) => ({ const: value })) })],
])('%s of thousands of numbers in any order compiles soon', async (_, schema) => {
  const values = Array.from({ length: 4000 }, (_, i) => (i * 7919) % 100_003);
  const text = await begin({ milliseconds: 20_000 })(schemaGrammar(schema(values)));
  expect(await follows(text, String(values[1234]))).toEqual({ taken: 5, ends: true });
});

test('dispose() ends a thread that compiles', async () => {
  const start = begin();
  const slow = start(endless);
  const [grammars] = open;
  await begin()(word('x')); // by then it has begun
  await Promise.all([
    expectReject(slow, 'ERR_DISPOSED', '[generate] the model has been disposed'),
    grammars!.dispose(),
  ]);
});

test.each<[string, Partial<ThreadLimits>, RegExp]>([
  [
    'time',
    { milliseconds: 3000 },
    /^\[generate\] web-xgrammar cannot follow the schema: it takes more than 3 s$/,
  ],
  [
    'memory',
    { bytes: 2 ** 24 },
    /^\[generate\] web-xgrammar cannot follow the schema: it takes more than 16777216 bytes of memory$/,
  ],
])('a grammar that takes more %s than it may fails alone', async (_, limits, message) => {
  const start = begin(limits);
  const other = await start(heavy('other')); // in a thread that the next one will be in
  await start(heavy('third'));
  other.accept(byteIds('o'));
  await expectReject(start(endless), 'ERR_UNSUPPORTED', message);
  expect(await follows(other, 'ther')).toEqual({ taken: 4, ends: true });
  expect(await follows(await start(word('more')), 'more')).toEqual({ taken: 4, ends: true });
});

test('a text that fails leaves the other texts of its thread what they were', async () => {
  const start = begin();
  const texts = await Promise.all(['abcd', 'abce', 'abcf'].map((text) => start(word(text))));
  for (const text of texts) text.accept(byteIds('a'));
  const [failing, waiting, ready] = texts as [TokenConstraint, TokenConstraint, TokenConstraint];
  await ready.ready();
  failing.accept(byteIds('x')); // not one that may follow
  // Whoever asks before the failure is known, and whoever asks after it.
  for (let i = 0; i < 2; i++)
    await expectReject(
      failing.ready(),
      'ERR_UNSUPPORTED',
      '[generate] web-xgrammar cannot follow the schema: token 120 is not one that may follow',
    );
  // One takes a token before the other thread has answered, one after.
  expect(ready.bits).toBeDefined();
  ready.accept(byteIds('b'));
  expect(await allowed(ready)).toEqual(byteIds('c'));
  expect(await follows(ready, 'cf')).toEqual({ taken: 2, ends: true });
  expect(await follows(waiting, 'bce')).toEqual({ taken: 3, ends: true });
});

test('what may follow tokens that are not taken, as far as the grammar allows them', async () => {
  const text = await begin()({ text: 'root ::= "ab" ("c" | "d") "e"', states: 0 });
  const ahead = async (tokens: string): Promise<string[]> => {
    text.lookAhead(byteIds(tokens));
    expect(await allowed(text)).toEqual(byteIds('a'));
    return text.ahead.map((bits) =>
      allowedBy(bits)
        .map((id) => String.fromCharCode(id))
        .join(''),
    );
  };
  expect(await ahead('abd')).toEqual(['b', 'cd', 'e']);
  expect(await ahead('abxe')).toEqual(['b', 'cd']);
  expect(await ahead('xab')).toEqual([]);
  text.accept(byteIds('abc'));
  expect([text.bits, text.ahead]).toEqual([undefined, []]);
  expect(await follows(text, 'e')).toEqual({ taken: 1, ends: true });
});

test('a text that waits for what may follow goes on without it where its thread ends', async () => {
  const start = begin();
  const [failing, other] = [await start(word('abc')), await start(word('abd'))];
  failing.accept(byteIds('x'));
  other.lookAhead(byteIds('ab'));
  await other.ready();
  expect(other.ahead).toEqual([]);
  expect(await follows(other, 'abd')).toEqual({ taken: 3, ends: true });
});

test('what cannot be compiled fails, each time that it is asked for, and so do all that wait for it', async () => {
  const start = begin();
  const wrong: SchemaGrammar = { text: 'root ::= (', states: 0 };
  const results = await Promise.allSettled([start(wrong), start(word('fine')), start(wrong)]);
  expect(results.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'rejected']);
  await expectReject(start(wrong), 'ERR_UNSUPPORTED', /cannot follow the schema/);
});

test('a thread that holds much memory takes no other text, and ends with those that it has', async () => {
  const start = begin({ bytes: 2 ** 25 });
  const texts = await Promise.all(['a', 'b'].map((letter) => start(heavy(letter.repeat(100_000)))));
  let begun = false;
  const third = start(heavy('third')).then((text) => {
    begun = true;
    return text;
  });
  await start(word('light'));
  await new Promise((done) => setTimeout(done, 200));
  expect(begun).toBe(false);
  expect(await follows(texts[1]!, 'bb')).toEqual({ taken: 2, ends: false });
  texts[0]!.end();
  expect(await follows(await third, 'third')).toEqual({ taken: 5, ends: true });
});

test('a thread has no memory left of grammars that it no longer keeps', async () => {
  const vocabulary = await inSlices(vocabularyOf(tokenizer.library, vocabSize, [eos]));
  const limits = { milliseconds: 60_000, bytes: 2 ** 23 };
  const thread = new GrammarThread(vocabulary, limits, () => undefined);
  try {
    for (let i = 0; i < 100; i++) {
      const text = new Match(word(`${'x'.repeat(3000)}${i}`));
      thread.start(text);
      await text.ready();
      text.end();
    }
    expect(thread.open).toBe(true);
  } finally {
    await thread.dispose();
  }
});

test.each([
  [vocabSize, 129_055, undefined],
  [151_936, 221, 220],
])('of %d tokens and %d states', async (size, states, most) => {
  const grammars = new Grammars(size, [eos]);
  open.push(grammars);
  const started = grammars.start({ ...word('x'), states }, 1, tokenizer);
  if (most === undefined) await started;
  else
    await expectReject(
      started,
      'ERR_UNSUPPORTED',
      `[generate] expected minLength, maxLength and patterns of a jsonSchema to count at most ${most} characters in all, for a vocabulary of ${size} tokens, but received ${states}`,
    );
});
