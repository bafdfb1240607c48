/** A thread that says which tokens may come next in texts that follow a grammar. */
import { Worker } from 'node:worker_threads';
import { LoRAError, loraError } from '../errors';
import { unspell } from './alphabet';
import type { Match, Matcher } from './match';
import script from './matcher.worker.js';
import { packagePath } from './package';
import type { Vocabulary } from './vocabulary';

const op = 'generate';

/** Compiled grammars that a thread keeps. */
const maxGrammars = 32;

type Command =
  | {
      readonly id: number;
      readonly grammar: string;
      readonly tokens: readonly number[];
      readonly foresees: boolean;
    }
  | { readonly id: number; readonly tokens: readonly number[] }
  | { readonly id: number; readonly ahead: readonly number[] }
  | { readonly id: number; readonly end: true };
type Answer = { readonly id: number; readonly full: boolean } & (
  | { readonly bits: Int32Array<ArrayBuffer>; readonly foreseen: string | undefined }
  | { readonly ahead: readonly Int32Array<ArrayBuffer>[] }
  | { readonly error: string }
);

/** What one answer of a thread may take. */
export interface ThreadLimits {
  readonly milliseconds: number;
  /** Of WebAssembly's memory, beside what the vocabulary takes. */
  readonly bytes: number;
}

/**
 * Matches texts of one vocabulary. It ends with the first thing that goes wrong, since web-xgrammar ends by aborting, after which nothing
 * that it does can be relied on; only the text that this happened to fails. It does not keep the process running unless an answer is awaited.
 */
export class GrammarThread implements Matcher {
  readonly #worker: Worker;
  readonly #limits: ThreadLimits;
  readonly #freed: (texts: readonly Match[]) => void;
  readonly #ids = new Map<Match, number>();
  readonly #texts = new Map<number, Match>();
  /** Texts that have not begun: those of one grammar begin together, after those of the grammar before. */
  #waiting: Match[] = [];
  readonly #starting = new Set<number>();
  /** The grammars that it keeps; the one that was used last comes last, as in the thread. */
  readonly #grammars = new Set<string>();
  /** A count that each command changes when it begins, and the id of the one that the thread works on, -1 for none. */
  readonly #progress = new Int32Array(new SharedArrayBuffer(8)).fill(-1);
  #watch: NodeJS.Timeout | undefined;
  /** Answers that have not come. */
  #awaited = 0;
  #queue: Command[] = [];
  #count = 0;
  #full = false;
  #ended = false;

  /** `freed` is called when it has no texts any more, and when it has ended, with the texts that have to go on in another one. */
  constructor(
    { texts, vocabSize, stop }: Vocabulary,
    limits: ThreadLimits,
    freed: (texts: readonly Match[]) => void,
  ) {
    this.#limits = limits;
    this.#freed = freed;
    const { bytes } = limits;
    const progress = this.#progress;
    const path = packagePath();
    const workerData = { path, vocabulary: texts, vocabSize, stop, progress, bytes, maxGrammars };
    this.#worker = new Worker(script, { eval: true, workerData, stdin: false });
    this.#worker.unref();
    this.#worker.on('message', (answers: Answer[]) => this.#take(answers));
    this.#worker.on('error', (cause) => this.#fail([...this.#ids.keys()], cause.message, cause));
  }

  /** Whether it has not ended. */
  get works(): boolean {
    return !this.#ended;
  }

  /** Whether it may take another text. */
  get open(): boolean {
    return this.works && !this.#full;
  }

  /** How many texts it has. */
  get texts(): number {
    return this.#ids.size;
  }

  /** Whether it has compiled this grammar, or will. */
  knows(grammar: string): boolean {
    return this.#grammars.has(grammar) || this.#waiting.some((text) => text.grammar.text === grammar);
  }

  /** Begins a text, or goes on with it. What may follow is known when it is ready. */
  start(text: Match): void {
    const id = this.#count++;
    this.#ids.set(text, id);
    this.#texts.set(id, text);
    this.#waiting.push(text);
    text.moveTo(this);
    this.#startNext();
  }

