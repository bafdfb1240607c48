/** Rows of data sets, and the tokens that they become. A data set holds rows of one kind. */
import { LoRAError } from '../errors';
import type { ChatMessage } from '../text/messages';
import type { Turns } from '../text/turns';
import { placesWithin } from '../text/marks';
import { describe, isListOf, isRecord } from '../validate';
import { checkExample, ignoredLabel, type Example } from './example';
import { countedAnswers, wrongWeight } from './message_weights';
import { tokensBefore } from './token_spans';

/** What {@link TextEncoder} is told with a text. */
export interface EncodeTextOptions {
  /** Add what the tokenizer puts around a text. */
  addSpecialTokens?: boolean;
  /** The `ordinary` of a conversation, where it has some: places of characters that no special token may hold. */
  ordinary?: readonly number[] | undefined;
}

/** What {@link TextEncoder} is told with a conversation. */
export interface EncodeTurnsOptions {
  /** Jinja text in the place of the model's own template. */
  template?: string | undefined;
  /** Descriptions of tools. */
  tools?: readonly unknown[] | undefined;
  /** Special tokens that messages spell become these tokens; given where they do. */
  allowSpecialTokens?: boolean | undefined;
}

/** What a data set needs of a tokenizer: that of a model has it. */
export interface TextEncoder {
  /** The ids of a text, as {@link Tokenizer.encode} gives them. */
  encode(text: string, options?: EncodeTextOptions): number[];
  /** The same in slices, between which timers and I/O run; taken where there is one. */
  encodeAsync?(
    text: string,
    options?: EncodeTextOptions & { signal?: AbortSignal | undefined },
  ): Promise<number[]>;
  /** Appended to each text, so that the model learns where to stop. */
  readonly eosTokenId?: number | null;
  /** Whether the model has a chat template; {@link Tokenizer} says so. */
  readonly hasChatTemplate?: boolean;
  /** The tokens of a conversation that the assistant is to continue: {@link Tokenizer.applyChatTemplate}. */
  applyChatTemplate?(
    messages: readonly ChatMessage[],
    options: { addGenerationPrompt: true; tools?: readonly unknown[] },
  ): number[];
  /** A conversation as text, and what the assistant says in it: {@link Tokenizer.turns}. */
  turns?(messages: readonly ChatMessage[], options?: EncodeTurnsOptions): Turns;
  /** The same in slices; taken where there is one: {@link Tokenizer.turnsAsync}. */
  turnsAsync?(
    messages: readonly ChatMessage[],
    options?: EncodeTurnsOptions & { signal?: AbortSignal | undefined },
  ): Promise<Turns>;
}

export interface RowOptions {
  readonly tokenizer: TextEncoder | undefined;
  readonly trainOn: 'all' | 'completion' | undefined;
  /** Jinja text in the place of the model's template; null: none. */
  readonly chatTemplate: string | null | undefined;
  /** The names under which rows have what a kind needs. */
  readonly columns?: Readonly<Record<string, string>> | undefined;
  /** Special tokens that messages spell become these tokens. */
  readonly allowSpecialTokens?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

type Tokens = Required<Example>;
export type Row = Readonly<Record<string, unknown>>;

/** What is wrong with a row; whoever knows its place says where. */
export class RowError extends Error {
  constructor(
    message: string,
    readonly code: 'ERR_DATA' | 'ERR_UNSUPPORTED' | 'ERR_ARGUMENT' = 'ERR_DATA',
  ) {
    super(message);
  }
}

export const text = (row: Row, key: string): string => {
  const value = row[key];
  if (typeof value !== 'string')
    throw new RowError(`expected ${JSON.stringify(key)} to be a string but received ${describe(value)}`);
  return value;
};

/**
 * The descriptions of tools that a row may have beside its messages: a list, or the JSON text of one, as tables hold it whose columns have one
 * type; null where a row has none.
 */
export function toolsOf(row: Row): readonly unknown[] | undefined {
  const given = row['tools'] ?? undefined;
  if (given === undefined) return undefined;
  let tools: unknown = given;
  if (typeof given === 'string')
    try {
      tools = JSON.parse(given) as unknown;
    } catch {
      // What is no JSON is no list either.
    }
  if (!isListOf(tools, isRecord))
    throw new RowError(
      `expected "tools" to be a list of descriptions, or its JSON text, but received ${describe(given)}`,
    );
  return tools;
}

export const isMessages = (value: unknown): value is ChatMessage[] =>
  isListOf(value, (message) => typeof (message as ChatMessage | null | undefined)?.role === 'string') &&
  value.length > 0;

/** A side of { prompt, completion }: a text, or messages. */
export function side(row: Row, key: string, role: string): ChatMessage[] {
  const value = row[key];
  if (isMessages(value)) return value;
  if (typeof value === 'string') return [{ role, content: value }];
  throw new RowError(
    `expected ${JSON.stringify(key)} to be a string or messages of { role, content } but received ${describe(value)}`,
  );
}

/** Turns rows of one kind into tokens. */
export abstract class RowKind<Out = Tokens> {
  constructor(protected readonly options: RowOptions) {}

