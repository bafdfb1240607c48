import type { StepEvent } from '../train/events';

const mebi = 1024 * 1024;

function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  return s < 60
    ? `${s}s`
    : s < 3600
      ? `${Math.floor(s / 60)}m${s % 60}s`
      : `${Math.floor(s / 3600)}h${Math.floor((s % 3600) / 60)}m`;
}

/**
 * One line that is rewritten in place on a terminal; elsewhere a plain line now and then, so that a log stays
 * readable.
 */
export class ProgressLine {
  readonly #out: NodeJS.WriteStream;
  #lastPlain = 0;
  #open = false;

  constructor(out: NodeJS.WriteStream = process.stderr) {
    this.#out = out;
  }

  step(event: StepEvent, totalSteps: number | undefined): void {
    const of = totalSteps === undefined ? '' : `/${totalSteps}`;
    const eta = event.etaSeconds === undefined ? '' : `  ${duration(event.etaSeconds)} left`;
    const rss = Math.round(process.memoryUsage().rss / mebi);
    const line =
      `step ${event.step}${of}  loss ${event.loss.toFixed(4)}  lr ${event.lr.toExponential(1)}  ` +
      `${Math.round(event.tokensPerSecond)} tokens/s${eta}  ${rss} MiB`;
    if (this.#out.isTTY) {
      this.#out.write(`\r\x1b[2K${line.slice(0, (this.#out.columns || 80) - 1)}`);
      this.#open = true;
    } else if (event.step === 1 || event.step === totalSteps || performance.now() - this.#lastPlain > 5000) {
      this.#lastPlain = performance.now();
      this.#out.write(`${line}\n`);
    }
  }

  /** Ends the line, so that what follows starts on its own. */
  close(): void {
    if (this.#open) this.#out.write('\n');
    this.#open = false;
  }
}
