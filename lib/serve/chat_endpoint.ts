/** POST /v1/chat/completions. */
import type { ChatMessage } from '../text/messages';
import { describe, isListOf, isRecord } from '../validate';
import { answerTexts } from './answer_texts';
import { invalid } from './api_error';
import {
  booleanField,
  integerField,
  needed,
  recordField,
  refuseFields,
  stringField,
  type Fields,
} from './fields';
import { chatFormat, type CallFinder } from './formats';
import { conversationIds, checkConversation, type TemplateFields } from './prompt_ids';
import { samplingFields } from './sampling_fields';
import type { Call } from './service';
import { callParser, openingOf } from './tool_calls';
import { toolsFields, type RequestedTools } from './tools_fields';

const refused = {
  functions: 'tools have taken their place',
  function_call: 'tools have taken their place',
  audio: 'the model reads and writes text',
  prediction: 'the server guesses tokens itself where it runs with --speculate',
  web_search_options: 'this server searches nothing',
  store: 'this server stores no answers',
};

/** @throws 400 for what is no conversation. */
export function messagesField(fields: Fields, most: number): ChatMessage[] {
  const given = needed(fields['messages'] ?? undefined, 'messages');
  if (!isListOf(given, (one) => isRecord(one) && typeof one['role'] === 'string') || given.length === 0)
    throw invalid(
      `expected messages to be a list of { role, content } but received ${describe(given)}`,
      'messages',
    );
  if (given.length > most)
    throw invalid(`expected at most ${most} messages but received ${given.length}`, 'messages');
  // What OpenAI calls the developer's message is the system's in templates.
  return (given as ChatMessage[]).map((one) => (one.role === 'developer' ? { ...one, role: 'system' } : one));
}

/** Most tokens of a text: the newer name comes first. */
export const maxTokensField = (fields: Fields): number | undefined =>
  integerField(fields, 'max_completion_tokens', { least: 0 }) ??
  integerField(fields, 'max_tokens', { least: 0 });

/** Whether the answer is a stream, and whether its last event tells of the usage. */
export function streamFields(fields: Fields): { stream: boolean; includeUsage: boolean } {
  const stream = booleanField(fields, 'stream') ?? false;
  const options = recordField(fields, 'stream_options');
  if (options && !stream) throw invalid('stream_options is for requests with stream: true', 'stream_options');
  return { stream, includeUsage: booleanField(options ?? {}, 'include_usage') ?? false };
}

/** Undefined where log-probabilities are not asked for. */
function logprobsFields(fields: Fields): number | undefined {
  const wanted = booleanField(fields, 'logprobs') ?? false;
  const top = integerField(fields, 'top_logprobs', { least: 0, most: 20 });
  if (top !== undefined && top > 0 && !wanted)
    throw invalid('top_logprobs is for requests with logprobs: true', 'top_logprobs');
  return wanted ? (top ?? 0) : undefined;
}

export async function chatCompletions(call: Call, fields: Fields): Promise<void> {
  const { settings, adapters, tokenTexts } = call.service;
  refuseFields(fields, refused);
  refuseModalities(fields);
  const messages = messagesField(fields, settings.maxMessages);
  const name = stringField(fields, 'model') ?? adapters.base;
  const logprobs = logprobsFields(fields);
  const { stream, includeUsage } = streamFields(fields);
  const requested = samplingFields(fields);
  const tools = toolsFields(fields, () => call.service.toolFormat);
  const sampling = tools?.schema === undefined ? requested : { ...requested, jsonSchema: tools.schema };
  const variables = recordField(fields, 'chat_template_kwargs');
  if (settings.logPrompts) call.exchange.facts.prompt = messages;
  const template = { ...openingFields(tools), variables };
  await answerTexts(call, {
    model: name,
    promptField: 'messages',
    promptCount: 1,
    knownTokens: 0,
    checkLengths: (signal) => checkConversation(call, messages, { ...template, signal }),
    prompts: async (signal) => [await conversationIds(call, messages, { ...template, signal })],
    sampling,
    maxTokens: maxTokensField(fields),
    logprobs,
    stream,
    includeUsage,
    format: chatFormat(
      call.exchange.id,
      { model: name, logprobs, includeUsage, tokenTexts },
      tools && finderOf(tools),
    ),
  });
}

/** A call that must be made is opened in the prompt, so that the grammar is that of its JSON alone. */
const openingFields = (requested: RequestedTools | undefined): TemplateFields =>
  requested === undefined
    ? {}
    : {
        tools: requested.tools,
        opening: requested.schema === undefined ? '' : openingOf[requested.format],
      };

const finderOf = ({ format, names, schema, named, maxCalls }: RequestedTools): CallFinder => ({
  parser: () => callParser(format, names, schema !== undefined),
  // As OpenAI's API has it: a function that the request names is what the text was to be.
  finishReason: named ? 'stop' : 'tool_calls',
  maxCalls,
});

function refuseModalities(fields: Fields): void {
  const given = fields['modalities'] ?? ['text'];
  if (isListOf(given, (one) => one === 'text')) return;
  throw invalid(
    "expected modalities to be ['text']: the model writes text",
    'modalities',
    'unsupported_parameter',
  );
}
