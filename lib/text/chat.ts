/** Chat templates: Jinja text of a model directory. */
import { LoRAError } from '../errors';
import { checkLimit, defaultLimits, limitText, type Limits } from '../formats/limits';
import { atOnce } from '../tensor/pace';
import { holdsMore, messageForms, type ChatMessage } from './messages';
import { BoundedTemplate } from './template';
import { markedTemplate, readMarks, turnsByPrefix, unusedMarks, type Turns } from './turns';

/** What a chat template is told. */
export interface ChatTemplateOptions {
  /** End with the words that open the assistant's turn. Default false. */
  addGenerationPrompt?: boolean | undefined;
  /** Descriptions of tools, for templates that know them. */
  tools?: readonly unknown[] | undefined;
  /** Further variables that a template reads, such as `enable_thinking`. */
  variables?: Readonly<Record<string, unknown>> | undefined;
}

/** The special tokens that templates refer to by name. */
export type SpecialTokens = Readonly<Record<string, string>>;

export class ChatTemplate {
  readonly #sources: ReadonlyMap<string, string>;
  readonly #tokens: SpecialTokens;
  readonly #limits: Limits;
  readonly #parsed = new Map<string, BoundedTemplate>();

  private constructor(sources: ReadonlyMap<string, string>, tokens: SpecialTokens, limits: Limits) {
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
  ): ChatTemplate | undefined {
    const sources = new Map<string, string>();
    if (Array.isArray(config)) {
      for (const entry of config as ({ name?: unknown; template?: unknown } | null)[])
        if (typeof entry?.name === 'string' && typeof entry.template === 'string')
          sources.set(entry.name, entry.template);
    } else if (typeof config === 'string') sources.set('default', config);
    if (jinja !== undefined) sources.set('default', jinja);
    return sources.size ? new ChatTemplate(sources, tokens, limits) : undefined;
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
      checkLimit(this.#limits, 'turnSteps', steps, what, { code: 'ERR_DATA', op: 'chat_template' });
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
    const name = options.tools?.length && this.#sources.has('tool_use') ? 'tool_use' : 'default';
    const source = this.#sources.get(name);
    if (source === undefined)
      throw new LoRAError(
        'ERR_DATA',
        `[chat_template] expected a template named default but the model has ${[...this.#sources.keys()].join(', ')}`,
        { op: 'chat_template' },
      );
    return [name, source];
  }

  /**
   * The conversation as the model was trained to read it.
   * @throws ERR_ARGUMENT for what are no messages; ERR_DATA for messages that cannot be written or that the template refuses, and when it
   * cannot be run or takes more steps than it may.
   */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    return this.#written(messages, options).text;
  }

  /** The conversation, and the form of it that the template could be run with. */
  #written(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions,
  ): { form: readonly ChatMessage[]; text: string } {
    const { messageValues } = this.#limits;
    if (holdsMore([messages, options.tools], messageValues))
      throw new LoRAError(
        'ERR_DATA',
        `[chat_template] the messages and tools of a conversation hold too many values: ${limitText(this.#limits, 'messageValues')}`,
        { op: 'chat_template' },
      );
    const chosen = this.#choose(options);
    let failure: unknown;
    for (const form of messageForms(messages))
      try {
        return { form, text: this.#run(...chosen, form, options) };
      } catch (error) {
        failure ??= error;
      }
    throw failure;
  }

  /** Runs a template, which is parsed once by its name. */
  #run(
    name: string,
    source: string,
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions,
    spent?: (steps: number) => void,
  ): string {
    try {
      let template = this.#parsed.get(name);
      if (!template) this.#parsed.set(name, (template = new BoundedTemplate(source, this.#limits)));
      const variables = {
        ...this.#tokens,
        ...options.variables,
        messages,
        tools: options.tools ?? null,
        documents: null,
        add_generation_prompt: options.addGenerationPrompt ?? false,
      };
      return template.render(variables, spent);
    } catch (cause) {
      if (cause instanceof LoRAError) throw cause;
      const reason = (cause instanceof Error ? cause.message : String(cause)).slice(0, 1000);
      throw new LoRAError('ERR_DATA', `[chat_template] the chat template of the model failed: ${reason}`, {
        op: 'chat_template',
        cause,
      });
    }
  }
}
