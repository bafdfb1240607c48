/** The fields `tools` and `tool_choice` of a chat. */
import type { JsonSchema } from '../grammar/json_schema';
import { describe, isListOf, isRecord } from '../validate';
import { invalid, unsupported } from './api_error';
import { booleanField, type Fields } from './fields';
import { argumentsKey, type ToolFormat } from './tool_calls';

/** What a request says of tools. */
export interface RequestedTools {
  readonly format: ToolFormat;
  /** For the template, as the request has them. */
  readonly tools: readonly unknown[];
  readonly names: ReadonlySet<string>;
  /** The schema of the one call that must be made; undefined where the model decides. */
  readonly schema: JsonSchema | undefined;
  /** Whether the request names the function, after whose call OpenAI's API says 'stop'. */
  readonly named: boolean;
  /** Most calls of an answer. */
  readonly maxCalls: number;
}

const maxTools = 128;

interface Declared {
  readonly name: string;
  readonly parameters: Readonly<Record<string, unknown>>;
}

function declared(given: unknown, place: string): Declared {
  if (!isRecord(given) || given['type'] !== 'function' || !isRecord(given['function']))
    throw invalid(
      `expected ${place} to be { type: 'function', function } but received ${describe(given)}`,
      'tools',
    );
  const { name, parameters = { type: 'object', additionalProperties: false } } = given['function'];
  if (typeof name !== 'string' || !/^[\w.-]{1,64}$/.test(name))
    throw invalid(
      `expected the name of ${place} to have letters, digits, _, . and - but received ${describe(name)}`,
      'tools',
    );
  if (!isRecord(parameters))
    throw invalid(
      `expected the parameters of ${place} to be a JSON Schema but received ${describe(parameters)}`,
      'tools',
    );
  return { name, parameters };
}

/** A schema within another one: its references begin at the new root. */
function moved(schema: unknown, to: string): unknown {
  if (Array.isArray(schema)) return schema.map((one) => moved(one, to));
  if (!isRecord(schema)) return schema;
  return Object.fromEntries(
    Object.entries(schema).map(([key, value]) =>
      key === '$ref' && typeof value === 'string' && value.startsWith('#')
        ? [key, `${to}${value.slice(1)}`]
        : [key, moved(value, to)],
    ),
  );
}

/** The schema of one call of one of these functions. */
function callSchema(functions: readonly Declared[], format: ToolFormat): JsonSchema {
  const key = argumentsKey[format];
  const one = ({ name, parameters }: Declared, at: string): Record<string, unknown> => ({
    type: 'object',
    properties: { name: { const: name }, [key]: moved(parameters, `${at}/properties/${key}`) },
    required: ['name', key],
    additionalProperties: false,
  });
  return functions.length === 1
    ? one(functions[0]!, '#')
    : { anyOf: functions.map((declaration, i) => one(declaration, `#/anyOf/${i}`)) };
}

/**
 * What a request says of tools; undefined where it has none, or wants none called.
 * @param format of the model's calls, where it has one
 */
export function toolsFields(
  fields: Fields,
  format: () => ToolFormat | undefined,
): RequestedTools | undefined {
  const given = fields['tools'] ?? [];
  if (!isListOf(given, (_): _ is unknown => true))
    throw invalid(`expected tools to be a list but received ${describe(given)}`, 'tools');
  const choice = fields['tool_choice'] ?? 'auto';
  if (given.length === 0 && choice !== 'auto' && choice !== 'none')
    throw invalid('tool_choice is for requests with tools', 'tool_choice');
  if (given.length === 0) return undefined;
  if (given.length > maxTools)
    throw invalid(`expected at most ${maxTools} tools but received ${given.length}`, 'tools');
  const functions = given.map((one, i) => declared(one, `tool ${i + 1}`));
  const chosen = chosenOf(choice, functions);
  if (choice === 'none') return undefined;
  const known = format();
  if (known === undefined)
    throw unsupported('tools', "the model's chat template does not write calls as Qwen's or Llama 3's does");
  if (chosen && (fields['response_format'] as { type?: unknown } | undefined)?.type === 'json_schema')
    throw invalid('a response_format has no place beside a call that must be made', 'response_format');
  return {
    format: known,
    tools: given,
    names: new Set(functions.map(({ name }) => name)),
    schema: chosen && callSchema(chosen, known),
    named: chosen !== undefined && choice !== 'required',
    maxCalls: booleanField(fields, 'parallel_tool_calls') === false ? 1 : Infinity,
  };
}

/** The functions of which one must be called; undefined where none must be. */
function chosenOf(choice: unknown, functions: readonly Declared[]): readonly Declared[] | undefined {
  if (choice === 'auto' || choice === 'none') return undefined;
  if (choice === 'required') return functions;
  const wanted =
    isRecord(choice) && choice['type'] === 'function' && isRecord(choice['function'])
      ? choice['function']['name']
      : undefined;
  if (typeof wanted !== 'string')
    throw invalid(
      `expected tool_choice to be 'none', 'auto', 'required' or { type: 'function', function: { name } } but received ${describe(choice)}`,
      'tool_choice',
    );
  const found = functions.find(({ name }) => name === wanted);
  if (!found)
    throw invalid(
      `expected tool_choice to name one of the tools but received ${describe(wanted)}`,
      'tool_choice',
    );
  return [found];
}
