/** Answers of OpenAI's /v1/responses. */
import { PartStream, partsOf, type AnswerPart, type PartEvents } from './answer_parts';
import type { ApiError } from './api_error';
import type { Dialect } from './dialect';
import type { AnsweredText, Format, Usage } from './formats';

type Status = 'in_progress' | 'completed' | 'incomplete';

/** What the answer repeats of the request. */
export type ResponseSettings = Readonly<Record<string, unknown>>;

/** Whether a part is all of what the model began: calls are read only when they are whole. */
const statusOf = ({ kind }: AnswerPart, cut: boolean): Status =>
  cut && kind !== 'call' ? 'incomplete' : 'completed';

const isCut = ({ finishReason }: AnsweredText): boolean => finishReason === 'length';

/** An item of the output; `text` of a part that goes on is what there is of it. */
function itemOf(id: string, part: AnswerPart, status: Status): object {
  if (part.kind === 'call') {
    const { name, arguments: given } = part.call.function;
    return { id, type: 'function_call', status, call_id: part.call.id, name, arguments: given };
  }
  if (part.kind === 'reasoning')
    return { id, type: 'reasoning', summary: [], content: [contentOf(part)], status };
  return { id, type: 'message', status, role: 'assistant', content: [contentOf(part)] };
}

function contentOf({ kind, text }: Exclude<AnswerPart, { kind: 'call' }>): object {
  return kind === 'reasoning'
    ? { type: 'reasoning_text', text }
    : { type: 'output_text', text, annotations: [], logprobs: [] };
}

const prefixes = { reasoning: 'rs', text: 'msg', call: 'fc' } as const;

function usageOf({ prompt_tokens, completion_tokens, total_tokens, ...details }: Usage): object {
  const { reasoning_tokens = 0 } = details.completion_tokens_details ?? {};
  return {
    input_tokens: prompt_tokens,
    input_tokens_details: details.prompt_tokens_details,
    output_tokens: completion_tokens,
    output_tokens_details: { reasoning_tokens },
    total_tokens,
  };
}

/** An item before its first piece. */
function emptyItem(id: string, part: AnswerPart): object {
  const item = itemOf(id, part, 'in_progress');
  return part.kind === 'call' ? { ...item, arguments: '' } : { ...item, content: [] };
}

/** The events of the items of an output. */
function itemEvents(idOf: (index: number, part: AnswerPart) => string): PartEvents {
  const place = (output_index: number, part: AnswerPart): object => ({
    item_id: idOf(output_index, part),
    output_index,
    ...(part.kind !== 'call' && { content_index: 0 }),
  });
  const named = (part: AnswerPart): string =>
    part.kind === 'call'
      ? 'response.function_call_arguments'
      : part.kind === 'reasoning'
        ? 'response.reasoning_text'
        : 'response.output_text';
  const logprobs = ({ kind }: AnswerPart): object => (kind === 'text' ? { logprobs: [] } : {});
  return {
    begin: (output_index, part) => [
      { type: 'response.output_item.added', output_index, item: emptyItem(idOf(output_index, part), part) },
      ...(part.kind === 'call'
        ? []
        : [
            {
              type: 'response.content_part.added',
              ...place(output_index, part),
              part: contentOf({ ...part, text: '' }),
            },
          ]),
    ],
    more: (index, part) => [
      {
        type: `${named(part)}.delta`,
        ...place(index, part),
        delta: part.kind === 'call' ? part.call.function.arguments : part.text,
        ...logprobs(part),
      },
    ],
    end: (output_index, part, cut) => [
      {
        type: `${named(part)}.done`,
        ...place(output_index, part),
        ...(part.kind === 'call'
          ? { name: part.call.function.name, arguments: part.call.function.arguments }
          : { text: part.text }),
        ...logprobs(part),
      },
      ...(part.kind === 'call'
        ? []
        : [{ type: 'response.content_part.done', ...place(output_index, part), part: contentOf(part) }]),
      {
        type: 'response.output_item.done',
        output_index,
        item: itemOf(idOf(output_index, part), part, statusOf(part, cut)),
      },
    ],
  };
}

export function responsesFormat(requestId: string, settings: ResponseSettings): Format & Dialect {
  const id = requestId.replace('req_', 'resp_');
  const created_at = Math.floor(Date.now() / 1000);
  const idOf = (index: number, { kind }: AnswerPart): string =>
    requestId.replace('req_', `${prefixes[kind]}_`) + index;
  const parts = new PartStream(itemEvents(idOf));
  let last: AnsweredText | undefined;
  let sequence_number = 0;
  const numbered = (events: readonly object[]): readonly object[] =>
    events.map((event) => ({ ...event, sequence_number: sequence_number++ }));
  const response = (status: Status, output: readonly object[], usage: object | null): object => ({
    id,
    object: 'response',
    created_at,
    status,
    error: null,
    incomplete_details: status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
    ...settings,
    output,
    usage,
  });
  const ended = (text: AnsweredText, usage: Usage): object => {
    const cut = isCut(text);
    const output = partsOf(text).map((part, i, { length }) =>
      itemOf(idOf(i, part), part, statusOf(part, cut && i === length - 1)),
    );
    return response(cut ? 'incomplete' : 'completed', output, usageOf(usage));
  };
  return {
    named: true,
    opening() {
      const begun = response('in_progress', [], null);
      return numbered([
        { type: 'response.created', response: begun },
        { type: 'response.in_progress', response: begun },
      ]);
    },
    piece: (_, __, read) => numbered(parts.push(read)),
    ending(_, text, rest) {
      last = text;
      return numbered([...parts.push(rest), ...parts.end(isCut(text))]);
    },
    closing(usage) {
      const whole = ended(last!, usage) as { status: Status };
      return numbered([{ type: `response.${whole.status}`, response: whole }]);
    },
    whole: ([text], usage) => ended(text!, usage),
    body: (error: ApiError) => error.toJSON(),
    event: ({ code, message, param }: ApiError) => ({ type: 'error', code, message, param, sequence_number }),
  };
}
