/** The texts of a model that follow a grammar. */
import type { Tokenizer } from '../text/tokenizer';
import { inSlices } from '../tensor/pace';
import type { TokenConstraint } from './constraint';
import { GrammarThread } from './grammar_thread';
import { vocabularyOf } from './vocabulary';

export class Grammars {
  readonly #vocabSize: number;
  readonly #stop: readonly number[];
  #thread: Promise<GrammarThread> | undefined;

  constructor(vocabSize: number, stop: readonly number[]) {
    this.#vocabSize = vocabSize;
    this.#stop = stop;
  }

  /**
   * Begins n texts that follow a grammar. The first call begins the thread.
   * @throws ERR_UNSUPPORTED for a tokenizer, or a grammar, that cannot be followed; the reason of the signal.
   */
  async start(
    grammar: string,
    n: number,
    tokenizer: Tokenizer,
    signal?: AbortSignal,
  ): Promise<TokenConstraint[]> {
    const thread = await this.#working(tokenizer);
    const texts = Array.from({ length: n }, () => thread.start(grammar));
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

  async #working(tokenizer: Tokenizer): Promise<GrammarThread> {
    const begun = this.#thread;
    const known = await begun?.catch(() => undefined);
    if (known?.works) return known;
    if (this.#thread === begun) this.#thread = this.#begin(tokenizer); // else another call has begun one
    return this.#thread!;
  }

  async #begin(tokenizer: Tokenizer): Promise<GrammarThread> {
    return new GrammarThread(await inSlices(vocabularyOf(tokenizer.library, this.#vocabSize, this.#stop)));
  }

  /** Ends the thread. */
  async dispose(): Promise<void> {
    const thread = await this.#thread?.catch(() => undefined);
    await thread?.dispose();
  }
}
