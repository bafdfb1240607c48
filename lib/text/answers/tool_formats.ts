/** The formats in which families of models write calls of tools: what their chat templates make of a call. */
import { isRecord } from '../../validate';
import { LiteralReader, NoLiteral } from './literals';
import { jsonCalls, parsedJson, type DeclaredTools, type WrittenCall } from './tool_calls';

/** How a family writes calls. */
export interface ToolFormat {
  readonly name: string;
  /** How its templates write a call of `probe` with the argument `a` = 1. */
  readonly written: RegExp;
  /** What stands before calls; '' where the answer is a call from its first character. */
  readonly open: string;
  /** What stands behind them; '' where they go on to the end of the answer. */
  readonly close: string;
  /** Tokens that stand within calls. */
  readonly marks?: readonly string[];
  /** The calls in what stands between; undefined for what are none. */
  readonly calls: (text: string, tools: DeclaredTools) => readonly WrittenCall[] | undefined;
  /**
   * How a call is written that the model has to make: after `opening`, as JSON with the arguments under this key, alone or in a list. Formats that
   * are not JSON have no opening: their models write JSON then, which every one of them knows.
   */
  readonly forced: {
    readonly opening: string;
    readonly key: 'arguments' | 'parameters';
    readonly list: boolean;
  };
}

const json = { opening: '', key: 'arguments', list: false } as const;

/** `{"name": "probe", KEY: {"a": 1}}`, however it is spaced. */
const probe = (key: string): string => `\\{"name": ?"probe", ?"${key}": ?\\{"a": ?1\\}`;

const hermes: ToolFormat = {
  name: 'hermes',
  written: new RegExp(`<tool_call>\\s*${probe('arguments')}\\}\\s*</tool_call>`),
  open: '<tool_call>',
  close: '</tool_call>',
  calls: jsonCalls,
  forced: { ...json, opening: '<tool_call>\n' },
};

const phi4: ToolFormat = {
  name: 'phi4',
  written: new RegExp(`<\\|tool_call\\|>\\s*\\[?${probe('arguments')}\\}\\]?\\s*<\\|/tool_call\\|>`),
  open: '<|tool_call|>',
  close: '<|/tool_call|>',
  calls: jsonCalls,
  forced: { ...json, opening: '<|tool_call|>' },
};

/** Mistral's up to Small 3.1: `[TOOL_CALLS] [{"name", "arguments", "id"}, …]`. */
const mistral: ToolFormat = {
  name: 'mistral',
  written: new RegExp(`\\[TOOL_CALLS\\] ?\\[${probe('arguments')}`),
  open: '[TOOL_CALLS]',
  close: '',
  calls: jsonCalls,
  forced: { opening: '[TOOL_CALLS]', key: 'arguments', list: true },
};

/** Mistral's since Small 3.2, Ministral 3's too: `[TOOL_CALLS]name[ARGS]{…}`, with `[CALL_ID]…` before the arguments in some. */
const mistralNamed: ToolFormat = {
  name: 'mistral-named',
  written: /\[TOOL_CALLS\]probe(\[CALL_ID\]\w+)?\[ARGS\]\{"a": ?1\}/,
  open: '[TOOL_CALLS]',
  close: '',
  marks: ['[ARGS]', '[CALL_ID]'],
  calls(text) {
    const calls = text.split('[TOOL_CALLS]').map((one) => {
      const [head, ...rest] = one.split('[ARGS]');
      const given = parsedJson(rest.join('[ARGS]'));
      return isRecord(given) ? { name: head!.split('[CALL_ID]')[0]!.trim(), arguments: given } : undefined;
    });
    return calls.every((call) => call !== undefined) ? calls : undefined;
  },
  forced: json,
};

