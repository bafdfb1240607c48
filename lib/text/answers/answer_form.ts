/** The parts of a chat model's answers: thoughts, words and calls of tools, in the formats that its chat template writes. */
import type { Tokenizer } from '../tokenizer';
import { callParser, type CallParser } from './call_parser';
import { opensThought, ThoughtSplitter, thoughtMarks, type ThoughtMarks } from './thoughts';
import type { DeclaredTools, ToolCall } from './tool_calls';
import { toolFormats, type ToolFormat } from './tool_formats';

/** What became certain with a token. */
export interface AnswerPiece {
  readonly reasoning: string;
  readonly content: string;
  readonly calls: readonly ToolCall[];
}

/** What an answer is read with. */
export interface AnswerOptions {
  /** The tools that the model may call. Undefined: none, and what it writes of calls is text. */
  readonly tools?: DeclaredTools | undefined;
  /** Most calls that are given. */
  readonly maxCalls?: number | undefined;
  /** A grammar holds the answer: to one call, or to the schema of the request. The model cannot think then. */
  readonly held?: 'call' | 'schema' | undefined;
}

/** A prompt with what its answer begins with, and what reads each answer to it. */
export interface OpenedAnswer {
  readonly opening: string;
  readonly reader: () => AnswerReader;
}

/** How a model writes what is not plain text in its answers. */
export class AnswerForm {
  /** The format of its calls; undefined where it has none, or one that is not known here. */
  readonly toolFormat: ToolFormat | undefined;
  /** What stands around its thoughts; undefined where its template knows none. */
  readonly thought: ThoughtMarks | undefined;
  readonly #thoughtSpellings: Spellings;
  readonly #callSpellings: Spellings;

  private constructor(tokenizer: Tokenizer) {
    this.toolFormat = toolFormatOf(tokenizer);
    this.thought = thoughtMarks.find(({ close }) => tokenizer.templateHas(close));
    const { open = '', close = '', marks = [] } = this.toolFormat ?? {};
    this.#thoughtSpellings = spellingsOf(tokenizer, this.thought?.tokens ?? []);
    this.#callSpellings = spellingsOf(tokenizer, [open, close, ...marks]);
  }

  /** Of the model with this tokenizer. */
  static of(tokenizer: Tokenizer): AnswerForm {
    let form = forms.get(tokenizer);
    if (!form) forms.set(tokenizer, (form = new AnswerForm(tokenizer)));
    return form;
  }

  /** Opens an answer to a prompt, which ends where the assistant speaks. */
  open(prompt: string, options: AnswerOptions = {}): OpenedAnswer {
    const { held } = options;
    const { thought, toolFormat } = this;
    const thinking = thought !== undefined && opensThought(prompt, thought);
    // A grammar holds the text from its first token on: thoughts that the prompt opens end before it.
    const closing = thinking && held ? `\n${thought.close}\n\n` : '';
    const calling = held === 'call' ? (toolFormat?.forced.opening ?? '') : '';
    const splits = thought !== undefined && !held;
    const calls = held !== 'schema' && options.tools !== undefined;
    const spellings = new Map([
      ...(splits ? this.#thoughtSpellings : []),
      ...(calls && !held ? this.#callSpellings : []),
    ]);
    return {
      opening: closing + calling,
      reader: () =>
        new AnswerReader(spellings, splits ? new ThoughtSplitter(thought, thinking) : undefined, {
          parser: toolFormat && calls ? callParser(toolFormat, options.tools, held === 'call') : undefined,
          maxCalls: options.maxCalls ?? Infinity,
        }),
    };
  }
}

/** The spelling of special tokens that mean something, by their ids: they have no text in answers. */
type Spellings = ReadonlyMap<number, string>;

function spellingsOf(tokenizer: Tokenizer, marks: readonly string[]): Spellings {
  const spellings = new Map<number, string>();
  for (const mark of marks) {
    const id = tokenizer.tokenId(mark);
    if (id !== undefined && tokenizer.decode([id], { skipSpecialTokens: true }) === '')
      spellings.set(id, mark);
  }
  return spellings;
}

const forms = new WeakMap<Tokenizer, AnswerForm>();

/**
 * The format in which the chat template of a model writes calls, which is the one that the model was trained to write. A conversation with a
 * call is written to see it.
 */
function toolFormatOf(tokenizer: Tokenizer): ToolFormat | undefined {
  const parameters = { type: 'object', properties: { a: { type: 'integer' } } };
  const tools = [{ type: 'function', function: { name: 'probe', description: 'a probe', parameters } }];
  // Mistral's templates want ids of nine characters.
  const called = { type: 'function', id: 'abcdefghi', function: { name: 'probe', arguments: { a: 1 } } };
  const messages = [
    { role: 'user', content: 'a' },
    { role: 'assistant', content: '', tool_calls: [called] },
  ];
  let text: string;
  try {
    text = tokenizer.applyChatTemplate(messages, { tools, tokenize: false });
  } catch {
    return undefined; // a template that knows no tools, or no such messages
  }
  return toolFormats.find(({ written }) => written.test(text));
}

interface Calls {
  readonly parser: CallParser | undefined;
  readonly maxCalls: number;
}

/** Reads one answer as its tokens come. */
export class AnswerReader {
  readonly #spellings: Spellings;
  readonly #splitter: ThoughtSplitter | undefined;
  readonly #calls: Calls;
  /** How many calls were given. */
  callCount = 0;
  /** How many tokens thoughts took. */
  reasoningTokens = 0;

  constructor(spellings: Spellings, splitter: ThoughtSplitter | undefined, calls: Calls) {
    this.#spellings = spellings;
    this.#splitter = splitter;
    this.#calls = calls;
  }

  push({ id, text }: { readonly id: number; readonly text: string }): AnswerPiece {
    const spelled = text + (this.#spellings.get(id) ?? '');
    const wasThinking = this.#splitter?.thinking ?? false;
    const { reasoning, answer } = this.#splitter?.push(spelled) ?? { reasoning: '', answer: spelled };
    if (wasThinking || this.#splitter?.thinking) this.reasoningTokens++;
    return this.#piece(reasoning, this.#calls.parser?.push(answer) ?? { content: answer, calls: [] });
  }

  /** What was held back, when no more tokens will come. */
  flush(): AnswerPiece {
    const { reasoning, answer } = this.#splitter?.flush() ?? { reasoning: '', answer: '' };
    const { parser } = this.#calls;
    if (!parser) return this.#piece(reasoning, { content: answer, calls: [] });
    const last = parser.push(answer);
    const { content, calls } = parser.flush();
    return this.#piece(reasoning, { content: last.content + content, calls: [...last.calls, ...calls] });
  }

  #piece(reasoning: string, { content, calls }: Omit<AnswerPiece, 'reasoning'>): AnswerPiece {
    const kept = calls.slice(0, this.#calls.maxCalls - this.callCount);
    this.callCount += kept.length;
    return { reasoning, content, calls: kept };
  }
}
