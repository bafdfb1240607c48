/** POST /v1/messages and /v1/messages/count_tokens, as Anthropic's API has them. */
import type { ChatMessage } from '../text/messages';
import { describe, isListOf, isRecord } from '../validate';
import { invalid, unsupported } from './api_error';
import { answerConversation, type ChatPlan } from './chat_answer';
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
import { messagesFormat } from './messages_format';
import { conversationIds } from './prompt_ids';
import { samplingFields } from './sampling_fields';
import type { Call } from './service';
import { toolsFields } from './tools_fields';

const refused = {
  container: 'this server runs no code',
  mcp_servers: 'this server calls no other ones',
  context_management: 'conversations are read as they are',
};

type Block = Readonly<Record<string, unknown>> & { readonly type: string };

/** A content as blocks; a text is one. */
function blocksOf(content: unknown, place: string): readonly Block[] {
  if (typeof content === 'string') return [{ type: 'text', text: content }];
  if (isListOf(content, (one): one is Block => isRecord(one) && typeof one['type'] === 'string'))
    return content;
  throw invalid(
    `expected the content of ${place} to be a text or a list of blocks but received ${describe(content)}`,
    'messages',
  );
}

function textOf(block: Block, place: string): string {
  const text = block[block.type === 'thinking' ? 'thinking' : 'text'];
  if (typeof text === 'string') return text;
  throw invalid(
    `expected a ${block.type} block of ${place} to have a text but received ${describe(text)}`,
    'messages',
  );
}

const refuseBlock = ({ type }: Block, place: string): never => {
  throw unsupported('messages', `${place} has a block of type ${describe(type)}, and the model reads text`);
};

/** The texts of blocks that may be nothing else. */
const textsOf = (content: unknown, place: string): string =>
  blocksOf(content, place)
    .map((block) => (block.type === 'text' ? textOf(block, place) : refuseBlock(block, place)))
    .join('');

/** What a user says: results of tools are messages of their own in templates, and come first. */
function userMessages(content: unknown, place: string): ChatMessage[] {
  const results: ChatMessage[] = [];
  const texts: string[] = [];
  for (const block of blocksOf(content, place))
    if (block.type === 'text') texts.push(textOf(block, place));
    else if (block.type === 'tool_result')
      results.push({
        role: 'tool',
        tool_call_id: needed(stringField(block, 'tool_use_id'), 'messages.content.tool_use_id'),
        content: textsOf(block['content'] ?? '', place),
      });
    else refuseBlock(block, place);
  return texts.length === 0 ? results : [...results, { role: 'user', content: texts.join('') }];
}

function assistantMessage(content: unknown, place: string): ChatMessage {
  const texts: string[] = [];
  const thoughts: string[] = [];
  const calls: object[] = [];
  for (const block of blocksOf(content, place))
    if (block.type === 'text') texts.push(textOf(block, place));
    else if (block.type === 'thinking') thoughts.push(textOf(block, place));
    else if (block.type === 'tool_use')
      calls.push({
        id: needed(stringField(block, 'id'), 'messages.content.id'),
        type: 'function',
        function: {
          name: needed(stringField(block, 'name'), 'messages.content.name'),
          arguments: needed(recordField(block, 'input'), 'messages.content.input'),
        },
      });
    else refuseBlock(block, place);
  return {
    role: 'assistant',
    content: texts.length === 0 && calls.length > 0 ? null : texts.join(''),
    ...(thoughts.length > 0 && { reasoning_content: thoughts.join('\n') }),
    ...(calls.length > 0 && { tool_calls: calls }),
  };
}

function conversationFields(fields: Fields, most: number): ChatMessage[] {
  const given = needed(fields['messages'] ?? undefined, 'messages');
  if (!isListOf(given, isRecord) || given.length === 0)
    throw invalid(
      `expected messages to be a list of { role, content } but received ${describe(given)}`,
      'messages',
    );
  if (given.length > most)
    throw invalid(`expected at most ${most} messages but received ${given.length}`, 'messages');
  const system = fields['system'] ?? undefined;
  const messages = given.flatMap(({ role, content }, i) => {
    const place = `message ${i + 1}`;
    if (role === 'user') return userMessages(content, place);
    if (role === 'assistant') return [assistantMessage(content, place)];
    throw invalid(
      `expected the role of ${place} to be 'user' or 'assistant' but received ${describe(role)}`,
      'messages',
    );
  });
  return system === undefined
    ? messages
    : [{ role: 'system', content: textsOf(system, 'system') }, ...messages];
}