/** The value of a parameter, which is written as a text where it is one, and as JSON or as Python prints it elsewhere. */
function typedValue(text: string, schema: unknown): unknown {
  const { type, enum: values } = isRecord(schema) ? schema : {};
  if (type === 'string' || (Array.isArray(type) && type.includes('string'))) return text;
  if (Array.isArray(values) && values.includes(text)) return text;
  const python: Readonly<Record<string, unknown>> = { True: true, False: false, None: null };
  if (Object.hasOwn(python, text)) return python[text];
  return parsedJson(text) ?? (text === 'null' ? null : text);
}

/** Qwen3-Coder's and Qwen3.5's: `<function=name><parameter=key>value</parameter></function>`, all on lines of their own. */
const qwenXml: ToolFormat = {
  name: 'qwen-xml',
  written:
    /<tool_call>\s*<function=probe>\s*<parameter=a>\s*1\s*<\/parameter>\s*<\/function>\s*<\/tool_call>/,
  open: '<tool_call>',
  close: '</tool_call>',
  calls(text, tools) {
    const [, name, inner] = /^\s*<function=([^>\n]+)>([^]*)<\/function>\s*$/.exec(text) ?? [];
    if (name === undefined || inner === undefined) return undefined;
    const properties = tools.get(name)?.parameters['properties'];
    const given: [string, unknown][] = [];
    for (let at = inner.indexOf('<parameter='); at >= 0; at = inner.indexOf('<parameter=', at)) {
      const named = inner.indexOf('>', at);
      const end = inner.indexOf('</parameter>', named);
      if (named < 0 || end < 0) return undefined;
      const key = inner.slice(at + '<parameter='.length, named);
      const value = inner
        .slice(named + 1, end)
        .replace(/^\n/, '')
        .replace(/\n$/, '');
      given.push([key, typedValue(value, isRecord(properties) ? properties[key] : undefined)]);
      at = end;
    }
    return [{ name, arguments: Object.fromEntries(given) }];
  },
  forced: json,
};

/** What a reader finds; undefined where the text is something else. */
function literal<T>(text: string, read: (reader: LiteralReader) => T): T | undefined {
  const reader = new LiteralReader(text);
  try {
    const found = read(reader);
    return reader.ended ? found : undefined;
  } catch (error) {
    if (error instanceof NoLiteral) return undefined;
    throw error;
  }
}

/** LFM2's: a list of calls as Python writes them. */
const lfm2: ToolFormat = {
  name: 'lfm2',
  written: /<\|tool_call_start\|>\[probe\(a=1\)\]<\|tool_call_end\|>/,
  open: '<|tool_call_start|>',
  close: '<|tool_call_end|>',
  calls: (text) =>
    literal(text, (reader) => {
      reader.pass('[');
      return reader.list(']', () => {
        const name = reader.name();
        reader.pass('(');
        return { name, arguments: reader.named('=', ')') };
      });
    }),
  forced: json,
};

/** Gemma 4's: `call:name{key:value}` with texts between `<|"|>`. */
const gemma4: ToolFormat = {
  name: 'gemma4',
  written: /<\|tool_call>call:probe\{a:1\}<tool_call\|>/,
  open: '<|tool_call>',
  close: '<tool_call|>',
  marks: ['<|"|>'],
  calls: (text) =>
    literal(text, (reader) => {
      reader.pass('call:');
      const name = reader.name();
      reader.pass('{');
      return [{ name, arguments: reader.named(':', '}') }];
    }),
  forced: json,
};

/** Llama 3's: an answer that is `{"name", "parameters"}` alone, or several of these between semicolons. */
const llama3: ToolFormat = {
  name: 'llama3',
  written: new RegExp(`${probe('parameters')}\\}`),
  open: '',
  close: '',
  calls(text) {
    const calls = text
      .trim()
      .split(/(?<=\})\s*;\s*(?=\{)/)
      .map(jsonCalls);
    return calls.every((call) => call !== undefined) ? calls.flat() : undefined;
  },
  forced: { ...json, key: 'parameters' },
};

/** Every format; the first one that a template writes is the model's. */
export const toolFormats: readonly ToolFormat[] = [
  hermes,
  qwenXml,
  phi4,
  mistral,
  mistralNamed,
  lfm2,
  gemma4,
  llama3,
];
