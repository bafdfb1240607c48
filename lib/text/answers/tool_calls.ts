/** Calls of tools in what a model writes. */
import { randomBytes } from 'node:crypto';
import { isRecord } from '../../validate';

/** A tool that a model is told of. */
export interface DeclaredTool {
  readonly name: string;
  /** The JSON Schema of its arguments. */
  readonly parameters: Readonly<Record<string, unknown>>;
}

/** The tools of a conversation by their names. */
export type DeclaredTools = ReadonlyMap<string, DeclaredTool>;

/** A call as a model has written it. */
export interface WrittenCall {
  readonly name: string;
  readonly arguments: Readonly<Record<string, unknown>>;
}

/** A call in OpenAI's shape. */
export interface ToolCall {
  /** Names the call, so that its result can say which call it is of. */
  readonly id: string;
  /** There is no other kind. */
  readonly type: 'function';
  /** The name of the tool, and its arguments as JSON text. */
  readonly function: { readonly name: string; readonly arguments: string };
}

/** Calls in OpenAI's shape; undefined where one of them is of no tool that there is. */
export function toolCalls(
  written: readonly WrittenCall[] | undefined,
  tools: DeclaredTools,
): readonly ToolCall[] | undefined {
  if (!written || written.length === 0 || !written.every(({ name }) => tools.has(name))) return undefined;
  return written.map(({ name, arguments: given }) => ({
    id: `call_${randomBytes(12).toString('hex')}`,
    type: 'function',
    function: { name, arguments: JSON.stringify(given) },
  }));
}

/** What a text is as JSON; undefined where it is none. */
export function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function jsonCall(value: unknown): WrittenCall | undefined {
  if (!isRecord(value) || typeof value['name'] !== 'string') return undefined;
  // Models that know both formats mix them up.
  const given = value['arguments'] ?? value['parameters'] ?? {};
  return isRecord(given) ? { name: value['name'], arguments: given } : undefined;
}

/** `{ name, arguments }`, or a list of these, as JSON text. */
export function jsonCalls(text: string): readonly WrittenCall[] | undefined {
  const value = parsedJson(text);
  const calls = (Array.isArray(value) ? value : [value]).map(jsonCall);
  return calls.every((call) => call !== undefined) ? calls : undefined;
}
