/** The answers of the two endpoints that generate texts, whole and in pieces. */
import type { GeneratedToken } from '../engine/delivery';
import type { GeneratedText } from '../models/running/generate';
import type { TokenTexts } from './token_texts';
import type { CallParser, ParsedPiece } from './tool_calls';

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
  ending(choice: number, finishReason: GeneratedText['finishReason']): readonly object[];
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

/** What the texts of a chat are looked through for; undefined where the request has no tools. */
export interface CallFinder {
  readonly parser: () => CallParser;
  /** The reason of a text that has calls. */
  readonly finishReason: 'tool_calls' | 'stop';
  readonly maxCalls: number;
}

/** The calls of one text, of which the first `maxCalls` are given. */
class FoundCalls {
  readonly #parser: CallParser;
  readonly #most: number;
  /** How many calls the text has so far. */
  count = 0;

  constructor({ parser, maxCalls }: CallFinder) {
    this.#parser = parser();
    this.#most = maxCalls;
  }

  push(text: string): ParsedPiece {
    return this.#kept(this.#parser.push(text));
  }
  flush(): ParsedPiece {
    return this.#kept(this.#parser.flush());
  }
  #kept({ content, calls }: ParsedPiece): ParsedPiece {
    const kept = calls.slice(0, this.#most - this.count);
    this.count += kept.length;
    return { content, calls: kept };
  }
}

export function chatFormat(id: string, options: FormatOptions, finder?: CallFinder): Format {
  const { model, logprobs, includeUsage, tokenTexts } = options;
  const head = headOf('chatcmpl-', id, 'chat.completion.chunk', model);
  // With include_usage every event has the field, and the last one its value.
  const none = includeUsage ? { usage: null } : {};
  const found = new Map<number, FoundCalls>();
  const callsOf = (choice: number): FoundCalls | undefined => {
    if (finder && !found.has(choice)) found.set(choice, new FoundCalls(finder));
    return found.get(choice);
  };
  const content = (tokens: readonly GeneratedToken[]): object | null =>
    logprobs === undefined
      ? null
      : { content: tokens.map((token) => tokenTexts.ofChat(token)), refusal: null };
  const event = (index: number, delta: object, finish_reason: string | null, of: object | null): object => ({
    ...head,
    choices: [{ index, delta, logprobs: of, finish_reason }],
    ...none,
  });
  /** Content, and each call in one piece. */
  const deltaOf = ({ content: text, calls }: ParsedPiece, first: number): object => ({
    ...((text !== '' || calls.length === 0) && { content: text }),
    ...(calls.length > 0 && { tool_calls: calls.map((call, i) => ({ index: first + i, ...call })) }),
  });
  const reasonOf = (calls: number, finishReason: string): string =>
    finder && calls > 0 && finishReason === 'stop' ? finder.finishReason : finishReason;
  return {
    opening: (choice) => event(choice, { role: 'assistant', content: '' }, null, null),
    piece(choice, token) {
      const calls = callsOf(choice);
      const first = calls?.count ?? 0;
      const piece = calls?.push(token.text) ?? { content: token.text, calls: [] };
      const silent = piece.content === '' && piece.calls.length === 0 && logprobs === undefined;
      return silent ? undefined : event(choice, deltaOf(piece, first), null, content([token]));
    },
    ending(choice, finishReason) {
      const calls = callsOf(choice);
      const first = calls?.count ?? 0;
      const rest = calls?.flush();
      const end = event(choice, {}, reasonOf(calls?.count ?? 0, finishReason), null);
      const says = rest && (rest.content !== '' || rest.calls.length > 0);
      return says ? [event(choice, deltaOf(rest, first), null, null), end] : [end];
    },
    usage: (usage) => ({ ...head, choices: [], usage }),
    whole: (texts, usage) => ({
      ...head,
      object: 'chat.completion',
      choices: texts.map(({ text, finishReason, tokens }, index) => {
        const calls = callsOf(index);
        const pieces = calls ? [calls.push(text), calls.flush()] : [{ content: text, calls: [] }];
        const said = pieces.map((piece) => piece.content).join('');
        const made = pieces.flatMap((piece) => piece.calls);
        const message = {
          role: 'assistant',
          content: made.length > 0 && said === '' ? null : said,
          refusal: null,
          ...(made.length > 0 && { tool_calls: made }),
        };
        const finish_reason = reasonOf(made.length, finishReason);
        return { index, message, logprobs: content(tokens), finish_reason };
      }),
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
    ending: (choice, finishReason) => [event(choice, '', finishReason, null)],
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
