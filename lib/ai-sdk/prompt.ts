/** A prompt of the AI SDK as a conversation. */
import { LoRAError } from '../errors';
import type { ChatMessage } from '../text/messages';
import type { CallOptions } from './types';

type Message = CallOptions['prompt'][number];
type Part = Exclude<Message['content'], string>[number];
type ToolOutput = Extract<Part, { type: 'tool-result' }>['output'];

const refuse = (what: string): never => {
  throw new LoRAError('ERR_UNSUPPORTED', `[createLoraNative] expected text but received ${what}`, {
    op: 'createLoraNative',
  });
};

/** What a tool gave, as text. */
function outputText(output: ToolOutput): string {
  switch (output.type) {
    case 'text':
    case 'error-text':
      return output.value;
    case 'json':
    case 'error-json':
      return JSON.stringify(output.value);
    case 'execution-denied':
      return output.reason ?? 'execution was denied';
    case 'content':
      return output.value
        .map((part) => (part.type === 'text' ? part.text : refuse(`a tool result of type ${part.type}`)))
        .join('');
  }
}

const fileOf = ({ mediaType }: { mediaType: string }): never => refuse(`a file of type ${mediaType}`);

/** The messages of an assistant's turn; results of tools that ran at a provider have no place here. */
function assistantMessage(content: readonly Part[]): ChatMessage {
  let text = '';
  let reasoning = '';
  const calls: object[] = [];
  for (const part of content)
    if (part.type === 'text') text += part.text;
    else if (part.type === 'reasoning') reasoning += part.text;
    else if (part.type === 'tool-call') {
      const { toolCallId: id, toolName: name, input } = part;
      calls.push({ id, type: 'function', function: { name, arguments: input } });
    } else refuse(part.type === 'file' ? `a file of type ${part.mediaType}` : `a part of type ${part.type}`);
  return {
    role: 'assistant',
    content: text === '' && calls.length > 0 ? null : text,
    ...(reasoning !== '' && { reasoning_content: reasoning }),
    ...(calls.length > 0 && { tool_calls: calls }),
  };
}

/** @throws ERR_UNSUPPORTED for files: the model reads text. */
export function conversationOf(prompt: readonly Message[]): ChatMessage[] {
  return prompt.flatMap((message): ChatMessage[] => {
    switch (message.role) {
      case 'system':
        return [{ role: 'system', content: message.content }];
      case 'user':
        return [
          {
            role: 'user',
            content: message.content
              .map((part) => (part.type === 'text' ? part.text : fileOf(part)))
              .join(''),
          },
        ];
      case 'assistant':
        return [assistantMessage(message.content)];
      case 'tool':
        return message.content.flatMap((part) =>
          // What a person allowed is no message: the result of the tool follows.
          part.type === 'tool-result'
            ? [{ role: 'tool', tool_call_id: part.toolCallId, content: outputText(part.output) }]
            : [],
        );
    }
  });
}
