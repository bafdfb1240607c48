/** The spaces that `clean_up_tokenization_spaces` of tokenizer_config.json takes out of a text. */

/** As `clean_up_tokenization` of Hugging Face's tokenizers has them: one after the other, each over the whole text. */
const substitutions: readonly (readonly [string, string])[] = [
  [' .', '.'],
  [' ?', '?'],
  [' !', '!'],
  [' ,', ','],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

export const cleanUp = (text: string): string =>
  substitutions.reduce((cleaned, [from, to]) => cleaned.replaceAll(from, to), text);

/**
 * The longest end of a text that may be the beginning of a substitution, which a space always is. What one substitution leaves may belong to
 * a later one ("  ' m" becomes "'m", " n ' t" becomes "n't"): so two spaces are held, and never three.
 */
const open = / (?! {2})(?: (?! {2})|(?<= n?)'|(?<= )n|(?<=' ?)[vr])*$/;

/** Cleans up a text that comes in pieces. */
export class CleanUpStream {
  #held = '';

  /** The text that nothing after it changes. The rest is held back. */
  push(text: string): string {
    const all = this.#held + text;
    const at = all.search(open);
    this.#held = at < 0 ? '' : all.slice(at);
    return cleanUp(at < 0 ? all : all.slice(0, at));
  }

  /** What was held back, when no more text will come. */
  flush(): string {
    const text = cleanUp(this.#held);
    this.#held = '';
    return text;
  }
}
