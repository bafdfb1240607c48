/** POST /v1/responses: OpenAI's API without state. */
import type { ChatMessage } from '../text/messages';
import { describe, isListOf, isRecord } from '../validate';
import { invalid, unsupported } from './api_error';
import { answerConversation } from './chat_answer';
import { effortVariables } from './chat_endpoint';
import {
  booleanField,
  integerField,
  needed,
  recordField,
  refuseFields,
  stringField,
  type Fields,
} from './fields';
import { responsesFormat, type ResponseSettings } from './responses_format';
import { samplingFields } from './sampling_fields';
import type { Call } from './service';
import { toolsFields } from './tools_fields';

const noState = 'this server keeps no responses: send the whole conversation as input';

const refused = {
  previous_response_id: noState,
  conversation: noState,
  background: noState,
  store: noState,
  prompt: 'this server has no stored prompts',
  include: 'the answer holds all that there is',
  max_tool_calls: 'this server calls no tools itself',
  top_logprobs: '/v1/chat/completions gives log-probabilities',
};

/** Kinds of parts that are texts. */
const textParts = ['input_text', 'output_text', 'text', 'reasoning_text'];

/** The texts of a content, or of what a tool gave. */
function textsOf(content: unknown, place: string): string {
  if (typeof content === 'string') return content;
  if (!isListOf(content, isRecord))
    throw invalid(
      `expected the content of ${place} to be a text or a list of parts but received ${describe(content)}`,
      'input',
    );
  return content
    .map(({ type, text }) => {
      if (typeof type === 'string' && textParts.includes(type) && typeof text === 'string') return text;
      throw unsupported('input', `${place} has a part of type ${describe(type)}, and the model reads text`);
    })
    .join('');
}

/** The conversation of a list of items: what an assistant thinks, says and calls in a row is one message. */
function messagesOf(items: readonly Fields[]): ChatMessage[] {
  const messages: ChatMessage[] = [];
  /** Thoughts whose message has not come. */
  let thoughts: string | undefined;
  const assistant = (): ChatMessage => {
    const before = messages.at(-1);
    if (before?.role === 'assistant' && thoughts === undefined) return before;
    const fresh: ChatMessage = {
      role: 'assistant',
      content: null,
      ...(thoughts !== undefined && { reasoning_content: thoughts }),
    };
    thoughts = undefined;
    messages.push(fresh);
    return fresh;
  };
  for (const [i, item] of items.entries()) {
    const place = `item ${i + 1}`;
    const { type = 'message', role } = item;
    if (type === 'reasoning') thoughts = textsOf(item['content'] ?? [], place);
    else if (type === 'function_call') {
      const message = assistant();
      const [id, name, given] = ['call_id', 'name', 'arguments'].map((key) =>
        needed(stringField(item, key), `input.${key}`),
      );
      const call = { id, type: 'function', function: { name, arguments: given } };
      message['tool_calls'] = [...((message['tool_calls'] as object[] | undefined) ?? []), call];
    } else if (type === 'function_call_output')
      messages.push({
        role: 'tool',
        tool_call_id: needed(stringField(item, 'call_id'), 'input.call_id'),
        content: textsOf(item['output'], place),
      });
    else if (type === 'item_reference') throw unsupported('input', `${place} is a reference, and ${noState}`);
    else if (type !== 'message')
      throw unsupported('input', `${place} is of type ${describe(type)}, which this server does not read`);
    else if (role === 'assistant') {
      const message = assistant();
      message.content = ((message.content as string | null) ?? '') + textsOf(item['content'], place);
    } else if (role === 'user' || role === 'system' || role === 'developer')
      // What OpenAI calls the developer's message is the system's in templates.
      messages.push({
        role: role === 'developer' ? 'system' : role,
        content: textsOf(item['content'], place),
      });
    else
      throw invalid(
        `expected the role of ${place} to be 'user', 'assistant', 'system' or 'developer' but received ${describe(role)}`,
        'input',
      );
  }
  return messages;
}

