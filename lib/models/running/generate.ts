/** Text generation as a program sees it: a prompt goes in, tokens and a result come out. */
import type { SequencePlan } from '../../data/sequence_plan';
import { loraError } from '../../errors';
import type { Engine } from '../../engine/engine';
import type { GeneratedToken, TokenLogprobs } from '../../engine/delivery';
import { ForcedText, Speculation, type Continuation } from '../../engine/proposals';
import type { Request } from '../../engine/request';
import { tokenLimit, type GenerationPlan } from '../../engine/sampling';
import type { TokenConstraint } from '../../grammar/constraint';
import { merged } from '../../handle';
import type { Adapter } from '../../peft/adapter';
import { checkChatOptions } from '../../text/chat';
import { chatIds } from '../../text/marks';
import { continuationIds } from '../../text/continuation';
import type { ChatMessage } from '../../text/messages';
import type { Tokenizer } from '../../text/tokenizer';
import { check, describe, isListOf } from '../../validate';
import type { GenerateOptions } from '../core/options';

/** A text (special tokens are added), ids, or a conversation (through the chat template). */
export type Prompt = string | readonly number[] | Int32Array | readonly ChatMessage[];

/** One text of a generation. */
export interface GeneratedText {
  /** The text, without the prompt, stop strings and special tokens. */
  text: string;
  /** All ids that were generated, the end-of-text token included. */
  ids: number[];
  /** Of each of `ids`: its log-probability, and the likeliest tokens in its place; where `logprobs` asks for them. */
  logprobs?: TokenLogprobs[];
  /** 'stop': an end-of-text token or a stop string; 'length': maxNewTokens. */
  finishReason: 'stop' | 'length';
}

/** What a generation gives when it is awaited. */
export interface GenerationResult extends GeneratedText {
  /** All texts, the first one included; where `n` is more than 1. */
  choices?: GeneratedText[];
  /** How many tokens were read, how many of them an earlier request had computed, and how many were made. */
  usage: { promptTokens: number; completionTokens: number; cachedTokens: number };
  /** Milliseconds from the call to the begin of its work, to its first token, and to its last one. */
  timings: { queuedMs: number; firstTokenMs: number; totalMs: number };
}

const TAG = 'generate';

/** What only a conversation has: the words of {@link ChatTemplateOptions}. */
export type ConversationOptions = Pick<
  GenerateOptions,
  'tools' | 'variables' | 'continueAssistant' | 'allowSpecialTokens'
>;

const isConversation = (prompt: unknown): prompt is ChatMessage[] =>
  isListOf(prompt, (item) => typeof item === 'object' && item !== null) && prompt.length > 0;

/**
 * The options of a conversation, of those of a call.
 * @throws ERR_ARGUMENT for a wrong one, and for any where the prompt is no conversation.
 */
export function conversationOptions(prompt: Prompt, options: GenerateOptions): ConversationOptions {
  const { tools, variables, continueAssistant, allowSpecialTokens } = options;
  const chat = { tools, variables, continueAssistant, allowSpecialTokens };
  checkChatOptions(TAG, chat);
  const given = Object.entries(chat).find(([, value]) => value !== undefined && value !== false);
  check(
    given === undefined || isConversation(prompt),
    TAG,
    `expected a prompt of messages beside ${given?.[0]} but received ${describe(prompt)}`,
  );
  return chat;
}

/** Ids of a prompt. Long ones are encoded in slices, between which timers and I/O run. */
export async function promptIds(
  prompt: Prompt,
  vocabSize: number,
  tokenizer: () => Tokenizer,
  { signal, ...chat }: ConversationOptions & { signal?: AbortSignal | undefined } = {},
): Promise<number[]> {
  let ids: number[];
  if (typeof prompt === 'string') ids = await tokenizer().encodeAsync(prompt, { signal });
  else {
    check(
      Array.isArray(prompt) || ArrayBuffer.isView(prompt),
      TAG,
      `expected the prompt to be a text, ids or messages but received ${describe(prompt)}`,
    );
    if (isConversation(prompt)) {
      const options = { ...chat, addGenerationPrompt: chat.continueAssistant !== true };
      ids = await chatIds(tokenizer(), await tokenizer().chatTextAsync(prompt, options, signal), signal);
    } else ids = Array.from(prompt as readonly number[]);
  }
  check(ids.length > 0, TAG, 'expected a prompt of at least one token but received none');
  const bad = ids.find((id) => !Number.isSafeInteger(id) || id < 0 || id >= vocabSize);
  check(bad === undefined, TAG, `expected ids from 0 to ${vocabSize - 1} but received ${describe(bad)}`);
  return ids;
}

