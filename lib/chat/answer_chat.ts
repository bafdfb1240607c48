/** The answer to a conversation, with its thoughts and calls of tools apart. */
import { loraError } from '../errors';
import { RunHandle } from '../handle';
import type { CausalLM } from '../models/causal_lm';
import type { GenerateOptions } from '../models/core/options';
import type { GenerationResult } from '../models/running/generate';
import { AnswerForm, type AnswerPiece } from '../text/answers/answer_form';
import { declaredTools } from '../text/answers/declared_tools';
import { callSchema } from '../text/answers/forced_call';
import type { DeclaredTool, ToolCall } from '../text/answers/tool_calls';
import { toolFormats, type ToolFormat } from '../text/answers/tool_formats';
import { checkChatOptions } from '../text/chat';
import { chatIds } from '../text/marks';
import type { ChatMessage } from '../text/messages';
import { check, checkInteger, describe, isRecord } from '../validate';

/** The options of {@link answerChat}: those of {@link CausalLM.generate} for one text, and which tools are called. */
export interface AnswerChatOptions extends Omit<GenerateOptions, 'n' | 'continueAssistant' | 'logprobs'> {
  /**
   * Whether tools are called: 'auto' lets the model decide, 'required' makes it call one, `{ name }` this one, 'none' hides them from it. The arguments of
   * a call that must be made are valid under its JSON Schema. Default 'auto'.
   */
  toolChoice?: 'auto' | 'none' | 'required' | { readonly name: string } | undefined;
  /** Maximum number of calls of an answer; further ones are left out. Default: no limit. */
  maxToolCalls?: number | undefined;
}

/** What became certain of an answer. */
export interface ChatPiece {
  /** What the model says. */
  text: string;
  /** What it thinks before it answers, where its chat template has thoughts. */
  reasoning: string;
  /** Calls that are complete. */
  toolCalls: readonly ToolCall[];
}

/** An answer, when it is awaited. */
export interface ChatAnswer extends ChatPiece, Pick<GenerationResult, 'finishReason' | 'timings'> {
  /** How many tokens were read, how many of them an earlier request had computed, how many were made, and how many of these were thoughts. */
  usage: GenerationResult['usage'] & { reasoningTokens: number };
}

const op = 'answerChat';

const refuse = (message: string): never => {
  throw loraError(op, 'ERR_ARGUMENT', message);
};

/** The tools of which one must be called; undefined where none must be. */
function chosenTools(choice: unknown, tools: readonly DeclaredTool[]): readonly DeclaredTool[] | undefined {
  if (choice === 'auto' || choice === 'none') return undefined;
  check(tools.length > 0, op, `expected tools beside toolChoice but received none`);
  if (choice === 'required') return tools;
  if (!isRecord(choice) || typeof choice['name'] !== 'string')
    return refuse(
      `expected toolChoice to be 'auto', 'none', 'required' or { name } but received ${describe(choice)}`,
    );
  const found = tools.find(({ name }) => name === choice['name']);
  return found
    ? [found]
    : refuse(`expected toolChoice to name one of the tools but received ${describe(choice['name'])}`);
}

function knownFormat({ toolFormat }: AnswerForm): ToolFormat {
  if (toolFormat) return toolFormat;
  throw loraError(
    op,
    'ERR_UNSUPPORTED',
    `the model's chat template writes calls of tools in none of the formats ${toolFormats.map(({ name }) => name).join(', ')}`,
  );
}

const pieceOf = ({ content, reasoning, calls }: AnswerPiece): ChatPiece => ({
  text: content,
  reasoning,
  toolCalls: calls,
});

/**
 * Answers a conversation: iterate the handle for pieces, or await it for the answer. Calls of tools are read in the format that the model's chat
 * template writes, and thoughts (`<think>…</think>`) are kept apart from the text.
 *
 * @throws (into the loop, or to who awaits) what {@link CausalLM.generate} throws; ERR_UNSUPPORTED for tools where the template has none.
 * @example
 * const messages = [{ role: 'user', content: 'How warm is it in Oslo?' }];
 * const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
 * const tools = [{ type: 'function', function: { name: 'get_weather', description: 'the weather', parameters } }];
 * const { text, toolCalls } = await answerChat(model, messages, { tools });
 * console.log(text, toolCalls.map((call) => call.function));
 */
export function answerChat(
  model: CausalLM,
  messages: readonly ChatMessage[],
  options: AnswerChatOptions = {},
): RunHandle<ChatPiece, ChatAnswer> {
  return new RunHandle(op, () => answer(model, messages, options));
}

async function* answer(
  model: CausalLM,
  messages: readonly ChatMessage[],
  options: AnswerChatOptions,
): AsyncGenerator<ChatPiece, ChatAnswer, void> {
  const { tools, variables, allowSpecialTokens, toolChoice = 'auto', maxToolCalls, ...generation } = options;
  if (maxToolCalls !== undefined) checkInteger(op, 'maxToolCalls', maxToolCalls, 1);
  const given = generation as GenerateOptions;
  for (const name of ['n', 'continueAssistant', 'logprobs'] as const)
    check(given[name] === undefined, op, `expected no ${name}: generate() has it`);
  const { tokenizer } = model;
  const form = AnswerForm.of(tokenizer);
  const declared = declaredTools(tools ?? [], refuse);
  const chosen = chosenTools(toolChoice, declared);
  const called = declared.length > 0 && toolChoice !== 'none';
  const format = called ? knownFormat(form) : undefined;
  check(
    chosen === undefined || generation.jsonSchema === undefined,
    op,
    'expected no jsonSchema beside a call that must be made',
  );
  const schema = chosen && format ? callSchema(chosen, format) : generation.jsonSchema;
  const told = {
    tools: called ? tools : undefined,
    variables,
    allowSpecialTokens,
    addGenerationPrompt: true,
  };
  checkChatOptions(op, told);
  const { signal } = generation;
  const { text: prompt, ordinary } = await tokenizer.chatTextAsync(messages, told, signal);
  const opened = form.open(prompt, {
    tools: called ? new Map(declared.map((tool) => [tool.name, tool])) : undefined,
    maxCalls: maxToolCalls,
    held: chosen ? 'call' : schema === undefined ? undefined : 'schema',
  });
  const ids = await chatIds(tokenizer, { text: prompt + opened.opening, ordinary }, signal);
  const reader = opened.reader();
  const whole: { text: string; reasoning: string; toolCalls: ToolCall[] } = {
    text: '',
    reasoning: '',
    toolCalls: [],
  };
  const added = (read: AnswerPiece): ChatPiece => {
    const piece = pieceOf(read);
    whole.text += piece.text;
    whole.reasoning += piece.reasoning;
    whole.toolCalls.push(...piece.toolCalls);
    return piece;
  };
  const says = ({ text, reasoning, toolCalls }: ChatPiece): boolean =>
    text !== '' || reasoning !== '' || toolCalls.length > 0;
  const running = model.generate(ids, { ...generation, jsonSchema: schema });
  for await (const token of running) {
    const piece = added(reader.push(token));
    if (says(piece)) yield piece;
  }
  const rest = added(reader.flush());
  if (says(rest)) yield rest;
  const { finishReason, usage, timings } = await running.result;
  const { reasoningTokens } = reader;
  return { ...whole, finishReason, timings, usage: { ...usage, reasoningTokens } };
}
