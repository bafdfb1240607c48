import { LoRAError, loraError } from '../errors';
import { plainDefaults, planGeneration } from '../engine/sampling';
import { allowSpecialTokens } from '../options/table';
import { suggest } from '../validate';
import { adaptersFlag, baseName, loadAdapters, readAdapters } from './adapters';
import { openInput, type ChatInput } from './chat_input';
import { defineCommand, helpFlag, type Console } from './command';
import { generatingModelFlags, loadModel, note, printJson } from './common';
import { Conversation, type Answer } from './conversation';
import { printable } from './printable';
import { samplingFlags, samplingOptions } from './sampling_flags';

export const chat = defineCommand({
  summary: 'Talks with a model and its adapters, at a terminal or through a pipe.',
  usage: '--model DIR [--adapter [NAME=]DIR …] [flags]   (then /help)',
  flags: {
    ...generatingModelFlags,
    ...adaptersFlag,
    system: { type: 'string', help: 'the system message', defaultText: 'none' },
    allowSpecialTokens,
    maxNewTokens: { type: 'integer', minimum: 1, default: 512, help: 'most tokens of an answer' },
    ...samplingFlags,
    json: { type: 'boolean', help: 'one JSON object per answer' },
    help: helpFlag,
  },
  json:
    'a line per answer: { text, finishReason: "stop" | "length" | "stopped", adapter, usage? }, ' +
    'adapter null for the base alone, usage as of generate where the answer was not stopped',

  async run(values, console) {
    const options = { ...samplingOptions(values), maxNewTokens: values.maxNewTokens };
    planGeneration(options, plainDefaults); // throws before the model is loaded
    const files = await readAdapters(values, console);
    const model = await loadModel(values, console);
    try {
      if (!model.tokenizer.hasChatTemplate)
        throw loraError(
          'chat',
          'ERR_UNSUPPORTED',
          `${model.directory} has no chat template (chat_template.jinja of a directory, tokenizer.chat_template of a GGUF file): add one, or continue texts with lora-native generate`,
        );
      const names = await loadAdapters(model, files);
      const conversation: Conversation = new Conversation(model, options, (messages) =>
        note(
          console,
          `the conversation is longer than the ${conversation.context} tokens that the model reads: its oldest ${messages} messages are forgotten`,
        ),
      );
      conversation.system = values.system;
      conversation.allowSpecialTokens = values.allowSpecialTokens;
      conversation.adapter = names[0] ?? null;
      return await new Chat(console, conversation, names, values.json).run();
    } finally {
      await model.dispose();
    }
  },
});

/** What may be typed beside messages. */
const commandHelp = [
  ['/adapter NAME', 'answer with this adapter; without a name: which there are'],
  ['/base', 'answer without an adapter'],
  ['/system TEXT', 'set the system message; without a text: none'],
  ['/reset', 'forget the conversation'],
  ['/help', 'this list'],
  ['/exit', 'end, as Ctrl-D does'],
] as const;
const commandNames = commandHelp.map(([words]) => words.split(' ')[0]!);

/** A line that could not be followed; the chat goes on. */
class WrongLine extends Error {}

class Chat {
  readonly #input: ChatInput;
  #failed = false;

  constructor(
    private readonly console: Console,
    private readonly conversation: Conversation,
    private readonly adapters: readonly string[],
    private readonly json: boolean,
  ) {
    this.#input = openInput(console);
  }

  /** Until the input ends; gives the exit code: 1 where a line could not be answered. */
  async run(): Promise<number> {
    const { adapters, console } = this;
    if (adapters.length > 0) note(console, `adapters: ${adapters.join(', ')}`);
    if (console.stdin.isTTY) note(console, '/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends');
    try {
      for (;;) {
        const prompt = adapters.length > 0 ? `${this.conversation.adapter ?? baseName}> ` : '> ';
        const line = await this.#input.next(prompt);
        if (line === undefined || line.trim() === '/exit') break;
        if (line.trim() !== '') await this.#follow(line);
      }
      return this.#failed ? 1 : 0;
    } finally {
      this.#input.close();
    }
  }

  async #follow(line: string): Promise<void> {
    try {
      // A message that begins with a slash has a second one.
      if (line.startsWith('/') && !line.startsWith('//')) this.#command(line.slice(1).trim());
      else await this.#answer(line.replace(/^\/\//, '/'));
    } catch (error) {
      const goesOn = error instanceof LoRAError && error.code !== 'ERR_DEVICE_LOST';
      if (!goesOn && !(error instanceof WrongLine)) throw error;
      note(this.console, error instanceof LoRAError ? `${error.message} (${error.code})` : error.message);
      this.#failed = !this.console.stdin.isTTY; // a person has seen it
    }
  }

  #command(line: string): void {
    const { conversation } = this;
    const [, name = '', rest = ''] = /^(\S*)\s*(.*)$/s.exec(line) ?? [];
    switch (`/${name}`) {
      case '/adapter':
        if (rest === '') note(this.console, this.#list());
        else this.#choose(rest);
        break;
      case '/base':
        conversation.adapter = null;
        break;
      case '/system':
        conversation.system = rest === '' ? undefined : rest;
        break;
      case '/reset':
        conversation.reset();
        break;
      case '/help':
        for (const [words, meaning] of commandHelp) note(this.console, `${words.padEnd(15)}${meaning}`);
        note(this.console, 'Anything else is a message; one that begins with a slash is typed with two.');
        break;
      default: {
        const near = suggest(`/${name}`, commandNames);
        throw new WrongLine(
          `there is no /${name}${near === undefined ? '.' : `; did you mean ${near}?`} /help lists the commands`,
        );
      }
    }
  }

  #list(): string {
    const now = this.conversation.adapter ?? baseName;
    return [baseName, ...this.adapters].map((name) => (name === now ? `${name} (now)` : name)).join(', ');
  }

  #choose(name: string): void {
    if (name !== baseName && !this.adapters.includes(name)) {
      const near = suggest(name, this.adapters);
      const help = near === undefined ? `; there are ${this.#list()}` : `; did you mean ${near}?`;
      throw new WrongLine(`there is no adapter ${name}${help}`);
    }
    this.conversation.adapter = name === baseName ? null : name;
  }

  async #answer(message: string): Promise<void> {
    const { console, conversation } = this;
    const stop = new AbortController();
    const abort = (): void => stop.abort(console.signal.reason);
    console.signal.addEventListener('abort', abort, { once: true });
    const done = this.#input.whileAnswering(() => stop.abort());
    try {
      const answering = conversation.say(message, stop.signal);
      let next = await answering.next();
      for (; !next.done; next = await answering.next()) this.#show(next.value);
      this.#finish(next.value);
    } finally {
      done();
      console.signal.removeEventListener('abort', abort);
    }
    console.signal.throwIfAborted();
  }

  #show(piece: string): void {
    const { stdout } = this.console;
    const terminal = (stdout as { isTTY?: boolean }).isTTY === true;
    if (!this.json) stdout.write(terminal ? printable(piece) : piece);
  }

  #finish(answer: Answer): void {
    const { console, conversation } = this;
    if (this.json) printJson(console, { ...answer, adapter: conversation.adapter });
    else if (!answer.text.endsWith('\n')) console.stdout.write('\n');
    if (answer.finishReason === 'length') {
      const full = answer.usage!.completionTokens < conversation.options.maxNewTokens;
      note(
        console,
        `(cut: ${full ? 'the model reads no more tokens' : '--max-new-tokens allows longer answers'})`,
      );
    }
    if (answer.finishReason === 'stopped') note(console, '(stopped)');
  }
}
