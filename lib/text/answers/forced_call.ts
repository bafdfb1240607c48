/** A call that a model has to make: the schema that holds its text. */
import { isRecord } from '../../validate';
import type { DeclaredTool } from './tool_calls';
import type { ToolFormat } from './tool_formats';

/** A JSON Schema. */
type Schema = Record<string, unknown>;

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

/** The schema of one call of one of these tools, as a format writes calls that have to be made. */
export function callSchema(tools: readonly DeclaredTool[], { forced }: ToolFormat): Schema {
  const { key, list } = forced;
  const root = list ? '#/items' : '#';
  const one = ({ name, parameters }: DeclaredTool, at: string): Schema => ({
    type: 'object',
    properties: { name: { const: name }, [key]: moved(parameters, `${at}/properties/${key}`) },
    required: ['name', key],
    additionalProperties: false,
  });
  const call =
    tools.length === 1
      ? one(tools[0]!, root)
      : { anyOf: tools.map((tool, i) => one(tool, `${root}/anyOf/${i}`)) };
  return list ? { type: 'array', items: call, minItems: 1, maxItems: 1 } : call;
}
