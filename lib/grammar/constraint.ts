/** What holds a text to a grammar. */

/** Says which tokens may follow those that a text has. */
export interface TokenConstraint {
  /** Bit id % 32 of word ⌊id / 32⌋: whether the token may come next. Undefined until it is known, and after end(). */
  readonly bits: Int32Array<ArrayBuffer> | undefined;
  /** What comes next, while the grammar leaves no choice but of white space. Known with `bits`, where it is asked for. */
  readonly foreseen?: string | undefined;
  /** What `bits` would be behind each of the tokens that lookAhead() was given, as far as the grammar allows them. */
  readonly ahead: readonly Int32Array<ArrayBuffer>[];
  /** Whether it may take long until `bits` are known: the text then sits out. */
  readonly late: boolean;
  /** Waits for `bits` and `ahead`, or for end(). @throws what keeps them from being known. */
  ready(): Promise<void>;
  /** Asks what could follow these tokens, of which none is taken. */
  lookAhead(ids: readonly number[]): void;
  /** Takes the next tokens of the text. */
  accept(ids: readonly number[]): void;
  /** Frees what it holds; the text ends here. */
  end(): void;
}
