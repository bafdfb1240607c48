/** The best evaluation of a run, and how long ago it was. */
import { checkValue } from '../options/option';
import { earlyStoppingOptions } from '../options/early_stopping';
import { checkOptions } from '../validate';

/** When a run stops before its end. */
export interface EarlyStopping {
  /** How many evaluations in a row may pass without a better one. */
  patience: number;
  /** How much lower a loss must be, or how much higher a score, to count as better. Default 0. */
  minDelta?: number | undefined;
}

/** @throws ERR_ARGUMENT unless it is { patience, minDelta? }. */
export function checkEarlyStopping(value: EarlyStopping): void {
  checkOptions('Trainer', value, Object.keys(earlyStoppingOptions));
  checkValue('Trainer', 'patience', earlyStoppingOptions.patience, value.patience);
  checkValue('Trainer', 'minDelta', earlyStoppingOptions.minDelta, value.minDelta ?? 0);
}

/** The best evaluation; its score, where another one is compared with that and not with its loss. */
export interface Best {
  readonly step: number;
  readonly loss: number;
  readonly score?: number;
}

/** What a checkpoint remembers of the evaluations before it. */
export interface BestState {
  readonly best: Best | null;
  /** Evaluations since the best one. */
  readonly waited: number;
  /** The step of the last one; 0: there was none. */
  readonly at: number;
}

export class BestEvaluation {
  #best: Best | undefined;
  #waited = 0;
  #at = 0;
  #compared: 'loss' | 'score' = 'loss';

  constructor(private readonly minDelta = 0) {}

  /** Takes an evaluation; gives whether it is the best so far. */
  add(evaluation: Best, higherIsBetter = false): boolean {
    this.#at = evaluation.step;
    this.#compared = evaluation.score === undefined ? 'loss' : 'score';
    const valueOf = ({ score, loss }: Best): number => (higherIsBetter ? -1 : 1) * (score ?? loss);
    const best = this.#best ? valueOf(this.#best) : Infinity;
    // A score that is no number is no better than none.
    if (!(valueOf(evaluation) < best - this.minDelta)) {
      this.#waited++;
      return false;
    }
    this.#best = evaluation;
    this.#waited = 0;
    return true;
  }

  get best(): Best | undefined {
    return this.#best;
  }

  /** How many evaluations came after the best one. */
  get waited(): number {
    return this.#waited;
  }

  /** How the evaluations since the best one went, in words. */
  get sentence(): string {
    const [count, were] =
      this.#waited === 1 ? ['1 evaluation', 'was'] : [`${this.#waited} evaluations`, 'were'];
    if (this.#best === undefined) return `${count} gave no ${this.#compared} that is a number`;
    return `${count} ${were} no better than that of step ${this.#best.step}`;
  }

  /** The step of the last evaluation; 0: there was none. */
  get at(): number {
    return this.#at;
  }

  get state(): BestState {
    return { best: this.#best ?? null, waited: this.#waited, at: this.#at };
  }

  restore({ best, waited, at }: BestState): void {
    this.#best = best ?? undefined;
    this.#waited = waited;
    this.#at = at;
  }
}
