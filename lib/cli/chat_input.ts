/** Where the lines of a chat come from: a pipe, or a person at a terminal. */
import { createInterface, type Interface } from 'node:readline';
import { Writable } from 'node:stream';
import { Interrupted, type Console } from './command';

export interface ChatInput {
  /** The next line; undefined when no more will come. @throws Interrupted after Ctrl-C, and the reason of the console's signal. */
  next(prompt: string): Promise<string | undefined>;
  /** Until the returned function is called, Ctrl-C calls `stop` instead. */
  whileAnswering(stop: () => void): () => void;
  close(): void;
}

export function openInput(console: Console): ChatInput {
  const { stdin, stderr } = console;
  return stdin.isTTY === true && stderr.isTTY === true ? new TerminalInput(console) : new PipeInput(console);
}

class PipeInput implements ChatInput {
  readonly #lines: AsyncGenerator<string, void, void>;

  constructor({ stdin, signal }: Console) {
    const abort = (): void => void stdin.destroy(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
    this.#lines = linesOf(stdin);
  }

  async next(): Promise<string | undefined> {
    const { value, done } = await this.#lines.next();
    return done ? undefined : value;
  }

  whileAnswering(): () => void {
    return () => undefined; // Ctrl-C is a signal of the process here
  }

  close(): void {
    void this.#lines.return();
  }
}

/** Not those of node:readline, which ends a line at U+2028 and at carriage returns, too. */
async function* linesOf(stdin: Console['stdin']): AsyncGenerator<string, void, void> {
  let rest = '';
  for await (const piece of stdin.setEncoding('utf8')) {
    const lines = (rest + (piece as string)).split('\n');
    rest = lines.pop()!;
    for (const line of lines) yield line.replace(/\r$/, '');
  }
  if (rest !== '') yield rest;
}

/** The terminal of the prompt, on which nothing appears while an answer is written there. */
class PromptOutput extends Writable {
  muted = false;

  constructor(private readonly terminal: Console['stderr']) {
    super({ decodeStrings: false });
    terminal.on('resize', () => this.emit('resize'));
  }

  get columns(): number {
    return this.terminal.columns || 80;
  }

  override _write(chunk: string | Buffer, _encoding: string, done: () => void): void {
    if (!this.muted) this.terminal.write(chunk);
    done();
  }
}

/**
 * A line with its history, edited as node:readline has it. The terminal gives each key at once, so that Ctrl-C comes as one: it stops an
 * answer, empties a line, and at an empty one, or while an answer is being stopped, ends the chat. What is typed during an answer is shown after it.
 */
class TerminalInput implements ChatInput {
  readonly #output: PromptOutput;
  readonly #readline: Interface;
  readonly #signal: AbortSignal;
  readonly #lines: string[] = [];
  #ended: { reason?: unknown } | undefined;
  #stop: (() => void) | undefined;
  #wake: () => void = () => undefined;

  constructor({ stdin, stderr, signal }: Console) {
    this.#signal = signal;
    this.#output = new PromptOutput(stderr);
    this.#readline = createInterface({ input: stdin, output: this.#output, terminal: true });
    this.#readline.on('line', (line) => {
      this.#lines.push(line);
      this.#wake();
    });
    this.#readline.on('SIGINT', () => this.#interrupt());
    this.#readline.on('close', () => this.#end({}));
    signal.addEventListener('abort', this.#abort, { once: true });
    if (signal.aborted) this.#abort();
  }

  readonly #abort = (): void => this.#end({ reason: this.#signal.reason });

  #end(how: { reason?: unknown }): void {
    this.#ended ??= how;
    this.#wake();
  }

  #interrupt(): void {
    if (this.#stop) {
      this.#stop();
      this.#stop = () => this.#end({ reason: new Interrupted('SIGINT') });
    } else if (this.#readline.line === '') this.#end({ reason: new Interrupted('SIGINT') });
    else {
      this.#output.write('^C\n');
      for (const name of ['e', 'u']) this.#readline.write(null, { ctrl: true, name }); // to the end, all before it
      this.#readline.prompt();
    }
  }

  async next(prompt: string): Promise<string | undefined> {
    if (this.#lines.length > 0)
      this.#output.write(`${prompt}${this.#lines[0]}\n`); // typed during an answer
    else if (!this.#ended) {
      this.#readline.setPrompt(prompt);
      this.#readline.prompt(true);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    if (this.#ended && this.#lines.length === 0) this.#output.write('\n'); // the shell's prompt gets a line of its own
    if (this.#ended && 'reason' in this.#ended) throw this.#ended.reason;
    return this.#lines.shift();
  }

  whileAnswering(stop: () => void): () => void {
    this.#stop = stop;
    this.#output.muted = true;
    return () => {
      this.#stop = undefined;
      this.#output.muted = false;
    };
  }

  /** Gives the terminal back as it was. */
  close(): void {
    this.#signal.removeEventListener('abort', this.#abort);
    this.#readline.close();
  }
}
