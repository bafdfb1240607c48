/** The automaton of a term, and its rules in EBNF: each state is one. */
import { countOf, hasCodePoint, intersection, joined, type CodePoints } from './code_points';
import { charactersOfString } from './string_characters';
import type { Term, Terms } from './terms';

export interface State {
  /** Whether the text may end here. */
  accepts: boolean;
  /** By the states that characters lead to. */
  next: Map<number, CodePoints>;
}

export class TooManyStates extends Error {}

/** What a text of the term is read by: the first state, and all of them; a state from which no text ends is left out. */
export function automaton(terms: Terms, term: Term, most: number): State[] {
  const states: State[] = [];
  const numbers = new Map<Term, number>();
  const open: Term[] = [];
  const numberOf = (of: Term): number => {
    let number = numbers.get(of);
    if (number === undefined) {
      number = numbers.size;
      if (number === most) throw new TooManyStates();
      numbers.set(of, number);
      open.push(of);
    }
    return number;
  };
  numberOf(term);
  const classes = terms.classes();
  for (let i = 0; i < open.length; i++) {
    const of = open[i]!;
    const found = new Map<number, (readonly [number, number])[]>();
    for (const set of classes) {
      const after = terms.after(of, set[0]![0]);
      if (after === terms.none) continue;
      const to = numberOf(after);
      found.set(to, [...(found.get(to) ?? []), ...set]);
    }
    const next = new Map([...found].map(([to, ranges]): [number, CodePoints] => [to, joined(ranges)]));
    states.push({ accepts: of.nullable, next });
  }
  return withoutDeadEnds(states);
}

/** Without the states from which no text ends; empty where that is the first one. */
function withoutDeadEnds(states: readonly State[]): State[] {
  const before = states.map((): number[] => []);
  for (const [from, { next }] of states.entries()) for (const to of next.keys()) before[to]!.push(from);
  const ends = new Set<number>();
  const open = [...states.keys()].filter((i) => states[i]!.accepts);
  for (let i = open.pop(); i !== undefined; i = open.pop()) {
    if (ends.has(i)) continue;
    ends.add(i);
    open.push(...before[i]!);
  }
  return ends.has(0) ? renumbered(states, ends) : [];
}

/** Some of the states, in the order in which the first one leads to them. */
function renumbered(states: readonly State[], kept: ReadonlySet<number>): State[] {
  const order = [0];
  const numbers = new Map([[0, 0]]);
  const made: State[] = [];
  for (let i = 0; i < order.length; i++) {
    const { accepts, next } = states[order[i]!]!;
    const all = new Map<number, CodePoints>();
    for (const [to, set] of next) {
      if (!kept.has(to)) continue;
      if (!numbers.has(to)) numbers.set(to, order.push(to) - 1);
      all.set(numbers.get(to)!, set);
    }
    made.push({ accepts, next: all });
  }
  return made;
}

/** Whether a text leads to a state at which it may end. */
export function accepts(states: readonly State[], text: string): boolean {
  let state = states[0]!;
  for (const character of text) {
    const point = character.codePointAt(0)!;
    const next = [...state.next].find(([, set]) => hasCodePoint(set, point));
    if (!next) return false;
    state = states[next[0]]!;
  }
  return state.accepts;
}

/** Characters from which on a state counts: tokens of all their texts are looked at for it. */
const manyCharacters = 26;

/** Whether many tokens may follow. */
export const isWide = ({ next }: State): boolean =>
  [...next.values()].reduce((sum, set) => sum + countOf(intersection(set, [[0x20, 0x7e]])), 0) >=
  manyCharacters;

/** The rule of a state: the rest of a JSON string, its end included. `named` gives the rule that stands for an expression. */
export function ruleOf(
  { accepts, next }: State,
  nameOf: (state: number) => string,
  named: (body: string) => string,
): string {
  const parts = accepts ? ['"\\""'] : [];
  for (const [to, set] of next)
    parts.push(...charactersOfString(set, named).map((one) => `${one} ${nameOf(to)}`));
  return parts.join(' | ');
}
