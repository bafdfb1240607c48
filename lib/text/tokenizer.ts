/** The tokenizer of a model directory: @huggingface/tokenizers with checked arguments, chat templates and streaming. */
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { LoRAError, loraError } from '../errors';
import { type Reading } from '../formats/json';
import type { Limits } from '../formats/limits';
import { ggufAt } from '../formats/gguf_set';
import { ModelFolder } from '../formats/model_folder';
import { atOnce, inSlices } from '../tensor/pace';
import { check, checkAttached, checkOptions, checkSignal, describe, isRecord } from '../validate';
import { ChatTemplate, checkChatOptions, type ChatTemplateOptions } from './chat';
import { cleanUp } from './clean_up';
import { encodeSteps } from './encode_steps';
import { openGgufTokenizer, type TokenizerFiles } from './gguf_tokenizer';
import { checkPlaces, type ChatText } from './marks';
import type { ChatMessage } from './messages';
import { Spellings } from './spellings';
import { TokenStream } from './token_stream';
import type { Turns } from './turns';
import { insideOf, installParts, type Library } from './library';
import { checkTokenizerJson, type CheckedTokenizer } from './tokenizer_json';
import type {
  ApplyChatTemplateOptions,
  DecodeOptions,
  EncodeAsyncOptions,
  EncodeOptions,
  TurnsAsyncOptions,
  TurnsOptions,
} from './tokenizer_options';

const op = 'tokenizer';
/** Characters up to which the library encodes a text in one call: about a millisecond. */
const shortText = 2048;
/** The library looks through them for every token that it decodes. */
const maxSpecialTokens = 1000;

/** The text of tokenizer_config.json's special tokens, which are strings or `{ content }`. */
function specialTokens(config: Record<string, unknown>): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const [key, value] of Object.entries(config)) {
    if (!key.endsWith('_token')) continue;
    const text =
      typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value;
    if (typeof text === 'string') tokens[key] = text;
  }
  return tokens;
}

/**
 * Text to ids and back, as the model's tokenizer.json says. Read by `CausalLM.fromPretrained`.
 *
 * @example
 * const ids = model.tokenizer.encode('Hello');
 * model.tokenizer.decode(ids, { skipSpecialTokens: true }); // 'Hello'
 */
export class Tokenizer {
  readonly #inner: HuggingFaceTokenizer;
  readonly #template: ChatTemplate | undefined;
  readonly #limits: Limits | undefined;
  /** The template that the program gave last. */
  #own: { readonly source: string; readonly template: ChatTemplate } | undefined;
  readonly #cleansUp: boolean;
  readonly #byteFallback: boolean;
  readonly #largestId: number;
  readonly #specials: ReadonlySet<string>;
  readonly #spellings: Spellings;
  /** @internal Whether the text of two lists of whole characters, before clean-up, is that of one after that of the other. */
  readonly concatenates: boolean;
  /** The special tokens of tokenizer_config.json by name: bos_token, eos_token, … */
  readonly specialTokens: Readonly<Record<string, string>>;
  /** Directory it was read from. */
  readonly directory: string;

