/**
 * Encoding in steps: what @huggingface/tokenizers does in one call, with its own normalizers, vocabularies and expressions, but piece
 * by piece, so that a long text can be interrupted. The tokens are the same.
 */
import { defaultLimits, type Limits } from '../formats/limits';
import type { Library, Model, PreTokenizer, Trie } from './library';
import { bpeSteps } from './bpe_steps';
import { checkWords } from './long_words';
import { unusedMarks, withMarks } from './marks';

/** Words that are longer take so long that they are merged in steps of their own. */
const longWord = 1024;

/** The two lists in one: the first where there is room, since a text of many sections would be copied for each. */
function join(list: string[], more: readonly string[]): string[] {
  if (more.length > 1024) return list.concat(more);
  for (const item of more) list.push(item);
  return list;
}

/**
 * Splits off the added tokens that occur in a text: at each place the longest. A mark within the spelling of one breaks it; a special token does not
 * begin behind a mark either.
 */
function* splitAdded(
  text: string,
  trie: Trie,
  { added, mark }: { added: Library['added_tokens_map']; mark: string | undefined },
): Generator<void, string[], void> {
  const parts: string[] = [];
  let from = 0;
  let steps = 0;
  for (let at = 0; at < text.length;) {
    let node: Trie | undefined = trie;
    let match: string | undefined;
    const marked = mark !== undefined && text[at - 1] === mark;
    for (let end = at; end < text.length; end++) {
      node = node[text[end]!] as Trie | undefined;
      if (node === undefined) break;
      if (node.end !== undefined && !(marked && added.get(node.end)?.special)) match = node.end;
      steps++;
    }
    if (match === undefined) at++;
    else {
      if (at > from) parts.push(text.slice(from, at));
      parts.push(match);
      from = at += match.length;
    }
    if (++steps >= 16384) {
      steps = 0;
      yield;
    }
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
}

/** Takes white space away beside added tokens that want it so. */
function strip(parts: string[], added: Library['added_tokens_map']): void {
  for (const [i, part] of parts.entries()) {
    const token = added.get(part);
    if (!token) continue;
    if (token.lstrip && i > 0) parts[i - 1] = parts[i - 1]!.trimEnd();
    if (token.rstrip && i < parts.length - 1) parts[i + 1] = parts[i + 1]!.trimStart();
  }
}

const withGlobal = new WeakMap<PreTokenizer, RegExp>();
/** The expression of a component, for a search of our own from place to place. */
function searched(component: PreTokenizer): PreTokenizer['pattern'] {
  const { pattern } = component;
  if (!(pattern instanceof RegExp)) return pattern;
  let own = withGlobal.get(component);
  if (!own) withGlobal.set(component, (own = new RegExp(pattern.source, pattern.flags)));
  return own;
}

/** Matches, one at a time: those of a long text would take hundreds of bytes for each word. Undefined where others may run. */
function* matches(
  text: string,
  pattern: NonNullable<PreTokenizer['pattern']>,
): Generator<RegExpMatchArray | undefined, void, void> {
  let found = 0;
  for (const match of text.matchAll(pattern as RegExp)) {
    yield match;
    if (++found % 1024 === 0) yield undefined;
  }
}

/** Bytes of a piece as the characters that stand for them; undefined where others may run. */
function* byteCharacters(
  piece: string,
  encoder: Readonly<Record<number, string>>,
): Generator<string | undefined, void, void> {
  let result = '';
  const bytes = Buffer.from(piece);
  for (let i = 0; i < bytes.length; i++) {
    result += encoder[bytes[i]!]!;
    if (i % 16384 === 16383) yield undefined;
  }
  yield result;
}

/** Whether an expression looks for words. One match takes no pause, in JavaScript's engine or in re2js. */
const splitsWords = (component: PreTokenizer | null): boolean =>
  component !== null &&
  (component.tokenizers?.some(splitsWords) ?? (component.pattern != null && component.use_regex !== false));

/** The words that some components make of a text, one after the other. */
function* chained(
  components: readonly (PreTokenizer | null)[],
  text: string,
  section: number,
): Generator<string | undefined, void, void> {
  const [first, ...others] = components;
  if (first === undefined) return yield text;
  for (const word of words(first, text, section))
    if (word === undefined || others.length === 0) yield word;
    else yield* chained(others, word, section);
}

/** The words of a text, one at a time; undefined where others may run. Types of components that are not known here split in one step. */
function* words(
  component: PreTokenizer | null,
  text: string,
  section: number,
): Generator<string | undefined, void, void> {
  if (component === null) return yield text;
  if (component.tokenizers) return yield* chained(component.tokenizers, text, section);
  yield undefined;
  const { config, byte_encoder: encoder } = component;
  const pattern = searched(component);
  if (config?.['type'] === 'ByteLevel' && encoder && pattern) {
    const whole = component.add_prefix_space && !text.startsWith(' ') ? ` ${text}` : text;
    if (!component.use_regex) return yield* byteCharacters(whole, encoder);
    for (const match of matches(whole, pattern))
      if (match === undefined) yield undefined;
      else yield* byteCharacters(match[0], encoder);
    return;
  }
  if (config?.['type'] === 'Split' && pattern) {
    const behavior = config['behavior'];
    const removed = typeof behavior === 'string' && behavior.toLowerCase() === 'removed';
    let from = 0;
    let any = false;
    for (const match of matches(text, pattern)) {
      if (match === undefined) {
        yield undefined;
        continue;
      }
      any = true;
      if (removed && !config['invert']) break;
      if (!config['invert'] && from < match.index!) yield text.slice(from, match.index);
      if (match[0] !== '') yield match[0];
      from = match.index! + match[0].length;
    }
    if (config['invert']) return;
    if (removed && any) return yield* component.pre_tokenize_text(text, { section_index: section });
    if (from < text.length) yield text.slice(from);
    return;
  }
  if ((config?.['type'] === 'Digits' || config?.['type'] === 'Punctuation') && pattern) {
    for (const match of matches(text, pattern)) yield match?.[0];
    return;
  }
  yield* component.pre_tokenize_text(text, { section_index: section });
}

/** What the vocabulary has for the parts of a word. */
function* known(model: Model, parts: readonly string[]): Generator<void, string[], void> {
  const tokens: string[] = [];
  for (const part of parts) {
    if (tokens.length % 16384 === 16383) yield;
    const bytes = (): string[] =>
      Array.from(Buffer.from(part), (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
    const spelt = model.byte_fallback && !model.tokens_to_ids.has(part) ? bytes() : undefined;
    if (model.tokens_to_ids.has(part)) tokens.push(part);
    else if (spelt?.every((byte) => model.tokens_to_ids.has(byte)))
      for (const byte of spelt) tokens.push(byte);
    else if (model.unk_token != null) tokens.push(model.unk_token);
  }
  return tokens;
}

/** Neighbors that are unknown become one. */
function fused(tokens: readonly string[], model: Model): string[] {
  const idOf = (token: string): number | undefined => model.tokens_to_ids.get(token);
  const unknown = (token: string): boolean => (idOf(token) ?? model.unk_token_id) === model.unk_token_id;
  const result: string[] = [];
  for (let i = 0; i < tokens.length;) {
    result.push(tokens[i]!);
    if (!unknown(tokens[i++]!)) continue;
    for (; i < tokens.length && unknown(tokens[i]!); i++)
      if (idOf(result.at(-1)!) !== model.unk_token_id) result[result.length - 1] += tokens[i]!;
  }
  return result;
}

function* tokensOf(model: Model, pieces: Iterable<string | undefined>): Generator<void, string[], void> {
  let tokens: string[] = [];
  let characters = 0;
  for (const piece of pieces) {
    if (piece === undefined) {
      yield;
      continue;
    }
    const long = piece.length > longWord && model.merges !== undefined;
    const whole = model.ignore_merges && model.tokens_to_ids.has(piece);
    const made = long && !whole ? yield* known(model, yield* bpeSteps(model, piece)) : model.encode([piece]);
    if (made.length > 1024) yield;
    tokens = join(tokens, made);
    characters += piece.length;
    if (characters < longWord) continue;
    characters = 0;
    yield;
  }
  return model.fuse_unk ? fused(tokens, model) : tokens;
}

/** As the normalizer and what is like it have a section. */
function normalized(library: Library, section: string): string {
  let text = section;
  if (library.remove_space === true) text = text.trim().split(/\s+/).join(' ');
  if (library.do_lowercase_and_remove_accent) text = text.toLowerCase().replace(/\p{M}/gu, '');
  return library.normalizer === null ? text : library.normalizer(text);
}

/**
 * The tokens of a part that has marks where no special token may be: those of the text without them. A vocabulary that has special tokens among
 * its pieces may give one all the same: then those of the texts between the marks.
 */
function* markedTokens(
  library: Library,
  part: string,
  { index, mark }: { index: number; mark: string },
): Generator<void, string[], void> {
  const { added_tokens_map: added, model, pre_tokenizer: component } = library;
  const pieces = part.split(mark);
  const tokens = yield* tokensOf(model, words(component, pieces.join(''), index));
  if (!tokens.some((token) => added.get(token)?.special)) return tokens;
  const apart: string[] = [];
  for (const piece of pieces)
    if (piece !== '')
      for (const token of yield* tokensOf(model, words(component, piece, index))) apart.push(token);
  return apart;
}

/** The parts of a section that an added token is alone, or none of them. A mark may stand where no special token may be. */
function* partsOf(
  library: Library,
  section: string,
  mark: string | undefined,
): Generator<void, string[], void> {
  const { added_tokens_map: added } = library;
  const text = normalized(library, section);
  yield;
  if (mark !== undefined && text.split(mark).length !== section.split(mark).length) {
    // A normalizer that takes out what it does not know takes the mark: then nothing in the section is a special token.
    const plain = normalized(library, section.replaceAll(mark, ''));
    return plain === '' ? [] : [mark + plain];
  }
  const parts = yield* splitAdded(text, library.splitter_normalized.trie, { added, mark });
  strip(parts, added);
  return parts;
}

function* sectionTokens(
  library: Library,
  section: string,
  { index, mark }: { index: number; mark: string | undefined },
): Generator<void, string[], void> {
  const { added_tokens_map: added, model } = library;
  if (section === '') return [];
  if (added.has(section)) return [section];
  const parts = yield* partsOf(library, section, mark);
  let tokens: string[] = [];
  for (const part of parts) {
    if (part === '') continue;
    let made: string[];
    if (mark !== undefined && part.includes(mark)) made = yield* markedTokens(library, part, { index, mark });
    else if (added.has(part)) made = [part];
    else made = yield* tokensOf(model, words(library.pre_tokenizer, part, index));
    yield;
    tokens = join(tokens, made);
  }
  return tokens;
}

/** What else encoding is told. */
export interface EncodeHow {
  readonly ordinary?: readonly number[];
  readonly limits?: Limits | undefined;
}

/**
 * The tokens of a text, with those that the post-processor adds. `ordinary` are the places of characters that no special token may hold: a mark
 * before each of them breaks the spelling until the added tokens are split off.
 */
export function* encodeSteps(
  library: Library,
  text: string,
  addSpecialTokens: boolean,
  { ordinary = [], limits = defaultLimits }: EncodeHow = {},
): Generator<void, string[], void> {
  if (splitsWords(library.pre_tokenizer)) yield* checkWords(text, limits);
  const mark = ordinary.length === 0 ? undefined : unusedMarks(text)[0];
  const marked = mark === undefined ? text : withMarks(text, ordinary, mark);
  const { added_tokens_map: added } = library;
  const sections = yield* splitAdded(marked, library.splitter_unnormalized.trie, { added, mark });
  strip(sections, added);
  let tokens: string[] = [];
  for (const [index, section] of sections.entries()) {
    const made = yield* sectionTokens(library, section, { index, mark });
    yield;
    tokens = join(tokens, made);
  }
  yield;
  if (!library.post_processor) return tokens;
  // Post-processors put tokens around those of the text, whatever they are: one stands for all.
  const { tokens: around } = library.post_processor([ofText], null, addSpecialTokens);
  let result: string[] = [];
  for (const token of around) result = token === ofText ? result.concat(tokens) : result.concat([token]);
  return result;
}

/** No token of a vocabulary: they are shorter. */
const ofText = 'the tokens of the text'.repeat(100);
