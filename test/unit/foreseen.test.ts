/** What a grammar leaves no choice of, as text and as tokens. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { spell, unspell } from '../../lib/grammar/alphabet';
import type { TokenConstraint } from '../../lib/grammar/constraint';
import { Grammars } from '../../lib/grammar/grammars';
import { schemaGrammar, type JsonSchema } from '../../lib/grammar/json_schema';
import { continuationIds } from '../../lib/text/continuation';
import { Tokenizer } from '../../lib/text/tokenizer';
import { eos } from '../support/chain_model';
import { allowed, tinyTokenizer, vocabSize } from '../support/grammars';
import { pieceTokenizer } from '../support/piece_tokenizer';
import { temporaryFolder } from '../support/temporary';

const load = tinyTokenizer();
let tokenizer: Tokenizer;
let grammars: Grammars;
beforeAll(async () => {
  tokenizer = await load();
  grammars = new Grammars(vocabSize, [eos]);
});
afterAll(() => grammars.dispose());

/** One token is one byte. */
async function read(constraint: TokenConstraint, text: string): Promise<string | undefined> {
  for (const byte of Buffer.from(text)) constraint.accept([byte]);
  await constraint.ready();
  return constraint.foreseen;
}

async function foreseen(schema: JsonSchema, text: string): Promise<string | undefined> {
  const [constraint] = await grammars.start(schemaGrammar(schema), 1, tokenizer, undefined, true);
  try {
    return await read(constraint!, text);
  } finally {
    constraint!.end();
  }
}

const named = (properties: Record<string, JsonSchema>): JsonSchema => ({
  type: 'object',
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
});
const person = named({ name: { type: 'string' }, age: { type: 'integer' } });
const tags = named({ tags: { type: 'array', items: { enum: ['ab', 'ac'] }, minItems: 1 } });

test.each<[string, JsonSchema, string, string]>([
  ['the first name, and that a string begins', person, '', '{"name": "'],
  ['what is left of a name', person, '{"na', 'me": "'],
  ['nothing within a free string', person, '{"name": "', ''],
  ['no space after a colon within one', person, '{"name": "a:', ''],
  ['nothing of a character that is escaped', person, '{"name": "a\\', ''],
  ['what follows a string', person, '{"name": "a"', ', "age": '],
  ['a quote that is escaped ends no string', person, '{"name": "a\\""', ', "age": '],
  ['nothing where digits may follow', person, '{"name": "", "age": 1', ''],
  ['the end', named({ a: { const: true } }), '{"a": t', 'rue}'],
  ['nothing after the end', person, '{"name": "", "age": 1}', ''],
  ['no space after a colon that had none', person, '{"name":"a"', ', "age":'],
  [
    'no space after a comma that had none',
    named({ a: { type: 'null' }, b: { type: 'null' }, c: { type: 'null' } }),
    '{"a": null,"b"',
    ': null,"c": null}',
  ],
  ['a line after a brace that had one', named({ a: person }), '{\n', '"a": {\n"name": "'],
  ['spaces in strings are none of these', person, '{"name": ":x,y"', ', "age": '],
  ['brackets', tags, '', '{"tags": ["a'],
  ['nothing between an item and the end', tags, '{"tags": ["ab"', ''],
  ['characters beyond ASCII', named({ größe: { const: 'é字' } }), '{"gr', 'öße": "é字"}'],
  ['no half of a character', named({ a: { enum: ['é', 'è'] } }), '{"a":', ' "'],
  ['no more than is proposed', named({ ['x'.repeat(300)]: { type: 'null' } }), '', `{"${'x'.repeat(300)}"`],
])('%s', async (_, schema, text, want) => {
  expect(await foreseen(schema, text)).toBe(want);
});

test('looking ahead takes nothing', async () => {
  const start = async (foresees: boolean): Promise<TokenConstraint> =>
    (await grammars.start(schemaGrammar(person), 1, tokenizer, undefined, foresees))[0]!;
  const [plain, seeing] = [await start(false), await start(true)];
  for (const byte of [...Buffer.from('{"name":"\\"ab", "age": 12}')]) {
    expect(await allowed(seeing)).toEqual(await allowed(plain));
    expect(plain.foreseen).toBeUndefined();
    seeing.accept([byte]);
    plain.accept([byte]);
  }
  expect(await allowed(seeing)).toEqual([eos]);
});

test('a text that goes on in another thread foresees what it did', async () => {
  const [one, two] = await grammars.start(schemaGrammar(person), 2, tokenizer, undefined, true);
  await read(two!, '{"name":"x"');
  one!.accept([0x21]); // not one that may follow: the thread ends
  await expect(one!.ready()).rejects.toThrow('not one that may follow');
  expect(await read(two!, ',')).toBe(' "age":');
});

test.each(['{"a": 1}', 'é字😀', '\n\t'])('%j is what its spelling says', (text) => {
  expect(unspell(spell(text)!)).toBe(text);
  expect(unspell(spell(`${text}é`)!.slice(0, -1))).toBe(text);
  expect(unspell(spell(`${text}é`)!.slice(0, -2))).toBe(text);
});

describe('continuationIds', () => {
  const folder = temporaryFolder();
  const words = (): Promise<Tokenizer | undefined> => Tokenizer.fromDirectory('examples/base-model');
  const pieces = (): Promise<Tokenizer | undefined> => {
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(pieceTokenizer()));
    return Tokenizer.fromDirectory(folder);
  };

  test.each([
    [words, 'The answer is {"', 'who": "'],
    [words, 'x', ' was told'],
    [words, 'a {"who": "Ann', '", "count": '],
    [pieces, 'a {"', 'name":'],
    [pieces, 'a', ' {"name"'],
  ])('%p: %j is followed by %j', async (open, before, text) => {
    const tokenizer = (await open())!;
    const ids = tokenizer.encode(before, { addSpecialTokens: false });
    const whole = tokenizer.encode(before + text, { addSpecialTokens: false });
    expect(continuationIds(tokenizer, [-1, 0, ...ids], text)).toEqual(whole.slice(ids.length));
  });

  test('of a text that was split where the tokenizer would not', async () => {
    const tokenizer = (await words())!;
    const [space] = tokenizer.encode(' ', { addSpecialTokens: false });
    expect(tokenizer.encode('x was told')).not.toContain(space);
    const ids = continuationIds(tokenizer, [space!], 'was told');
    expect(tokenizer.decode([space!, ...ids])).toBe(' was told');
  });
});