/** Tools and their choice as OpenAI's API has them. */
function toolFields(fields: Fields): Fields {
  const tools = fields['tools'] ?? [];
  if (!isListOf(tools, isRecord))
    throw invalid(`expected tools to be a list but received ${describe(tools)}`, 'tools');
  const choice = recordField(fields, 'tool_choice');
  const type = choice && needed(stringField(choice, 'type'), 'tool_choice.type');
  return {
    tools: tools.map(({ type: kind = 'custom', name, description, input_schema }, i) => {
      if (kind !== 'custom')
        throw unsupported(
          'tools',
          `tool ${i + 1} is of type ${describe(kind)}, which this server does not have`,
        );
      return { type: 'function', function: { name, description, parameters: input_schema } };
    }),
    tool_choice: choice && choiceOf(type, choice),
    parallel_tool_calls: choice && booleanField(choice, 'disable_parallel_tool_use') ? false : undefined,
  };
}

function choiceOf(type: string | undefined, choice: Fields): unknown {
  switch (type) {
    case 'auto':
    case 'none':
      return type;
    case 'any':
      return 'required';
    case 'tool':
      return {
        type: 'function',
        function: { name: needed(stringField(choice, 'name'), 'tool_choice.name') },
      };
    default:
      throw invalid(
        `expected tool_choice.type to be 'auto', 'any', 'tool' or 'none' but received ${describe(type)}`,
        'tool_choice',
      );
  }
}

/** Whether the model thinks, as its template decides it. `budget_tokens` sets no limit: `max_tokens` is that of thoughts and answer together. */
function variablesFields(fields: Fields, config: Fields): Fields {
  const thinking = recordField(fields, 'thinking');
  const type = thinking && needed(stringField(thinking, 'type'), 'thinking.type');
  if (type !== undefined && !['enabled', 'disabled', 'adaptive'].includes(type))
    throw invalid(
      `expected thinking.type to be 'enabled', 'disabled' or 'adaptive' but received ${describe(type)}`,
      'thinking',
    );
  return {
    ...effortVariables(stringField(config, 'effort'), 'output_config.effort'),
    ...(type !== undefined && type !== 'adaptive' && { enable_thinking: type === 'enabled' }),
  };
}

type Conversation = Pick<ChatPlan, 'messages' | 'tools' | 'variables' | 'continues'>;

/** What counting tokens reads as well. */
function conversationOf({ service }: Call, fields: Fields, config: Fields): Conversation {
  refuseFields(fields, refused);
  const messages = conversationFields(fields, service.settings.maxMessages);
  return {
    messages,
    tools: toolsFields(toolFields(fields), () => service.answerForm.toolFormat),
    variables: variablesFields(fields, config),
    continues: messages.at(-1)!.role === 'assistant',
  };
}

export async function messages(call: Call, fields: Fields): Promise<void> {
  const { exchange, service } = call;
  const config = recordField(fields, 'output_config') ?? {};
  const conversation = conversationOf(call, fields, config);
  const model = stringField(fields, 'model') ?? service.adapters.base;
  const { temperature, top_k, top_p, stop_sequences: stop } = fields;
  const { schema, type } = recordField(config, 'format') ?? {};
  if (type !== undefined && type !== 'json_schema')
    throw invalid(
      `expected output_config.format.type to be 'json_schema' but received ${describe(type)}`,
      'output_config',
    );
  const response_format = type === undefined ? undefined : { type, json_schema: { schema } };
  await answerConversation(call, {
    ...conversation,
    model,
    promptField: 'messages',
    sampling: samplingFields({ temperature, top_k, top_p, stop, response_format }),
    maxTokens: needed(integerField(fields, 'max_tokens', { least: 1 }), 'max_tokens'),
    logprobs: undefined,
    stream: booleanField(fields, 'stream') ?? false,
    format: messagesFormat(exchange.id, model),
  });
}

export async function countTokens(call: Call, fields: Fields): Promise<void> {
  const { messages, tools, variables, continues } = conversationOf(
    call,
    fields,
    recordField(fields, 'output_config') ?? {},
  );
  const { signal } = call.exchange;
  const template = { tools: tools?.tools, variables, continues, signal };
  const ids = await conversationIds(call, messages, template);
  call.exchange.json({ input_tokens: ids.length });
}
