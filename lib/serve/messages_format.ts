/** Answers of Anthropic's /v1/messages. */
import { PartStream, partsOf, type AnswerPart, type PartEvents } from './answer_parts';
import type { AnsweredText, Format, Usage } from './formats';

/** A block of content. Thoughts have no signature: there is nothing here that would check it. */
function blockOf(part: AnswerPart): object {
  if (part.kind === 'reasoning') return { type: 'thinking', thinking: part.text, signature: '' };
  if (part.kind === 'text') return { type: 'text', text: part.text };
  const { id, function: called } = part.call;
  return { type: 'tool_use', id, name: called.name, input: JSON.parse(called.arguments) as object };
}

function stopReason({ calls, finishReason, stopString }: AnsweredText): string {
  if (finishReason === 'length') return 'max_tokens';
  if (calls.length > 0) return 'tool_use';
  return stopString === undefined ? 'end_turn' : 'stop_sequence';
}

function usageOf({ prompt_tokens, completion_tokens, prompt_tokens_details }: Usage): object {
  const { cached_tokens } = prompt_tokens_details;
  return {
    input_tokens: prompt_tokens - cached_tokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cached_tokens,
    output_tokens: completion_tokens,
  };
}

const delta = (part: AnswerPart): object => {
  if (part.kind === 'reasoning') return { type: 'thinking_delta', thinking: part.text };
  if (part.kind === 'text') return { type: 'text_delta', text: part.text };
  return { type: 'input_json_delta', partial_json: part.call.function.arguments };
};

/** A block before its first piece. */
const empty = (part: AnswerPart): object =>
  part.kind === 'call' ? { ...blockOf(part), input: {} } : blockOf({ ...part, text: '' });

const blockEvents: PartEvents = {
  begin: (index, part) => [{ type: 'content_block_start', index, content_block: empty(part) }],
  more: (index, part) => [{ type: 'content_block_delta', index, delta: delta(part) }],
  end: (index) => [{ type: 'content_block_stop', index }],
};

export function messagesFormat(id: string, model: string): Format {
  const head = { id: id.replace('req_', 'msg_'), type: 'message', role: 'assistant', model };
  const parts = new PartStream(blockEvents);
  let last: AnsweredText | undefined;
  const stopOf = (text: AnsweredText): object => ({
    stop_reason: stopReason(text),
    stop_sequence: text.stopString ?? null,
  });
  return {
    named: true,
    opening: (_, promptTokens) => {
      const usage = { input_tokens: promptTokens, output_tokens: 0 };
      const message = { ...head, content: [], stop_reason: null, stop_sequence: null, usage };
      return [{ type: 'message_start', message }];
    },
    piece: (_, __, read) => parts.push(read),
    ending(_, text, rest) {
      last = text;
      return [...parts.push(rest), ...parts.end()];
    },
    closing: (usage) => [
      { type: 'message_delta', delta: stopOf(last!), usage: usageOf(usage) },
      { type: 'message_stop' },
    ],
    whole: ([text], usage) => ({
      ...head,
      content: partsOf(text!).map(blockOf),
      ...stopOf(text!),
      usage: usageOf(usage),
    }),
  };
}
