/** Generates the texts of a request and answers with them, whole or as they come. */
import { SequencePlan } from '../data/sequence_plan';
import { merged } from '../handle';
import type { GeneratedText, GenerationResult } from '../models/running/generate';
import type { Adapter } from '../peft/adapter';
import type { AnswerReader } from '../text/answers/answer_form';
import type { Tokenizer } from '../text/tokenizer';
import { invalid } from './api_error';
import { EventStream } from './event_stream';
import type { Format, Usage } from './formats';
import { ReadAnswer } from './read_answer';
import type { RequestedSampling } from './sampling_fields';
import { checkModel, inTurn } from './held_adapter';
import type { Call, Service } from './service';

/** What a request asks for. */
export interface TextsPlan {
  /** The name of the base or of an adapter. */
  readonly model: string;
  /** The field that holds the prompts, and how many there are. */
  readonly promptField: 'messages' | 'prompt' | 'input';
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
  readonly format: Format;
  /** Makes what reads a text, once the prompts are ids; undefined: all of it is content. */
  readonly reader?: (() => AnswerReader) | undefined;
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
  const { service, exchange } = call;
  const { signal } = exchange;
  exchange.facts.stream = plan.stream;
  await checkModel(call, plan.model);
  // What can never run does not wait first.
  checkedLimit(service, plan, plan.knownTokens, null);
  await plan.checkLengths(signal);
  const places = plan.promptCount * plan.sampling.n;
  await inTurn(call, plan.model, places, async ({ adapter, use, lease }) => {
    const { stallTimeoutMs } = service.settings;
    const events = new EventStream(exchange.response, {
      signal,
      stallTimeoutMs,
      named: plan.format.named,
      onPause(end) {
        use.stalled(end);
        lease.pause();
      },
      onResume() {
        use.goesOn();
        return lease.resume(signal);
      },
    });
    await generate(call, plan, adapter, events);
  });
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
  const promptTokens = prompts.reduce((sum, { length }) => sum + length, 0);
  const answers = Array.from({ length: choices }, () => new ReadAnswer(plan.reader?.()));
  const open = async (): Promise<void> => {
    if (events.begun) return;
    for (let choice = 0; choice < choices; choice++)
      await events.sendAll(format.opening(choice, promptTokens));
  };
  for await (const [source, token] of merged(handles)) {
    facts.firstTokenMs ??= exchange.elapsedMs;
    const choice = source * sampling.n + (token.index ?? 0);
    const read = answers[choice]!.push(token, !stream && logprobs !== undefined);
    if (!stream) continue;
    await open();
    await events.sendAll(format.piece(choice, token, read));
  }
  const results = await Promise.all(handles.map(({ result }) => result));
  const generated = results.flatMap((result) => result.choices ?? [result]);
  const rests = answers.map((answer) => answer.end());
  const usage = usageOf(results, answers);
  const texts = answers.map((answer, i) => {
    const text = generated[i]!;
    return answer.text(text, stopStringOf(text, sampling.stop, model.tokenizer));
  });
  facts.promptTokens = usage.prompt_tokens;
  facts.completionTokens = usage.completion_tokens;
  facts.cachedTokens = usage.prompt_tokens_details.cached_tokens;
  if (settings.logPrompts) facts.texts = generated.map(({ text }) => text);
  if (!stream) return exchange.json(format.whole(texts, usage));
  await open();
  for (const [choice, text] of texts.entries())
    await events.sendAll(format.ending(choice, text, rests[choice]!));
  await events.sendAll(format.closing(usage));
  exchange.response.end();
}

/** Which of the stop strings ended a text: what its ids spell goes on with it. */
function stopStringOf(
  { text, ids, finishReason }: GeneratedText,
  stop: RequestedSampling['stop'] = [],
  tokenizer: Tokenizer,
): string | undefined {
  if (finishReason !== 'stop' || stop.length === 0) return undefined;
  const rest = tokenizer.decode(ids, { skipSpecialTokens: true }).slice(text.length);
  return [stop].flat().find((one) => rest.startsWith(one));
}

function usageOf(results: readonly GenerationResult[], answers: readonly ReadAnswer[]): Usage {
  const sum = (count: (usage: GenerationResult['usage']) => number): number =>
    results.reduce((total, { usage }) => total + count(usage), 0);
  const prompt_tokens = sum(({ promptTokens }) => promptTokens);
  const completion_tokens = sum(({ completionTokens }) => completionTokens);
  const reasoning_tokens = answers.reduce((total, { reasoningTokens }) => total + reasoningTokens, 0);
  return {
    prompt_tokens,
    completion_tokens,
    total_tokens: prompt_tokens + completion_tokens,
    prompt_tokens_details: { cached_tokens: sum(({ cachedTokens }) => cachedTokens) },
    ...(reasoning_tokens > 0 && { completion_tokens_details: { reasoning_tokens } }),
  };
}
