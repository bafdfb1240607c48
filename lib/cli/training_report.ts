import type { StartEvent, StepEvent, TrainerEvent } from '../train/events';
import { note, printJson } from './common';
import type { Console } from './command';
import { StatusLine } from './status_line';

const mebi = 1024 * 1024;

/** 59s, 1m0s, 2h5m. */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${s % 60}s`;
  return `${Math.floor(s / 3600)}h${Math.floor((s % 3600) / 60)}m`;
}

/** One step in one line: `step 3/200  loss 1.2345  lr 2.0e-4  812 tokens/s  1m5s left  310 MiB`. */
function stepLine(event: StepEvent, totalSteps: number | undefined): string {
  const of = totalSteps === undefined ? '' : `/${totalSteps}`;
  const eta = event.etaSeconds === undefined ? '' : `  ${duration(event.etaSeconds)} left`;
  const rss = Math.round(process.memoryUsage().rss / mebi);
  const reward = event.metrics?.['reward'];
  // The loss of a policy says little of what it has learned.
  const rewarded = reward === undefined ? '' : `  reward ${reward.toFixed(3)}`;
  return (
    `step ${event.step}${of}  loss ${event.loss.toFixed(4)}${rewarded}  lr ${event.lr.toExponential(1)}  ` +
    `${Math.round(event.tokensPerSecond)} tokens/s${eta}  ${rss} MiB`
  );
}

/** The events of a run for people, on standard error. Steps share one line. */
export class TextReport {
  readonly #console: Console;
  readonly #frozen: number;
  readonly #file: string;
  #totalSteps: number | undefined;
  readonly #status: StatusLine;

  /** `frozen`: how many numbers are not trained; `file`: where the weights are in the end. */
  constructor(console: Console, { frozen, file }: { frozen: number; file: string }) {
    this.#console = console;
    this.#frozen = frozen;
    this.#file = file;
    this.#status = new StatusLine(console);
  }

  show(event: TrainerEvent): void {
    if (event.type === 'step') {
      this.#step(event);
      return;
    }
    this.close();
    switch (event.type) {
      case 'start':
        this.#start(event);
        break;
      case 'eval': {
        const { step, loss, score, perplexity, metrics = {}, confusion } = event;
        const { accuracy } = confusion ? metrics : {};
        const figures = Object.entries({ perplexity, score, accuracy }).flatMap(([name, value]) =>
          value === undefined ? [] : [`, ${name} ${value.toFixed(name === 'perplexity' ? 2 : 4)}`],
        );
        this.#note(`step ${step}  evaluation loss ${loss.toFixed(4)}${figures.join('')}`);
        break;
      }
      case 'checkpoint':
        this.#note(`saved ${event.dir}`);
        break;
      case 'end': {
        const { best, reason } = event;
        if (reason !== undefined) this.#note(`stopped early after step ${event.step}: ${reason}`);
        // With keepBest alone the best one has a folder.
        const kept =
          best?.dir === undefined
            ? ''
            : `, of step ${best.step}: the best evaluation, loss ${best.loss.toFixed(4)}`;
        this.#note(`done: ${this.#file}${kept}`);
        if (event.report !== undefined) this.#note(`report: ${event.report}`);
        break;
      }
    }
  }

  /** A run that was interrupted or failed ends without an event; its report may be there. */
  cutOff(report: string | undefined): void {
    this.close();
    if (report !== undefined) this.#note(`report: ${report}`);
  }

  #note(line: string): void {
    note(this.#console, line);
  }

  #start({ step, maxSteps, previousMaxSteps, trainableParameters, autoRate }: StartEvent): void {
    this.#totalSteps = maxSteps;
    if (previousMaxSteps !== undefined)
      this.#note(
        `going on after step ${step}: the run was to end after ${previousMaxSteps} steps and now ends after ${maxSteps}; the learning rate is that of the schedule over ${maxSteps}`,
      );
    if (autoRate) this.#note(`learning rate ${autoRate.lr}: ${autoRate.reason}`);
    const share = (100 * trainableParameters) / (this.#frozen + trainableParameters);
    this.#note(`training ${trainableParameters} parameters (${share.toFixed(2)}%)`);
  }

  #step(event: StepEvent): void {
    const ends = event.step === 1 || event.step === this.#totalSteps;
    this.#status.show(stepLine(event, this.#totalSteps), ends);
  }

  /** Ends the line of the steps, so that what follows starts on its own. */
  close(): void {
    this.#status.end();
  }
}

/** The events of a run for programs, on standard output: one object per line. */
export class JsonReport {
  readonly #console: Console;

  constructor(console: Console) {
    this.#console = console;
  }

  show(event: TrainerEvent): void {
    printJson(this.#console, event);
  }

  cutOff(): void {}

  close(): void {}
}
