/** Tokens per second and time left, over a sliding window so that a slow start does not count for ever. */
export class Progress {
  readonly #totalSteps: number | undefined;
  readonly #window: { at: number; tokens: number }[] = [{ at: performance.now(), tokens: 0 }];

  constructor(totalSteps: number | undefined) {
    this.#totalSteps = totalSteps;
  }

  advance(step: number, tokens: number): { tokensPerSecond: number; etaSeconds: number | undefined } {
    this.#window.push({ at: performance.now(), tokens });
    if (this.#window.length > 51) this.#window.shift();
    const first = this.#window[0] as { at: number };
    const last = this.#window.at(-1) as { at: number };
    const seconds = Math.max((last.at - first.at) / 1000, 1e-9);
    const steps = this.#window.length - 1;
    const seen = this.#window.slice(1).reduce((sum, entry) => sum + entry.tokens, 0);
    return {
      tokensPerSecond: seen / seconds,
      etaSeconds: this.#totalSteps === undefined ? undefined : (seconds / steps) * (this.#totalSteps - step),
    };
  }
}
