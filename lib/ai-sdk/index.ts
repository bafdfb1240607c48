/** lora-native/ai-sdk: a provider of the Vercel AI SDK whose models run in this process. */
import { answerChat, type AnswerChatOptions, type ChatAnswer } from '../chat/answer_chat';
import { LoRAError } from '../errors';
import type { CausalLM } from '../models/causal_lm';
import { InProcessEmbeddingModel } from './embedding';
import { ownOptionsOf } from './own_options';
import { conversationOf } from './prompt';
import type {
  CallOptions,
  GenerateResult,
  LoraNativeEmbeddingModel,
  LoraNativeLanguageModel,
  StreamPart,
  StreamResult,
} from './types';

export type { LoraNativeEmbeddingModel, LoraNativeLanguageModel } from './types';

type Warning = GenerateResult['warnings'][number];

/** The options of {@link createLoraNative}. */
export interface LoraNativeProviderOptions {
  /** The model, which stays the program's: it loads adapters and disposes it. */
  model: CausalLM;
  /** The name of the base without an adapter. Default 'base'. */
  baseName?: string | undefined;
}

/** What {@link createLoraNative} gives. */
export interface LoraNativeProvider {
  /** The model with the adapter of this name, or the base. */
  (name: string): LoraNativeLanguageModel;
  /** The same. */
  languageModel(name: string): LoraNativeLanguageModel;
  /** What `embed` and `embedMany` take: the vectors that {@link CausalLM.embed} gives with this adapter, or with the base. */
  embeddingModel(name: string): LoraNativeEmbeddingModel;
  /** The same, as the AI SDK called it before version 6. */
  textEmbeddingModel(name: string): LoraNativeEmbeddingModel;
}

const op = 'createLoraNative';

/** What `providerOptions: { 'lora-native': … }` may hold. */
const ownOptions = ['minP', 'repetitionPenalty', 'speculate', 'variables', 'allowSpecialTokens'] as const;

/**
 * A provider of the Vercel AI SDK without a server: generateText, streamText, generateObject and tools call the model of this process. A model is the
 * base, or one of its adapters by name, which may be added later; calls with different adapters share batches.
 *
 * `providerOptions: { 'lora-native': … }` takes `minP`, `repetitionPenalty`, `speculate`, `variables` of the chat template and `allowSpecialTokens`; of
 * `embed` and `embedMany` it takes `instruction`, `dimensions`, `pool` and `normalize`.
 *
 * @throws ERR_ARGUMENT for an unknown option, or no model. Calls fail with what {@link answerChat} throws, and with ERR_UNSUPPORTED for files.
 * @example
 * import { generateText } from 'ai';
 * import { CausalLM } from 'lora-native';
 * import { createLoraNative } from 'lora-native/ai-sdk';
 *
 * const model = await CausalLM.fromPretrained('smollm2-135m');
 * await model.loadAdapter('runs/sql', { name: 'sql' });
 * const lora = createLoraNative({ model });
 * const { text } = await generateText({ model: lora('sql'), prompt: 'How many users are there?' });
 */
export function createLoraNative(options: LoraNativeProviderOptions): LoraNativeProvider {
  const { model, baseName = 'base', ...others } = options;
  const [unknown] = Object.keys(others);
  if (unknown !== undefined)
    throw new LoRAError('ERR_ARGUMENT', `[${op}] expected model and baseName but received ${unknown}`, {
      op,
    });
  if (typeof model?.generate !== 'function' || typeof baseName !== 'string')
    throw new LoRAError('ERR_ARGUMENT', `[${op}] expected a model that fromPretrained() gave`, { op });
  const languageModel = (name: string): LoraNativeLanguageModel => new InProcessModel(model, name, baseName);
  const embeddingModel = (name: string): LoraNativeEmbeddingModel =>
    new InProcessEmbeddingModel(model, name, baseName);
  return Object.assign((name: string) => languageModel(name), {
    languageModel,
    embeddingModel,
    textEmbeddingModel: embeddingModel,
  });
}

class InProcessModel implements LoraNativeLanguageModel {
  readonly specificationVersion = 'v3';
  readonly provider = 'lora-native';
  /** None: the model reads text. */
  readonly supportedUrls = {};
  readonly #model: CausalLM;
  readonly #adapter: string | null;

  constructor(
    model: CausalLM,
    readonly modelId: string,
    baseName: string,
  ) {
    this.#model = model;
    this.#adapter = modelId === baseName ? null : modelId;
  }

