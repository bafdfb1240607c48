/** Chat templates: Jinja text of a model directory. */
import { LoRAError, loraError } from '../errors';
import { checkLimit, defaultLimits, limitText, type Limits } from '../formats/limits';
import { atOnce } from '../tensor/pace';
import { check, checkBoolean, describe, isRecord } from '../validate';
import { unmarkedPlaces, unusedMarks, withoutMarks, type ChatText } from './marks';
import { checkRoles, holdsMore, messageForms, callsKey, unnamedCalls, type ChatMessage } from './messages';
import { Spellings, unusedMark } from './spellings';
import { BoundedTemplate } from './template';
import { endedSpans, markedTemplate, readMarks, turnsByPrefix, type Turns } from './turns';

/** What a chat template is told beside the messages. */
export interface ChatVariables {
  /** Descriptions of tools, as the template takes them: mostly `{ type: 'function', function: { name, description, parameters } }`. */
  tools?: readonly unknown[] | undefined;
  /** Further variables that a template reads, such as `{ enable_thinking: false }`. One that it does not read has no effect. */
  variables?: Readonly<Record<string, unknown>> | undefined;
  /**
   * What messages, tools and variables spell like a special token becomes that token, as in transformers: whoever writes a message can then end
   * it, and begin one of the system. Default false: it stays text.
   */
  allowSpecialTokens?: boolean | undefined;
}

/** What a chat template is told, and where its text ends. */
export interface ChatTemplateOptions extends ChatVariables {
  /** End with the words that open the assistant's turn. Default false. */
  addGenerationPrompt?: boolean | undefined;
  /** End with the content of the last message, which is the assistant's, so that the model continues it. Default false. */
  continueAssistant?: boolean | undefined;
}

const op = 'chat_template';

/** What templates are told by options of their own. */
const reserved = ['messages', 'tools', 'add_generation_prompt'];

/**
 * Checks what a template is told.
 * @throws ERR_ARGUMENT
 */
export function checkChatOptions(tag: string, options: ChatTemplateOptions): void {
  const { tools, variables, addGenerationPrompt = false, continueAssistant = false } = options;
  check(
    tools === undefined || Array.isArray(tools),
    tag,
    `expected tools to be a list of descriptions but received ${describe(tools)}`,
  );
  check(
    variables === undefined || isRecord(variables),
    tag,
    `expected variables to be an object, such as { enable_thinking: false }, but received ${describe(variables)}`,
  );
  const own = reserved.find((name) => Object.hasOwn(variables ?? {}, name));
  check(
    own === undefined,
    tag,
    `expected variables without ${own}, which the messages and options decide, but received it`,
  );
  checkBoolean(tag, 'continueAssistant', continueAssistant);
  checkBoolean(tag, 'allowSpecialTokens', options.allowSpecialTokens ?? false);
  check(
    !continueAssistant || !addGenerationPrompt,
    tag,
    'expected addGenerationPrompt to be false beside continueAssistant but received true',
  );
}

/** The special tokens that templates refer to by name. */
export type SpecialTokens = Readonly<Record<string, string>>;

/** What else a template is made with. */
export interface TemplateContext {
  readonly limits?: Limits | undefined;
  /** Where it is from, for messages. Default: 'of the model'. */
  readonly origin?: string;
  /** The special tokens of the tokenizer. Default: none. */
  readonly spellings?: Spellings;
}

/** A conversation as the template has it. */
interface Written {
  /** The messages, in the form that the template could be run with. */
  readonly form: readonly ChatMessage[];
  readonly options: ChatTemplateOptions;
  /** What the template makes of them. */
  readonly text: string;
  /** What stands in the spellings of special tokens, in all of these; undefined where there are none. */
  readonly mark: string | undefined;
}

export class ChatTemplate {
  readonly #sources: ReadonlyMap<string, string>;
  readonly #tokens: SpecialTokens;
  readonly #limits: Limits;
  readonly #origin: string;
  readonly #spellings: Spellings;
  readonly #parsed = new Map<string, BoundedTemplate>();

  private constructor(
    sources: ReadonlyMap<string, string>,
    tokens: SpecialTokens,
    { limits = defaultLimits, origin = 'of the model', spellings = new Spellings() }: TemplateContext,
  ) {
    this.#limits = limits;
    this.#origin = origin;
    this.#spellings = spellings;
    this.#sources = sources;
    this.#tokens = tokens;
  }

  /**
   * From chat_template.jinja (preferred), or from the `chat_template` of tokenizer_config.json: one text or a
   * list of `{ name, template }`. Undefined where there is none.
   */
  static from(
    jinja: string | undefined,
    config: unknown,
    tokens: SpecialTokens,
    context: TemplateContext = {},
  ): ChatTemplate | undefined {
    const sources = new Map<string, string>();
    if (Array.isArray(config)) {
      for (const entry of config as ({ name?: unknown; template?: unknown } | null)[])
        if (typeof entry?.name === 'string' && typeof entry.template === 'string')
          sources.set(entry.name, entry.template);
    } else if (typeof config === 'string') sources.set('default', config);
    if (jinja !== undefined) sources.set('default', jinja);
    return sources.size ? new ChatTemplate(sources, tokens, context) : undefined;
  }

