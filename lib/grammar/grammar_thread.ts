/** The thread that says which tokens may come next in texts that follow a grammar. */
import { Worker } from 'node:worker_threads';
import { LoRAError } from '../errors';
import type { TokenConstraint } from './constraint';
import { packagePath } from './package';
import script from './matcher.worker.js';
import type { Vocabulary } from './vocabulary';

const op = 'generate';

type Command =
  | { readonly id: number; readonly grammar: string }
  | { readonly id: number; readonly token: number }
  | { readonly id: number; readonly end: true };
type Answer = { readonly id: number } & (
  { readonly bits: Int32Array<ArrayBuffer> } | { readonly error: string }
);

/** One text. */
class Match implements TokenConstraint {
  bits: Int32Array<ArrayBuffer> | undefined;
  late = false;
  readonly #send: (command: { readonly token: number } | { readonly end: true }) => boolean;
  #wait: PromiseWithResolvers | undefined;
  #failure: { error: unknown } | undefined;
  #ended = false;

  /** `send` says whether the answer may take long. */
  constructor(send: (command: { readonly token: number } | { readonly end: true }) => boolean) {
    this.#send = send;
  }

  async ready(): Promise<void> {
    if (this.#failure) throw this.#failure.error;
    if (this.bits || this.#ended) return;
    this.#wait ??= withResolvers();
    await this.#wait.promise;
  }

  accept(id: number): void {
    if (this.#ended || this.#failure) return;
    this.bits = undefined;
    this.late = this.#send({ token: id });
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#send({ end: true });
    this.#settle();
  }

  take(bits: Int32Array<ArrayBuffer>): void {
    this.bits = bits;
    this.#settle();
  }

  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#settle();
  }

  #settle(): void {
    this.late = false;
    const wait = this.#wait;
    this.#wait = undefined;
    if (this.#failure) wait?.reject(this.#failure.error);
    else wait?.resolve();
  }
}

interface PromiseWithResolvers {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

function withResolvers(): PromiseWithResolvers {
  let settle: [() => void, (error: unknown) => void];
  const promise = new Promise<void>((...functions) => (settle = functions));
  const [resolve, reject] = settle!;
  return { promise, resolve, reject };
}

/** Matches the texts of one vocabulary. It does not keep the process running unless an answer is awaited. */
export class GrammarThread {
  readonly #worker: Worker;
  readonly #matches = new Map<number, Match>();
  /** Answers that have not come; of those, to commands that compile. */
  #awaited = 0;
  #compiling = new Set<number>();
  #queue: Command[] = [];
  #count = 0;
  #failure: { error: unknown } | undefined;

  constructor({ texts, vocabSize, stop }: Vocabulary) {
    const workerData = { path: packagePath(), vocabulary: texts, vocabSize, stop };
    this.#worker = new Worker(script, { eval: true, workerData, stdin: false });
    this.#worker.unref();
    this.#worker.on('message', (answers: Answer[]) => this.#take(answers));
    this.#worker.on('error', (cause) => this.#fail(cause));
  }

  /** Whether it can take another text. */
  get works(): boolean {
    return this.#failure === undefined;
  }

  /** Begins a text. Its first tokens are known when it is ready. */
  start(grammar: string): TokenConstraint {
    const id = this.#count++;
    const match = new Match((command) => {
      if ('end' in command) this.#matches.delete(id);
      return this.#send({ id, ...command });
    });
    this.#matches.set(id, match);
    if (this.#failure) match.fail(this.#failure.error);
    else {
      this.#compiling.add(id);
      match.late = this.#send({ id, grammar });
    }
    return match;
  }

  /** Ends the thread; texts that are not finished fail. */
  async dispose(): Promise<void> {
    this.#fail(new LoRAError('ERR_DISPOSED', `[${op}] the model has been disposed`, { op }));
    await this.#worker.terminate();
  }

  #send(command: Command): boolean {
    if (this.#failure) return false;
    if (!('end' in command) && this.#awaited++ === 0) this.#worker.ref();
    // What a turn of the engine says is one message.
    if (this.#queue.push(command) === 1)
      queueMicrotask(() => {
        const commands = this.#queue;
        this.#queue = [];
        if (!this.#failure) this.#worker.postMessage(commands);
      });
    return this.#compiling.size > 0;
  }

  #take(answers: readonly Answer[]): void {
    this.#awaited -= answers.length;
    if (this.#awaited === 0) this.#worker.unref();
    for (const answer of answers) {
      this.#compiling.delete(answer.id);
      const match = this.#matches.get(answer.id);
      if ('bits' in answer) match?.take(answer.bits);
      else this.#fail(new Error(answer.error));
    }
  }

  /** web-xgrammar ends by aborting, after which nothing that it does can be relied on. */
  #fail(cause: unknown): void {
    if (this.#failure) return;
    const error =
      cause instanceof LoRAError
        ? cause
        : new LoRAError(
            'ERR_UNSUPPORTED',
            `[${op}] web-xgrammar cannot follow the schema: ${cause instanceof Error ? cause.message : String(cause)}`,
            { op, cause },
          );
    this.#failure = { error };
    this.#worker.unref();
    void this.#worker.terminate();
    for (const match of this.#matches.values()) match.fail(error);
  }
}