function inputField(fields: Fields, most: number): ChatMessage[] {
  const given = needed(fields['input'] ?? undefined, 'input');
  const items: unknown = typeof given === 'string' ? [{ role: 'user', content: given }] : given;
  if (!isListOf(items, isRecord) || items.length === 0)
    throw invalid(`expected input to be a text or a list of items but received ${describe(given)}`, 'input');
  if (items.length > most)
    throw invalid(`expected at most ${most} items but received ${items.length}`, 'input');
  const instructions = stringField(fields, 'instructions');
  const messages = messagesOf(items);
  return instructions === undefined ? messages : [{ role: 'system', content: instructions }, ...messages];
}

/** Tools and their choice as chats have them. */
function toolFields(fields: Fields): Fields {
  const tools = fields['tools'] ?? [];
  if (!isListOf(tools, isRecord))
    throw invalid(`expected tools to be a list but received ${describe(tools)}`, 'tools');
  const choice = fields['tool_choice'] ?? undefined;
  return {
    tools: tools.map(({ type, name, description, parameters }, i) => {
      if (type !== 'function')
        throw unsupported(
          'tools',
          `tool ${i + 1} is of type ${describe(type)}, which this server does not have`,
        );
      return { type, function: { name, description, parameters: parameters ?? undefined } };
    }),
    tool_choice:
      isRecord(choice) && choice['type'] === 'function'
        ? { type: 'function', function: { name: choice['name'] } }
        : choice,
    parallel_tool_calls: booleanField(fields, 'parallel_tool_calls'),
  };
}

/** `text.format` as chats have it. */
function formatField(fields: Fields): Fields | undefined {
  const text = recordField(fields, 'text');
  const format = text && recordField(text, 'format');
  if (format?.['type'] !== 'json_schema') return format;
  return { type: 'json_schema', json_schema: { schema: format['schema'] } };
}

export async function responses(call: Call, fields: Fields): Promise<void> {
  const { exchange, service } = call;
  refuseFields(fields, refused);
  if ((stringField(fields, 'truncation') ?? 'disabled') !== 'disabled')
    throw unsupported('truncation', 'a conversation that is too long is refused');
  const model = stringField(fields, 'model') ?? service.adapters.base;
  const messages = inputField(fields, service.settings.maxMessages);
  const { temperature, top_p } = fields;
  const reasoning = recordField(fields, 'reasoning') ?? {};
  const effort = stringField(reasoning, 'effort');
  const summary = stringField(reasoning, 'summary') ?? 'auto';
  if (summary !== 'auto') throw unsupported('reasoning.summary', 'thoughts are given as they are');
  const chat = { ...toolFields(fields), response_format: formatField(fields) };
  const maxTokens = integerField(fields, 'max_output_tokens', { least: 1 });
  const settings: ResponseSettings = {
    instructions: fields['instructions'] ?? null,
    max_output_tokens: maxTokens ?? null,
    metadata: fields['metadata'] ?? {},
    model,
    parallel_tool_calls: fields['parallel_tool_calls'] ?? true,
    previous_response_id: null,
    reasoning: { effort: effort ?? null, summary: null },
    store: false,
    temperature: temperature ?? null,
    text: fields['text'] ?? { format: { type: 'text' } },
    tool_choice: fields['tool_choice'] ?? 'auto',
    tools: fields['tools'] ?? [],
    top_p: top_p ?? null,
    truncation: 'disabled',
  };
  const format = responsesFormat(exchange.id, settings);
  exchange.dialect = format;
  await answerConversation(call, {
    model,
    messages,
    promptField: 'input',
    sampling: samplingFields({ temperature, top_p, response_format: chat.response_format }),
    tools: toolsFields(chat, () => service.answerForm.toolFormat),
    variables: effortVariables(effort, 'reasoning.effort'),
    continues: false,
    maxTokens,
    logprobs: undefined,
    stream: booleanField(fields, 'stream') ?? false,
    format,
  });
}
