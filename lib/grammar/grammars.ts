/** The texts of a model that follow a grammar, and the threads that they are in. */
import { loraError } from '../errors';
import { inSlices } from '../tensor/pace';
import type { Tokenizer } from '../text/tokenizer';
import type { TokenConstraint } from './constraint';
import { GrammarThread, type ThreadLimits } from './grammar_thread';
import type { SchemaGrammar } from './json_schema';
import { Match, type Matcher } from './match';
import { vocabularyOf, type Vocabulary } from './vocabulary';

const defaultLimits: ThreadLimits = { milliseconds: 60_000, bytes: 2 ** 28 };

/** Threads of each kind: for grammars that are compiled in no time, and for others. All but the first one begin when they are needed. */
const maxThreads = 2;
const lightCharacters = 2 ** 14;

/** Tokens of the vocabulary that compiling looks at, each once for each state. */
const lightLooks = 2 ** 20;
const maxLooks = 2 ** 25;

type Kind = 'light' | 'heavy';

export class Grammars implements Matcher {
  readonly #vocabSize: number;
  readonly #stop: readonly number[];
  readonly #limits: ThreadLimits;
  #spelling: Promise<void> | undefined;
  #vocabulary: Vocabulary | undefined;
  readonly #threads: Record<Kind, GrammarThread[]> = { light: [], heavy: [] };
  /** Texts for which no thread has room. */
  #waiting: Match[] = [];

  constructor(vocabSize: number, stop: readonly number[], limits: ThreadLimits = defaultLimits) {
    this.#vocabSize = vocabSize;
    this.#stop = stop;
    this.#limits = limits;
  }

  /**
   * Begins n texts that follow a grammar. The first call begins a thread. `foresees`: whether they are told what the grammar forces.
   * @throws ERR_UNSUPPORTED for a tokenizer, or a grammar, that cannot be followed; the reason of the signal.
   */
  async start(
    grammar: SchemaGrammar,
    n: number,
    tokenizer: Tokenizer,
    signal?: AbortSignal,
    foresees = false,
  ): Promise<TokenConstraint[]> {
    const most = Math.floor(maxLooks / this.#vocabSize);
    if (grammar.states > most)
      throw loraError(
        'generate',
        'ERR_UNSUPPORTED',
        `expected minLength, maxLength and patterns of a jsonSchema to count at most ${most} characters in all, for a vocabulary of ${this.#vocabSize} tokens, but received ${grammar.states}`,
      );
    await this.#spell(tokenizer);
    signal?.throwIfAborted();
    const texts = Array.from({ length: n }, () => new Match(grammar, foresees));
    for (const text of texts) this.#place(text);
    const end = (): void => {
      for (const text of texts) text.end();
    };
    signal?.addEventListener('abort', end, { once: true });
    try {
      await Promise.all(texts.map((text) => text.ready()));
      signal?.throwIfAborted();
    } catch (error) {
      end();
      throw error;
    } finally {
      signal?.removeEventListener('abort', end);
    }
    return texts;
  }

  async #spell(tokenizer: Tokenizer): Promise<void> {
    const spell = async (): Promise<void> => {
      this.#vocabulary = await inSlices(vocabularyOf(tokenizer.library, this.#vocabSize, this.#stop));
    };
    this.#spelling ??= spell();
    await this.#spelling;
  }

  #place(text: Match): void {
    const thread = this.#threadFor(text.grammar);
    if (thread) return thread.start(text);
    text.moveTo(this);
    this.#waiting.push(text);
  }

  /** Undefined where it has to wait until a thread is free. */
  #threadFor({ text, states }: SchemaGrammar): GrammarThread | undefined {
    const looks = states * this.#vocabSize;
    const kind: Kind = text.length <= lightCharacters && looks <= lightLooks ? 'light' : 'heavy';
    const threads = this.#threads[kind];
    const open = threads.filter((thread) => thread.open);
    const idle = open.find(({ texts }) => texts === 0);
    const known = open.find((thread) => thread.knows(text)) ?? (kind === 'light' ? open[0] : idle);
    if (known) return known;
    if (threads.length < maxThreads) {
      const thread = new GrammarThread(this.#vocabulary!, this.#limits, (texts) => {
        if (!thread.works) threads.splice(threads.indexOf(thread), 1);
        for (const one of [...texts, ...this.#waiting.splice(0)]) this.#place(one);
      });
      threads.push(thread);
      return thread;
    }
    return open.sort((a, b) => a.texts - b.texts)[0];
  }

  // ---- for texts that wait -------------------------------------------------------------------

  taken(): boolean {
    return true;
  }

  lookAhead(): boolean {
    return false;
  }

  leave(text: Match): void {
    this.#waiting = this.#waiting.filter((other) => other !== text);
  }

  /** Ends the threads. */
  async dispose(): Promise<void> {
    const threads = Object.values(this.#threads).flatMap((of) => of.splice(0));
    await Promise.all(threads.map((thread) => thread.dispose()));
  }
}
