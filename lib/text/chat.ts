/** Chat templates: Jinja text of a model directory. */
import { LoRAError } from '../errors';
import { isRecord } from '../formats/json';
import { checkLimit, defaultLimits, limitText, type Limits } from '../formats/limits';
import { atOnce } from '../tensor/pace';
import { check, checkBoolean, describe } from '../validate';
import { checkRoles, holdsMore, messageForms, callsKey, unnamedCalls, type ChatMessage } from './messages';
import { BoundedTemplate } from './template';
import { markedTemplate, readMarks, turnsByPrefix, unusedMarks, type Turns } from './turns';

/** What a chat template is told beside the messages. */
export interface ChatVariables {
  /** Descriptions of tools, as the template takes them: mostly `{ type: 'function', function: { name, description, parameters } }`. */
  tools?: readonly unknown[] | undefined;
  /** Further variables that a template reads, such as `{ enable_thinking: false }`. One that it does not read has no effect. */
  variables?: Readonly<Record<string, unknown>> | undefined;
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
  check(
    !continueAssistant || !addGenerationPrompt,
    tag,
    'expected addGenerationPrompt to be false beside continueAssistant but received true',
  );
}

/** The special tokens that templates refer to by name. */
export type SpecialTokens = Readonly<Record<string, string>>;

export class ChatTemplate {
  readonly #sources: ReadonlyMap<string, string>;
  readonly #tokens: SpecialTokens;
  readonly #limits: Limits;
  readonly #parsed = new Map<string, BoundedTemplate>();

  private constructor(
    sources: ReadonlyMap<string, string>,
    tokens: SpecialTokens,
    limits: Limits,
    /** Where it is from, for messages. */
    private readonly origin: string,
  ) {
    this.#limits = limits;
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
    limits = defaultLimits,
    origin = 'of the model',
  ): ChatTemplate | undefined {
    const sources = new Map<string, string>();
    if (Array.isArray(config)) {
      for (const entry of config as ({ name?: unknown; template?: unknown } | null)[])
        if (typeof entry?.name === 'string' && typeof entry.template === 'string')
          sources.set(entry.name, entry.template);
    } else if (typeof config === 'string') sources.set('default', config);
    if (jinja !== undefined) sources.set('default', jinja);
    return sources.size ? new ChatTemplate(sources, tokens, limits, origin) : undefined;
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
    const { form, text: plain } = this.#written(messages, options);
    yield;
    const [name, source] = this.#choose(options);
    const [open, close] = unusedMarks(plain);
    const marked = markedTemplate(source, open, close);
    if (marked !== undefined) {
      const text = this.#run(`${name} with marks ${open}`, marked, form, options);
      yield;
      const turns = readMarks(text, open, close);
      if (turns.text === plain) return turns; // marks beside white space may change what is stripped
    }
    let steps = 0;
    const spent = (more: number): void => {
      steps += more;
      const what = `finding the answers of ${messages.length} messages takes too many steps`;
      checkLimit(this.#limits, 'turnSteps', steps, what, { code: 'ERR_DATA', op });
    };
    const write = (places: readonly number[], prompt: boolean): string =>
      places.length === form.length && !prompt
        ? plain
        : this.#run(
            name,
            source,
            places.map((i) => form[i]!),
            { ...options, addGenerationPrompt: prompt },
            spent,
          );
    return yield* turnsByPrefix(
      form.map(({ role }) => role),
      plain,
      write,
    );
  }

