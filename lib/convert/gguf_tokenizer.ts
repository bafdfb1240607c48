/** A tokenizer.json as llama.cpp has tokenizers: the kinds that it knows, recognized by what they consist of. */
import { isDeepStrictEqual } from 'node:util';
import { loraError } from '../errors';
import type { GgufField } from '../formats/gguf_write';
import { preTokenizers, tokenTypes as types } from '../text/gguf_kinds';
import { isRecord } from '../validate';

const op = 'convertModel';

function unsupported(what: string): never {
  throw loraError(
    op,
    'ERR_UNSUPPORTED',
    `tokenizer.json has ${what}, and llama.cpp knows tokenizers by their kind: supported are those of Llama 2 and Gemma 3 (SentencePiece), Llama 3, OLMo 2, Qwen2, Qwen3.5, SmolLM, Phi-4-mini, Mistral NeMo and GPT-2`,
  );
}

/** The steps of a pre_tokenizer, without what says nothing about the result. */
function partsOf(json: unknown): unknown[] {
  if (!isRecord(json)) return [];
  if (json['type'] === 'Sequence' && Array.isArray(json['pretokenizers']))
    return json['pretokenizers'].flatMap(partsOf);
  const { trim_offsets: _, ...part } = json;
  // What is converted from tiktoken keeps the matches instead of dividing at them: the same, for those patterns match every character.
  if (part.type === 'Split' && part['behavior'] === 'Removed' && part['invert'] === true)
    return [{ ...part, behavior: 'Isolated', invert: false }];
  return [part.type === 'ByteLevel' && !('use_regex' in part) ? { ...part, use_regex: true } : part];
}

interface Token {
  text: string;
  type: number;
}

/** The tokens by their ids, up to the width of the logits. */
function tokensOf(json: Readonly<Record<string, unknown>>, vocabSize: number): Token[] {
  const model = json['model'];
  if (!isRecord(model) || !isRecord(model['vocab'])) return unsupported('no vocabulary of texts and ids');
  const tokens = Array.from({ length: vocabSize }, (_, i): Token => ({
    text: `[PAD${i}]`,
    type: types.unused,
  }));
  const set = (id: unknown, text: string, type: number): void => {
    if (!Number.isSafeInteger(id) || (id as number) < 0 || (id as number) >= vocabSize)
      throw loraError(
        op,
        'ERR_FILE',
        `tokenizer.json has the id ${String(id)}, and the model has ${vocabSize}`,
      );
    tokens[id as number] = { text, type };
  };
  const byteFallback = model['byte_fallback'] === true;
  for (const [text, id] of Object.entries(model['vocab']))
    set(id, text, byteFallback && /^<0x[0-9A-F]{2}>$/.test(text) ? types.byte : types.normal);
  const added: unknown = json['added_tokens'] ?? [];
  for (const token of Array.isArray(added) ? (added as unknown[]) : []) {
    if (!isRecord(token) || typeof token['content'] !== 'string') continue;
    // Gemma 3 has one for images, which its text models have no embedding of.
    if (typeof token['id'] === 'number' && token['id'] >= vocabSize) continue;
    const type = token['special'] === true ? types.control : types.userDefined;
    set(token['id'], token['content'], token['content'] === model['unk_token'] ? types.unknown : type);
  }
  return tokens;
}

/** Pairs of a merge, which files have as a text or as a list. */
function mergesOf(model: Readonly<Record<string, unknown>>): [string, string][] {
  const merges = model['merges'];
  if (!Array.isArray(merges)) return unsupported('no merges');
  return (merges as unknown[]).map((merge) => {
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    if (!Array.isArray(pair) || pair.length !== 2) return unsupported(`the merge ${JSON.stringify(merge)}`);
    return pair as [string, string];
  });
}

