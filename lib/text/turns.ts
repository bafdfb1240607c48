/**
 * What the assistant says in a conversation that a chat template has written: marked by the template's own `{% generation %}` blocks, or else
 * found by writing the conversation up to each answer.
 */
import { LoRAError } from '../errors';

/** A conversation as its chat template writes it. */
export interface Turns {
  /** The whole. */
  readonly text: string;
  /** The pieces of it that the assistant says, with what ends them, as [begin, end) of its characters. */
  readonly spans: readonly (readonly [begin: number, end: number])[];
}

/** As the template engine reads these tags, which it takes out: with the white space that they and the options of Hugging Face strip. */
const tag = /(^[ \t]*)?\{%(-?)\s*(end)?generation\s*(-?)%\}(\n?)/gm;

/**
 * A template that writes the characters `open` and `close` where a generation block begins and ends; undefined where it has none.
 */
export function markedTemplate(source: string, open: string, close: string): string | undefined {
  let found = false;
  const marked = source.replace(
    tag,
    (_, _indent: string | undefined, left: string, end: string | undefined, right: string) => {
      found = true;
      return `{{${left} '${end === undefined ? open : close}' ${right}}}`;
    },
  );
  return found ? marked : undefined;
}

/** The private use area. */
const [firstMark, lastMark] = [0xe000, 0xf8ff];

/** Two characters of the private use area that a text does not hold. */
export function unusedMarks(text: string): [open: string, close: string] {
  const used = new Uint8Array(lastMark - firstMark + 1);
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code >= firstMark && code <= lastMark) used[code - firstMark] = 1;
  }
  const free: string[] = [];
  for (let i = 0; i < used.length && free.length < 2; i++)
    if (used[i] === 0) free.push(String.fromCharCode(firstMark + i));
  const [open, close] = free;
  if (open === undefined || close === undefined)
    throw new LoRAError(
      'ERR_DATA',
      '[chat_template] expected a conversation that leaves two private use characters free',
      {
        op: 'chat_template',
      },
    );
  return [open, close];
}

/** The turns of a text with marks. */
export function readMarks(marked: string, open: string, close: string): Turns {
  const spans: [number, number][] = [];
  let text = '';
  let begin: number | undefined;
  for (const piece of marked.split(new RegExp(`([${open}${close}])`))) {
    if (piece === open) begin = text.length;
    else if (piece === close && begin !== undefined) {
      spans.push([begin, text.length]);
      begin = undefined;
    } else if (piece !== close) text += piece;
  }
  return { text, spans };
}

/** Writes the messages before the `count`-th, and with `prompt` the words that open the assistant's turn. */
export type WriteTurns = (count: number, prompt: boolean) => string;

const ambiguous = (at: number, why: string): LoRAError =>
  new LoRAError(
    'ERR_DATA',
    `[chat_template] the chat template does not tell which tokens message ${at + 1} (assistant) adds: ${why}; train on all tokens, or give a chatTemplate with {% generation %} around what the assistant says`,
    { op: 'chat_template' },
  );

/** The turns of a conversation by prefixes: an answer is what follows its prompt in the text up to and with the answer. */
export function turnsByPrefix(roles: readonly string[], write: WriteTurns): Turns {
  const text = write(roles.length, false);
  const spans: [number, number][] = [];
  for (const [i, role] of roles.entries()) {
    if (role !== 'assistant') continue;
    const prompt = write(i, true);
    const answered = i + 1 === roles.length ? text : write(i + 1, false);
    if (!answered.startsWith(prompt))
      throw ambiguous(i, 'the conversation with it does not begin with its prompt');
    if (!text.startsWith(answered)) throw ambiguous(i, 'later messages change how it is written');
    spans.push([prompt.length, answered.length]);
  }
  return { text, spans };
}
