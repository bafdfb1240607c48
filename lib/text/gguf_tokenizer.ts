/** The tokenizer of a GGUF file as the files that stand for it in a Hugging Face directory: tokenizer.json and tokenizer_config.json. */
import { GgufSet } from '../formats/gguf_set';
import { GgufValues } from '../formats/gguf_values';
import type { Reading } from '../formats/json';
import type { Source } from '../formats/links';
import type { ModelFiles } from '../formats/model_folder';
import { inSlices, sortInSlices } from '../tensor/pace';
import { preTokenizers, tokenTypes, type PreTokenizerKind } from './gguf_kinds';

const key = (name: string): string => `tokenizer.ggml.${name}`;
type Json = Record<string, unknown>;

/** The longest piece of SentencePiece's. */
const maxCharacters = 256;
/** How often pieces may begin with other ones: each time is a way to divide one. In SmolLM2's vocabulary it is four times for each piece. */
const maxDivisions = 2 ** 22;
/** An id that stands for none. */
const noId = 2 ** 32 - 1;

/** The ids that texts begin and end with, where a SentencePiece file does not say. */
const sentencePieceIds: Readonly<Record<string, number>> = { bos: 1, eos: 2, unknown: 0 };

/** Whether the file has a tokenizer. */
export const hasGgufTokenizer = (values: GgufValues): boolean =>
  values.has(key('tokens')) && !['no_vocab', 'none'].includes(values.text(key('model')) ?? '');

/** The id of a special token: 'bos', 'eos', 'eot', 'eom', 'unknown', 'padding'; undefined where there is none. */
export function ggufTokenId(values: GgufValues, name: string): number | undefined {
  const at = `${key(name)}_token_id`;
  const id = values.count(at);
  if (id === noId) return undefined;
  const count = values.texts(key('tokens'))?.length ?? 0;
  if (id !== undefined && id >= count) values.fail(`has ${at} = ${id}, and ${count} tokens`);
  if (id !== undefined || values.text(key('model')) !== 'llama') return id;
  const usual = sentencePieceIds[name];
  return usual !== undefined && usual < count ? usual : undefined;
}

interface Token {
  readonly id: number;
  readonly text: string;
  readonly type: number;
}

function tokensOf(values: GgufValues): Token[] {
  const texts = values.texts(key('tokens'))!;
  const types = values.numbers(key('token_type'));
  if (types && types.length !== texts.length)
    values.fail(`has ${texts.length} tokens and ${types.length} types of them (${key('token_type')})`);
  const special = new Set(['bos', 'eos', 'eot', 'eom', 'padding'].map((name) => ggufTokenId(values, name)));
  const usual = (id: number): number => (special.has(id) ? tokenTypes.control : tokenTypes.normal);
  const ids = new Map<string, number>();
  const tokens: Token[] = [];
  for (const [id, text] of texts.entries()) {
    const type = types?.[id] ?? usual(id);
    if (type === tokenTypes.unused || text === '') continue;
    const same = ids.get(text);
    if (same !== undefined)
      values.fail(
        `has two tokens ${JSON.stringify(text.slice(0, 80))}, ${same} and ${id} of ${key('tokens')}`,
      );
    ids.set(text, id);
    tokens.push({ id, text, type });
  }
  return tokens;
}

/** What llama.cpp's word for the division of texts stands for. @throws ERR_UNSUPPORTED for a word that is not known */
function preTokenizer(values: GgufValues): PreTokenizerKind {
  const name = values.text(key('pre'));
  const kind = preTokenizers.find((one) => one.name === name || one.aliases?.includes(name ?? ''));
  return (
    kind ??
    values.fail(
      `has ${key('pre')} = ${name === undefined ? 'nothing' : JSON.stringify(name.slice(0, 80))}; supported are ${preTokenizers.map((one) => one.name).join(', ')}`,
      'ERR_UNSUPPORTED',
    )
  );
}

/**
 * The merges of byte-pair encoding that give what SentencePiece's scores do, which joins the pair that makes the token of the highest score:
 * every way to divide a token into two others, those of the highest score first.
 */
function* mergesOf(values: GgufValues, tokens: readonly Token[]): Generator<void, [string, string][], void> {
  const scores = values.numbers(key('scores')) ?? values.fail(`has no ${key('scores')}`);
  const count = values.texts(key('tokens'))!.length;
  if (scores.length !== count) values.fail(`has ${count} tokens and ${scores.length} scores`);
  const ids = new Map<string, number>();
  for (const { text, type, id } of tokens) if (type === tokenTypes.normal) ids.set(text, id);
  for (const [text, token] of ids) {
    if (Number.isNaN(scores[token])) values.fail(`has the score NaN for token ${token}`);
    if (text.length > maxCharacters)
      values.fail(`has a token of ${text.length} characters, ${token}: ${maxCharacters} are read at most`);
  }
  const found = yield* divisionsOf(values, ids);
  const sorted = yield* sortInSlices(
    found,
    (a, b) =>
      scores[b.token]! - scores[a.token]! || a.token - b.token || a.left - b.left || a.right - b.right,
  );
  return sorted.map(({ pair }) => pair);
}

