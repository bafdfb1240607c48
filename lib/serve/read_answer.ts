/** What was read of one text of an answer so far. */
import type { GeneratedToken } from '../engine/delivery';
import type { GeneratedText } from '../models/running/generate';
import type { AnswerPiece, AnswerReader } from '../text/answers/answer_form';
import type { ToolCall } from '../text/answers/tool_calls';
import type { AnsweredText } from './formats';

export class ReadAnswer {
  readonly #reader: AnswerReader | undefined;
  readonly #tokens: GeneratedToken[] = [];
  readonly #calls: ToolCall[] = [];
  #reasoning = '';
  #content = '';

  /** Without a reader, all is content. */
  constructor(reader: AnswerReader | undefined) {
    this.#reader = reader;
  }

  /** `keep`: the token is kept, for its log-probability. */
  push(token: GeneratedToken, keep: boolean): AnswerPiece {
    if (keep) this.#tokens.push(token);
    return this.#add(this.#reader?.push(token) ?? { content: token.text, reasoning: '', calls: [] });
  }

  /** The end of the text: what became certain with it. */
  end(): AnswerPiece {
    return this.#add(this.#reader?.flush() ?? { content: '', reasoning: '', calls: [] });
  }

  get reasoningTokens(): number {
    return this.#reader?.reasoningTokens ?? 0;
  }

  /** All of it, after its end. `stopString`: see {@link AnsweredText.stopString}. */
  text({ finishReason }: GeneratedText, stopString: string | undefined): AnsweredText {
    return {
      content: this.#content,
      reasoning: this.#reasoning,
      calls: this.#calls,
      finishReason,
      stopString,
      tokens: this.#tokens,
    };
  }

  #add(piece: AnswerPiece): AnswerPiece {
    this.#content += piece.content;
    this.#reasoning += piece.reasoning;
    this.#calls.push(...piece.calls);
    return piece;
  }
}
