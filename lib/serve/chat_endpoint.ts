/** POST /v1/chat/completions. */
import type { ChatMessage } from '../text/messages';
import { describe, isListOf, isRecord } from '../validate';
import { invalid } from './api_error';
import { answerConversation } from './chat_answer';
import {
  booleanField,
  integerField,
  needed,
  recordField,
  refuseFields,
  stringField,
  type Fields,
} from './fields';
import { chatFormat } from './formats';
import { samplingFields } from './sampling_fields';
import type { Call } from './service';
import { toolsFields } from './tools_fields';

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
  const { settings, adapters, tokenTexts, answerForm } = call.service;
  refuseFields(fields, refused);
  refuseModalities(fields);
  const messages = messagesField(fields, settings.maxMessages);
  const model = stringField(fields, 'model') ?? adapters.base;
  const logprobs = logprobsFields(fields);
  const { stream, includeUsage } = streamFields(fields);
  const sampling = samplingFields(fields);
  const tools = toolsFields(fields, () => answerForm.toolFormat);
  const options = { model, logprobs, includeUsage, tokenTexts };
  await answerConversation(call, {
    model,
    messages,
    promptField: 'messages',
    sampling,
    tools,
    variables: variablesFields(fields),
    continues: false,
    maxTokens: maxTokensField(fields),
    logprobs,
    stream,
    format: chatFormat(call.exchange.id, options, tools?.named ?? false),
  });
}

const efforts = ['none', 'minimal', 'low', 'medium', 'high', 'xhigh'];

/**
 * What an effort of reasoning means to chat templates: gpt-oss' reads `reasoning_effort`, others think or do not.
 * @throws 400 for what is no effort.
 */
export function effortVariables(effort: string | undefined, param: string): Fields {
  if (effort === undefined) return {};
  if (!efforts.includes(effort))
    throw invalid(
      `expected ${param} to be one of ${efforts.join(', ')} but received ${describe(effort)}`,
      param,
    );
  return { reasoning_effort: effort, enable_thinking: effort !== 'none' };
}

/** The variables of the chat template; those that the request gives by name come first. */
function variablesFields(fields: Fields): Fields | undefined {
  const effort = effortVariables(stringField(fields, 'reasoning_effort'), 'reasoning_effort');
  const given = recordField(fields, 'chat_template_kwargs');
  return { ...effort, ...given };
}

function refuseModalities(fields: Fields): void {
  const given = fields['modalities'] ?? ['text'];
  if (isListOf(given, (one) => one === 'text')) return;
  throw invalid(
    "expected modalities to be ['text']: the model writes text",
    'modalities',
    'unsupported_parameter',
  );
}
