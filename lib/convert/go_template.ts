/** Chat templates as Ollama has them: text/template of Go instead of Jinja. */
import { LoRAError } from '../errors';
import { thoughtMarks } from '../text/answers/thoughts';
import type { ChatMessage } from '../text/messages';
import type { Tokenizer } from '../text/tokenizer';

/** A template of Go with what it does otherwise, or why there is none. */
export type GoTemplate =
  | { readonly text: string; readonly notes: readonly string[] }
  | { readonly text: undefined; readonly notes: readonly [why: string] };

/** What stands before a content and behind it. */
type Around = readonly [before: string, after: string];

/** The shape of a template: contents of messages between constant texts. */
interface Shape {
  /** Before everything. */
  readonly head: string;
  readonly user: Around;
  readonly assistant: Around;
  /** Where a system message stands: in a turn of its own, which the head makes room for, or before the content of the first user. */
  readonly system?: { readonly place: 'turn' | 'user'; readonly around: Around } | undefined;
  /** Opens the answer. */
  readonly prompt: string;
}

/** Contents that no template holds. Spaces, lines and marks inside of them tell one that changes contents. */
const content = (name: string): string => `zq${name} "x"\n\n<y> & {{ z }}`;
const message = (role: string, name: string): ChatMessage => ({ role, content: content(name) });
const system = message('system', 'S');
const users = [message('user', 'U'), message('user', 'V'), message('user', 'W')] as const;
const answers = [message('assistant', 'A'), message('assistant', 'B')] as const;

class Refusal extends Error {}
const refuse = (why: string): never => {
  throw new Refusal(why);
};

/** Text that is the same whatever is said, before, between and behind the contents of messages. */
function constants(text: string, messages: readonly ChatMessage[]): string[] {
  const parts: string[] = [];
  let at = 0;
  for (const { content } of messages) {
    const said = content as string;
    const found = text.indexOf(said, at);
    if (found < 0 || text.includes(said, found + 1))
      refuse('the chat template does not write each message once, as it is');
    parts.push(text.slice(at, found));
    at = found + said.length;
  }
  return [...parts, text.slice(at)];
}

const without = (text: string, begin: string): string =>
  text.startsWith(begin)
    ? text.slice(begin.length)
    : refuse('turns of the chat template depend on what stands around them');

const withoutEnd = (text: string, end: string): string =>
  text.endsWith(end)
    ? text.slice(0, text.length - end.length)
    : refuse('turns of the chat template depend on what stands around them');

type Write = (messages: readonly ChatMessage[], prompt?: boolean) => string;

/** How the template writes conversations; `bos` is what Ollama puts before them by itself. */
function shapeOf(write: Write): Shape {
  const [first, second] = users;
  const [answer] = answers;
  const asked = [first, answer, second];
  const [open, between, again, end] = constants(write(asked), asked) as [string, string, string, string];
  const userEnd = constants(write(asked, false), asked)[3]!;
  const answerEnd = constants(write([first, answer], false), [first, answer])[2]!;
  const userBegin = without(again, answerEnd);
  const shape = {
    head: withoutEnd(open, userBegin),
    user: [userBegin, userEnd],
    assistant: [without(between, userEnd), answerEnd],
    prompt: without(end, userEnd),
  } as const;
  let written: string;
  try {
    written = write([system, first]);
  } catch (error) {
    if (error instanceof LoRAError) return shape; // it takes none
    throw error;
  }
  if (written === write([first])) return shape;
  const [before, after] = constants(written, [system, first]) as [string, string, string];
  const inside = shape.head + userBegin;
  if (after.endsWith(userBegin) && !(userBegin !== '' && before.startsWith(inside)))
    return { ...shape, system: { place: 'turn', around: [before, withoutEnd(after, userBegin)] } };
  return { ...shape, system: { place: 'user', around: [without(before, inside), after] } };
}

/** What the template of Go makes of messages. */
function written({ head, user, assistant, system, prompt }: Shape, messages: readonly ChatMessage[]): string {
  const isTold = messages[0]!.role === 'system';
  const parts = isTold && system?.place === 'turn' ? [] : [head];
  messages.forEach(({ role, content }, i) => {
    const said = content as string;
    if (role === 'assistant') parts.push(assistant[0], said, assistant[1]);
    else if (role === 'system') {
      if (system?.place === 'turn') parts.push(system.around[0], said, system.around[1]);
    } else {
      const told = system?.place === 'user' && isTold && i === 1;
      const more = told ? [system.around[0], messages[0]!.content as string, system.around[1]] : [];
      parts.push(user[0], ...more, said, user[1]);
    }
  });
  return [...parts, prompt].join('');
}

