/**
 * What the assistant says in a conversation that a chat template has written: marked by the template's own `{% generation %}` blocks, or else
 * found by writing the conversation up to each answer.
 */
import { LoRAError, loraError } from '../errors';
import type { Spellings } from './spellings';

/** A conversation as its chat template writes it. */
export interface Turns {
  /** The whole. */
  readonly text: string;
  /** The pieces of it that the assistant says, with what ends them, as [begin, end) of its characters. */
  readonly spans: readonly (readonly [begin: number, end: number])[];
  /** Places of characters with which a message spells a special token: pass them to `encode()`, so that they stay text. Absent: none. */
  readonly ordinary?: readonly number[];
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

/**
 * The spans up to the token that ends them, since what a template writes behind it, such as a line break, is never generated. It is the end-of-text
 * token, or a special token with nothing but white space behind it. A span without one stays as it is.
 */
export function endedSpans(
  { text, spans }: Turns,
  eosToken: string | undefined,
  spellings: Spellings,
): Turns['spans'] {
  return spans.map(([begin, end]): [number, number] => {
    const said = text.slice(begin, end);
    const last = eosToken === undefined || eosToken === '' ? -1 : said.lastIndexOf(eosToken);
    if (last >= 0) return [begin, begin + last + eosToken!.length];
    const trimmed = said.trimEnd();
    return [begin, spellings.endsIn(trimmed) ? begin + trimmed.length : end];
  });
}

/** Writes some of the messages, by their places, and with `prompt` the words that open the assistant's turn. */
export type WriteTurns = (messages: readonly number[], prompt: boolean) => Generator<void, string, void>;

const ambiguous = (at: number, why: string): LoRAError =>
  loraError(
    'chat_template',
    'ERR_DATA',
    `the chat template does not tell which tokens message ${at + 1} (assistant) adds: ${why}; train on all tokens, or give a chatTemplate with {% generation %} around what the assistant says`,
  );

/** Answers after which others stand for what is before. */
const answersOfRun = 8;

/** What is before the answers that are looked for. */
interface Before {
  /** Messages that stand for all before `from`. */
  readonly messages: readonly number[];
  readonly from: number;
  /** How the template writes them, and where the text has what they stand for. */
  readonly written: string;
  readonly end: number;
}

const nothing: Before = { messages: [], from: 0, written: '', end: 0 };

const places = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

/**
 * The turns of a conversation by prefixes: an answer is what follows its prompt in the text up to and with the answer. Yields after each
 * writing.
 *
 * Writing all that is before each answer would be quadratic. After some answers the first exchange and the last two stand for what is
 * before: where the text only grows with each turn, what is written behind them is what the text goes on with. Where it is not, all
 * that is before is written.
 */
export function* turnsByPrefix(
  roles: readonly string[],
  text: string,
  write: WriteTurns,
): Generator<void, Turns, void> {
  const spans: [number, number][] = [];
  const answers = places(0, roles.length).filter((i) => roles[i] === 'assistant');
  let before = nothing;
  let grows = true;
  for (const [n, i] of answers.entries()) {
    let span: [number, number] | LoRAError | undefined;
    if (before !== nothing) {
      span = yield* spanOf(i, before, text, write);
      if (span instanceof LoRAError) [before, grows] = [nothing, false];
    }
    if (before === nothing) span = yield* spanOf(i, before, text, write);
    if (span instanceof LoRAError) throw span;
    spans.push(span!);
    if (!grows || n % answersOfRun !== answersOfRun - 1) continue;
    const messages = [...places(0, answers[0]! + 1), ...places(answers[n - 2]! + 1, i + 1)];
    before = { messages, from: i + 1, written: yield* write(messages, false), end: span![1] };
    yield;
  }
  return { text, spans };
}

/** Where the text has an answer; why that is not told. */
function* spanOf(
  at: number,
  { messages, from, written, end }: Before,
  text: string,
  write: WriteTurns,
): Generator<void, [number, number] | LoRAError, void> {
  const until = (next: number): number[] => [...messages, ...places(from, next)];
  try {
    const prompt = yield* write(until(at), true);
    yield;
    const answered = yield* write(until(at + 1), false);
    yield;
    if (!answered.startsWith(prompt))
      return ambiguous(at, 'the conversation with it does not begin with its prompt');
    if (!prompt.startsWith(written) || !text.startsWith(answered.slice(written.length), end))
      return ambiguous(at, 'later messages change how it is written');
    const shift = end - written.length;
    return [prompt.length + shift, answered.length + shift];
  } catch (error) {
    // A template may refuse what stands for the conversation.
    if (error instanceof LoRAError) return error;
    throw error;
  }
}
