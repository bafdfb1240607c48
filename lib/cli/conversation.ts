/** A conversation with a model: its history, and what of it the model still reads. */
import { SequencePlan } from '../data/sequence_plan';
import { loraError } from '../errors';
import type { SamplingOptions } from '../engine/sampling';
import type { CausalLM } from '../models/causal_lm';
import type { GenerationResult } from '../models/running/generate';
import { chatIds } from '../text/marks';
import type { ChatMessage } from '../text/messages';

export interface ConversationSettings extends Omit<SamplingOptions, 'signal'> {
  readonly maxNewTokens: number;
}

/** An answer that was written, in full or until it was stopped. */
export interface Answer {
  readonly text: string;
  readonly finishReason: GenerationResult['finishReason'] | 'stopped';
  /** Undefined where it was stopped. */
  readonly usage?: GenerationResult['usage'];
}

/** What the model is to read for an answer. */
interface Reading {
  readonly ids: number[];
  /** The history that is left of it. */
  readonly history: readonly ChatMessage[];
}

export class Conversation {
  system: string | undefined;
  /** A name; null: the base alone. */
  adapter: string | null = null;
  /** Whether special tokens that a message spells are these tokens. */
  allowSpecialTokens = false;
  #history: readonly ChatMessage[] = [];

  /** `forgot` is told how many messages are no longer read, because the conversation is too long. */
  constructor(
    private readonly model: CausalLM,
    readonly options: ConversationSettings,
    private readonly forgot: (messages: number) => void,
  ) {}

  /** What was said, without the system message. */
  get history(): readonly ChatMessage[] {
    return this.#history;
  }

  reset(): void {
    this.#history = [];
  }

  /**
   * Says something, gives the pieces of the answer as they come, and returns the answer. Where the signal stops it, what was written
   * until then stays in the history; a question without any answer, or with an error in its place, does not.
   *
   * @throws what generate() throws, but for the reason of the signal.
   */
  async *say(content: string, signal: AbortSignal): AsyncGenerator<string, Answer, void> {
    const question = { role: 'user', content };
    let text = '';
    try {
      const { ids, history } = await this.#reading(question, signal);
      const forgotten = this.#history.length - history.length;
      this.#history = history;
      if (forgotten > 0) this.forgot(forgotten);
      const maxNewTokens = this.#plan.tokensAfter(ids.length, undefined, this.options.maxNewTokens);
      const handle = this.model.generate(ids, {
        ...this.options,
        maxNewTokens,
        adapter: this.adapter,
        signal,
      });
      for await (const { text: piece } of handle) {
        text += piece;
        if (piece !== '') yield piece;
      }
      const { finishReason, usage } = await handle.result;
      this.#keep(question, text);
      return { text, finishReason, usage };
    } catch (error) {
      if (!signal.aborted) throw error;
      if (text !== '') this.#keep(question, text);
      return { text, finishReason: 'stopped' };
    }
  }

  /** Tokens that the model reads, beside the vectors that the adapter puts before them. */
  get context(): number {
    return this.#plan.room;
  }

  get #plan(): SequencePlan {
    const { adapters, config } = this.model;
    const adapter = this.adapter === null ? null : adapters.get(this.adapter);
    return new SequencePlan(adapter, config.maxPositionEmbeddings);
  }

  #keep(question: ChatMessage, answer: string): void {
    this.#history = [...this.#history, question, { role: 'assistant', content: answer }];
  }

  /**
   * The tokens of the conversation with a question. Where they leave no room for an answer, the oldest questions are left out with their
   * answers; the system message stays.
   *
   * @throws ERR_ARGUMENT for a question that is too long by itself.
   */
  async #reading(question: ChatMessage, signal: AbortSignal): Promise<Reading> {
    const { tokenizer, config } = this.model;
    const { context } = this;
    // A short answer is better than a forgotten question.
    const room = Math.min(this.options.maxNewTokens, Math.floor(context / 4));
    const system = this.system === undefined ? [] : [{ role: 'system', content: this.system }];
    for (let history = this.#history; ; history = withoutOldest(history)) {
      const messages = [...system, ...history, question];
      const chat = { addGenerationPrompt: true, allowSpecialTokens: this.allowSpecialTokens };
      const ids = await chatIds(tokenizer, await tokenizer.chatTextAsync(messages, chat, signal), signal);
      if (ids.length + room <= context) return { ids, history };
      if (history.length > 0) continue;
      if (ids.length < context) return { ids, history };
      throw loraError(
        'chat',
        'ERR_ARGUMENT',
        `expected a message of at most ${context - 1} tokens with what the template adds, since the model has max_position_embeddings ${config.maxPositionEmbeddings}, but received ${ids.length}`,
      );
    }
  }
}

/** The history from its second question on. */
function withoutOldest(history: readonly ChatMessage[]): readonly ChatMessage[] {
  const second = history.findIndex(({ role }, i) => i > 0 && role === 'user');
  return second < 0 ? [] : history.slice(second);
}
