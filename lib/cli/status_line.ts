/** How far something is, for people. */
import type { Console } from './command';
import { printable } from './printable';

/** Milliseconds between two lines where none can be rewritten. */
const pauseMs = 5000;

/** One line on standard error that is rewritten in place on a terminal; elsewhere plain lines now and then, so that a log stays readable. */
export class StatusLine {
  /** Whether the cursor stands at its end. */
  #open = false;
  #lastLine = 0;

  constructor(private readonly console: Console) {}

  /** `always`: also in a log, however short ago the last line was. */
  show(text: string, always = false): void {
    const { stderr } = this.console;
    const line = printable(text);
    if (stderr.isTTY) {
      stderr.write(`\r\x1b[2K${line.slice(0, (stderr.columns || 80) - 1)}`);
      this.#open = true;
      return;
    }
    const now = performance.now();
    if (!always && now - this.#lastLine <= pauseMs) return;
    this.#lastLine = now;
    stderr.write(`${line}\n`);
  }

  /** Ends the line, so that what follows has one of its own. */
  end(): void {
    if (this.#open) this.console.stderr.write('\n');
    this.#open = false;
  }
}