  /** Whether this text stands in the template. */
  has(text: string): boolean {
    return [...this.#sources.values()].some((source) => source.includes(text));
  }

  /**
   * The conversation, and what the assistant says in it.
   * @throws ERR_DATA as render() does, and where the template leaves open which part of the text is the assistant's, or the search takes
   * more steps than it may.
   */
  turns(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): Turns {
    return atOnce(this.turnSteps(messages, options));
  }

  /** The same; yields between runs of the template. */
  *turnSteps(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions = {},
  ): Generator<void, Turns, void> {
    const written = yield* this.#written(messages, options);
    yield;
    const { mark } = written;
    const turns = (yield* this.#markedTurns(written)) ?? (yield* this.#turnsByPrefix(written));
    if (mark === undefined) return turns;
    const spans = unmarkedPlaces(turns.text, mark, turns.spans);
    return { ...withoutMarks(turns.text, mark), spans };
  }

  /** By the `{% generation %}` blocks of the template; undefined where it has none. */
  *#markedTurns({ form, options, text: plain }: Written): Generator<void, Turns | undefined, void> {
    const [name, source] = this.#choose(options);
    const [open, close] = unusedMarks(plain);
    const marked = markedTemplate(source, open, close);
    if (marked === undefined) return undefined;
    const text = yield* this.#run(`${name} with marks ${open}`, marked, form, options);
    yield;
    const turns = readMarks(text, open, close);
    return turns.text === plain ? turns : undefined; // marks beside white space may change what is stripped
  }

  /** By what each answer adds to the text, up to the token that ends it: nothing behind that is generated. */
  *#turnsByPrefix({ form, options, text: plain }: Written): Generator<void, Turns, void> {
    const [name, source] = this.#choose(options);
    let steps = 0;
    const spent = (more: number): void => {
      steps += more;
      const what = `finding the answers of ${form.length} messages takes too many steps`;
      checkLimit(this.#limits, 'turnSteps', steps, what, { code: 'ERR_DATA', op });
    };
    const run = this.#run.bind(this, name, source);
    function* write(places: readonly number[], prompt: boolean): Generator<void, string, void> {
      if (places.length === form.length && !prompt) return plain;
      const some = places.map((i) => form[i]!);
      return yield* run(some, { ...options, addGenerationPrompt: prompt }, spent);
    }
    const roles = form.map(({ role }) => role);
    const turns = yield* turnsByPrefix(roles, plain, write);
    return { ...turns, spans: endedSpans(turns, this.#tokens['eos_token'], this.#spellings) };
  }

  /** The template that these options ask for: its name and its text. */
  #choose(options: ChatTemplateOptions): [name: string, source: string] {
    const withTools = (options.tools?.length ?? 0) > 0;
    const name = withTools && this.#sources.has('tool_use') ? 'tool_use' : 'default';
    const source = this.#sources.get(name);
    if (source === undefined)
      throw loraError(
        op,
        'ERR_DATA',
        `expected a template named default but the model has ${[...this.#sources.keys()].join(', ')}`,
      );
    if (withTools && !/\btools\b/.test(source))
      throw loraError(
        op,
        'ERR_UNSUPPORTED',
        'the chat template of the model does not read tools: describe them in a message, or give a template that does',
      );
    return [name, source];
  }

  /**
   * The conversation as the model was trained to read it.
   * @throws ERR_ARGUMENT for what are no messages; ERR_DATA for messages that cannot be written or that the template refuses, and when it
   * cannot be run or takes more steps than it may.
   */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    return this.write(messages, options).text;
  }

  /** The same, with the places where messages spell special tokens. */
  write(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): ChatText {
    return atOnce(this.writeSteps(messages, options));
  }

  /** The same; yields between messages. */
  *writeSteps(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions = {},
  ): Generator<void, ChatText, void> {
    const written = yield* this.#written(messages, options);
    const text = options.continueAssistant === true ? yield* this.#open(written) : written.text;
    return withoutMarks(text, written.mark);
  }

  /**
   * A written conversation up to the end of its last content. A mark behind that content tells where it ends, since the template may write
   * the same words elsewhere too. Where the template strips white space, the mark kept what stands before it: that is taken off again.
   */
  *#open({ form, text, options }: Written): Generator<void, string, void> {
    const last = form.at(-1);
    check(
      last?.role === 'assistant' && typeof last.content === 'string',
      op,
      `expected the last message to be a text of the assistant for continueAssistant but received ${last === undefined ? 'none' : `one of ${describe(last.role)}`}`,
    );
    const [mark] = unusedMarks(text);
    const open = [...form.slice(0, -1), { ...last, content: last.content + mark }];
    const marked = yield* this.#run(...this.#choose(options), open, options);
    const before = marked.slice(0, Math.max(0, marked.lastIndexOf(mark)));
    const found = [before, before.trimEnd()].find((part) => part !== '' && text.startsWith(part));
    if (found !== undefined) return found;
    throw loraError(
      op,
      'ERR_DATA',
      'the chat template does not tell where the last message ends, so that it cannot be continued',
    );
  }