interface Division {
  readonly pair: [string, string];
  readonly token: number;
  readonly left: number;
  readonly right: number;
}

/** Every way to divide a piece into two others. The first of the two is a piece that it begins with, so nothing else is looked up. */
function* divisionsOf(
  values: GgufValues,
  ids: ReadonlyMap<string, number>,
): Generator<void, Division[], void> {
  const texts = yield* sortInSlices([...ids.keys()], (a, b) => (a < b ? -1 : Number(a > b)));
  const beginnings = yield* beginningsOf(values, texts);
  const found: Division[] = [];
  for (const [i, text] of texts.entries()) {
    for (let at = beginnings[i]!; at >= 0; at = beginnings[at]!) {
      const left = texts[at]!;
      const rest = text.slice(left.length);
      const right = ids.get(rest);
      if (right === undefined) continue;
      found.push({ pair: [left, rest], token: ids.get(text)!, left: ids.get(left)!, right });
    }
    if (i % 64 === 0) yield;
  }
  return found;
}

/** Of each piece, where the longest other one lies that it begins with, or −1. The pieces are in order, so it lies among the last ones before. */
function* beginningsOf(values: GgufValues, texts: readonly string[]): Generator<void, Int32Array, void> {
  const beginnings = new Int32Array(texts.length);
  const depths = new Int32Array(texts.length);
  let divisions = 0;
  for (const [i, text] of texts.entries()) {
    let at = i - 1;
    while (at >= 0 && !text.startsWith(texts[at]!)) at = beginnings[at]!;
    beginnings[i] = at;
    depths[i] = at < 0 ? 0 : depths[at]! + 1;
    divisions += depths[i];
    if (divisions > maxDivisions)
      values.fail(
        `has ${key('tokens')} that begin with other ones more than ${maxDivisions} times, which is not read`,
      );
    if (i % 1024 === 0) yield;
  }
  return beginnings;
}

const space = '▁';
const toSpaces = { type: 'Replace', pattern: { String: space }, content: ' ' };
const fromSpaces = { type: 'Replace', pattern: { String: ' ' }, content: space };

/** The merges that a file lists. */
function listedMerges(values: GgufValues): readonly string[] {
  const merges = values.texts(key('merges')) ?? values.fail(`has no ${key('merges')}`);
  const wrong = merges.findIndex((merge) => merge.indexOf(' ') < 1 || merge.endsWith(' '));
  if (wrong >= 0)
    values.fail(
      `has ${JSON.stringify(merges[wrong]!.slice(0, 80))} at ${wrong} of ${key('merges')}: expected two tokens and a space between`,
    );
  return merges;
}

/** The parts of a tokenizer.json of SentencePiece's kind, whose merges a file lists or which follow from scores. */
function* sentencePiece(
  values: GgufValues,
  tokens: readonly Token[],
  listed: boolean,
): Generator<void, Json, void> {
  const prefix = values.flag(key('add_space_prefix')) ?? !listed;
  const unknown = ggufTokenId(values, 'unknown');
  const strip = { type: 'Strip', content: ' ', start: 1, stop: 0 };
  return {
    normalizer: prefix
      ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: space }, fromSpaces] }
      : fromSpaces,
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [toSpaces, { type: 'ByteFallback' }, { type: 'Fuse' }, ...(prefix ? [strip] : [])],
    },
    model: {
      ...{ type: 'BPE', dropout: null, continuing_subword_prefix: null, end_of_word_suffix: null },
      ...{ fuse_unk: true, byte_fallback: true, ignore_merges: false },
      unk_token: tokens.find(({ id }) => id === unknown)?.text ?? null,
      merges: listed ? listedMerges(values) : yield* mergesOf(values, tokens),
    },
  };
}

/** The parts of a tokenizer.json of the kind of GPT-2. */
function byteLevel(values: GgufValues): Json {
  const { parts, nfc, wholeWords } = preTokenizer(values);
  const merges = listedMerges(values);
  return {
    normalizer: nfc ? { type: 'NFC' } : null,
    pre_tokenizer: parts.length === 1 ? parts[0] : { type: 'Sequence', pretokenizers: parts },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      ...{ type: 'BPE', dropout: null, continuing_subword_prefix: null, end_of_word_suffix: null },
      ...{ fuse_unk: false, byte_fallback: false, ignore_merges: wholeWords === true },
      ...{ unk_token: null, merges },
    },
  };
}