  private constructor(
    directory: string,
    { json, unigramByteFallback, largestId }: CheckedTokenizer,
    config: Record<string, unknown>,
    jinja: string | undefined,
    limits: Limits | undefined,
  ) {
    this.directory = directory;
    this.specialTokens = specialTokens(config);
    this.#inner = new HuggingFaceTokenizer(json, config);
    installParts(this.#inner);
    const { special_tokens: specials, added_tokens: added } = this.library;
    this.#specials = new Set(specials);
    this.#spellings = new Spellings(added.filter(({ special }) => special).map(({ content }) => content));
    this.#largestId = largestId;
    this.#byteFallback = unigramByteFallback;
    this.#cleansUp = config['clean_up_tokenization_spaces'] === true;
    // Bytes follow each other; other decoders look at neighbors for spaces.
    const decoder: unknown = 'decoder' in json ? json.decoder : null;
    this.concatenates = isRecord(decoder) && decoder['type'] === 'ByteLevel';
    this.#limits = limits;
    this.#template = ChatTemplate.from(jinja, config['chat_template'], this.specialTokens, {
      limits,
      spellings: this.#spellings,
    });
  }

  /**
   * Reads tokenizer.json, tokenizer_config.json and chat_template.jinja, or what a GGUF file has of them. Undefined when there is no tokenizer.
   * @throws ERR_FILE for a file that cannot be parsed or is malformed, ERR_UNSUPPORTED for a component that is not known.
   */
  static async fromDirectory(directory: string, reading: Reading = {}): Promise<Tokenizer | undefined> {
    const gguf = await ggufAt(directory);
    return Tokenizer.fromFiles(
      gguf === undefined
        ? await ModelFolder.open(directory, reading)
        : await openGgufTokenizer(gguf, reading),
    );
  }

  /** @internal The same of files that are open. */
  static async fromFiles(folder: TokenizerFiles): Promise<Tokenizer | undefined> {
    const json = await folder.json('tokenizer.json', 'tokenizerBytes');
    if (json === undefined) return undefined;
    const path = folder.where('tokenizer.json');
    const checked = checkTokenizerJson(json, path, folder.reading.limits);
    const configPath = folder.where('tokenizer_config.json');
    const config = (await folder.json('tokenizer_config.json')) ?? {};
    const jinja = await folder.text('chat_template.jinja');
    if (!isRecord(config))
      throw loraError(
        'tokenizer',
        'ERR_FILE',
        `${configPath}: expected a JSON object but received ${describe(config)}`,
      );
    const specials = config['additional_special_tokens'];
    if (specials != null && !(Array.isArray(specials) && specials.length <= maxSpecialTokens))
      throw new LoRAError(
        'ERR_FILE',
        `[tokenizer] ${configPath}: expected "additional_special_tokens" to be a list of at most ${maxSpecialTokens} tokens but received ${describe(specials)}`,
        { op },
      );
    try {
      return new Tokenizer(folder.dir, checked, config, jinja, folder.reading.limits);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw loraError('tokenizer', 'ERR_UNSUPPORTED', `cannot use ${path}: ${reason}`, cause);
    }
  }

  /**
   * Ids of a text; special tokens written in it are recognized.
   * @throws ERR_ARGUMENT when it is no string, ERR_DATA for a character that has no token where the tokenizer has none for unknown
   * ones, ERR_UNSUPPORTED for a text of hundreds of thousands of characters and a Unigram tokenizer.
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    return this.#guarded('encode', () => atOnce(this.#encode(text, options)));
  }

  /**
   * The same ids as encode(), in slices of some milliseconds, between which timers and I/O run: for texts of a megabyte.
   * @throws as encode() does, and the reason of the signal.
   * @example
   * const ids = await model.tokenizer.encodeAsync('a long text '.repeat(1e5));
   */
  async encodeAsync(text: string, options: EncodeAsyncOptions = {}): Promise<number[]> {
    const { signal, ...rest } = options;
    checkSignal(op, signal);
    const steps = this.#encode(text, rest);
    try {
      return await inSlices(steps, signal);
    } catch (error) {
      signal?.throwIfAborted();
      return this.#guarded('encode', () => {
        throw error;
      });
    }
  }

  /** Whatever fails inside the library, for a file that it takes for granted, is an error of ours. */
  #guarded<T>(what: string, run: () => T): T {
    try {
      return run();
    } catch (cause) {
      if (cause instanceof LoRAError) throw cause;
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw loraError(
        op,
        'ERR_FILE',
        `the tokenizer of ${this.directory} cannot ${what} this: ${reason}`,
        cause,
      );
    }
  }

  /** @internal Places in a text that no special token may hold, so that what it spells stays text. */
  readonly ordinaryPlaces = (text: string): number[] => this.#spellings.places(text);

  *#encode(text: string, options: EncodeOptions): Generator<void, number[], void> {
    check(typeof text === 'string', op, `expected text to be a string but received ${describe(text)}`);
    checkOptions(op, options, ['addSpecialTokens', 'ordinary']);
    const { library } = this;
    const { addSpecialTokens = true, ordinary = [] } = options;
    checkPlaces(op, ordinary, text.length);
    let tokens: string[];
    try {
      tokens =
        text.length <= shortText && ordinary.length === 0
          ? this.#inner.encode(text, { add_special_tokens: addSpecialTokens }).tokens
          : yield* encodeSteps(library, text, addSpecialTokens, { ordinary, limits: this.#limits });
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      // The library's Unigram hands all tokens of a text to one call.
      throw loraError(
        op,
        'ERR_UNSUPPORTED',
        `a text of ${text.length} characters is too long for this kind of tokenizer: split it`,
        cause,
      );
    }
    const ids: number[] = [];
    for (const [i, token] of tokens.entries()) {
      if (i % 4096 === 4095) yield;
      const known = this.tokenId(token);
      const id = library.added_tokens_map.get(token)?.id ?? known ?? library.model.unk_token_id;
      const bytes = this.#byteFallback && known === undefined ? this.#bytes(token) : undefined;
      if (bytes) ids.push(...bytes);
      else if (typeof id === 'number') ids.push(id);
      else
        throw loraError(
          op,
          'ERR_DATA',
          `expected text that the tokenizer of ${this.directory} knows but received ${describe(token)}, and it has no token for the unknown`,
        );
    }
    return ids;
  }

  /** The tokens <0x00> to <0xFF> of a piece's UTF-8 bytes; undefined when one of them is missing. */
  #bytes(piece: string): number[] | undefined {
    const ids = Array.from(Buffer.from(piece), (byte) =>
      this.tokenId(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`),
    );
    return ids.every((id) => id !== undefined) ? ids : undefined;
  }

  /** Text of ids; ids that have no token give none, and an incomplete character at an end is shown as U+FFFD. */
  decode(ids: readonly number[] | Int32Array, options: DecodeOptions = {}): string {
    checkOptions('tokenizer', options, ['skipSpecialTokens']);
    const given: unknown = ids;
    check(
      Array.isArray(given) || ArrayBuffer.isView(given),
      'tokenizer',
      `expected ids but received ${describe(ids)}`,
    );
    if (ArrayBuffer.isView(given)) checkAttached('tokenizer', 'the array of ids', given);
    const list = Array.from<number>(ids);
    const bad = list.find((id) => !Number.isSafeInteger(id) || id < 0);
    check(
      bad === undefined,
      'tokenizer',
      `expected ids to be non-negative integers but received ${describe(bad)}`,
    );
    const text = this.#decode(list, options.skipSpecialTokens ?? false);
    return this.#cleansUp ? cleanUp(text) : text;
  }

  /** The text before clean-up. */
  #decode(list: readonly number[], skipSpecialTokens: boolean): string {
    // A model's vocabulary may be padded beyond the tokenizer's: such ids have no text.
    const known = list.filter((id) => this.#inner.id_to_token(id) !== undefined);
    if (known.length === 0) return '';
    return this.#guarded('decode', () =>
      this.#inner.decode(known, {
        skip_special_tokens: skipSpecialTokens,
        clean_up_tokenization_spaces: false,
      }),
    );
  }

  /** The id of one token's text, where there is such a token. */
  tokenId(token: string): number | undefined {
    return this.#inner.token_to_id(token);
  }

  /** Of the end-of-text token that tokenizer_config.json names; null when it names none. */
  get eosTokenId(): number | null {
    const token = this.specialTokens['eos_token'];
    return (token === undefined ? undefined : this.tokenId(token)) ?? null;
  }

  /** The number of ids up to the largest that has a token. */
  get vocabSize(): number {
    return this.#largestId + 1;
  }

  /** @internal The characters of the longest token: no text has more than these for each of its tokens, but one that is normalized to less. */
  get longestToken(): number {
    if (this.#longestToken === undefined) {
      const { model, added_tokens_map: added } = this.library;
      let longest = 0;
      for (const token of model.vocab) longest = Math.max(longest, token?.length ?? 0);
      for (const token of added.keys()) longest = Math.max(longest, token.length);
      this.#longestToken = longest;
    }
    return this.#longestToken;
  }
  #longestToken: number | undefined;

  /** Whether applyChatTemplate() can work. */
  get hasChatTemplate(): boolean {
    return this.#template !== undefined;
  }

  /** @internal Whether the model's chat template writes or reads this text. */
  templateHas(text: string): boolean {
    return this.#template?.has(text) ?? false;
  }

  /**
   * A conversation through the model's chat template: its ids, or its text with `tokenize: false`. Special tokens that messages spell stay text in the
   * ids; in the text nothing tells them from those of the template.
   * @throws ERR_UNSUPPORTED when the model has no template, ERR_DATA when the template refuses the messages.
   * @example
   * const ids = tokenizer.applyChatTemplate([{ role: 'user', content: 'Hi' }], { addGenerationPrompt: true });
   * const text = tokenizer.applyChatTemplate([{ role: 'user', content: 'Hi' }], { tokenize: false });
   */
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ApplyChatTemplateOptions & { tokenize: false },
  ): string;
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options?: ApplyChatTemplateOptions & { tokenize?: true },
  ): number[];
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ApplyChatTemplateOptions = {},
  ): number[] | string {
    checkOptions('chat_template', options, [
      'addGenerationPrompt',
      'continueAssistant',
      'tokenize',
      'tools',
      'variables',
      'allowSpecialTokens',
    ]);
    const { text, ordinary } = this.chatText(messages, options);
    return options.tokenize === false ? text : this.encode(text, { addSpecialTokens: false, ordinary });
  }

  /** @internal A conversation through the model's chat template as text, and what of it encode() has to know to give its ids. */
  chatText(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): ChatText {
    return atOnce(this.#chatText(messages, options));
  }

  /** @internal The same, in slices between which timers and I/O run. */
  async chatTextAsync(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions = {},
    signal?: AbortSignal,
  ): Promise<ChatText> {
    return inSlices(this.#chatText(messages, options), signal);
  }

  #chatText(messages: readonly ChatMessage[], options: ChatTemplateOptions): Generator<void, ChatText, void> {
    checkChatOptions('chat_template', options);
    return this.#chatTemplate().writeSteps(messages, options);
  }

  /**
   * A conversation as its chat template writes it, and what the assistant says in it: by the `{% generation %}` blocks of the template, or
   * else by writing the conversation up to each answer.
   *
   * @throws ERR_UNSUPPORTED when there is no template; ERR_DATA when it refuses the messages, or leaves open which tokens an answer adds.
   * @example
   * const { text, spans } = tokenizer.turns([
   *   { role: 'user', content: 'Hi' },
   *   { role: 'assistant', content: 'Hello!' },
   * ]);
   * text.slice(...spans[0]!); // 'Hello!' and what ends it
   */
  turns(messages: readonly ChatMessage[], options: TurnsOptions = {}): Turns {
    return atOnce(this.#turns(messages, options));
  }

  /**
   * The same as turns(), in slices between which timers and I/O run: for conversations of hundreds of turns, where the template has no
   * `{% generation %}` blocks.
   * @throws as turns() does, and the reason of the signal.
   * @example
   * const { spans } = await model.tokenizer.turnsAsync(messages);
   */
  async turnsAsync(messages: readonly ChatMessage[], options: TurnsAsyncOptions = {}): Promise<Turns> {
    const { signal, ...rest } = options;
    checkSignal('chat_template', signal);
    signal?.throwIfAborted();
    return inSlices(this.#turns(messages, rest), signal);
  }

  #turns(messages: readonly ChatMessage[], options: TurnsOptions): Generator<void, Turns, void> {
    checkOptions('chat_template', options, ['template', 'tools', 'variables', 'allowSpecialTokens']);
    const { template, ...rest } = options;
    checkChatOptions('chat_template', rest);
    return this.#chatTemplate(template).turnSteps(messages, rest);
  }

  /** The model's template, or one of the program's own. */
  #chatTemplate(source?: string): ChatTemplate {
    if (source !== undefined && source !== this.#own?.source) {
      check(
        typeof source === 'string',
        'chat_template',
        `expected template to be a string but received ${describe(source)}`,
      );
      this.#own = {
        source,
        template: ChatTemplate.from(source, undefined, this.specialTokens, {
          limits: this.#limits,
          origin: 'that was given',
          spellings: this.#spellings,
        })!,
      };
    }
    const template = source === undefined ? this.#template : this.#own!.template;
    if (template) return template;
    throw loraError(
      'chat_template',
      'ERR_UNSUPPORTED',
      `${this.directory} has no chat template (chat_template.jinja, chat_template in tokenizer_config.json, or tokenizer.chat_template in a GGUF file)`,
    );
  }

  /**
   * @internal Turns ids that arrive one at a time, after those of `context`, into text, whole characters only; special tokens give none. `exact`:
   * the text is that of the tokens, also where tokenizer_config.json has spaces before punctuation taken out, or where the context ends
   * within a character.
   */
  stream(context: readonly number[] = [], exact = false): TokenStream {
    return new TokenStream({
      text: (ids) => this.#decode(ids, true),
      silent: (id) => {
        const token = this.#inner.id_to_token(id);
        return token === undefined || this.#specials.has(token);
      },
      concatenates: this.concatenates,
      cleansUp: this.#cleansUp && !exact,
      whole: exact,
      context,
    });
  }

  /** @internal Its decoder, its vocabulary and its other parts. */
  get library(): Library {
    return insideOf(this.#inner);
  }
}