  *#written(messages: readonly ChatMessage[], given: ChatTemplateOptions): Generator<void, Written, void> {
    const { messageValues } = this.#limits;
    if (holdsMore([messages, given.tools, given.variables], messageValues))
      throw loraError(
        op,
        'ERR_DATA',
        `the messages and tools of a conversation hold too many values: ${limitText(this.#limits, 'messageValues')}`,
      );
    const [name, source] = this.#choose(given);
    const forms = messageForms(messages);
    checkRoles(messages, this.#parse(name, source).roles);
    let failure: unknown;
    for (const unmarked of forms) {
      const { form, options, mark } = this.#guarded(() => this.#marked(unmarked, given, source));
      let text: string;
      try {
        text = yield* this.#run(name, source, form, options);
      } catch (error) {
        failure ??= error;
        continue;
      }
      yield* this.#checkCalls(form, text, [name, source], options);
      return { form, options, text, mark };
    }
    throw failure;
  }

  /** Messages and options with a mark in each spelling of a special token. The tokens that a program names itself stay what they are. */
  #marked(form: readonly ChatMessage[], options: ChatTemplateOptions, source: string): Omit<Written, 'text'> {
    const { tools, variables } = options;
    const said = [form, tools, variables];
    const spellings = this.#spellings;
    if (options.allowSpecialTokens === true || !spellings.occurIn(said))
      return { form, options, mark: undefined };
    const mark = unusedMark([...said, source, this.#tokens]);
    const kept = Object.fromEntries(Object.entries(variables ?? {}).filter(([key]) => key in this.#tokens));
    return {
      form: form.map((message) => {
        const marked = spellings.marked(message, mark);
        return marked === message ? message : { ...marked, role: message.role };
      }),
      options: {
        ...options,
        tools: spellings.marked(tools, mark),
        variables: variables && { ...spellings.marked(variables, mark), ...kept },
      },
      mark,
    };
  }

  /** @throws ERR_UNSUPPORTED where the template leaves out calls of tools, so that an empty answer would stand for them. */
  *#checkCalls(
    form: readonly ChatMessage[],
    text: string,
    [name, source]: [string, string],
    options: ChatTemplateOptions,
  ): Generator<void, void, void> {
    let index = form.findIndex((message) => {
      const key = callsKey(message);
      return key !== undefined && !new RegExp(`\\b${key}\\b`).test(source);
    });
    if (index < 0) {
      const unnamed = unnamedCalls(form, text);
      if (unnamed === undefined) return;
      index = unnamed.index;
      // Some templates write the arguments alone.
      if (!unnamed.some && (yield* this.#writesCalls(form, text, index, [name, source], options))) return;
    }
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `the chat template '${name}' ${this.#origin} does not write the ${callsKey(form[index]!)} of message ${index + 1} (assistant): give a template that does`,
    );
  }

  /** Whether the text of a conversation is another one without the calls of a message. */
  *#writesCalls(
    form: readonly ChatMessage[],
    text: string,
    index: number,
    chosen: [string, string],
    options: ChatTemplateOptions,
  ): Generator<void, boolean, void> {
    const silent: ChatMessage = { ...form[index]!, content: form[index]!.content ?? '' };
    for (const key of ['tool_calls', 'function_call']) delete silent[key];
    try {
      return (yield* this.#run(...chosen, form.with(index, silent), options)) !== text;
    } catch {
      return true;
    }
  }

  /** What a name stands for is parsed once. */
  #parse(name: string, source: string): BoundedTemplate {
    return this.#guarded(() => {
      let template = this.#parsed.get(name);
      if (!template) this.#parsed.set(name, (template = new BoundedTemplate(source, this.#limits)));
      return template;
    });
  }

  /** Runs a template; yields between messages. */
  *#run(
    name: string,
    source: string,
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions,
    spent?: (steps: number) => void,
  ): Generator<void, string, void> {
    const template = this.#parse(name, source);
    const variables = {
      documents: null,
      ...this.#tokens,
      ...options.variables,
      messages,
      tools: options.tools ?? null,
      add_generation_prompt: options.addGenerationPrompt ?? false,
    };
    const steps = template.steps(variables, spent);
    for (;;) {
      const { done, value } = this.#guarded(() => steps.next());
      if (done) return value;
      yield;
    }
  }

  /** Whatever fails inside the package is an error of ours. */
  #guarded<T>(run: () => T): T {
    try {
      return run();
    } catch (cause) {
      if (cause instanceof LoRAError) throw cause;
      const reason = (cause instanceof Error ? cause.message : String(cause)).slice(0, 1000);
      throw loraError(op, 'ERR_DATA', `the chat template of the model failed: ${reason}`, cause);
    }
  }
}
