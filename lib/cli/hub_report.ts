/** What people are told of a download: what it is and under which license, how far it is, and why it waits. */
import type { LoadProgress } from '../hub/progress';
import type { SourceOptions } from '../hub/source';
import type { Console, Flags } from './command';
import { printable } from './printable';
import { StatusLine } from './status_line';

const units = ['kB', 'MB', 'GB', 'TB'];

/** 1,234,567 as 1.2 MB. */
export function sizeText(bytes: number): string {
  if (bytes < 1000) return `${bytes} bytes`;
  let value = bytes;
  let unit = -1;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
  return `${value.toFixed(1)} ${units[unit]}`;
}

/** Lines on standard error; the bytes share one line. */
class HubReport {
  readonly #status: StatusLine;
  #done = '';

  constructor(private readonly console: Console) {
    this.#status = new StatusLine(console);
  }

  readonly show = (progress: LoadProgress): void => {
    const { loaded, total } = progress;
    switch (progress.type) {
      case 'repository': {
        const { repository, source, license, gated, url, folder, commit } = progress;
        const bare = source.startsWith('hf:')
          ? ''
          : `there is no folder ${source}: it is taken from the hub\n`;
        const terms = gated ? `; its authors ask you to accept terms on ${url}` : '';
        this.#line(
          `${bare}${repository} at ${commit.slice(0, 12)}: license ${license ?? `not stated, see ${url}`}${terms}`,
        );
        this.#line(`downloading to ${folder}`);
        break;
      }
      case 'notice':
        this.#line(progress.message);
        break;
      case 'download':
        this.#bytes(`${sizeText(loaded)} of ${sizeText(total)}  ${progress.file}`, loaded === total);
        break;
      case 'weights':
        this.#status.end();
        break;
    }
  };

  #bytes(text: string, last: boolean): void {
    if (last && text === this.#done) return;
    if (last) this.#done = text;
    this.#status.show(text, last);
    if (last) this.#status.end();
  }

  #line(text: string): void {
    this.#status.end();
    this.console.stderr.write(`${printable(text)}\n`);
  }
}

/** What every command has that takes a name of the hub. */
export const hubFlags = {
  revision: {
    type: 'string',
    value: 'REVISION',
    help: 'branch, tag or commit of a model of the hub',
    defaultText: 'main',
  },
  offline: { type: 'boolean', help: 'take names of the hub from the cache alone' },
} as const satisfies Flags;

/** Of an adapter beside a model, `@revision` in its name says which state is meant. */
interface HubValues {
  readonly revision?: string | undefined;
  readonly offline: boolean;
}

/** The options of a call that may download data: --revision is the model's, and a name of data has its own behind @. */
export const dataHubOptions = (console: Console, { offline }: HubValues): SourceOptions =>
  hubOptions(console, { offline });

/** The options of a call that may download something. */
export function hubOptions(console: Console, { revision, offline }: HubValues): SourceOptions {
  // Without the flag, HF_HUB_OFFLINE decides.
  const off = offline ? { offline } : {};
  return { revision, ...off, signal: console.signal, onProgress: new HubReport(console).show };
}
