/** What changes the logits of one generation before a token is drawn: penalties, biases, and tokens that may not come yet. */
import type { LogitEntries } from '../ops';
import type { GenerationPlan } from './sampling';

/** Makes room for n entries. */
function room(n: number): LogitEntries {
  return {
    rows: new Int32Array(n),
    ids: new Int32Array(n),
    factors: new Float32Array(n),
    addends: new Float32Array(n),
  };
}

/** Keeps the entries of one generation; a new token changes one of them. */
export class LogitAdjuster {
  readonly #plan: GenerationPlan;
  readonly #minNewTokens: number;
  readonly #places = new Map<number, number>();
  /** How often each entry's id was generated. */
  #counts = new Int32Array(0);
  #entries = room(0);
  #size = 0;
  #generated = 0;

  constructor(plan: GenerationPlan, prompt: readonly number[]) {
    this.#plan = plan;
    this.#minNewTokens = Math.max(plan.minNewTokens, plan.minLength - prompt.length);
    if (plan.repetitionPenalty !== 1)
      for (const id of prompt) {
        const place = this.#placeOf(id); // it may replace #entries
        this.#entries.factors[place] = plan.repetitionPenalty;
      }
    for (const id of plan.logitBias.keys()) this.#refresh(id);
    for (const id of plan.beginSuppressTokens) this.#refresh(id);
    if (this.#minNewTokens > 0) for (const id of plan.eosTokenIds) this.#refresh(id);
  }

  /** How many entries there are. */
  get size(): number {
    return this.#size;
  }

  /** Takes the token that was drawn. */
  push(id: number): void {
    if (this.#penalizes) {
      const place = this.#placeOf(id);
      this.#counts[place]!++;
      this.#entries.factors[place] = this.#plan.repetitionPenalty;
      this.#refresh(id);
    }
    this.#setGenerated(this.#generated + 1);
  }

  /** Calls a function in the state behind tokens that may come. */
  after(ids: readonly number[], use: () => void): void {
    const before = ids.map((id) => {
      const place = this.#places.get(id);
      const factor = place === undefined ? undefined : this.#entries.factors[place]!;
      this.push(id);
      return factor;
    });
    use();
    this.#setGenerated(this.#generated - ids.length);
    if (this.#penalizes) for (let i = ids.length; i-- > 0;) this.#takeBack(ids[i]!, before[i]);
  }

  /** Takes the last token back. `factor`: that of its entry before, if there was one. */
  #takeBack(id: number, factor: number | undefined): void {
    const place = this.#places.get(id)!;
    this.#counts[place]!--;
    if (factor === undefined) {
      this.#places.delete(id);
      this.#size--;
    } else {
      this.#entries.factors[place] = factor;
      this.#refresh(id);
    }
  }

  get #penalizes(): boolean {
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = this.#plan;
    return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
  }

  #setGenerated(count: number): void {
    const least = Math.min(count, this.#generated);
    const most = Math.max(count, this.#generated);
    this.#generated = count;
    const passes = (limit: number): boolean => least < limit && limit <= most;
    // Those that may come from now on, or not any more.
    if (passes(1)) for (const other of this.#plan.beginSuppressTokens) this.#refresh(other);
    if (passes(this.#minNewTokens)) for (const other of this.#plan.eosTokenIds) this.#refresh(other);
  }

  /** Copies the entries, as those of a row, behind the first `at` of `to`. */
  copyTo(to: LogitEntries, at: number, row: number): void {
    const { ids, factors, addends } = this.#entries;
    to.rows.fill(row, at, at + this.#size);
    to.ids.set(ids.subarray(0, this.#size), at);
    to.factors.set(factors.subarray(0, this.#size), at);
    to.addends.set(addends.subarray(0, this.#size), at);
  }

  /** Whether the next token may not be this one, though later ones may. */
  #suppressed(id: number): boolean {
    const { beginSuppressTokens, eosTokenIds } = this.#plan;
    return (
      (this.#generated === 0 && beginSuppressTokens.has(id)) ||
      (this.#generated < this.#minNewTokens && eosTokenIds.has(id))
    );
  }

  /** Computes what is added to a logit. */
  #refresh(id: number): void {
    const { logitBias, presencePenalty, frequencyPenalty } = this.#plan;
    const place = this.#placeOf(id);
    const count = this.#counts[place]!;
    const penalty = (count > 0 ? presencePenalty : 0) + count * frequencyPenalty;
    this.#entries.addends[place] = this.#suppressed(id) ? -Infinity : (logitBias.get(id) ?? 0) - penalty;
  }

  #placeOf(id: number): number {
    const known = this.#places.get(id);
    if (known !== undefined) return known;
    if (this.#size === this.#counts.length) this.#grow();
    const place = this.#size++;
    this.#places.set(id, place);
    this.#entries.ids[place] = id;
    this.#entries.factors[place] = 1;
    return place;
  }

  #grow(): void {
    const wider = room(Math.max(64, 2 * this.#size));
    this.copyTo(wider, 0, 0);
    this.#entries = wider;
    const counts = new Int32Array(wider.ids.length);
    counts.set(this.#counts);
    this.#counts = counts;
  }
}

/** What changes the logits of a row: what its generation has, behind tokens that may come. */
export interface AdjustedRow {
  readonly adjuster: LogitAdjuster;
  readonly ahead: readonly number[];
}

/** The entries of all rows of a batch; undefined where there are none. Rows without an adjuster have none. */
export function gatherEntries(rows: readonly (AdjustedRow | undefined)[]): LogitEntries | undefined {
  const most = rows.reduce((sum, row) => sum + (row ? row.adjuster.size + row.ahead.length : 0), 0);
  if (most === 0) return undefined;
  const entries = room(most);
  let at = 0;
  for (const [row, adjusted] of rows.entries())
    adjusted?.adjuster.after(adjusted.ahead, () => {
      adjusted.adjuster.copyTo(entries, at, row);
      at += adjusted.adjuster.size;
    });
  if (at === 0) return undefined;
  const { rows: places, ids, factors, addends } = entries;
  return {
    rows: places.subarray(0, at),
    ids: ids.subarray(0, at),
    factors: factors.subarray(0, at),
    addends: addends.subarray(0, at),
  };
}