  taken(text: Match, tokens: readonly number[]): boolean {
    // One that waits says all its tokens when it begins.
    if (!this.#waiting.includes(text)) this.#ask(text, { id: this.#ids.get(text)!, tokens });
    return this.#starting.size > 0;
  }

  lookAhead(text: Match, ahead: readonly number[]): boolean {
    if (this.#starting.size > 0) return false; // the answer would come late
    this.#ask(text, { id: this.#ids.get(text)!, ahead });
    return true;
  }

  leave(text: Match): void {
    const id = this.#ids.get(text);
    if (id === undefined) return;
    this.#ids.delete(text);
    this.#texts.delete(id);
    const begun = !this.#waiting.includes(text);
    if (begun) this.#send({ id, end: true });
    else this.#waiting = this.#waiting.filter((other) => other !== text);
    if (this.#ids.size > 0) return;
    // Nobody waits for what it compiles, or its memory is free only when it has ended.
    if (this.#starting.size > 0 || this.#full) this.#end();
    this.#freed([]);
  }

  /** Ends it; texts that are not finished fail. */
  async dispose(): Promise<void> {
    const error = loraError(op, 'ERR_DISPOSED', 'the model has been disposed');
    for (const text of this.#ids.keys()) text.fail(error);
    this.#end();
    await this.#worker.terminate();
  }

  #startNext(): void {
    const grammar = this.#waiting[0]?.grammar.text;
    if (grammar === undefined || this.#starting.size > 0) return;
    this.#grammars.delete(grammar);
    this.#grammars.add(grammar);
    const [oldest] = this.#grammars;
    if (this.#grammars.size > maxGrammars) this.#grammars.delete(oldest!);
    const group = this.#waiting.filter((text) => text.grammar.text === grammar);
    this.#waiting = this.#waiting.filter((text) => text.grammar.text !== grammar);
    for (const text of group) {
      const id = this.#ids.get(text)!;
      this.#starting.add(id);
      this.#ask(text, { id, grammar, tokens: text.tokens, foresees: text.foresees });
    }
  }

  #ask(text: Match, command: Command): void {
    text.asked();
    if (this.#awaited++ === 0) this.#await();
    this.#send(command);
  }

  #send(command: Command): void {
    // What a turn of the engine says is one message.
    if (this.#queue.push(command) === 1)
      queueMicrotask(() => {
        const commands = this.#queue;
        this.#queue = [];
        if (!this.#ended) this.#worker.postMessage(commands);
      });
  }

  #take(answers: readonly Answer[]): void {
    for (const answer of answers) {
      if (this.#ended) return;
      this.#full ||= answer.full;
      const text = this.#texts.get(answer.id);
      if ('error' in answer) this.#fail(text ? [text] : [], answer.error);
      else {
        this.#starting.delete(answer.id);
        if (--this.#awaited === 0) this.#rest();
        if ('ahead' in answer) text?.takeAhead(answer.ahead);
        else text?.take(answer.bits, answer.foreseen && unspell(answer.foreseen));
      }
    }
    this.#startNext();
  }

  /** Keeps the process running, and ends the thread when one command takes too long. */
  #await(): void {
    this.#worker.ref();
    const { milliseconds } = this.#limits;
    let count = -1;
    let since = 0;
    this.#watch = setInterval(
      () => {
        const [begun, id] = [Atomics.load(this.#progress, 0), Atomics.load(this.#progress, 1)];
        const now = performance.now();
        if (begun !== count || id < 0) [count, since] = [begun, now];
        else if (now - since > milliseconds) {
          const text = this.#texts.get(id);
          this.#fail(text ? [text] : [], `it takes more than ${milliseconds / 1000} s`);
        }
      },
      Math.min(1000, milliseconds / 4),
    ).unref();
  }

  #rest(): void {
    clearInterval(this.#watch);
    this.#worker.unref();
  }

  #fail(texts: readonly Match[], reason: string, cause?: unknown): void {
    if (this.#ended) return;
    const error = new LoRAError(
      'ERR_UNSUPPORTED',
      `[${op}] web-xgrammar cannot follow the schema: ${reason}`,
      { op, ...(cause !== undefined && { cause }) },
    );
    // What one text cannot begin, no other can.
    const grammars = new Set(texts.filter((text) => this.#starts(text)).map(({ grammar }) => grammar.text));
    const failed = [...this.#ids.keys()].filter(
      (text) => texts.includes(text) || (this.#starts(text) && grammars.has(text.grammar.text)),
    );
    const others = [...this.#ids.keys()].filter((text) => !failed.includes(text));
    this.#end();
    for (const text of failed) text.fail(error);
    this.#freed(others);
  }

  /** Whether it has not begun. */
  #starts(text: Match): boolean {
    return this.#starting.has(this.#ids.get(text)!) || this.#waiting.includes(text);
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#ids.clear();
    this.#texts.clear();
    this.#rest();
    void this.#worker.terminate();
  }
}
