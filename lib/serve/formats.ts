/** The answers of the endpoints that generate texts, whole and in pieces: here those of chats and of completions. */
import type { GeneratedToken } from '../engine/delivery';
import type { GeneratedText } from '../models/running/generate';
import type { AnswerPiece } from '../text/answers/answer_form';
import type { TokenTexts } from './token_texts';

/** How many tokens a request took. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
  /** Where a text has thoughts. */
  completion_tokens_details?: { reasoning_tokens: number };
}

/** One text of an answer: what was read of it, and its tokens where their log-probabilities are asked for. */
export interface AnsweredText extends AnswerPiece, Pick<GeneratedText, 'finishReason'> {
  readonly tokens: readonly GeneratedToken[];
  /** The stop string of the request that ended it. */
  readonly stopString: string | undefined;
}

/** What an endpoint writes. */
export interface Format {
  /** Whether each event of a stream is named by its `type`. */
  readonly named: boolean;
  /** What comes before the first token of a text; `promptTokens` of all prompts. */
  opening(choice: number, promptTokens: number): readonly object[];
  /** A token, and what became certain with it. */
  piece(choice: number, token: GeneratedToken, read: AnswerPiece): readonly object[];
  /** The end of a text, and what became certain with it. */
  ending(choice: number, text: AnsweredText, rest: AnswerPiece): readonly object[];
  /** The end of the stream. */
  closing(usage: Usage): readonly (object | '[DONE]')[];
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

/** `named`: whether the request names the function to call, after which OpenAI's API says 'stop'. */
export function chatFormat(id: string, options: FormatOptions, named: boolean): Format {
  const { model, logprobs, includeUsage, tokenTexts } = options;
  const head = headOf('chatcmpl-', id, 'chat.completion.chunk', model);
  // With include_usage every event has the field, and the last one its value.
  const none = includeUsage ? { usage: null } : {};
  /** Calls of each text so far. */
  const counts = new Map<number, number>();
  const content = (tokens: readonly GeneratedToken[]): object | null =>
    logprobs === undefined
      ? null
      : { content: tokens.map((token) => tokenTexts.ofChat(token)), refusal: null };
  const event = (index: number, delta: object, finish_reason: string | null, of: object | null): object => ({
    ...head,
    choices: [{ index, delta, logprobs: of, finish_reason }],
    ...none,
  });
  /** Content, thoughts, and each call in one piece. */
  const deltaOf = (choice: number, { content: text, reasoning, calls }: AnswerPiece): object => {
    const first = counts.get(choice) ?? 0;
    counts.set(choice, first + calls.length);
    return {
      ...((text !== '' || (calls.length === 0 && reasoning === '')) && { content: text }),
      ...(reasoning !== '' && { reasoning_content: reasoning }),
      ...(calls.length > 0 && { tool_calls: calls.map((call, i) => ({ index: first + i, ...call })) }),
    };
  };
  const reasonOf = ({ calls, finishReason }: AnsweredText): string =>
    calls.length > 0 && finishReason === 'stop' && !named ? 'tool_calls' : finishReason;
  return {
    named: false,
    opening: (choice) => [event(choice, { role: 'assistant', content: '' }, null, null)],
    piece(choice, token, read) {
      if (isSilent(read) && logprobs === undefined) return [];
      return [event(choice, deltaOf(choice, read), null, content([token]))];
    },
    ending(choice, text, rest) {
      const end = event(choice, {}, reasonOf(text), null);
      return isSilent(rest) ? [end] : [event(choice, deltaOf(choice, rest), null, null), end];
    },
    closing: (usage) => [...(includeUsage ? [{ ...head, choices: [], usage }] : []), '[DONE]'],
    whole: (texts, usage) => ({
      ...head,
      object: 'chat.completion',
      choices: texts.map((text, index) => {
        const { content: said, reasoning, calls, tokens } = text;
        const message = {
          role: 'assistant',
          content: calls.length > 0 && said === '' ? null : said,
          refusal: null,
          ...(reasoning !== '' && { reasoning_content: reasoning }),
          ...(calls.length > 0 && { tool_calls: calls }),
        };
        return { index, message, logprobs: content(tokens), finish_reason: reasonOf(text) };
      }),
      usage,
    }),
  };
}

/** Whether nothing became certain. */
export const isSilent = ({ content, reasoning, calls }: AnswerPiece): boolean =>
  content === '' && reasoning === '' && calls.length === 0;

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
    named: false,
    opening: () => [],
    piece(choice, token) {
      const offset = offsets.get(choice) ?? 0;
      offsets.set(choice, offset + token.text.length);
      if (token.text === '' && logprobs === undefined) return [];
      return [event(choice, token.text, null, logprobsOf([token], offset))];
    },
    ending: (choice, { finishReason }) => [event(choice, '', finishReason, null)],
    closing: (usage) => [...(includeUsage ? [{ ...head, choices: [], usage }] : []), '[DONE]'],
    whole: (texts, usage) => ({
      ...head,
      choices: texts.map(({ content, finishReason, tokens }, index) => ({
        index,
        text: content,
        logprobs: logprobsOf(tokens),
        finish_reason: finishReason,
      })),
      usage,
    }),
  };
}
