/** What the methods of a Tokenizer take. */
import type { ChatTemplateOptions, ChatVariables } from './chat';

/** The options of {@link Tokenizer.encode}. */
export interface EncodeOptions {
  /** Add what the post-processor of tokenizer.json adds (BOS and the like). Default true. */
  addSpecialTokens?: boolean | undefined;
  /**
   * Places of characters in the text, in rising order, that no special token may hold: what {@link Tokenizer.turns} gives. Default: none, and each
   * spelling of a special token is the token.
   */
  ordinary?: readonly number[] | undefined;
}
/** The options of {@link Tokenizer.encodeAsync}. */
export interface EncodeAsyncOptions extends EncodeOptions {
  /** An abort rejects with its reason. */
  signal?: AbortSignal | undefined;
}
/** The options of {@link Tokenizer.decode}. */
export interface DecodeOptions {
  /** Leave out special tokens. Default false. */
  skipSpecialTokens?: boolean | undefined;
}
/** The options of {@link Tokenizer.applyChatTemplate}. */
export interface ApplyChatTemplateOptions extends ChatTemplateOptions {
  /** false: the text instead of its ids. Default true. */
  tokenize?: boolean | undefined;
}

/** The options of {@link Tokenizer.turns}. */
export interface TurnsOptions extends ChatVariables {
  /** Jinja text in the place of the model's own template. */
  template?: string | undefined;
}

/** The options of {@link Tokenizer.turnsAsync}. */
export interface TurnsAsyncOptions extends TurnsOptions {
  /** An abort rejects with its reason. */
  signal?: AbortSignal | undefined;
}
