/** Cuts a stream of text at the first stop string, which may be spread over several pieces. */
export class StopStrings {
  readonly #stops: readonly string[];
  readonly #longest: number;
  #held = '';
  /** A stop string has been met. */
  found = false;

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '');
    this.#longest = Math.max(0, ...this.#stops.map(({ length }) => length));
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
    // The first place from which on all of it may be the beginning of one.
    let from = Math.max(0, all.length - this.#longest + 1);
    while (from < all.length && !this.#begins(all.slice(from))) from++;
    this.#held = all.slice(from);
    return all.slice(0, from);
  }

  #begins(end: string): boolean {
    return this.#stops.some((stop) => stop.startsWith(end));
  }

  /** What was held back, when no more text will come. */
  flush(): string {
    const text = this.#held;
    this.#held = '';
    return text;
  }
}
