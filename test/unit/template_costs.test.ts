/** Steps of operators, filters and methods of templates, counted by hand. */
import { callCost, operatorCost } from '../../lib/text/template_costs';
import { Sizes, type Value } from '../../lib/text/template_values';

const value = (type: string, held: unknown): Value => ({ type, value: held }) as unknown as Value;
const text = (characters: number): Value => value('StringValue', 'a'.repeat(characters));
const number = value('IntegerValue', 3);
const list = (...items: Value[]): Value => value('ArrayValue', items);
const object = (entries: Record<string, Value>): Value =>
  value('ObjectValue', new Map(Object.entries(entries)));

// A text of 160 characters takes 11 steps to write, and a list one step more than its items.
const texts = list(text(160), text(160));
const numbers = list(number, number, number);

test.each<[operator: string, left: Value, right: Value, steps: number]>([
  ['+', text(160), text(1600), 0], // texts are linked
  ['~', text(160), text(1600), 0],
  ['+', texts, numbers, 5], // lists are copied, item by item
  ['~', texts, numbers, 23 + 4], // and here written out
  ['+', texts, text(160), 23 + 11],
  ['+', text(160), texts, 11 + 23],
  ['~', number, number, 2],
  ['==', numbers, texts, 4],
  ['!=', texts, numbers, 4],
  ['==', text(160), texts, 11 + 23], // the list is written out
  ['==', texts, text(160), 11 + 23],
  ['==', text(160), text(320), 11 + 21 + 11],
  ['in', text(32), text(512), 512 / 16 + (512 * 32) / 256],
  ['not in', text(32), text(512), 512 / 16 + (512 * 32) / 256],
  ['in', text(2048), text(512), 512 / 16 + (512 * 512) / 256], // no part is longer than the text
  ['in', number, numbers, 3],
  ['in', text(160), object({ a: number, b: number }), 0],
  ['in', number, text(512), 0],
  ['<', texts, texts, 0],
])('%s of values %#', (operator, left, right, steps) => {
  expect(operatorCost(operator, left, right, new Sizes())).toBe(steps);
});

const call = (
  name: string,
  operand: Value,
  values: Value[] = [],
  named: Record<string, Value> = {},
): number => callCost(name, operand, { values, named: new Map(Object.entries(named)) }, new Sizes());

test.each<[name: string, steps: number, cost: number]>([
  ['length of a long list', call('length', texts), 0],
  ['tojson', call('tojson', texts), 23 + 23],
  ['tojson, each line indented by 2', call('tojson', texts, [value('IntegerValue', 2)]), 23 * 3 + 23],
  ['tojson, indented by name', call('tojson', texts, [], { indent: value('IntegerValue', 2) }), 23 * 3 + 23],
  ['tojson with a long separator', call('tojson', texts, [], { separators: text(160) }), 23 + 23 * 11],
  ['tojson with a negative indent', call('tojson', texts, [value('IntegerValue', -9)]), 23 + 23],
  ['join', call('join', numbers, [text(160)]), 4 + 3 * 11],
  ['join by nothing', call('join', numbers), 4 + 3],
  ['indent of two lines', call('indent', value('StringValue', 'a\nb'), [value('IntegerValue', 160)]), 1 + 20],
  ['replace of nothing', call('replace', text(32), [text(0), text(160)]), 3 + 2 + 33 * 11],
  ['replace', call('replace', text(32), [text(8), text(160)]), 3 + 2 + 1 + 4 * 11],
  ['replace in a list', call('replace', texts, [text(8), text(160)]), 23],
  ['split', call('split', text(32), [text(8)]), 2 + 1 + 8],
  ['split of a list', call('split', texts, [text(8)]), 23],
  ['startswith', call('startswith', text(3200), [text(160)]), 11],
  ['endswith', call('endswith', text(3200), [text(160)]), 11],
  ['sort', call('sort', numbers), 4 * (1 + 2)],
  ['dictsort', call('dictsort', object({ a: number })), 3 * (1 + 1)],
  ['upper', call('upper', text(160)), 11],
])('%s', (_, steps, cost) => expect(steps).toBe(cost));
