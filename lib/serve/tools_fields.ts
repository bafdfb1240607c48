/** The fields `tools` and `tool_choice` of a chat. */
import type { JsonSchema } from '../grammar/json_schema';
import { callSchema } from '../text/answers/forced_call';
import { declaredTools } from '../text/answers/declared_tools';
import type { DeclaredTool, DeclaredTools } from '../text/answers/tool_calls';
import { toolFormats, type ToolFormat } from '../text/answers/tool_formats';
import { describe, isRecord } from '../validate';
import { invalid, unsupported } from './api_error';
import { booleanField, type Fields } from './fields';

/** What a request says of tools. */
export interface RequestedTools {
  /** For the template, as the request has them. */
  readonly tools: readonly unknown[];
  readonly declared: DeclaredTools;
  /** The schema of the one call that must be made; undefined where the model decides. */
  readonly schema: JsonSchema | undefined;
  /** Whether the request names the function, after whose call OpenAI's API says 'stop'. */
  readonly named: boolean;
  /** Most calls of an answer. */
  readonly maxCalls: number;
}

const refuse = (message: string): never => {
  throw invalid(message, 'tools');
};

/**
 * What a request says of tools; undefined where it has none, or wants none called.
 * @param format of the model's calls, where it has one
 */
export function toolsFields(
  fields: Fields,
  format: () => ToolFormat | undefined,
): RequestedTools | undefined {
  const functions = declaredTools(fields['tools'] ?? [], refuse);
  const choice = fields['tool_choice'] ?? 'auto';
  if (functions.length === 0 && choice !== 'auto' && choice !== 'none')
    throw invalid('tool_choice is for requests with tools', 'tool_choice');
  if (functions.length === 0) return undefined;
  const chosen = chosenOf(choice, functions);
  if (choice === 'none') return undefined;
  const known = format();
  if (known === undefined)
    throw unsupported(
      'tools',
      `the model's chat template writes calls in none of the formats ${toolFormats.map(({ name }) => name).join(', ')}`,
    );
  if (chosen && (fields['response_format'] as { type?: unknown } | undefined)?.type === 'json_schema')
    throw invalid('a response_format has no place beside a call that must be made', 'response_format');
  return {
    tools: fields['tools'] as unknown[],
    declared: new Map(functions.map((tool) => [tool.name, tool])),
    schema: chosen && callSchema(chosen, known),
    named: chosen !== undefined && choice !== 'required',
    maxCalls: booleanField(fields, 'parallel_tool_calls') === false ? 1 : Infinity,
  };
}

/** The functions of which one must be called; undefined where none must be. */
function chosenOf(choice: unknown, functions: readonly DeclaredTool[]): readonly DeclaredTool[] | undefined {
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
