/** Descriptions of tools as chat templates and APIs take them. */
import { describe, isListOf, isRecord } from '../../validate';
import type { DeclaredTool } from './tool_calls';

const maxTools = 128;

/**
 * The tools that a list describes as `{ type: 'function', function: { name, description, parameters } }`.
 * @param refuse throws an error with this message
 */
export function declaredTools(given: unknown, refuse: (message: string) => never): DeclaredTool[] {
  if (!isListOf(given, (_): _ is unknown => true))
    return refuse(`expected tools to be a list but received ${describe(given)}`);
  if (given.length > maxTools)
    return refuse(`expected at most ${maxTools} tools but received ${given.length}`);
  return given.map((one, i) => declaredTool(one, `tool ${i + 1}`, refuse));
}

function declaredTool(given: unknown, place: string, refuse: (message: string) => never): DeclaredTool {
  if (!isRecord(given) || given['type'] !== 'function' || !isRecord(given['function']))
    return refuse(`expected ${place} to be { type: 'function', function } but received ${describe(given)}`);
  const { name, parameters = { type: 'object', additionalProperties: false } } = given['function'];
  if (typeof name !== 'string' || !/^[\w.-]{1,64}$/.test(name))
    return refuse(
      `expected the name of ${place} to have letters, digits, _, . and - but received ${describe(name)}`,
    );
  if (!isRecord(parameters))
    return refuse(
      `expected the parameters of ${place} to be a JSON Schema but received ${describe(parameters)}`,
    );
  return { name, parameters };
}
