/** The answers of the two endpoints that generate texts, whole and in pieces. */
import type { GeneratedToken } from '../engine/request';
import type { GeneratedText } from '../models/generate';
import type { TokenTexts } from './token_texts';

/** How many tokens a request took. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

/** One text of an answer, with its tokens where their log-probabilities are asked for. */
export interface AnsweredText extends Pick<GeneratedText, 'text' | 'finishReason'> {
  readonly tokens: readonly GeneratedToken[];
}

/** What an endpoint writes. */
export interface Format {
  /** What comes before the first token of a text. */
  opening(choice: number): object | undefined;
  /** A token; undefined where there is nothing to say yet. */
  piece(choice: number, token: GeneratedToken): object | undefined;
  /** The end of a text. */
  ending(choice: number, finishReason: GeneratedText['finishReason']): object;
  /** The last event, where usage is asked for. */
  usage(usage: Usage): object;
  /** The answer in one piece. */
  whole(texts: readonly AnsweredText[], usage: Usage): object;
}

export interface FormatOptions {
  readonly model: string;
  /** Of the texts; undefined: without log-probabilities. */
  readonly logprobs: number | undefined;
  readonly includeUsage: boolean;
  readonly tokenTexts: TokenTexts;
}

/** What all events of an answer begin with. */
function headOf(prefix: string, id: string, object: string, model: string): object {
  return { id: id.replace('req_', prefix), object, created: Math.floor(Date.now() / 1000), model };
}

export function chatFormat(id: string, options: FormatOptions): Format {
  const { model, logprobs, includeUsage, tokenTexts } = options;
  const head = headOf('chatcmpl-', id, 'chat.completion.chunk', model);
  // With include_usage every event has the field, and the last one its value.
  const none = includeUsage ? { usage: null } : {};
  const content = (tokens: readonly GeneratedToken[]): object | null =>
    logprobs === undefined
      ? null
      : { content: tokens.map((token) => tokenTexts.ofChat(token)), refusal: null };
  const event = (index: number, delta: object, finish_reason: string | null, of: object | null): object => ({
    ...head,
    choices: [{ index, delta, logprobs: of, finish_reason }],
    ...none,
  });
  return {
    opening: (choice) => event(choice, { role: 'assistant', content: '' }, null, null),
    piece: (choice, token) =>
      token.text === '' && logprobs === undefined
        ? undefined
        : event(choice, { content: token.text }, null, content([token])),
    ending: (choice, finishReason) => event(choice, {}, finishReason, null),
    usage: (usage) => ({ ...head, choices: [], usage }),
    whole: (texts, usage) => ({
      ...head,
      object: 'chat.completion',
      choices: texts.map(({ text, finishReason, tokens }, index) => ({
        index,
        message: { role: 'assistant', content: text, refusal: null },
        logprobs: content(tokens),
        finish_reason: finishReason,
      })),
      usage,
    }),
  };
}

export function completionFormat(id: string, options: FormatOptions): Format {
  const { model, logprobs, includeUsage, tokenTexts } = options;
  const head = headOf('cmpl-', id, 'text_completion', model);
  const none = includeUsage ? { usage: null } : {};
  const offsets = new Map<number, number>();
  const logprobsOf = (tokens: readonly GeneratedToken[], offset = 0): object | null =>
    logprobs === undefined ? null : tokenTexts.ofCompletion(tokens, logprobs, offset);
  const event = (index: number, text: string, finish_reason: string | null, of: object | null): object => ({
    ...head,
    choices: [{ index, text, logprobs: of, finish_reason }],
    ...none,
  });
  return {
    opening: () => undefined,
    piece(choice, token) {
      const offset = offsets.get(choice) ?? 0;
      offsets.set(choice, offset + token.text.length);
      if (token.text === '' && logprobs === undefined) return undefined;
      return event(choice, token.text, null, logprobsOf([token], offset));
    },
    ending: (choice, finishReason) => event(choice, '', finishReason, null),
    usage: (usage) => ({ ...head, choices: [], usage }),
    whole: (texts, usage) => ({
      ...head,
      choices: texts.map(({ text, finishReason, tokens }, index) => ({
        index,
        text,
        logprobs: logprobsOf(tokens),
        finish_reason: finishReason,
      })),
      usage,
    }),
  };
}
