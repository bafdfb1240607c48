/** A terminal of 80 columns in which a person would sit: tmux runs a shell, takes keys and shows the screen. */
import { spawnSync } from 'node:child_process';
import { setTimeout as wait } from 'node:timers/promises';

const run = (...args: string[]): { status: number | null; out: string } => {
  const { status, stdout } = spawnSync('tmux', args, { encoding: 'utf8' });
  return { status, out: stdout ?? '' };
};

/** Why there is none; undefined where there is one. */
export const tmuxMissing = run('-V').status === 0 ? undefined : 'tmux is not on the PATH';

export class TmuxShell {
  readonly #socket = `lora-test-${process.pid}-${Date.now()}`;

  constructor(cwd: string) {
    // `$ ` is the prompt of a shell that reads no files of the machine.
    const shell = ['env', 'PS1=$ ', 'ENV=', 'TERM=screen', 'sh', '-i'];
    const { status } = this.#tmux(
      '-f',
      '/dev/null',
      'new-session',
      '-d',
      '-x',
      '80',
      '-y',
      '50',
      '-c',
      cwd,
      ...shell,
    );
    if (status !== 0) throw new Error('tmux did not begin a session');
  }

  #tmux(...args: string[]): { status: number | null; out: string } {
    return run('-L', this.#socket, ...args);
  }

  /** Types a text; names of keys, such as Enter and C-c, follow. */
  type(text: string, ...keys: string[]): void {
    if (text !== '') this.#tmux('send-keys', '-l', text);
    if (keys.length > 0) this.#tmux('send-keys', ...keys);
  }

  get screen(): string {
    return this.#tmux('capture-pane', '-p').out.trimEnd();
  }

  /** The screen when it shows what is wanted. */
  async until(pattern: RegExp): Promise<string> {
    for (let i = 0; i < 600; i++) {
      const { screen } = this;
      if (pattern.test(screen)) return screen;
      await wait(50);
    }
    throw new Error(`expected ${String(pattern)} on the screen:\n${this.screen}`);
  }

  end(): void {
    this.#tmux('kill-server');
  }
}