  async doGenerate(options: CallOptions): Promise<GenerateResult> {
    const { answer, warnings } = this.#call(options);
    const { text, reasoning, toolCalls, finishReason, usage } = await answer;
    return {
      content: [
        ...(reasoning === '' ? [] : [{ type: 'reasoning', text: reasoning } as const]),
        ...(text === '' ? [] : [{ type: 'text', text } as const]),
        ...toolCalls.map(callPart),
      ],
      finishReason: finishOf(finishReason, toolCalls.length),
      usage: usageOf(usage),
      warnings,
    };
  }

  async doStream(options: CallOptions): Promise<StreamResult> {
    const parts = this.#parts(options);
    const stream = new ReadableStream<StreamPart>(
      {
        async pull(controller) {
          const { value, done } = await parts.next();
          if (done) controller.close();
          else controller.enqueue(value);
        },
        async cancel() {
          await parts.return();
        },
      },
      { highWaterMark: 0 },
    );
    return { stream };
  }

  async *#parts(options: CallOptions): AsyncGenerator<StreamPart, void, void> {
    const { answer, warnings } = this.#call(options);
    yield { type: 'stream-start', warnings };
    /** The part that goes on. */
    let open: 'text' | 'reasoning' | undefined;
    let count = 0;
    let calls = 0;
    function* to(kind: typeof open): Generator<StreamPart, void, void> {
      if (open === kind) return;
      if (open) yield { type: `${open}-end`, id: String(count) };
      open = kind;
      if (open) yield { type: `${open}-start`, id: String(++count) };
    }
    for await (const { text, reasoning, toolCalls } of answer) {
      for (const [kind, delta] of [['reasoning', reasoning] as const, ['text', text] as const]) {
        if (delta === '') continue;
        yield* to(kind);
        yield { type: `${kind}-delta`, id: String(count), delta };
      }
      if (toolCalls.length > 0) yield* to(undefined);
      for (const call of toolCalls) {
        calls++;
        const { id, function: called } = call;
        yield { type: 'tool-input-start', id, toolName: called.name };
        yield { type: 'tool-input-delta', id, delta: called.arguments };
        yield { type: 'tool-input-end', id };
        yield callPart(call);
      }
    }
    yield* to(undefined);
    const { finishReason, usage } = await answer.result;
    yield { type: 'finish', finishReason: finishOf(finishReason, calls), usage: usageOf(usage) };
  }

  #call(options: CallOptions): { answer: ReturnType<typeof answerChat>; warnings: Warning[] } {
    const warnings: Warning[] = [];
    const { tools = [], toolChoice, responseFormat } = options;
    const told = tools.flatMap((tool) => {
      if (tool.type === 'function') {
        const { name, description, inputSchema: parameters } = tool;
        return [{ type: 'function', function: { name, description, parameters } }];
      }
      warnings.push({ type: 'unsupported', feature: `tool ${tool.id}`, details: 'it runs at its provider' });
      return [];
    });
    const json = responseFormat?.type === 'json' ? (responseFormat.schema ?? { type: 'object' }) : undefined;
    const answer = answerChat(this.#model, conversationOf(options.prompt), {
      ...ownOptionsOf(options.providerOptions, ownOptions),
      adapter: this.#adapter,
      maxNewTokens: options.maxOutputTokens,
      temperature: options.temperature,
      topP: options.topP,
      topK: options.topK,
      presencePenalty: options.presencePenalty,
      frequencyPenalty: options.frequencyPenalty,
      stop: options.stopSequences?.filter((stop) => stop !== ''),
      seed: options.seed,
      signal: options.abortSignal,
      jsonSchema: json as AnswerChatOptions['jsonSchema'],
      tools: told,
      toolChoice: told.length === 0 ? 'auto' : choiceOf(toolChoice),
    });
    return { answer, warnings };
  }
}

function choiceOf(choice: CallOptions['toolChoice']): AnswerChatOptions['toolChoice'] {
  if (choice === undefined) return 'auto';
  return choice.type === 'tool' ? { name: choice.toolName } : choice.type;
}

const callPart = ({ id, function: { name, arguments: input } }: ChatAnswer['toolCalls'][number]) =>
  ({ type: 'tool-call', toolCallId: id, toolName: name, input }) as const;

const finishOf = (reason: ChatAnswer['finishReason'], calls: number): GenerateResult['finishReason'] => ({
  unified: calls > 0 && reason === 'stop' ? 'tool-calls' : reason,
  raw: reason,
});

function usageOf({
  promptTokens,
  cachedTokens,
  completionTokens,
  reasoningTokens,
}: ChatAnswer['usage']): GenerateResult['usage'] {
  return {
    inputTokens: {
      total: promptTokens,
      noCache: promptTokens - cachedTokens,
      cacheRead: cachedTokens,
      cacheWrite: undefined,
    },
    outputTokens: {
      total: completionTokens,
      text: completionTokens - reasoningTokens,
      reasoning: reasoningTokens,
    },
  };
}