  abstract read(row: Row): Promise<Out>;

  protected get tokenizer(): TextEncoder {
    if (this.options.tokenizer) return this.options.tokenizer;
    throw new RowError(
      'expected a tokenizer, since it holds text: pass { tokenizer: model.tokenizer }',
      'ERR_ARGUMENT',
    );
  }

  protected async encode(
    words: string,
    addSpecialTokens = true,
    ordinary: readonly number[] = [],
  ): Promise<number[]> {
    const { tokenizer } = this;
    const { signal } = this.options;
    const how = { addSpecialTokens, ...(ordinary.length > 0 && { ordinary }) };
    const ids = tokenizer.encodeAsync
      ? await tokenizer.encodeAsync(words, { ...how, signal })
      : tokenizer.encode(words, how);
    return [...ids];
  }

  protected withEnd(ids: number[]): number[] {
    const { eosTokenId } = this.tokenizer;
    if (typeof eosTokenId === 'number' && ids.at(-1) !== eosTokenId) ids.push(eosTokenId);
    return ids;
  }

  /**
   * Tokens of a text of which the spans alone count; `leftOut`: of which all others do. A token that begins before a span and ends within it
   * belongs to the span.
   */
  protected async spans(
    ids: readonly number[],
    words: string,
    spans: Turns['spans'],
    {
      addSpecialTokens,
      leftOut = false,
      ordinary = [],
    }: { addSpecialTokens: boolean; leftOut?: boolean; ordinary?: readonly number[] | undefined },
  ): Promise<number[]> {
    const labels = leftOut ? [...ids] : ids.map(() => ignoredLabel);
    const characters = [...new Set(spans.flat())].sort((a, b) => a - b);
    const encode = (from: number, to: number): Promise<number[]> =>
      this.encode(words.slice(from, to), addSpecialTokens, placesWithin(ordinary, from, to));
    const counts = await tokensBefore(characters, words, ids, encode, this.options.signal);
    if (counts === undefined)
      throw new RowError(
        `expected the tokenizer to tell the tokens of ${spans.length} answers apart by the text around them: train on all tokens`,
      );
    const before = new Map(characters.map((character, i) => [character, counts[i]!]));
    for (const [begin, end] of spans)
      for (let i = before.get(begin)!; i < before.get(end)!; i++)
        labels[i] = leftOut ? ignoredLabel : ids[i]!;
    return labels;
  }

  protected get trainsAll(): boolean {
    return this.options.trainOn === 'all';
  }

  /** A conversation through the chat template. */
  protected async conversation(
    messages: readonly ChatMessage[],
    tools?: readonly unknown[],
  ): Promise<Tokens> {
    const { tokenizer } = this;
    if (!tokenizer.turns)
      throw new RowError(
        'expected the tokenizer of a model, which has turns(messages), for conversations',
        'ERR_ARGUMENT',
      );
    const wrong = wrongWeight(messages, this.trainsAll);
    if (wrong !== undefined) throw new RowError(wrong);
    const { chatTemplate, allowSpecialTokens, signal } = this.options;
    const how = {
      template: chatTemplate ?? undefined,
      tools,
      ...(allowSpecialTokens && { allowSpecialTokens }),
    };
    const turns = tokenizer.turnsAsync
      ? await tokenizer.turnsAsync(messages, { ...how, signal })
      : tokenizer.turns(messages, how);
    const { text: words, ordinary } = turns;
    const inputIds = await this.encode(words, false, ordinary);
    const spans = this.#weighted(messages, turns.spans);
    const masked = { addSpecialTokens: false, leftOut: this.trainsAll, ordinary };
    return { inputIds, labels: await this.spans(inputIds, words, spans, masked) };
  }

