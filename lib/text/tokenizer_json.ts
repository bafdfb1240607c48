/** Checks tokenizer.json before @huggingface/tokenizers reads it, which takes its shape for granted. */
import { LoRAError } from '../errors';
import { isRecord } from '../formats/json';
import { describe } from '../validate';

const op = 'tokenizer';
const models = ['BPE', 'Unigram', 'WordPiece'] as const;
type ModelType = (typeof models)[number];

export interface CheckedTokenizer {
  /** With null for the components that the file leaves out, and the type of its model. */
  json: object;
  /** Unknown characters become the tokens of their UTF-8 bytes; the library does that for BPE alone. */
  unigramByteFallback: boolean;
}

/**
 * @throws ERR_FILE for a file that is malformed, ERR_UNSUPPORTED for a model that the library does not know.
 */
export function checkTokenizerJson(json: unknown, path: string): CheckedTokenizer {
  const expect: Expect = (condition, what, received) => {
    if (!condition)
      throw new LoRAError(
        'ERR_FILE',
        `[${op}] ${path}: expected ${what} but received ${describe(received)}`,
        {
          op,
        },
      );
  };
  expect(isRecord(json), 'a JSON object', json);
  const { model, added_tokens: added = [] } = json;
  expect(isRecord(model), '"model" to be an object', model);
  const type = modelType(model);
  if (!models.some((known) => known === type))
    throw new LoRAError(
      'ERR_UNSUPPORTED',
      `[${op}] cannot use ${path}: its model is of type ${describe(type)}; supported are ${models.join(', ')}`,
      { op },
    );
  checkModel(type as ModelType, model, expect);
  expect(Array.isArray(added), '"added_tokens" to be an array', added);
  for (const token of added as unknown[])
    expect(
      isRecord(token) && isId(token['id']) && typeof token['content'] === 'string' && token['content'] !== '',
      'added tokens to be { id, content }',
      isRecord(token) ? JSON.stringify(token) : token,
    );
  const components = Object.fromEntries(
    ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder'].map((name) => [name, json[name] ?? null]),
  );
  for (const component of Object.values(components)) checkPatterns(component, expect);
  return {
    json: { ...json, ...components, added_tokens: added, model: { ...model, type } },
    unigramByteFallback: type === 'Unigram' && model['byte_fallback'] === true,
  };
}

type Expect = (condition: unknown, what: string, received: unknown) => asserts condition;

const isId = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** Files of early versions of the format do not name the type. */
function modelType(model: Record<string, unknown>): unknown {
  if (model['type'] !== undefined) return model['type'];
  if (Array.isArray(model['vocab'])) return 'Unigram';
  if (model['merges'] !== undefined) return 'BPE';
  return model['continuing_subword_prefix'] === undefined ? undefined : 'WordPiece';
}

function checkModel(type: ModelType, model: Record<string, unknown>, expect: Expect): void {
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
    expect(
      unknown === undefined || unknown === null || (isId(unknown) && unknown < vocab.length),
      `"unk_id" to be null or below ${vocab.length}`,
      unknown,
    );
    return;
  }
  expect(isRecord(vocab), `the vocabulary of ${type} to be an object of ids`, vocab);
  for (const id of Object.values(vocab))
    expect(isId(id), `the vocabulary of ${type} to be an object of ids`, id);
  if (type !== 'BPE') return;
  expect(Array.isArray(merges), 'the merges of BPE to be a list of pairs', merges);
  for (const merge of merges as unknown[])
    expect(
      Array.isArray(merge)
        ? merge.length === 2 && merge.every((part) => typeof part === 'string')
        : typeof merge === 'string' && merge.includes(' '),
      'the merges of BPE to be a list of pairs',
      merge,
    );
}

/** Without its pattern, a part that splits or replaces would be skipped with a warning, and the ids be wrong. */
function checkPatterns(component: unknown, expect: Expect): void {
  if (Array.isArray(component)) for (const part of component) checkPatterns(part, expect);
  if (!isRecord(component)) return;
  const { type, pattern } = component;
  if (type === 'Split' || type === 'Replace')
    expect(
      isRecord(pattern) && (typeof pattern['String'] === 'string' || typeof pattern['Regex'] === 'string'),
      `the pattern of ${type} to be { String } or { Regex }`,
      isRecord(pattern) ? JSON.stringify(pattern) : pattern,
    );
  for (const list of ['normalizers', 'pretokenizers', 'processors', 'decoders'])
    checkPatterns(component[list], expect);
}
