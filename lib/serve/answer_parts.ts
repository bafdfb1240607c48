/** An answer as a list of parts of one kind each, which APIs call blocks or items. */
import type { AnswerPiece } from '../text/answers/answer_form';
import type { ToolCall } from '../text/answers/tool_calls';

export type AnswerPart =
  | { readonly kind: 'reasoning'; readonly text: string }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'call'; readonly call: ToolCall };

/** The parts of a piece, or of a whole text: thoughts come first, calls last. */
export function partsOf({ reasoning, content, calls }: AnswerPiece): readonly AnswerPart[] {
  return [
    ...(reasoning === '' ? [] : [{ kind: 'reasoning', text: reasoning } as const]),
    ...(content === '' ? [] : [{ kind: 'text', text: content } as const]),
    ...calls.map((call) => ({ kind: 'call', call }) as const),
  ];
}

/** What a stream says of its parts. */
export interface PartEvents {
  /** Before the first text of the part at this place. */
  begin(index: number, part: AnswerPart): readonly object[];
  /** More of it: thoughts and words come in pieces, a call at once. */
  more(index: number, part: AnswerPart): readonly object[];
  /** Its end, with all of its text; `cut` where the number of tokens ended it. */
  end(index: number, part: AnswerPart, cut: boolean): readonly object[];
}

/** Gathers pieces into parts, and gives the events of each. */
export class PartStream {
  readonly #events: PartEvents;
  #index = -1;
  /** The part that goes on, with its text so far. */
  #open: AnswerPart | undefined;

  constructor(events: PartEvents) {
    this.#events = events;
  }

  push(piece: AnswerPiece): readonly object[] {
    return partsOf(piece).flatMap((part) => {
      const open = this.#open;
      const goesOn = part.kind !== 'call' && open !== undefined && open.kind === part.kind;
      const events = goesOn ? [] : [...this.end(), ...this.#events.begin(++this.#index, part)];
      this.#open = goesOn ? { ...part, text: open.text + part.text } : part;
      return [...events, ...this.#events.more(this.#index, part)];
    });
  }

  /** Ends the part that goes on, if there is one; `cut` where the number of tokens does. */
  end(cut = false): readonly object[] {
    const part = this.#open;
    this.#open = undefined;
    return part ? this.#events.end(this.#index, part, cut) : [];
  }
}