  /** The spans of the answers that count; where all tokens do, of those that do not. */
  #weighted(messages: readonly ChatMessage[], spans: Turns['spans']): Turns['spans'] {
    const counted = countedAnswers(messages);
    if (counted.every(Boolean)) return this.trainsAll ? [] : spans;
    if (spans.length !== counted.length)
      throw new RowError(
        `expected the chat template to mark each of ${counted.length} messages of the assistant, some of which do not count, but received ${spans.length} marks`,
      );
    return spans.filter((_, i) => counted[i] !== this.trainsAll);
  }

  protected get hasTemplate(): boolean {
    const { chatTemplate, tokenizer } = this.options;
    if (chatTemplate === null) return false;
    return chatTemplate !== undefined || tokenizer?.hasChatTemplate === true;
  }

  /** prompt and completion written one after the other, and the end. */
  protected async plain(prompt: string, completion: string): Promise<Tokens> {
    const words = prompt + completion;
    const inputIds = await this.encode(words);
    const labels = this.trainsAll
      ? inputIds
      : await this.spans(inputIds, words, [[prompt.length, words.length]], { addSpecialTokens: true });
    const whole = this.withEnd(inputIds.slice());
    return { inputIds: whole, labels: [...labels, ...whole.slice(inputIds.length)] };
  }
}

class Ids extends RowKind {
  read(row: Row): Promise<Tokens> {
    const { inputIds, labels } = checkExample('loadDataset', row, 'row');
    return Promise.resolve({ inputIds: [...inputIds], labels: [...labels] });
  }
}

class Text extends RowKind {
  async read(row: Row): Promise<Tokens> {
    const ids = this.withEnd(await this.encode(text(row, 'text')));
    return { inputIds: ids, labels: ids };
  }
}

class Messages extends RowKind {
  async read(row: Row): Promise<Tokens> {
    const { messages } = row;
    if (!isMessages(messages))
      throw new RowError(
        `expected "messages" to be messages of { role, content } but received ${describe(messages)}`,
      );
    if (!this.hasTemplate)
      throw new RowError(
        'conversations need a chat template, and the model has none: pass chatTemplate',
        'ERR_UNSUPPORTED',
      );
    const turns = await this.conversation(messages, toolsOf(row));
    if (!this.trainsAll && !messages.some(({ role }) => role === 'assistant'))
      throw new RowError('expected a message of the assistant, of which the tokens count');
    return turns;
  }
}

/** What the parts of ShareGPT's conversations are said by. */
const speakers: Readonly<Record<string, string>> = {
  system: 'system',
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  chatgpt: 'assistant',
  model: 'assistant',
  assistant: 'assistant',
  tool: 'tool',
  observation: 'tool',
};

/** A message of ShareGPT's, { from, value }, or one of { role, content }. */
function sharedMessage(given: unknown, i: number): ChatMessage {
  const { from, value, ...rest } = isRecord(given) ? given : {};
  if (from === undefined && typeof rest['role'] === 'string') return rest as ChatMessage;
  const { weight, train } = rest;
  const counts = { ...(weight != null && { weight }), ...(train != null && { train }) };
  if (typeof from !== 'string' || typeof value !== 'string')
    throw new RowError(
      `expected message ${i + 1} of "conversations" to be { from, value } of two texts but received ${describe(given)}`,
    );
  if (!Object.hasOwn(speakers, from))
    throw new RowError(
      `expected "from" of message ${i + 1} to be one of ${Object.keys(speakers).join(', ')} but received ${describe(from)}`,
    );
  return { role: speakers[from]!, content: value, ...counts };
}

class ShareGpt extends Messages {
  override read(row: Row): Promise<Tokens> {
    const { conversations, system } = row;
    if (!isListOf(conversations, isRecord) || conversations.length === 0)
      throw new RowError(
        `expected "conversations" to be a list of { from, value } but received ${describe(conversations)}`,
      );
    const messages = conversations.map(sharedMessage);
    // Some of these data have the system message in a column of its own.
    const said = system === undefined || system === null || system === '' ? undefined : text(row, 'system');
    if (said !== undefined) messages.unshift({ role: 'system', content: said });
    return super.read({ ...row, messages });
  }
}

class PromptCompletion extends RowKind {
  async read(row: Row): Promise<Tokens> {
    if (this.hasTemplate)
      return this.conversation(
        [...side(row, 'prompt', 'user'), ...side(row, 'completion', 'assistant')],
        toolsOf(row),
      );
    return this.plain(text(row, 'prompt'), text(row, 'completion'));
  }
}

