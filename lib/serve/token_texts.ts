/** Log-probabilities as OpenAI's API gives them: with the text of each token. */
import type { GeneratedToken, TokenLogprob } from '../engine/delivery';
import type { Tokenizer } from '../text/tokenizer';

/** A token in the log-probabilities of a chat. */
export interface ChatToken {
  token: string;
  logprob: number;
  /** Its text in UTF-8; null for a part of a character. */
  bytes: number[] | null;
}

/** Log-probabilities of a completion: lists with an entry for each token. */
export interface CompletionLogprobs {
  tokens: string[];
  token_logprobs: number[];
  top_logprobs: Record<string, number>[] | null;
  /** Where the token begins in the text, in characters. */
  text_offset: number[];
}

/** Texts that are kept: the likeliest tokens are the same ones again and again. */
const maxKept = 4096;

export class TokenTexts {
  readonly #tokenizer: Tokenizer;
  readonly #known = new Map<number, string>();

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  /** What a token adds to a text. Decoders drop a space at the beginning, so it is the second of two. */
  text(id: number): string {
    const known = this.#known.get(id);
    if (known !== undefined) return known;
    const one = this.#tokenizer.decode([id]);
    const text = this.#tokenizer.decode([id, id]).slice(one.length);
    if (this.#known.size >= maxKept) this.#known.clear();
    this.#known.set(id, text);
    return text;
  }

  #token({ id, logprob }: TokenLogprob): ChatToken {
    const token = this.text(id);
    return { token, logprob, bytes: token.includes('\ufffd') ? null : [...Buffer.from(token)] };
  }

  /** An entry of `choices[].logprobs.content`. */
  ofChat({ id, logprob = 0, topLogprobs = [] }: GeneratedToken): ChatToken & { top_logprobs: ChatToken[] } {
    return {
      ...this.#token({ id, logprob }),
      top_logprobs: topLogprobs.map((one) => this.#token(one)),
    };
  }

  /** `choices[].logprobs` of these tokens; `offset`: the length of the text before them. */
  ofCompletion(tokens: readonly GeneratedToken[], most: number, offset = 0): CompletionLogprobs {
    const text_offset: number[] = [];
    for (const { text } of tokens) {
      text_offset.push(offset);
      offset += text.length;
    }
    return {
      tokens: tokens.map(({ id }) => this.text(id)),
      token_logprobs: tokens.map(({ logprob = 0 }) => logprob),
      top_logprobs:
        most === 0
          ? null
          : tokens.map(({ topLogprobs = [] }) =>
              Object.fromEntries(topLogprobs.map(({ id, logprob }) => [this.text(id), logprob])),
            ),
      text_offset,
    };
  }
}