  /** The template that these options ask for: its name and its text. */
  #choose(options: ChatTemplateOptions): [name: string, source: string] {
    const withTools = (options.tools?.length ?? 0) > 0;
    const name = withTools && this.#sources.has('tool_use') ? 'tool_use' : 'default';
    const source = this.#sources.get(name);
    if (source === undefined)
      throw new LoRAError(
        'ERR_DATA',
        `[${op}] expected a template named default but the model has ${[...this.#sources.keys()].join(', ')}`,
        { op },
      );
    if (withTools && !/\btools\b/.test(source))
      throw new LoRAError(
        'ERR_UNSUPPORTED',
        `[${op}] the chat template of the model does not read tools: describe them in a message, or give a template that does`,
        { op },
      );
    return [name, source];
  }

  /**
   * The conversation as the model was trained to read it.
   * @throws ERR_ARGUMENT for what are no messages; ERR_DATA for messages that cannot be written or that the template refuses, and when it
   * cannot be run or takes more steps than it may.
   */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    const { form, text } = this.#written(messages, options);
    return options.continueAssistant === true ? this.#open(form, text, options) : text;
  }

  /**
   * A written conversation up to the end of its last content. A mark behind that content tells where it ends, since the template may write
   * the same words elsewhere too. Where the template strips white space, the mark kept what stands before it: that is taken off again.
   */
  #open(form: readonly ChatMessage[], text: string, options: ChatTemplateOptions): string {
    const last = form.at(-1);
    check(
      last?.role === 'assistant' && typeof last.content === 'string',
      op,
      `expected the last message to be a text of the assistant for continueAssistant but received ${last === undefined ? 'none' : `one of ${describe(last.role)}`}`,
    );
    const [mark] = unusedMarks(text);
    const open = [...form.slice(0, -1), { ...last, content: last.content + mark }];
    const marked = this.#run(...this.#choose(options), open, options);
    const before = marked.slice(0, Math.max(0, marked.lastIndexOf(mark)));
    const found = [before, before.trimEnd()].find((part) => part !== '' && text.startsWith(part));
    if (found !== undefined) return found;
    throw new LoRAError(
      'ERR_DATA',
      `[${op}] the chat template does not tell where the last message ends, so that it cannot be continued`,
      { op },
    );
  }

  /** The conversation, and the form of it that the template could be run with. */
  #written(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions,
  ): { form: readonly ChatMessage[]; text: string } {
    const { messageValues } = this.#limits;
    if (holdsMore([messages, options.tools, options.variables], messageValues))
      throw new LoRAError(
        'ERR_DATA',
        `[${op}] the messages and tools of a conversation hold too many values: ${limitText(this.#limits, 'messageValues')}`,
        { op },
      );
    const [name, source] = this.#choose(options);
    const forms = messageForms(messages);
    checkRoles(messages, this.#parse(name, source).roles);
    let failure: unknown;
    for (const form of forms) {
      let text: string;
      try {
        text = this.#run(name, source, form, options);
      } catch (error) {
        failure ??= error;
        continue;
      }
      this.#checkCalls(form, text, [name, source], options);
      return { form, text };
    }
    throw failure;
  }

  /** @throws ERR_UNSUPPORTED where the template leaves out calls of tools, so that an empty answer would stand for them. */
  #checkCalls(
    form: readonly ChatMessage[],
    text: string,
    [name, source]: [string, string],
    options: ChatTemplateOptions,
  ): void {
    let index = form.findIndex((message) => {
      const key = callsKey(message);
      return key !== undefined && !new RegExp(`\\b${key}\\b`).test(source);
    });
    if (index < 0) {
      index = unnamedCalls(form, text);
      // Some templates write the arguments alone.
      if (index < 0 || this.#writesCalls(form, text, index, [name, source], options)) return;
    }
    throw new LoRAError(
      'ERR_UNSUPPORTED',
      `[${op}] the chat template '${name}' ${this.origin} does not write the ${callsKey(form[index]!)} of message ${index + 1} (assistant): give a template that does`,
      { op },
    );
  }

  /** Whether the text of a conversation is another one without the calls of a message. */
  #writesCalls(
    form: readonly ChatMessage[],
    text: string,
    index: number,
    chosen: [string, string],
    options: ChatTemplateOptions,
  ): boolean {
    const silent: ChatMessage = { ...form[index]!, content: form[index]!.content ?? '' };
    for (const key of ['tool_calls', 'function_call']) delete silent[key];
    try {
      return this.#run(...chosen, form.with(index, silent), options) !== text;
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

  #run(
    name: string,
    source: string,
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions,
    spent?: (steps: number) => void,
  ): string {
    const template = this.#parse(name, source);
    const variables = {
      documents: null,
      ...this.#tokens,
      ...options.variables,
      messages,
      tools: options.tools ?? null,
      add_generation_prompt: options.addGenerationPrompt ?? false,
    };
    return this.#guarded(() => template.render(variables, spent));
  }

  /** Whatever fails inside the package is an error of ours. */
  #guarded<T>(run: () => T): T {
    try {
      return run();
    } catch (cause) {
      if (cause instanceof LoRAError) throw cause;
      const reason = (cause instanceof Error ? cause.message : String(cause)).slice(0, 1000);
      throw new LoRAError('ERR_DATA', `[${op}] the chat template of the model failed: ${reason}`, {
        op,
        cause,
      });
    }
  }
}
