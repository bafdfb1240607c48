/** Cuts a stream of text at the first stop string, which may be spread over several pieces. */
export class StopStrings {
  readonly #stops: readonly string[];
  #held = '';
  /** A stop string has been met. */
  found = false;

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '');
  }

  /** The text that is certain not to belong to a stop string. What might is held back. */
  push(text: string): string {
    if (this.found) return '';
    const all = this.#held + text;
    let at = -1;
    for (const stop of this.#stops) {
      const i = all.indexOf(stop);
      if (i >= 0 && (at < 0 || i < at)) at = i;
    }
    if (at >= 0) {
      this.found = true;
      this.#held = '';
      return all.slice(0, at);
    }
    let keep = 0;
    for (const stop of this.#stops)
      for (let n = Math.min(stop.length - 1, all.length); n > keep; n--)
        if (all.endsWith(stop.slice(0, n))) keep = n;
    this.#held = all.slice(all.length - keep);
    return all.slice(0, all.length - keep);
  }

  /** What was held back, when no more text will come. */
  flush(): string {
    const text = this.#held;
    this.#held = '';
    return text;
  }
}
