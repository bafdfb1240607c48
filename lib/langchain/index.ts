/** lora-native/langchain: a chat model of LangChain that runs in this process. */
import type { CallbackManagerForLLMRun } from '@langchain/core/callbacks/manager';
import type {
  BaseLanguageModelInput,
  StructuredOutputMethodOptions,
} from '@langchain/core/language_models/base';
import {
  BaseChatModel,
  type BaseChatModelCallOptions,
  type BindToolsInput,
} from '@langchain/core/language_models/chat_models';
import {
  assembleStructuredOutputPipeline,
  createContentParser,
} from '@langchain/core/language_models/structured_output';
import { AIMessageChunk, type AIMessage, type BaseMessage, type ToolMessage } from '@langchain/core/messages';
import { ChatGenerationChunk, type ChatResult } from '@langchain/core/outputs';
import type { Runnable } from '@langchain/core/runnables';
import { convertToOpenAITool } from '@langchain/core/utils/function_calling';
import { toJsonSchema } from '@langchain/core/utils/json_schema';
import { isSerializableSchema, type SerializableSchema } from '@langchain/core/utils/standard_schema';
import { isInteropZodSchema, type InteropZodType } from '@langchain/core/utils/types';
import { answerChat, type AnswerChatOptions, type ChatAnswer, type ChatPiece } from '../chat/answer_chat';
import { LoRAError } from '../errors';
import type { CausalLM } from '../models/causal_lm';
import type { ChatMessage } from '../text/messages';

/** What a {@link ChatLoraNative} draws with. */
type Drawing = Pick<
  AnswerChatOptions,
  'maxNewTokens' | 'temperature' | 'topP' | 'topK' | 'minP' | 'seed' | 'variables' | 'jsonSchema'
>;

/** The options of a {@link ChatLoraNative}. */
export interface ChatLoraNativeFields extends Drawing {
  /** The model, which stays the program's: it loads adapters and disposes it. */
  model: CausalLM;
  /** The name of an adapter of the model. Default: the base. */
  adapter?: string | null | undefined;
}

/** Options of one call, beside those of every model of LangChain (`stop`, `signal`). */
export interface ChatLoraNativeCallOptions extends BaseChatModelCallOptions, Drawing {
  /** Tools as {@link ChatLoraNative.bindTools} makes them. */
  tools?: readonly unknown[] | undefined;
}

/** What describes an object. */
type StructuredSchema<Output extends Record<string, unknown>> =
  InteropZodType<Output> | SerializableSchema<Output> | Readonly<Record<string, unknown>>;

/** Options that a call may change. */
const drawn = [
  'maxNewTokens',
  'temperature',
  'topP',
  'topK',
  'minP',
  'seed',
  'variables',
  'jsonSchema',
] as const;

const fail = (code: 'ERR_ARGUMENT' | 'ERR_UNSUPPORTED', message: string): never => {
  throw new LoRAError(code, `[ChatLoraNative] ${message}`, { op: 'ChatLoraNative' });
};

/** The text of a message, which has no other parts. */
function textOf({ content }: BaseMessage): string {
  if (typeof content === 'string') return content;
  return content
    .map((part): string => {
      if (part.type === 'text' && typeof part['text'] === 'string') return part['text'];
      // Thoughts and calls stand in fields of their own, too.
      return ['reasoning', 'tool_call', 'tool_use', 'thinking'].includes(part.type)
        ? ''
        : fail('ERR_UNSUPPORTED', `expected text but received a part of type ${part.type}`);
    })
    .join('');
}

function messageOf(message: BaseMessage): ChatMessage {
  const type = message.getType();
  const content = textOf(message);
  switch (type) {
    case 'system':
    case 'developer' as typeof type:
      return { role: 'system', content };
    case 'human':
      return { role: 'user', content };
    case 'tool':
      return { role: 'tool', tool_call_id: (message as ToolMessage).tool_call_id, content };
    case 'ai': {
      const { tool_calls: calls = [], additional_kwargs: more } = message as AIMessage;
      const reasoning = more['reasoning_content'];
      const called = calls.map(({ id, name, args }) => ({
        id,
        type: 'function',
        function: { name, arguments: args },
      }));
      return {
        role: 'assistant',
        content: content === '' && called.length > 0 ? null : content,
        ...(typeof reasoning === 'string' && { reasoning_content: reasoning }),
        ...(called.length > 0 && { tool_calls: called }),
      };
    }
    default:
      return fail('ERR_UNSUPPORTED', `expected a message of a known role but received one of type ${type}`);
  }
}

function choiceOf(choice: ChatLoraNativeCallOptions['tool_choice']): AnswerChatOptions['toolChoice'] {
  if (choice === undefined || choice === 'auto' || choice === 'none') return choice;
  if (choice === 'any' || choice === 'required') return 'required';
  if (typeof choice === 'string') return { name: choice };
  const called = (choice['function'] ?? choice) as { name?: unknown };
  return typeof called.name === 'string'
    ? { name: called.name }
    : fail('ERR_ARGUMENT', "expected tool_choice to be 'auto', 'none', 'any' or the name of a tool");
}

function usageOf({ promptTokens, completionTokens, cachedTokens, reasoningTokens }: ChatAnswer['usage']) {
  return {
    input_tokens: promptTokens,
    output_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    input_token_details: { cache_read: cachedTokens },
    output_token_details: { reasoning: reasoningTokens },
  };
}

const thoughts = ({ reasoning }: ChatPiece): Record<string, unknown> =>
  reasoning === '' ? {} : { reasoning_content: reasoning };

/** Calls as LangChain takes them apart itself; `first`: the place of the first one. */
const callChunks = ({ toolCalls }: ChatPiece, first: number) =>
  toolCalls.map(({ id, function: { name, arguments: args } }, i) => ({
    ...{ id, name, args, index: first + i },
    type: 'tool_call_chunk' as const,
  }));