/** Holds the shape against other conversations than those that it was read from. */
function check(shape: Shape, write: Write): void {
  const [u, v, w] = users;
  const [a, b] = answers;
  const conversations = [[u], [u, a, v], [u, a, v, b, w]];
  const told = [
    [system, u],
    [system, u, a, v],
    [system, u, a, v, b, w],
  ];
  for (const messages of [...conversations, ...(shape.system ? told : [])])
    if (written(shape, messages) !== write(messages))
      refuse('the chat template writes turns differently in longer conversations');
  if (shape.system?.place !== 'turn') return;
  const late = [u, a, system, v];
  let text: string;
  try {
    text = write(late);
  } catch (error) {
    if (error instanceof LoRAError) return; // what it refuses has no right form
    throw error;
  }
  if (written(shape, late) !== text) refuse('the chat template writes a later system message differently');
}

/** Constant text, in which braces begin nothing. */
const plain = (text: string): string => text.replaceAll('{{', '{{ "{{" }}');

function goText({ head, user, assistant, system, prompt }: Shape): string {
  const around = (text: string, [before, after]: Around): string => plain(before) + text + plain(after);
  const turn = system?.place === 'turn' ? around('{{ .Content }}', system.around) : '';
  const own = system?.place === 'turn' && head !== '';
  const told =
    system?.place === 'user'
      ? `{{ if and (eq $i 1) (eq (index $.Messages 0).Role "system") }}${around('{{ (index $.Messages 0).Content }}', system.around)}{{ end }}`
      : '';
  return [
    own ? `{{ if ne (index .Messages 0).Role "system" }}${plain(head)}{{ end }}` : plain(head),
    '{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}',
    `{{ if eq .Role "system" }}${turn}`,
    `{{ else if eq .Role "user" }}${around(`${told}{{ .Content }}`, user)}`,
    // An answer that has begun goes on.
    `{{ else if eq .Role "assistant" }}${plain(assistant[0])}{{ .Content }}{{ if not $last }}${plain(assistant[1])}{{ end }}{{ end }}`,
    `{{ if and $last (ne .Role "assistant") }}${plain(prompt)}{{ end }}{{ end }}`,
  ].join('');
}

/**
 * The chat template of a model for Ollama. It is read from what the template writes of a few conversations, and held against others: texts between the contents of
 * messages that are the same for each role, with a system message in a turn of its own or in that of the first user. A template that does anything else has none.
 *
 * @param bos what Ollama puts before every text by itself
 */
export function goTemplate(tokenizer: Tokenizer, bos: string): GoTemplate {
  if (!tokenizer.hasChatTemplate) return { text: undefined, notes: ['the model has no chat template'] };
  const write: Write = (messages, addGenerationPrompt = true) => {
    const text = tokenizer.applyChatTemplate(messages, { addGenerationPrompt, tokenize: false });
    if (text.startsWith(bos)) return text.slice(bos.length);
    return refuse(`the chat template begins without ${bos}, which Ollama puts before every text`);
  };
  try {
    if (tokenizer.templateHas('strftime_now')) refuse('the chat template writes the date of the day');
    const shape = shapeOf(write);
    check(shape, write);
    const notes: string[] = [];
    if (!shape.system) notes.push('the chat template has no place for a system message, which is left out');
    const spaced = write([{ role: 'user', content: ' zq ' }]);
    if (!spaced.includes(' zq '))
      notes.push('white space around a message stays, which the chat template takes off');
    if (thoughtMarks.some(({ close }) => tokenizer.templateHas(close)))
      notes.push('thoughts stay in the text of an answer: nothing takes them out of earlier ones');
    return { text: goText(shape), notes };
  } catch (error) {
    if (error instanceof Refusal) return { text: undefined, notes: [error.message] };
    if (error instanceof LoRAError)
      return { text: undefined, notes: [`the chat template cannot be run: ${error.message}`] };
    throw error;
  }
}