/**
 * How many tokens may follow a prompt.
 * @throws ERR_ARGUMENT where the prompt, or the prompt and the tokens that were asked for, are longer than the model's context.
 */
export function checkedLimit(length: number, plan: GenerationPlan, sequence: SequencePlan): number {
  const { room } = sequence;
  check(
    length < room,
    TAG,
    `expected a prompt of at most ${room - 1} tokens, since the model has ${sequence.contextAndTaken}, but received ${length}`,
  );
  const limit = tokenLimit(plan, length);
  const checked = sequence.tokensAfter(length, plan.ownLimit ? limit : undefined, limit);
  check(
    checked !== undefined,
    TAG,
    `expected a prompt and maxNewTokens of at most ${room} tokens together (${sequence.contextAndTaken}) but received ${length} and ${limit}`,
  );
  return checked;
}

export interface Generation {
  readonly engine: Engine;
  readonly adapter: Adapter | null;
  readonly sequence: SequencePlan;
  readonly prompt: readonly number[];
  readonly plan: GenerationPlan;
  readonly maxNewTokens: number;
  /** Absent: pieces have no text. */
  readonly tokenizer?: Tokenizer | undefined;
  /** Of each text, where they follow a grammar. */
  readonly constraints?: readonly TokenConstraint[] | undefined;
}

/** What guesses the tokens of one text. */
function speculationFor(
  tokenizer: Tokenizer | undefined,
  constraint: TokenConstraint | undefined,
): Speculation {
  if (!tokenizer || !constraint) return new Speculation();
  const continuation: Continuation = (tokens, text) => continuationIds(tokenizer, tokens, text);
  return new Speculation(new ForcedText(constraint, continuation));
}

/** What runs for a generation; cancel() ends it, and frees what it holds at once. */
export class RunningGeneration {
  readonly #requests: readonly Request[];
  readonly #promptTokens: number;

  /** @throws what Engine.submit throws; nothing runs then. */
  constructor({ engine, plan, tokenizer, constraints, ...request }: Generation) {
    const { prompt } = request;
    this.#promptTokens = prompt.length;
    const requests: Request[] = [];
    try {
      for (let i = 0; i < plan.n; i++) {
        const generation = { ...plan, seed: (plan.seed + i) % 2 ** 53 };
        const constraint = constraints?.[i];
        const stream = tokenizer?.stream(prompt, constraint !== undefined);
        const speculation = plan.speculate ? speculationFor(tokenizer, constraint) : undefined;
        requests.push(engine.submit({ ...request, generation, stream, constraint, speculation }));
      }
    } catch (error) {
      for (const request of requests) request.cancel(error);
      throw error;
    }
    this.#requests = requests;
  }

  /** `reason`: what the consumer gets to see. */
  cancel(reason: unknown = loraError(TAG, 'ERR_DISPOSED', 'the generation was left')): void {
    for (const request of this.#requests) request.cancel(reason);
  }

  /** The tokens, those of several texts in the order in which they come. */
  async *tokens(): AsyncGenerator<GeneratedToken, void, void> {
    const deliveries = this.#requests.map(({ delivery }) => delivery);
    if (deliveries.length === 1) yield* deliveries[0]!;
    else for await (const [index, token] of merged(deliveries)) yield { ...token, index };
  }

  /** What it gave, after its last token. */
  result(): GenerationResult {
    const completions = this.#requests.map(({ delivery }) => delivery.completion);
    const choices = completions.map(({ text, ids, logprobs, finishReason }) => ({
      ...{ text, ids, finishReason },
      ...(logprobs && { logprobs }),
    }));
    const { timings, cachedTokens } = completions[0]!;
    const completionTokens = choices.reduce((sum, { ids }) => sum + ids.length, 0);
    const totalMs = Math.max(...completions.map(({ timings }) => timings.totalMs));
    return {
      ...choices[0]!,
      ...(choices.length > 1 && { choices }),
      usage: { promptTokens: this.#promptTokens, completionTokens, cachedTokens },
      timings: { ...timings, totalMs },
    };
  }
}
