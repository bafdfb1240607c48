/** The messages of a conversation: what a program or a data set gives, in the forms in which templates take it. */
import { loraError } from '../errors';
import { check, describe, isListOf, isRecord, suggest } from '../validate';

/** One message of a conversation; further keys (tool_calls, …) reach the template as they are. */
export interface ChatMessage {
  /** Who speaks: 'system', 'user', 'assistant', or what the template knows. */
  role: string;
  /**
   * What is said: a text, or parts `{ type: 'text', text }`, whose texts are joined with nothing between them. It may be null or absent where the
   * assistant calls tools.
   */
  content?: unknown;
  [key: string]: unknown;
}

const op = 'chat_template';

const refuse = (what: string, received: string): never => {
  throw loraError(op, 'ERR_DATA', `expected ${what} but received ${received}`);
};

const callsTools = ({ role, tool_calls: calls, function_call: call }: ChatMessage): boolean =>
  role === 'assistant' && ((Array.isArray(calls) && calls.length > 0) || isRecord(call));

/** A part of a content that is no text. */
const partText = (part: unknown): string =>
  isRecord(part) && typeof part['type'] === 'string'
    ? `a part of type ${describe(part['type'])}`
    : describe(part);

/** The text that a message says; null where it calls tools and says nothing. */
function textOf(message: ChatMessage, place: string): string | null {
  const { content } = message;
  if (typeof content === 'string') return content;
  if (Array.isArray(content))
    return content
      .map((part: unknown): string =>
        isRecord(part) && part['type'] === 'text' && typeof part['text'] === 'string'
          ? part['text']
          : refuse(`the content of ${place} to have parts { type: 'text', text } only`, partText(part)),
      )
      .join('');
  if (content == null && callsTools(message)) return null;
  return refuse(`the content of ${place} to be a text or parts { type: 'text', text }`, describe(content));
}

/** From 10²¹ on JavaScript writes an exponent, and nobody takes the number for exact. */
const isInexact = (number: number): boolean =>
  Number.isInteger(number) && !Number.isSafeInteger(number) && Math.abs(number) < 1e21;

/** A whole number in a value, whose last digits may be others than those that were written, as of an id of 64 bits. */
function inexactNumber(value: unknown): number | undefined {
  const open: unknown[] = [value];
  while (open.length > 0) {
    const next = open.pop();
    if (typeof next === 'number' && isInexact(next)) return next;
    if (typeof next === 'object' && next !== null)
      for (const child of Object.values(next) as unknown[]) open.push(child);
  }
  return undefined;
}

/** The arguments of a call, which OpenAI's data write as JSON text, as the object that templates go through. */
function objectOf(given: string, place: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = given.trim() === '' ? {} : JSON.parse(given);
  } catch {
    // What is no JSON is no object either.
  }
  return isRecord(value)
    ? value
    : refuse(`the arguments of a call in ${place} to be an object or its JSON text`, describe(given));
}

/** A call, or its `function`, with the arguments as an object; calls may hold either. */
function parsedCall(call: unknown, place: string): unknown {
  if (!isRecord(call)) return call;
  const { function: called, arguments: given } = call;
  const object = typeof given === 'string' ? objectOf(given, place) : given;
  const inexact = inexactNumber(object);
  if (inexact !== undefined)
    refuse(
      `whole numbers in the arguments of a call in ${place} to be at most 2^53 - 1, up to which JavaScript keeps their digits,`,
      `about ${inexact}: write it as a text`,
    );
  return {
    ...call,
    ...(called !== undefined && { function: parsedCall(called, place) }),
    ...(object !== undefined && { arguments: object }),
  };
}

function withObjects(message: ChatMessage, place: string): ChatMessage {
  const { tool_calls: calls, function_call: call } = message;
  return {
    ...message,
    ...(Array.isArray(calls) && { tool_calls: calls.map((one: unknown) => parsedCall(one, place)) }),
    ...(call !== undefined && { function_call: parsedCall(call, place) }),
  };
}

const withTexts = (messages: readonly ChatMessage[]): ChatMessage[] =>
  messages.map((message) => (message.content === null ? { ...message, content: '' } : message));

/**
 * The forms in which templates take a conversation: the first that a template can be run with is the right one. Parts of contents are joined in all
 * of them. Most templates write the arguments of a call as JSON, others take them as text that is JSON already; some ask whether the content of a
 * call is none, others read it as a text.
 *
 * @throws ERR_ARGUMENT for what are no messages, ERR_DATA for a message that cannot be written.
 */
export function messageForms(given: unknown): ChatMessage[][] {
  check(
    isListOf(given, (m) => typeof (m as ChatMessage | null | undefined)?.role === 'string'),
    op,
    `expected messages to be an array of { role, content } but received ${describe(given)}`,
  );
  const messages = given as ChatMessage[];
  const place = (i: number): string => `message ${i + 1} (${describe(messages[i]!.role)})`;
  const texts = messages.map((message, i) => ({ ...message, content: textOf(message, place(i)) }));
  if (!texts.some(callsTools)) return [texts];
  const forms = [texts.map((message, i) => withObjects(message, place(i))), texts];
  const silent = texts.some(({ content }) => content === null);
  return silent ? [...forms, ...forms.map(withTexts)] : forms;
}

/** The roles that every template may be given. */
const commonRoles = ['system', 'developer', 'user', 'assistant', 'tool'];

/**
 * Most templates write a role that they do not know as they are given it, which the model has never seen.
 * @throws ERR_DATA for a role that is neither common nor one of the template's own.
 */
export function checkRoles(messages: readonly ChatMessage[], own: ReadonlySet<string>): void {
  for (const [i, { role }] of messages.entries()) {
    if (commonRoles.includes(role) || own.has(role)) continue;
    const known = [...new Set([...commonRoles, ...own])];
    const near = suggest(role, known);
    const help = near === undefined ? '' : `; did you mean '${near}'?`;
    refuse(`the role of message ${i + 1} to be one of ${known.join(', ')}`, `${describe(role)}${help}`);
  }
}

const nameOf = (call: unknown): unknown =>
  isRecord(call) ? (isRecord(call['function']) ? call['function']['name'] : call['name']) : undefined;

/** The key of a message that holds its calls of tools; undefined where it calls none. */
export const callsKey = (message: ChatMessage): 'tool_calls' | 'function_call' | undefined =>
  !callsTools(message) ? undefined : isRecord(message['function_call']) ? 'function_call' : 'tool_calls';

/**
 * The first message of which a text does not name all the tools that it calls; undefined where there is none. `some`: it names one of them, so that
 * whoever wrote it writes names.
 */
export function unnamedCalls(
  messages: readonly ChatMessage[],
  text: string,
): { index: number; some: boolean } | undefined {
  for (const [index, message] of messages.entries()) {
    const key = callsKey(message);
    const calls: unknown[] = key === undefined ? [] : [message[key]].flat();
    const names = calls.map(nameOf).filter((name) => typeof name === 'string');
    const named = names.filter((name) => text.includes(name)).length;
    if (named < names.length) return { index, some: named > 0 };
  }
  return undefined;
}

/** Whether a value of JSON holds more values than `most`, itself among them. Takes no stack. */
export function holdsMore(value: unknown, most: number): boolean {
  const open: unknown[] = [value];
  for (let count = 0; open.length > 0; count++) {
    if (count + open.length > most) return true;
    const next = open.pop();
    if (typeof next !== 'object' || next === null) continue;
    const children: unknown[] = Array.isArray(next) ? next : Object.values(next);
    if (children.length > most) return true;
    for (const child of children) open.push(child);
  }
  return false;
}
