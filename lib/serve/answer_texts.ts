/** Generates the texts of a request and answers with them, whole or as they come. */
import { SequencePlan } from '../data/sequence_plan';
import type { GeneratedToken } from '../engine/delivery';
import { merged } from '../handle';
import type { GenerationResult } from '../models/running/generate';
import type { Adapter } from '../peft/adapter';
import { invalid } from './api_error';
import { EventStream } from './event_stream';
import type { AnsweredText, Format, Usage } from './formats';
import type { RequestedSampling } from './sampling_fields';
import type { ServedUse, ServedAdapters } from './served_adapters';
import type { Call, Service } from './service';

/** What a request asks for. */
export interface TextsPlan {
  /** The name of the base or of an adapter. */
  readonly model: string;
  /** The field that holds the prompts, and how many there are. */
  readonly promptField: 'messages' | 'prompt';
  readonly promptCount: number;
  /** Tokens of the longest prompt, as far as that is known before they are ids. */
  readonly knownTokens: number;
  /** Throws 400 for what is too long to be encoded. */
  readonly checkLengths: (signal: AbortSignal) => Promise<void>;
  /** Their ids, which are made when the request has its turn. */
  readonly prompts: (signal: AbortSignal) => Promise<readonly (readonly number[])[]>;
  readonly sampling: RequestedSampling;
  /** Undefined: as many as the server gives where nothing is said. */
  readonly maxTokens: number | undefined;
  readonly logprobs: number | undefined;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly format: Format;
}

/**
 * Tokens that may follow a prompt of `length` tokens.
 * @throws 400 where the model's context is too short, or the engine has pages for fewer at any time.
 */
function checkedLimit(
  { model, settings }: Service,
  { maxTokens, promptField }: TextsPlan,
  length: number,
  adapter: Adapter | null,
): number {
  const context = model.config.maxPositionEmbeddings;
  const { maxTokens: inMemory } = model.engineStats();
  const sequence = new SequencePlan(adapter, Math.min(context, inMemory));
  const limit = sequence.tokensAfter(length, maxTokens, settings.defaultMaxNewTokens);
  if (limit !== undefined) return limit;
  const { room } = sequence;
  const wanted = maxTokens ?? 0;
  const what =
    inMemory < context
      ? `the server has memory for the keys and values of ${room} tokens`
      : `this model's maximum context length is ${room} tokens`;
  throw invalid(
    `${what}, but you asked for ${length + wanted}: ${length} in the ${promptField} and ${wanted} to generate`,
    promptField,
    'context_length_exceeded',
  );
}

/** Waits for the request's turn, and holds the adapter while it runs. */
export async function answerTexts(call: Call, plan: TextsPlan): Promise<void> {
  const { service, exchange, client } = call;
  const { signal } = exchange;
  exchange.facts.model = plan.model;
  exchange.facts.stream = plan.stream;
  const { adapters } = service;
  if (!adapters.has(plan.model) && !(await adapters.discover(plan.model))) throw adapters.unknown(plan.model);
  // What can never run does not wait first.
  checkedLimit(service, plan, plan.knownTokens, null);
  await plan.checkLengths(signal);
  const held = new HeldAdapter(adapters, plan.model);
  try {
    const places = plan.promptCount * plan.sampling.n;
    const lease = await service.queue.enter(client.lane, places, signal, (left) => held.prepare(left));
    call.body.release();
    try {
      const use = held.use!;
      const { stallTimeoutMs } = service.settings;
      const events = new EventStream(exchange.response, {
        signal,
        stallTimeoutMs,
        onPause(end) {
          use.stalled(end);
          lease.pause();
        },
        onResume() {
          use.goesOn();
          return lease.resume(signal);
        },
      });
      await generate(call, plan, use.adapter, events);
    } finally {
      lease.release();
    }
  } finally {
    held.release();
  }
}

/** The adapter of a request, which it holds from its turn on. One that has to be loaded comes before the place: who waits for it has none. */
class HeldAdapter {
  use: ServedUse | undefined;

  constructor(
    readonly adapters: ServedAdapters,
    readonly name: string,
  ) {}

  /** Undefined where it is there. The promise rejects with what is wrong with it, or with the reason of the signal. */
  prepare(left: AbortSignal): Promise<void> | undefined {
    this.use = this.adapters.useNow(this.name);
    return this.use ? undefined : this.#load(left);
  }

  async #load(left: AbortSignal): Promise<void> {
    const use = await this.adapters.use(this.name, left);
    if (left.aborted) use.release();
    else this.use = use;
  }

  release(): void {
    this.use?.release();
  }
}

async function generate(
  { service, exchange }: Call,
  plan: TextsPlan,
  adapter: Adapter | null,
  events: EventStream,
): Promise<void> {
  const { signal, facts } = exchange;
  const { model, settings } = service;
  const { sampling, logprobs, format, stream } = plan;
  const prompts = await plan.prompts(signal);
  signal.throwIfAborted();
  const limits = prompts.map(({ length }) => checkedLimit(service, plan, length, adapter));
  const handles = prompts.map((ids, i) =>
    model.generate(ids, {
      ...sampling,
      temperature: sampling.temperature ?? settings.defaultTemperature,
      maxNewTokens: limits[i],
      logprobs,
      speculate: settings.speculate,
      adapter: adapter ?? model.core.noAdapter,
      signal,
    }),
  );
  const choices = prompts.length * sampling.n;
  const tokens: GeneratedToken[][] = Array.from({ length: choices }, () => []);
  const open = async (): Promise<void> => {
    if (events.begun) return;
    for (let choice = 0; choice < choices; choice++) await sendIfAny(events, format.opening(choice));
  };
  for await (const [source, token] of merged(handles)) {
    facts.firstTokenMs ??= exchange.elapsedMs;
    const choice = source * sampling.n + (token.index ?? 0);
    if (!stream) {
      if (logprobs !== undefined) tokens[choice]!.push(token);
      continue;
    }
    await open();
    await sendIfAny(events, format.piece(choice, token));
  }
  const results = await Promise.all(handles.map(({ result }) => result));
  const usage = usageOf(results);
  const texts = results
    .flatMap((result) => result.choices ?? [result])
    .map(({ text, finishReason }, i): AnsweredText => ({ text, finishReason, tokens: tokens[i]! }));
  facts.promptTokens = usage.prompt_tokens;
  facts.completionTokens = usage.completion_tokens;
  facts.cachedTokens = usage.prompt_tokens_details.cached_tokens;
  if (settings.logPrompts) facts.texts = texts.map(({ text }) => text);
  if (!stream) return exchange.json(format.whole(texts, usage));
  await open();
  for (const [choice, { finishReason }] of texts.entries())
    for (const event of format.ending(choice, finishReason)) await events.send(event);
  if (plan.includeUsage) await events.send(format.usage(usage));
  await events.send('[DONE]');
  exchange.response.end();
}

async function sendIfAny(events: EventStream, event: object | undefined): Promise<void> {
  if (event) await events.send(event);
}

function usageOf(results: readonly GenerationResult[]): Usage {
  const sum = (count: (usage: GenerationResult['usage']) => number): number =>
    results.reduce((total, { usage }) => total + count(usage), 0);
  const prompt_tokens = sum(({ promptTokens }) => promptTokens);
  const completion_tokens = sum(({ completionTokens }) => completionTokens);
  return {
    prompt_tokens,
    completion_tokens,
    total_tokens: prompt_tokens + completion_tokens,
    prompt_tokens_details: { cached_tokens: sum(({ cachedTokens }) => cachedTokens) },
  };
}
