/** The parts of @huggingface/tokenizers that its types do not show, and what is put into them. */
import type { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import type { LinearPattern } from './split_patterns';
import { linearField } from './tokenizer_components';
import { isRecord } from '../validate';

interface TrieNode {
  readonly end?: string;
  readonly [character: string]: TrieNode | string | undefined;
}
interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

export interface PreTokenizer {
  readonly config?: Readonly<Record<string, unknown>>;
  readonly pattern?: RegExp | LinearPattern | null;
  readonly tokenizers?: readonly (PreTokenizer | null)[];
  readonly add_prefix_space?: boolean;
  readonly use_regex?: boolean;
  readonly byte_encoder?: Readonly<Record<number, string>>;
  pre_tokenize_text(text: string, options?: { section_index?: number }): string[];
}

export interface Model {
  readonly config: Readonly<Record<string, unknown>>;
  readonly tokens_to_ids: ReadonlyMap<string, number>;
  /** Tokens by their ids. */
  readonly vocab: readonly (string | undefined)[];
  readonly unk_token_id: number | undefined;
  readonly unk_token: string | undefined;
  readonly fuse_unk: boolean;
  readonly merges?: readonly (readonly [string, string])[];
  readonly end_of_word_suffix?: string;
  readonly continuing_subword_suffix?: string | null;
  readonly byte_fallback?: boolean;
  readonly ignore_merges?: boolean;
  encode(tokens: readonly string[]): string[];
}

/** Its Tokenizer, from inside. */
export interface Library {
  readonly normalizer: ((text: string) => string) | null;
  readonly pre_tokenizer: PreTokenizer | null;
  readonly model: Model;
  readonly decoder: { readonly config: Readonly<Record<string, unknown>> } | null;
  readonly special_tokens: readonly string[];
  readonly post_processor:
    ((tokens: readonly string[], pair: null, addSpecialTokens: boolean) => { tokens: string[] }) | null;
  readonly splitter_unnormalized: { readonly trie: TrieNode };
  readonly splitter_normalized: { readonly trie: TrieNode };
  readonly added_tokens: readonly AddedToken[];
  readonly added_tokens_map: ReadonlyMap<string, AddedToken>;
  readonly remove_space?: boolean;
  readonly do_lowercase_and_remove_accent?: boolean;
}
export type Trie = TrieNode;

export const insideOf = (tokenizer: HuggingFaceTokenizer): Library => tokenizer as unknown as Library;

/** As decoders of bytes need it: with U+FEFF at the beginning of the bytes, which the library's own leaves out for byte fallback. */
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

/** As tokenizers are trained: in JavaScript \s has U+FEFF and lacks U+0085, and \d, which the library writes for what Digits divides, is of ASCII alone. */
const unicodeClasses: Readonly<Record<string, string>> = {
  '\\s': String.raw`\p{White_Space}`,
  '\\S': String.raw`\P{White_Space}`,
  '\\d': String.raw`\p{N}`,
};
const withUnicodeClasses = ({ source, flags }: RegExp): RegExp =>
  new RegExp(
    source.replace(/\\[^]/g, (escape) => unicodeClasses[escape] ?? escape),
    flags,
  );

/** Puts the engines that checkTokenizerJson made into the place of the patterns, and that decoder into the place of the library's. */
export function installParts(tokenizer: HuggingFaceTokenizer): void {
  const visit = (part: unknown): void => {
    if (typeof part !== 'function' && !isRecord(part)) return;
    const component = part as unknown as Record<string, unknown> & { config?: Record<string, unknown> };
    const linear = component.config?.[linearField];
    const { pattern } = component;
    if (linear !== undefined) component['pattern'] = linear;
    else if (pattern instanceof RegExp && pattern.unicode) component['pattern'] = withUnicodeClasses(pattern);
    if ('text_decoder' in component) component['text_decoder'] = utf8;
    for (const list of ['normalizers', 'tokenizers', 'decoders'])
      if (Array.isArray(component[list])) for (const one of component[list] as unknown[]) visit(one);
  };
  visit(tokenizer.normalizer);
  visit(tokenizer.pre_tokenizer);
  visit(tokenizer.decoder);
}