/**
 * A chat model of LangChain without a server: `invoke`, `stream`, `batch`, `bindTools` and `withStructuredOutput` call the model of this process, or one of
 * its adapters. Thoughts are in `additional_kwargs.reasoning_content`.
 *
 * @throws ERR_ARGUMENT for no model. Calls fail with what {@link answerChat} throws, and with ERR_UNSUPPORTED for parts that are no text.
 * @example
 * import { CausalLM } from 'lora-native';
 * import { ChatLoraNative } from 'lora-native/langchain';
 *
 * const model = await CausalLM.fromPretrained('smollm2-135m');
 * await model.loadAdapter('runs/sql', { name: 'sql' });
 * const chat = new ChatLoraNative({ model, adapter: 'sql', temperature: 0 });
 * const { content } = await chat.invoke('How many users are there?');
 */
export class ChatLoraNative extends BaseChatModel<ChatLoraNativeCallOptions, AIMessageChunk> {
  // A model is no JSON, so that LangChain cannot save it.
  /** @internal */
  override lc_serializable = false;
  readonly #fields: ChatLoraNativeFields;

  constructor(fields: ChatLoraNativeFields) {
    super({});
    if (typeof fields?.model?.generate !== 'function')
      fail('ERR_ARGUMENT', 'expected a model that fromPretrained() gave');
    this.#fields = fields;
  }

  /** @internal */
  override _llmType(): string {
    return 'lora-native';
  }

  /** The same model, which may call these tools. `tool_choice`: 'auto', 'none', 'any', or the name of one. */
  override bindTools(
    tools: BindToolsInput[],
    kwargs: Partial<ChatLoraNativeCallOptions> = {},
  ): Runnable<BaseLanguageModelInput, AIMessageChunk, ChatLoraNativeCallOptions> {
    return this.withConfig({ tools: tools.map((tool) => convertToOpenAITool(tool)), ...kwargs });
  }

  /**
   * The same model, whose answers are objects that are valid under a schema: zod's, or a JSON Schema. A grammar holds the text, so that the chat template
   * need not know tools.
   */
  override withStructuredOutput<Output extends Record<string, unknown> = Record<string, unknown>>(
    schema: StructuredSchema<Output>,
    config?: StructuredOutputMethodOptions<false>,
  ): Runnable<BaseLanguageModelInput, Output>;
  /** The same; each answer comes with the message that it was read from. */
  override withStructuredOutput<Output extends Record<string, unknown> = Record<string, unknown>>(
    schema: StructuredSchema<Output>,
    config: StructuredOutputMethodOptions<true>,
  ): Runnable<BaseLanguageModelInput, { raw: BaseMessage; parsed: Output }>;
  override withStructuredOutput<Output extends Record<string, unknown>>(
    schema: StructuredSchema<Output>,
    config: StructuredOutputMethodOptions<boolean> = {},
  ) {
    const jsonSchema =
      isInteropZodSchema(schema) || isSerializableSchema(schema) ? toJsonSchema(schema) : schema;
    return assembleStructuredOutputPipeline<Output>(
      this.withConfig({ jsonSchema: jsonSchema }),
      createContentParser<Output>(schema),
      config.includeRaw,
      'StructuredOutput',
    );
  }

  /** @internal */
  override async _generate(
    messages: BaseMessage[],
    options: this['ParsedCallOptions'],
    runManager?: CallbackManagerForLLMRun,
  ): Promise<ChatResult> {
    const answer = this.#answer(messages, options);
    if (runManager)
      for await (const { text } of answer) if (text !== '') await runManager.handleLLMNewToken(text);
    const given = await answer.result;
    // A chunk, which is what withStructuredOutput() takes apart.
    const message = new AIMessageChunk({
      content: given.text,
      additional_kwargs: thoughts(given),
      tool_call_chunks: callChunks(given, 0),
      usage_metadata: usageOf(given.usage),
      response_metadata: { finish_reason: given.finishReason },
    });
    return { generations: [{ text: given.text, message }], llmOutput: { usage: given.usage } };
  }

  /** @internal */
  override async *_streamResponseChunks(
    messages: BaseMessage[],
    options: this['ParsedCallOptions'],
    runManager?: CallbackManagerForLLMRun,
  ): AsyncGenerator<ChatGenerationChunk> {
    const answer = this.#answer(messages, options);
    let calls = 0;
    for await (const piece of answer) {
      const message = new AIMessageChunk({
        content: piece.text,
        additional_kwargs: thoughts(piece),
        tool_call_chunks: callChunks(piece, calls),
      });
      calls += piece.toolCalls.length;
      yield new ChatGenerationChunk({ text: piece.text, message });
      await runManager?.handleLLMNewToken(piece.text);
    }
    const { finishReason, usage } = await answer.result;
    const message = new AIMessageChunk({
      content: '',
      usage_metadata: usageOf(usage),
      response_metadata: { finish_reason: finishReason },
    });
    yield new ChatGenerationChunk({ text: '', message });
  }

  #answer(
    messages: readonly BaseMessage[],
    options: this['ParsedCallOptions'],
  ): ReturnType<typeof answerChat> {
    const { model, adapter = null } = this.#fields;
    const drawing = Object.fromEntries(drawn.map((name) => [name, options[name] ?? this.#fields[name]]));
    return answerChat(model, messages.map(messageOf), {
      ...(drawing as Drawing),
      adapter,
      stop: options.stop?.filter((stop) => stop !== ''),
      signal: options.signal,
      tools: options.tools,
      toolChoice: choiceOf(options.tool_choice),
    });
  }
}
