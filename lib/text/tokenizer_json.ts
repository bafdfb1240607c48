/** Checks tokenizer.json before @huggingface/tokenizers reads it, which takes its shape for granted. */
import { loraError } from '../errors';
import { checkLimit, defaultLimits } from '../formats/limits';
import { describe, isRecord } from '../validate';
import { ComponentCheck, type Expect } from './tokenizer_components';

const op = 'tokenizer';
const models = ['BPE', 'Unigram', 'WordPiece'] as const;
type ModelType = (typeof models)[number];

export interface CheckedTokenizer {
  /** With null for the components that the file leaves out, and the type of its model. */
  json: object;
  /** Unknown characters become the tokens of their UTF-8 bytes; the library does that for BPE alone. */
  unigramByteFallback: boolean;
  /** The largest id that has a token; −1 where there is none. */
  largestId: number;
}

/**
 * @throws ERR_FILE for a file that is malformed, ERR_UNSUPPORTED for a model that the library does not know.
 */
export function checkTokenizerJson(json: unknown, path: string, limits = defaultLimits): CheckedTokenizer {
  const expect: Expect = (condition, what, received) => {
    if (!condition)
      throw loraError(op, 'ERR_FILE', `${path}: expected ${what} but received ${describe(received)}`);
  };
  expect(isRecord(json), 'a JSON object', json);
  const { model, added_tokens: added = [] } = json;
  expect(isRecord(model), '"model" to be an object', model);
  const type = modelType(model);
  if (!models.some((known) => known === type))
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `cannot use ${path}: its model is of type ${describe(type)}; supported are ${models.join(', ')}`,
    );
  let largestId = checkModel(type as ModelType, model, expect);
  expect(Array.isArray(added), '"added_tokens" to be an array', added);
  expect(added.length <= most.addedTokens, `at most ${most.addedTokens} added tokens`, added);
  for (const token of added as unknown[]) {
    expect(
      isRecord(token) && isId(token['id']) && typeof token['content'] === 'string' && token['content'] !== '',
      'added tokens to be { id, content }',
      isRecord(token) ? JSON.stringify(token) : token,
    );
    expect(
      token['content'].length <= most.addedCharacters,
      `added tokens of at most ${most.addedCharacters} characters`,
      token['content'],
    );
    largestId = Math.max(largestId, token['id']);
  }
  checkLimit(limits, 'width', largestId, `${path} has a token with the id ${largestId}`, { op });
  const components = Object.fromEntries(
    ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder'].map((name) => [
      name,
      new ComponentCheck(path, expect).check(json[name] ?? null, name),
    ]),
  );
  return {
    json: { ...json, ...components, added_tokens: added, model: { ...model, type } },
    unigramByteFallback: type === 'Unigram' && model['byte_fallback'] === true,
    largestId,
  };
}

const isId = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** Far above what published files have: each bounds the time that a text takes. */
const most = {
  addedTokens: 100_000,
  addedCharacters: 256,
  characters: 1024,
  unigramCharacters: 256,
  nested: 64,
  wordCharacters: 256,
  affix: 64,
} as const;

/** Files of early versions of the format do not name the type. */
function modelType(model: Record<string, unknown>): unknown {
  if (model['type'] !== undefined) return model['type'];
  if (Array.isArray(model['vocab'])) return 'Unigram';
  if (model['merges'] !== undefined) return 'BPE';
  return model['continuing_subword_prefix'] === undefined ? undefined : 'WordPiece';
}

/** Gives the largest id. */
function checkModel(type: ModelType, model: Record<string, unknown>, expect: Expect): number {
  const { vocab, merges, unk_id: unknown } = model;
  if (type === 'Unigram') {
    expect(
      Array.isArray(vocab) && vocab.length > 0,
      'the vocabulary of Unigram to be a list of [text, score]',
      vocab,
    );
    for (const entry of vocab as unknown[])
      expect(
        Array.isArray(entry) && typeof entry[0] === 'string' && typeof entry[1] === 'number',
        'the vocabulary of Unigram to be a list of [text, score]',
        entry,
      );
    checkPieces(
      vocab.map(([text]: [string]) => text),
      expect,
    );
    expect(
      unknown === undefined || unknown === null || (isId(unknown) && unknown < vocab.length),
      `"unk_id" to be null or below ${vocab.length}`,
      unknown,
    );
    return vocab.length - 1;
  }
  expect(isRecord(vocab), `the vocabulary of ${type} to be an object of ids`, vocab);
  let largest = -1;
  for (const [text, id] of Object.entries(vocab)) {
    expect(isId(id), `the vocabulary of ${type} to be an object of ids`, id);
    expect(text.length <= most.characters, `tokens of at most ${most.characters} characters`, text);
    largest = Math.max(largest, id);
  }
  for (const key of [
    'unk_token',
    'continuing_subword_prefix',
    'continuing_subword_suffix',
    'end_of_word_suffix',
  ])
    expect(
      model[key] == null || (typeof model[key] === 'string' && model[key].length <= most.affix),
      `"${key}" to be text of at most ${most.affix} characters`,
      model[key],
    );
  if (type !== 'BPE') {
    const { max_input_chars_per_word: word } = model;
    expect(
      word == null || (isId(word) && word <= most.wordCharacters),
      `"max_input_chars_per_word" to be at most ${most.wordCharacters}`,
      word,
    );
    return largest;
  }
  expect(Array.isArray(merges), 'the merges of BPE to be a list of pairs', merges);
  const pairs = Array.isArray(merges[0]);
  for (const merge of merges as unknown[])
    expect(
      Array.isArray(merge)
        ? pairs && merge.length === 2 && merge.every((part) => typeof part === 'string')
        : !pairs && typeof merge === 'string' && merge.includes(' '),
      'the merges of BPE to be a list of pairs',
      merge,
    );
  return largest;
}

/** Every piece that begins another one is a way to go on, at every character of a text. */
function checkPieces(pieces: readonly string[], expect: Expect): void {
  const known = new Set(pieces);
  for (const piece of pieces) {
    if (piece.length <= most.nested) continue;
    expect(
      piece.length <= most.unigramCharacters,
      `pieces of at most ${most.unigramCharacters} characters`,
      piece,
    );
    let nested = 0;
    for (let end = 1; end < piece.length; end++) if (known.has(piece.slice(0, end))) nested++;
    expect(nested <= most.nested, `at most ${most.nested} pieces that begin one`, piece);
  }
}
