/** Finds calls of tools in a text that comes in pieces. */
import { jsonCalls, toolCalls, type DeclaredTools, type ToolCall } from './tool_calls';
import type { ToolFormat } from './tool_formats';

/** What became certain with a piece of text. */
export interface ParsedPiece {
  readonly content: string;
  readonly calls: readonly ToolCall[];
}

export interface CallParser {
  push(text: string): ParsedPiece;
  /** What was held back, when no more text will come. */
  flush(): ParsedPiece;
}

/** The length of the end of a text that may be white space before a tag, or its beginning. */
export function heldLength(text: string, tag: string): number {
  let begun = Math.min(tag.length - 1, text.length);
  while (!tag.startsWith(text.slice(text.length - begun))) begun--;
  // Not by a regular expression, which would look at a run of spaces from each of its places.
  return text.length - text.slice(0, text.length - begun).trimEnd().length;
}

/** Calls between two tags, or from a tag to the end of the text. */
class TaggedParser implements CallParser {
  readonly #format: ToolFormat;
  readonly #tools: DeclaredTools;
  #held = '';
  #inside = false;
  #called = false;

  constructor(format: ToolFormat, tools: DeclaredTools) {
    this.#format = format;
    this.#tools = tools;
  }

  push(text: string): ParsedPiece {
    const { open, close } = this.#format;
    this.#held += text;
    let content = '';
    const calls: ToolCall[] = [];
    while (!this.#inside || close !== '') {
      const tag = this.#inside ? close : open;
      const at = this.#held.indexOf(tag);
      if (at < 0) break;
      const before = this.#held.slice(0, at);
      this.#held = this.#held.slice(at + tag.length);
      if (this.#inside) {
        const found = this.#calls(before);
        if (found) calls.push(...found);
        else content += open + before + close; // what the model wrote is not lost
      } else content += before.trimEnd();
      this.#inside = !this.#inside;
    }
    if (!this.#inside) {
      const kept = this.#held.length - heldLength(this.#held, open);
      content += this.#held.slice(0, kept);
      this.#held = this.#held.slice(kept);
    }
    return { content, calls };
  }

  flush(): ParsedPiece {
    const { open, close } = this.#format;
    const held = this.#held;
    const inside = this.#inside;
    this.#held = '';
    this.#inside = false;
    const calls = inside && close === '' ? this.#calls(held) : undefined;
    if (calls) return { content: '', calls };
    const rest = inside ? open + held : held;
    return { content: this.#called && rest.trim() === '' ? '' : rest, calls: [] };
  }

  #calls(text: string): readonly ToolCall[] | undefined {
    const calls = toolCalls(this.#format.calls(text, this.#tools), this.#tools);
    this.#called ||= calls !== undefined;
    return calls;
  }
}

/** A text that begins with a brace is kept to its end, where it is a list of calls or was none. */
class WholeParser implements CallParser {
  readonly #format: ToolFormat;
  readonly #tools: DeclaredTools;
  #held: string | undefined = '';

  constructor(format: ToolFormat, tools: DeclaredTools) {
    this.#format = format;
    this.#tools = tools;
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
    const calls = toolCalls(this.#format.calls(text, this.#tools), this.#tools);
    return calls ? { content: '', calls } : { content: text, calls: [] };
  }
}

/** A text that a grammar made one call. */
class ForcedParser implements CallParser {
  readonly #tools: DeclaredTools;
  #text = '';

  constructor(tools: DeclaredTools) {
    this.#tools = tools;
  }

  push(text: string): ParsedPiece {
    this.#text += text;
    return { content: '', calls: [] };
  }

  flush(): ParsedPiece {
    const calls = toolCalls(jsonCalls(this.#text), this.#tools);
    // Where the number of tokens cut it off, it is the beginning of a call.
    return calls ? { content: '', calls } : { content: this.#text, calls: [] };
  }
}

/** `forced`: the text is one call and nothing else. */
export function callParser(format: ToolFormat, tools: DeclaredTools, forced: boolean): CallParser {
  if (forced) return new ForcedParser(tools);
  return format.open === '' ? new WholeParser(format, tools) : new TaggedParser(format, tools);
}
