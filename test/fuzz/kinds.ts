/** How many inputs of each kind were accepted: a kind whose inputs are nearly all refused tests its checks alone. */

/** Of all inputs of a kind: a quarter of them are whole. */
const leastAccepted = 0.1;
/** Fewer inputs say nothing. */
const fewest = 50;
/** So many standard deviations below that are chance: where a quarter of 50 are accepted, one run in 100000 has fewer. */
const deviations = 1.5;

const isBlind = (accepted: number, inputs: number): boolean =>
  inputs >= fewest &&
  accepted < leastAccepted * inputs - deviations * Math.sqrt(leastAccepted * (1 - leastAccepted) * inputs);

export class Kinds {
  readonly #neverAccepted: readonly string[];
  readonly #counts = new Map<string, { inputs: number; refused: number }>();

  constructor(neverAccepted: readonly string[] = []) {
    this.#neverAccepted = neverAccepted;
  }

  count(kind: string, refused: boolean): void {
    const counts = this.#counts.get(kind) ?? { inputs: 0, refused: 0 };
    counts.inputs++;
    if (refused) counts.refused++;
    this.#counts.set(kind, counts);
  }

  /** kind → inputs and how many of them were refused, in the order of the names. */
  counts(): Record<string, { inputs: number; refused: number }> {
    return Object.fromEntries([...this.#counts].toSorted(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** A sentence about the kinds that are refused too often; undefined where there is none. */
  blind(): string | undefined {
    const blind = [...this.#counts].filter(
      ([kind, { inputs, refused }]) =>
        isBlind(inputs - refused, inputs) && !this.#neverAccepted.includes(kind),
    );
    if (blind.length === 0) return undefined;
    const list = blind.map(([kind, { inputs, refused }]) => `${kind} (${inputs - refused} of ${inputs})`);
    return `accepts too few inputs of ${list.join(', ')}`;
  }
}