/** A question and its answer, which are two messages, or two paragraphs. */
abstract class Exchange extends RowKind {
  protected async exchange(question: string, answer: string): Promise<Tokens> {
    if (this.hasTemplate)
      return this.conversation([
        { role: 'user', content: question },
        { role: 'assistant', content: answer },
      ]);
    return this.plain(`${question}\n\n`, answer);
  }
}

class Instruction extends Exchange {
  read(row: Row): Promise<Tokens> {
    const input = row['input'] === undefined || row['input'] === null ? '' : text(row, 'input');
    return this.exchange(
      text(row, 'instruction') + (input === '' ? '' : `\n\n${input}`),
      text(row, 'output'),
    );
  }
}

class Question extends Exchange {
  read(row: Row): Promise<Tokens> {
    return this.exchange(text(row, 'question'), text(row, 'answer'));
  }
}

/** The kinds of which a data set has one. */
export interface RowKinds<Out> {
  readonly kinds: readonly (readonly [
    keys: readonly string[],
    name: string,
    kind: new (options: RowOptions) => RowKind<Out>,
  ])[];
  /** What else a row may hold. */
  readonly furtherKeys: readonly string[];
}

const kinds: RowKinds<Tokens>['kinds'] = [
  [['inputIds'], '{ inputIds, labels? }', Ids],
  [['messages'], '{ messages }', Messages],
  [['conversations'], '{ conversations }', ShareGpt],
  [['prompt', 'completion'], '{ prompt, completion }', PromptCompletion],
  [['instruction', 'output'], '{ instruction, input?, output }', Instruction],
  [['question', 'answer'], '{ question, answer }', Question],
  [['text'], '{ text }', Text],
];

export const exampleKinds: RowKinds<Tokens> = { kinds, furtherKeys: ['labels', 'tools', 'system', 'input'] };

/** Reads the rows of one data set, whose first row decides what the others are. */
export class RowReader<Out> {
  #kind: { readonly name: string; readonly reader: RowKind<Out> } | undefined;

  constructor(
    readonly options: RowOptions,
    readonly kinds: RowKinds<Out>,
  ) {}

  /** @throws RowError that says what is wrong with the row. */
  async read(row: Row): Promise<Out> {
    const { columns = {} } = this.options;
    const { furtherKeys } = this.kinds;
    const named = Object.entries(columns).flatMap(([key, column]): [string, unknown][] => {
      if (!Object.hasOwn(row, column) && furtherKeys.includes(key)) return [];
      if (!Object.hasOwn(row, column))
        throw new RowError(
          `expected the column ${JSON.stringify(column)}, as columns.${key} has it, but received the keys ${Object.keys(row).join(', ') || '(none)'}`,
        );
      return [[key, row[column]]];
    });
    return this.#readNamed({ ...row, ...Object.fromEntries(named) }, columns);
  }

  /** Reads a row under the names of its kind; those of `columns` decide which kind it is. */
  async #readNamed(row: Row, columns: Readonly<Record<string, string>>): Promise<Out> {
    const { kinds, furtherKeys } = this.kinds;
    const decide = Object.keys(columns).filter((key) => !furtherKeys.includes(key));
    const found = kinds.find(
      ([keys]) =>
        keys.every((key) => Object.hasOwn(row, key)) &&
        (decide.length === 0 || keys.some((key) => decide.includes(key))),
    );
    if (!found)
      throw new RowError(
        `expected one of ${kinds.map(([, form]) => form).join(', ')} but received the keys ${Object.keys(row).join(', ') || '(none)'}`,
      );
    const [, name, kind] = found;
    if (this.#kind === undefined) {
      const { trainOn } = this.options;
      if (trainOn === 'completion' && name === '{ text }')
        throw new RowError("{ text } has no completion: use trainOn 'all'", 'ERR_ARGUMENT');
      this.#kind = { name, reader: new kind(this.options) };
    } else if (this.#kind.name !== name)
      throw new RowError(`expected ${this.#kind.name}, as the first row is, but received ${name}`);
    try {
      return await this.#kind.reader.read(row);
    } catch (error) {
      this.options.signal?.throwIfAborted();
      // The sentence of a tokenizer or template; the row is what a reader of it looks for.
      if (error instanceof LoRAError && (error.code === 'ERR_DATA' || error.code === 'ERR_UNSUPPORTED'))
        throw new RowError(error.message.replace(/^\[[^\]]*\] (row: )?/, ''), error.code);
      throw error;
    }
  }
}
