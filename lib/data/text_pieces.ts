/** Plain text in pieces of so many tokens, encoded part by part: the ids of a long text take many times its memory. */
import type { TextEncoder } from './rows';

/** Characters from which on lines are encoded; those of a longer text are not seen together. */
export const partCharacters = 2 ** 20;

export class TextPieces {
  /** What is left of the parts before: less than a piece. */
  #rest: number[] = [];
  /** What the tokenizer puts behind a text. */
  #after: readonly number[] = [];
  #begun = false;

  constructor(
    private readonly tokenizer: () => TextEncoder,
    private readonly length: number,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /** The pieces that are complete with a part of the text; more follows. */
  async add(part: string): Promise<number[][]> {
    if (!this.#begun) await this.#begin(part.slice(0, 1024));
    return this.#pieces(await this.#encode(part, false));
  }

  /** The pieces of the last part, and a last one that is shorter. */
  async end(part: string): Promise<number[][]> {
    const ids = await this.#encode(part, !this.#begun);
    const pieces = this.#pieces([...ids, ...this.#after]);
    return this.#rest.length > 0 ? [...pieces, this.#rest] : pieces;
  }

  /** Special tokens stand around the whole text, wherever the tokenizer puts them. */
  async #begin(sample: string): Promise<void> {
    this.#begun = true;
    const inner = await this.#encode(sample, false);
    const whole = await this.#encode(sample, true);
    const before = Math.max(0, placeOf(inner, whole));
    this.#rest = whole.slice(0, before);
    this.#after = whole.slice(before + inner.length);
  }

  #encode(text: string, addSpecialTokens: boolean): Promise<number[]> | number[] {
    const { signal } = this;
    const tokenizer = this.tokenizer();
    return tokenizer.encodeAsync
      ? tokenizer.encodeAsync(text, { addSpecialTokens, signal })
      : tokenizer.encode(text, { addSpecialTokens });
  }

  #pieces(ids: readonly number[]): number[][] {
    const all = this.#rest.concat(ids);
    const whole = all.length - (all.length % this.length);
    this.#rest = all.slice(whole);
    return Array.from({ length: whole / this.length }, (_, i) =>
      all.slice(i * this.length, (i + 1) * this.length),
    );
  }
}

/** Where a list begins in a longer one; −1 where it does not occur. */
function placeOf(list: readonly number[], within: readonly number[]): number {
  for (let at = 0; at + list.length <= within.length; at++)
    if (list.every((id, i) => id === within[at + i])) return at;
  return -1;
}
