/** What the filters, methods and operators of templates cost beyond their nodes, which is the work that a short text can ask for. */
import { charactersPerStep, entriesOf, itemsOf, textOf, type Sizes, type Value } from './template_values';

const characters = (count: number): number => Math.floor(count / charactersPerStep);
/** Searching compares a part of all pairs of characters in the worst case. */
const searching = (text: string, part: string): number =>
  characters(text.length) + Math.floor((text.length * Math.min(part.length, text.length)) / 256);

function occurrences(text: string, part: string): number {
  if (part === '') return text.length + 1;
  let count = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) count++;
  return count;
}

const countOf = (value: Value | undefined): number =>
  itemsOf(value)?.length ?? entriesOf(value)?.size ?? textOf(value)?.length ?? 1;

/** These look at a value without going through it. */
const cheap = new Set([
  'length',
  'first',
  'last',
  'list',
  'default',
  'int',
  'float',
  'abs',
  'safe',
  'bool',
  'get',
]);

/** Arguments of a call: in their order, and by name. */
export interface Arguments {
  readonly values: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

/** Steps of a filter, or of a method, which are the same work. */
export function callCost(name: string, operand: Value, { values, named }: Arguments, sizes: Sizes): number {
  if (cheap.has(name)) return 0;
  const { steps, depth } = sizes.of(operand);
  const text = textOf(operand);
  const argument = (at: number, key: string): Value | undefined => values[at] ?? named.get(key);
  const number = (value: Value | undefined, otherwise: number): number =>
    typeof value?.value === 'number' ? Math.max(0, value.value) : otherwise;
  switch (name) {
    case 'tojson':
      return (
        steps * (1 + number(argument(0, 'indent'), 0) * depth) +
        steps * sizes.of(named.get('separators')).steps
      );
    case 'join':
      return steps + countOf(operand) * sizes.of(argument(0, 'separator')).steps;
    case 'indent':
      return steps + characters((1 + occurrences(text ?? '', '\n')) * number(argument(0, 'width'), 4));
    case 'replace': {
      const old = textOf(values[0]) ?? '';
      if (text === undefined) return steps;
      const made = occurrences(text, old) * sizes.of(values[1]).steps;
      return steps + searching(text, old) + made;
    }
    case 'split':
      return text === undefined
        ? steps
        : searching(text, textOf(values[0]) ?? '') + Math.floor(text.length / 4);
    case 'startswith':
    case 'endswith':
      return sizes.of(values[0]).steps;
    case 'sort':
    case 'dictsort':
      return steps * (1 + Math.ceil(Math.log2(1 + countOf(operand))));
    default:
      return steps;
  }
}

/** Steps of an operator between two values. */
export function operatorCost(operator: string, left: Value, right: Value, sizes: Sizes): number {
  const [a, b] = [textOf(left), textOf(right)];
  switch (operator) {
    case '~':
    case '+':
      // Texts are only linked; everything else is written out, or its list copied.
      if (a !== undefined && b !== undefined) return 0;
      if (operator === '+' && itemsOf(left) && itemsOf(right)) return countOf(left) + countOf(right);
      return sizes.of(left).steps + sizes.of(right).steps;
    case '==':
    case '!=':
      // JavaScript writes a list out to compare it with a text.
      return (
        Math.min(sizes.of(left).steps, sizes.of(right).steps) +
        (a !== undefined ? sizes.of(right).steps : 0) +
        (b !== undefined ? sizes.of(left).steps : 0)
      );
    case 'in':
    case 'not in':
      if (a !== undefined && b !== undefined) return searching(b, a);
      return itemsOf(right) ? countOf(right) : 0;
    default:
      return 0;
  }
}