/** SentencePiece's: spaces are ▁, and what is no token is its bytes. Gives whether texts begin with a space. */
function sentencePiece(json: Readonly<Record<string, unknown>>): { spacePrefix: boolean } | undefined {
  const replace = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  const { normalizer, pre_tokenizer: pre } = json;
  const metaspace =
    isRecord(pre) && pre['type'] === 'Metaspace' && pre['replacement'] === '▁' && pre['split'] === false;
  if (normalizer == null && metaspace) {
    const scheme = pre['prepend_scheme'] ?? 'always';
    return { spacePrefix: scheme === 'always' || scheme === 'first' };
  }
  // Gemma's divides at spaces, of which there is none left.
  const atSpaces = {
    ...{ type: 'Split', pattern: { String: ' ' } },
    behavior: 'MergedWithPrevious',
    invert: false,
  };
  if (isDeepStrictEqual(normalizer, replace) && (pre == null || isDeepStrictEqual(pre, atSpaces)))
    return { spacePrefix: false };
  if (pre != null) return undefined;
  const steps =
    isRecord(normalizer) && normalizer['type'] === 'Sequence' ? normalizer['normalizers'] : undefined;
  return isDeepStrictEqual(steps, [{ type: 'Prepend', prepend: '▁' }, replace])
    ? { spacePrefix: true }
    : undefined;
}

/** llama.cpp joins first what has the highest score: that of a token is the place of the merge that makes it. */
function scoresOf(tokens: readonly Token[], merges: readonly [string, string][]): number[] {
  const ranks = new Map<string, number>();
  for (const [i, pair] of merges.entries()) if (!ranks.has(pair.join(''))) ranks.set(pair.join(''), i);
  return tokens.map(({ text, type }, id) => {
    if (type !== types.normal) return 0;
    return -1 - (ranks.get(text) ?? merges.length + id);
  });
}

/** The values of the metadata that stand for a tokenizer.json. @throws ERR_UNSUPPORTED for one that llama.cpp has no kind for */
export function ggufTokenizer(
  json: Readonly<Record<string, unknown>>,
  vocabSize: number,
): Map<string, GgufField> {
  const { model, normalizer } = json;
  if (!isRecord(model) || model['type'] !== 'BPE')
    return unsupported(`a model of type ${JSON.stringify(isRecord(model) ? model['type'] : null)}`);
  const tokens = tokensOf(json, vocabSize);
  const merges = mergesOf(model);
  const fields = new Map<string, GgufField>();
  const pieces = model['byte_fallback'] === true ? sentencePiece(json) : undefined;
  if (pieces) {
    fields.set('tokenizer.ggml.model', { text: 'llama' });
    fields.set('tokenizer.ggml.pre', { text: 'default' });
    fields.set('tokenizer.ggml.add_space_prefix', { flag: pieces.spacePrefix });
  } else {
    const parts = partsOf(json['pre_tokenizer']);
    const nfc = isRecord(normalizer) && normalizer['type'] === 'NFC';
    const kinds = preTokenizers.filter((one) => isDeepStrictEqual(one.parts, parts) && one.nfc === nfc);
    const whole = model['ignore_merges'] === true;
    const kind = kinds.find((one) => (one.wholeWords === true) === whole) ?? kinds[0];
    if (!kind || (normalizer != null && !nfc))
      return unsupported(`the pre_tokenizer ${JSON.stringify(json['pre_tokenizer'] ?? null).slice(0, 200)}`);
    fields.set('tokenizer.ggml.model', { text: 'gpt2' });
    fields.set('tokenizer.ggml.pre', { text: kind.name });
  }
  // llama.cpp looks for these in texts before it writes spaces as ▁. Gemma has runs of spaces among them.
  const textOf = ({ text, type }: Token): string =>
    pieces && type === types.userDefined ? text.replaceAll('▁', ' ') : text;
  fields.set('tokenizer.ggml.tokens', { texts: tokens.map(textOf) });
  fields.set('tokenizer.ggml.token_type', { i32s: tokens.map(({ type }) => type) });
  if (pieces) fields.set('tokenizer.ggml.scores', { f32s: scoresOf(tokens, merges) });
  else fields.set('tokenizer.ggml.merges', { texts: merges.map((pair) => pair.join(' ')) });
  return fields;
}
