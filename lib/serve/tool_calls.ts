/**
 * Calls of tools in what a model writes, in two formats: Qwen's, which is that of Hermes (`<tool_call>{"name", "arguments"}</tool_call>`), and
 * Llama 3's (an answer that is `{"name", "parameters"}` alone).
 */
import { randomBytes } from 'node:crypto';
import type { Tokenizer } from '../text/tokenizer';
import { isRecord } from '../validate';

export type ToolFormat = 'hermes' | 'llama3';

/** A call in OpenAI's shape. */
export interface ToolCall {
  readonly id: string;
  readonly type: 'function';
  /** The arguments are JSON text. */
  readonly function: { readonly name: string; readonly arguments: string };
}

/** What became certain with a piece of text. */
export interface ParsedPiece {
  readonly content: string;
  readonly calls: readonly ToolCall[];
}

/** The key of the arguments in each format. */
export const argumentsKey: Readonly<Record<ToolFormat, string>> = {
  hermes: 'arguments',
  llama3: 'parameters',
};

const open = '<tool_call>';
const close = '</tool_call>';

/** What stands before a call that the model is made to write. */
export const openingOf: Readonly<Record<ToolFormat, string>> = { hermes: `${open}\n`, llama3: '' };

/** How a template writes a call, by its arguments of one number. */
const written: readonly (readonly [ToolFormat, RegExp])[] = [
  ['hermes', /<tool_call>\s*\{"name": ?"probe", ?"arguments": ?\{"a": ?1\}\}\s*<\/tool_call>/],
  ['llama3', /\{"name": ?"probe", ?"parameters": ?\{"a": ?1\}\}/],
];

/**
 * The format in which the chat template of a model writes calls, which is the one that the model was trained to write; undefined where it
 * has no tools, or another format. A conversation with a call is written to see it.
 */
export function toolFormatOf(tokenizer: Tokenizer): ToolFormat | undefined {
  const parameters = { type: 'object', properties: { a: { type: 'integer' } } };
  const tools = [{ type: 'function', function: { name: 'probe', description: 'a probe', parameters } }];
  const called = { type: 'function', function: { name: 'probe', arguments: { a: 1 } } };
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
  return written.find(([, pattern]) => pattern.test(text))?.[0];
}

/** One call as JSON; undefined for what is none. */
export function callOf(json: string, format: ToolFormat, names: ReadonlySet<string>): ToolCall | undefined {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return undefined;
  }
  if (!isRecord(value) || typeof value['name'] !== 'string' || !names.has(value['name'])) return undefined;
  // Models that know both formats mix them up.
  const given = value[argumentsKey[format]] ?? value['arguments'] ?? value['parameters'] ?? {};
  if (!isRecord(given)) return undefined;
  const id = `call_${randomBytes(12).toString('hex')}`;
  return { id, type: 'function', function: { name: value['name'], arguments: JSON.stringify(given) } };
}

/** Finds calls in a text that comes in pieces. */
export interface CallParser {
  push(text: string): ParsedPiece;
  /** What was held back, when no more text will come. */
  flush(): ParsedPiece;
}

/** The length of the end of a text that may be white space before a call, or the beginning of its tag. */
function heldLength(text: string): number {
  let tag = Math.min(open.length - 1, text.length);
  while (!open.startsWith(text.slice(text.length - tag))) tag--;
  // Not by a regular expression, which would look at a run of spaces from each of its places.
  return text.length - text.slice(0, text.length - tag).trimEnd().length;
}

class HermesParser implements CallParser {
  readonly #names: ReadonlySet<string>;
  #held = '';
  #inside = false;
  #called = false;

  constructor(names: ReadonlySet<string>) {
    this.#names = names;
  }

  push(text: string): ParsedPiece {
    this.#held += text;
    let content = '';
    const calls: ToolCall[] = [];
    for (;;) {
      const at = this.#held.indexOf(this.#inside ? close : open);
      if (at < 0) break;
      const before = this.#held.slice(0, at);
      this.#held = this.#held.slice(at + (this.#inside ? close : open).length);
      if (this.#inside) {
        const call = callOf(before, 'hermes', this.#names);
        if (call) calls.push(call);
        else content += `${open}${before}${close}`; // what the model wrote is not lost
        this.#called ||= call !== undefined;
      } else content += before.trimEnd();
      this.#inside = !this.#inside;
    }
    if (!this.#inside) {
      const kept = this.#held.length - heldLength(this.#held);
      content += this.#held.slice(0, kept);
      this.#held = this.#held.slice(kept);
    }
    return { content, calls };
  }

  flush(): ParsedPiece {
    const rest = this.#inside ? open + this.#held : this.#held;
    this.#held = '';
    this.#inside = false;
    return { content: this.#called && rest.trim() === '' ? '' : rest, calls: [] };
  }
}

/** A text that begins with a brace is kept to its end, where it is a list of calls or was none. */
class Llama3Parser implements CallParser {
  readonly #names: ReadonlySet<string>;
  #held: string | undefined = '';

  constructor(names: ReadonlySet<string>) {
    this.#names = names;
  }

  push(text: string): ParsedPiece {
    if (this.#held === undefined) return { content: text, calls: [] };
    this.#held += text;
    if (/^\s*(\{|$)/.test(this.#held)) return { content: '', calls: [] };
    const content = this.#held;
    this.#held = undefined;
    return { content, calls: [] };
  }

  flush(): ParsedPiece {
    const text = this.#held ?? '';
    this.#held = undefined;
    const calls = text
      .trim()
      .split(/(?<=\})\s*;\s*(?=\{)/)
      .map((json) => callOf(json, 'llama3', this.#names));
    return calls.every((call) => call !== undefined) ? { content: '', calls } : { content: text, calls: [] };
  }
}

/** A text that a grammar made one call. */
class ForcedParser implements CallParser {
  readonly #format: ToolFormat;
  readonly #names: ReadonlySet<string>;
  #text = '';

  constructor(format: ToolFormat, names: ReadonlySet<string>) {
    this.#format = format;
    this.#names = names;
  }

  push(text: string): ParsedPiece {
    this.#text += text;
    return { content: '', calls: [] };
  }

  flush(): ParsedPiece {
    const call = callOf(this.#text, this.#format, this.#names);
    // Where the number of tokens cut it off, it is the beginning of a call.
    return call ? { content: '', calls: [call] } : { content: this.#text, calls: [] };
  }
}

/** `forced`: the text is one call and nothing else. */
export function callParser(format: ToolFormat, names: ReadonlySet<string>, forced: boolean): CallParser {
  if (forced) return new ForcedParser(format, names);
  return format === 'hermes' ? new HermesParser(names) : new Llama3Parser(names);
}
