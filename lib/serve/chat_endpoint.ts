/** POST /v1/chat/completions. */
import { isRecord } from '../formats/json';
import { promptIds } from '../models/generate';
import type { ChatMessage } from '../text/messages';
import { describe, isListOf } from '../validate';
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
import { chatFormat } from './formats';
import { samplingFields } from './sampling_fields';
import type { Call } from './service';

const refused = {
  tools: 'this server does not call tools',
  functions: 'this server does not call functions',
  function_call: 'this server does not call functions',
  audio: 'the model reads and writes text',
  prediction: 'the model generates every token',
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
  const { model, settings, adapters, tokenTexts } = call.service;
  refuseFields(fields, refused);
  refuseModalities(fields);
  const messages = messagesField(fields, settings.maxMessages);
  const name = stringField(fields, 'model') ?? adapters.base;
  const logprobs = logprobsFields(fields);
  const { stream, includeUsage } = streamFields(fields);
  const sampling = samplingFields(fields);
  if (settings.logPrompts) call.exchange.facts.prompt = messages;
  const { tokenizer } = model;
  await answerTexts(call, {
    model: name,
    promptField: 'messages',
    promptCount: 1,
    prompts: async (signal) => [
      await promptIds(messages, model.config.vocabSize, () => tokenizer, { signal }),
    ],
    sampling,
    maxTokens: maxTokensField(fields),
    logprobs,
    stream,
    includeUsage,
    format: chatFormat(call.exchange.id, { model: name, logprobs, includeUsage, tokenTexts }),
  });
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
