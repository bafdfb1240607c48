/** The text of ids that arrive one at a time. */
import { CleanUpStream } from './clean_up';

const REPLACEMENT = '\uFFFD';
/** How many tokens of the past are decoded again, so that spaces between tokens come out right. */
const CONTEXT = 6;

/** What a stream knows of its tokenizer, and where it begins. */
export interface Streaming {
  /** The text of ids, before clean-up. */
  readonly text: (ids: readonly number[]) => string;
  /** Whether an id has no text, next to whichever others. */
  readonly silent: (id: number) => boolean;
  /** Whether the text of several tokens is that of each. */
  readonly concatenates: boolean;
  /** Whether the text that comes after the context is cleaned up. */
  readonly cleansUp: boolean;
  /** Whether the text begins with a whole character: one that the context begins is not part of it, else what completes it is. */
  readonly whole: boolean;
  /** The tokens before the first one. */
  readonly context: readonly number[];
}

export class TokenStream {
  readonly #text: Streaming['text'];
  readonly #silent: Streaming['silent'];
  /** How many tokens of the past decide about the text of the next one. */
  readonly #context: number;
  /**
   * The ids that are decoded together: the context, whose text was given already, then those whose character is unfinished. Ids without text are
   * left out: a tokenizer may drop a space at the head of a list, so an id with text has to stand there.
   */
  #ids: number[] = [];
  /** The text of the ids in `#ids` that was given already; undefined where it has to be decoded. */
  #before: string | undefined;
  /** Absent: the text stays as it is. */
  readonly #cleanUp: CleanUpStream | undefined;

  constructor({ text, silent, concatenates, cleansUp, whole, context }: Streaming) {
    this.#text = text;
    this.#silent = silent;
    this.#context = concatenates ? 0 : CONTEXT;
    for (let i = context.length; i-- > 0 && this.#ids.length < CONTEXT;)
      if (!silent(context[i]!)) this.#ids.unshift(context[i]!);
    while (whole && text(this.#ids).endsWith(REPLACEMENT)) this.#ids.pop();
    this.#cleanUp = cleansUp ? new CleanUpStream() : undefined;
  }

  /** Text that became certain with this id; '' while a character is unfinished. */
  push(id: number): string {
    if (this.#silent(id)) return '';
    const fresh = this.#fresh(id);
    return this.#cleanUp?.push(fresh) ?? fresh;
  }

  /** What became certain because no more ids will come; a character that is unfinished gives no text. */
  flush(): string {
    return this.#cleanUp?.flush() ?? '';
  }

  /** What this id adds to the text before clean-up. */
  #fresh(id: number): string {
    // A context that ends within a character: the rest of that character belongs to the new text.
    const before = (this.#before ??= this.#text(this.#ids).replace(/\uFFFD+$/, ''));
    this.#ids.push(id);
    const now = this.#text(this.#ids);
    if (now.endsWith(REPLACEMENT)) return '';
    const fresh = now.slice(before.length);
    this.#before = now;
    if (this.#ids.length >= 2 * this.#context) {
      // Only now and then, because the text of the context has to be decoded then.
      this.#ids = this.#ids.slice(this.#ids.length - this.#context);
      this.#before = undefined;
    }
    return fresh;
  }
}
