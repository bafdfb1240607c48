/** What people are told of a push: where it goes, how far it is, and why it waits. */
import type { PushProgress } from '../hub/progress';
import type { Console } from './command';
import { sizeText } from './hub_report';
import { printable } from './printable';
import { StatusLine } from './status_line';

/** Lines on standard error; the bytes share one line. */
export class PushReport {
  readonly #status: StatusLine;

  constructor(private readonly console: Console) {
    this.#status = new StatusLine(console);
  }

  readonly show = (progress: PushProgress): void => {
    const { loaded, total } = progress;
    switch (progress.type) {
      case 'target':
        this.#line(`${progress.created ? 'created ' : 'to '}${progress.url}, ${progress.revision}`);
        break;
      case 'notice':
        this.#line(progress.message);
        break;
      default: {
        const doing = progress.type === 'hash' ? 'read' : 'sent';
        const last = loaded === total;
        this.#status.show(`${doing} ${sizeText(loaded)} of ${sizeText(total)}  ${progress.file}`, last);
        if (last) this.#status.end();
      }
    }
  };

  #line(text: string): void {
    this.#status.end();
    this.console.stderr.write(`${printable(text)}\n`);
  }
}
