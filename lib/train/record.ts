import type { Best } from './best';
import type { EvalEvent, StepEvent, TrainerEvent } from './events';
import { meanMetrics, type Metrics } from './metrics';

/** The means of some steps that follow each other; `step` is the last of them. */
export interface CurvePoint {
  readonly step: number;
  readonly loss: number;
  readonly lr: number;
  readonly gradNorm: number;
  readonly metrics?: Metrics;
}

/** More points than this are merged in pairs, so that a long run takes no more memory than a short one. */
const maxPoints = 4000;

/** The mean of points that follow each other. */
function merged(points: readonly CurvePoint[]): CurvePoint {
  const mean = (key: 'loss' | 'lr' | 'gradNorm'): number =>
    points.reduce((sum, point) => sum + point[key], 0) / points.length;
  const metrics = points.flatMap(({ metrics: own }) => (own ? [own] : []));
  return {
    ...{ step: points.at(-1)!.step, loss: mean('loss'), lr: mean('lr'), gradNorm: mean('gradNorm') },
    ...(metrics.length > 0 && { metrics: meanMetrics(metrics) }),
  };
}

/** What the events of a run tell, as far as this process saw them: for the model card and the report. */
export class RunRecord {
  /** How many steps other processes had taken before. */
  resumedAt = 0;
  trainableParameters = 0;
  lastStep: StepEvent | undefined;
  lastEval: EvalEvent | undefined;
  readonly evaluations: EvalEvent[] = [];
  /** Tokens of the steps, padding excluded. */
  tokens = 0;
  /** The best evaluation, that of an earlier process too. */
  best: Best | undefined;
  /** The best evaluation, where the final adapter is that of its step. */
  kept: RunRecord['best'];
  /** How the run ended where it did not reach its end. */
  ended: string | undefined;
  /** How many steps a point of the curve stands for. */
  stride = 1;
  #points: CurvePoint[] = [];
  /** Steps that wait until they are `stride`. */
  #waiting: CurvePoint[] = [];
  readonly #began = performance.now();
  #lastStepAt = this.#began;

  add(event: TrainerEvent): void {
    if (event.type === 'start') {
      this.resumedAt = event.step;
      this.trainableParameters = event.trainableParameters;
    } else if (event.type === 'step') {
      this.lastStep = event;
      this.tokens += event.tokens;
      this.#lastStepAt = performance.now();
      this.#addPoint(event);
    } else if (event.type === 'eval') {
      this.lastEval = event;
      this.evaluations.push(event);
    }
  }

  /** Notes the events of a run, each before the consumer gets it. */
  async *watch<Result>(
    run: AsyncGenerator<TrainerEvent, Result, void>,
  ): AsyncGenerator<TrainerEvent, Result, void> {
    try {
      for (;;) {
        const { value, done } = await run.next();
        if (done) return value;
        this.add(value);
        yield value;
      }
    } finally {
      await run.return(undefined as never); // the consumer has left
    }
  }

  #addPoint({ step, loss, lr, gradNorm, metrics }: StepEvent): void {
    this.#waiting.push({ step, loss, lr, gradNorm, ...(metrics && { metrics }) });
    if (this.#waiting.length < this.stride) return;
    this.#points.push(merged(this.#waiting));
    this.#waiting = [];
    if (this.#points.length < maxPoints) return;
    this.#points = this.#points.flatMap((point, i, all) => (i % 2 ? [merged([all[i - 1]!, point])] : []));
    this.stride *= 2;
  }

  /** The curve up to now, oldest first. */
  get points(): readonly CurvePoint[] {
    return this.#waiting.length === 0 ? this.#points : [...this.#points, merged(this.#waiting)];
  }

  /** From the beginning to the last step, evaluations and saves included. */
  get seconds(): number {
    return (this.#lastStepAt - this.#began) / 1000;
  }
}
