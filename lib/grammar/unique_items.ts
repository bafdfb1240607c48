/** Lists in which no item comes twice. */
import { literal } from './alphabet';

/**
 * From `least` to `most` of some values in any order, without the brackets: a rule for each set of values that are left, so few values only.
 * `named` gives the rule that stands for an expression.
 */
export function differentItems(
  values: readonly unknown[],
  least: number,
  most: number,
  named: (body: string) => string,
): string {
  const after = (left: readonly string[], made: number): string => {
    const comma = made === 0 ? '' : 'ws "," ws ';
    const more = left.map((value) => {
      const others = left.filter((other) => other !== value);
      return `${comma}${value} ${after(others, made + 1)}`;
    });
    const end = made === 0 ? '""' : 'ws';
    return named([...(made < most ? more : []), ...(made >= least ? [end] : [])].join(' | '));
  };
  return after(
    values.map((value) => literal(JSON.stringify(value))),
    0,
  );
}