/** What is put around a text. */
function template(values: GgufValues, tokens: readonly Token[], beginsByDefault: boolean): Json | null {
  const around = (flag: string, name: string, usual: boolean): Token | undefined => {
    if (!(values.flag(key(flag)) ?? usual)) return undefined;
    const id = ggufTokenId(values, name);
    const token = tokens.find((one) => one.id === id);
    if (token === undefined && values.has(key(flag)))
      values.fail(`has ${key(flag)} = true and no token ${key(name)}_token_id`);
    return token;
  };
  const begin = around('add_bos_token', 'bos', beginsByDefault);
  const end = around('add_eos_token', 'eos', false);
  const used = [begin, end].filter((token) => token !== undefined);
  if (used.length === 0) return null;
  const sides = (type_id: number): object[] => [
    ...(begin ? [{ SpecialToken: { id: begin.text, type_id } }] : []),
    { Sequence: { id: type_id === 0 ? 'A' : 'B', type_id } },
    ...(end ? [{ SpecialToken: { id: end.text, type_id } }] : []),
  ];
  return {
    type: 'TemplateProcessing',
    single: sides(0),
    pair: [...sides(0), ...sides(1)],
    special_tokens: Object.fromEntries(
      used.map(({ id, text }) => [text, { id: text, ids: [id], tokens: [text] }]),
    ),
  };
}

/** Of Phi-3, the special tokens that do not take away the white space behind them. GGUF files do not say which do, and llama.cpp goes by these names. */
const keepsSpaces: ReadonlySet<string> = new Set(['<unk>', '<s>', '<|endoftext|>']);

/**
 * tokenizer.json. Yields where it may be interrupted.
 * @throws ERR_UNSUPPORTED for a kind that is not known, ERR_FILE for values that do not fit each other
 */
export function* ggufTokenizerJson(values: GgufValues): Generator<void, Json, void> {
  const model = values.text(key('model'));
  if (model !== 'gpt2' && model !== 'llama' && model !== 'gemma4')
    values.fail(
      `has ${key('model')} = ${JSON.stringify(model?.slice(0, 80) ?? null)}; supported are gpt2, llama and gemma4`,
      'ERR_UNSUPPORTED',
    );
  const tokens = tokensOf(values);
  yield;
  const pieces = model !== 'gpt2';
  const parts = pieces ? yield* sentencePiece(values, tokens, model === 'gemma4') : byteLevel(values);
  const strips = pieces && values.text('general.architecture') === 'phi3';
  const { control, unknown, userDefined } = tokenTypes;
  const added = tokens.filter(({ type }) => [control, unknown, userDefined].some((one) => one === type));
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added.map(({ id, text: content, type }) => ({
      ...{ id, content, single_word: false, lstrip: false, normalized: false },
      rstrip: strips && !keepsSpaces.has(content),
      special: type !== userDefined,
    })),
    ...parts,
    post_processor: template(values, tokens, pieces || preTokenizer(values).wholeWords === true),
    model: {
      ...(parts['model'] as Json),
      vocab: Object.fromEntries(tokens.map(({ id, text }) => [text, id])),
    },
  };
}

/** tokenizer_config.json: the special tokens by their names, and the chat template, or several by theirs. */
export function ggufTokenizerConfig(values: GgufValues): Json {
  const texts = values.texts(key('tokens')) ?? [];
  const named = { bos_token: 'bos', eos_token: 'eos', unk_token: 'unknown', pad_token: 'padding' };
  const tokens = Object.entries(named).flatMap(([name, of]) => {
    const id = ggufTokenId(values, of);
    return id === undefined ? [] : [[name, texts[id]!]];
  });
  const own = 'tokenizer.chat_template';
  const whole = values.text(own);
  const others = values
    .keysFrom(`${own}.`)
    .map((at) => ({ name: at.slice(own.length + 1), template: values.text(at) }));
  const list = [...(whole === undefined ? [] : [{ name: 'default', template: whole }]), ...others];
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    clean_up_tokenization_spaces: false,
    ...(Object.fromEntries(tokens) as Json),
    ...(list.length > 0 && { chat_template: others.length === 0 ? whole : list }),
  };
}

/** The files of a model that its tokenizer is read from. */
export type TokenizerFiles = Pick<ModelFiles, 'dir' | 'reading' | 'json' | 'text' | 'where'>;

/** Those that the values of a GGUF file stand for. */
export const ggufTokenizerFiles = (values: GgufValues, reading: Reading): TokenizerFiles => ({
  dir: values.path,
  reading,
  where: () => `the tokenizer of ${values.path}`,
  text: () => Promise.resolve(undefined),
  async json(name) {
    if (!hasGgufTokenizer(values)) return undefined;
    if (name === 'tokenizer.json') return inSlices(ggufTokenizerJson(values), reading.signal);
    return name === 'tokenizer_config.json' ? ggufTokenizerConfig(values) : undefined;
  },
});

/** The same of a file. */
export async function openGgufTokenizer(source: Source, reading: Reading): Promise<TokenizerFiles> {
  const set = await GgufSet.open(source, reading);
  await set.close();
  return ggufTokenizerFiles(new GgufValues(set.path, set.metadata), reading);
}
