/**
 * Regular expressions with intersection and complement, and their derivatives (Brzozowski, "Derivatives of Regular Expressions", 1964): what
 * may follow a character is an expression again, so that lookahead, lengths and several patterns of one text are one automaton.
 */
import { everyCodePoint, hasCodePoint, intersection, joined, type CodePoints } from './code_points';

/** An expression; equal ones are one object. */
export interface Term {
  readonly id: number;
  /** Whether the empty text matches. */
  readonly nullable: boolean;
  readonly kind: 'set' | 'cat' | 'repeat' | 'or' | 'and' | 'not';
  readonly set: CodePoints;
  readonly parts: readonly Term[];
  readonly least: number;
  readonly most: number;
}

/** What is beyond a bound on an expression. */
export class TooManySteps extends Error {}

/** How much may still be done for the patterns of a schema: parts of expressions that are looked at, some tenths of a second in all. */
export interface Budget {
  left: number;
}
export const patternBudget = (): Budget => ({ left: 400_000 });

export class Terms {
  readonly #known = new Map<string, Term>();
  readonly #derived = new Map<string, Term>();
  readonly #budget: Budget;
  readonly none: Term;
  readonly empty: Term;
  readonly any: Term;
  /** Every text. */
  readonly all: Term;

  constructor(budget: Budget) {
    this.#budget = budget;
    this.none = this.set([]);
    this.empty = this.#make('repeat', [this.none], true, [], 0, 0);
    this.any = this.set(everyCodePoint);
    this.all = this.repeat(this.any, 0, Infinity);
  }

  #make(
    kind: Term['kind'],
    parts: readonly Term[],
    nullable: boolean,
    set: CodePoints = [],
    least = 0,
    most = 0,
  ): Term {
    const key = `${kind} ${parts.map(({ id }) => id).join()} ${set.join(';')} ${least} ${most}`;
    const known = this.#known.get(key);
    if (known) return known;
    const term: Term = { id: this.#known.size, kind, parts, nullable, set, least, most };
    this.#known.set(key, term);
    return term;
  }

  /** One character of a set. */
  set(set: CodePoints): Term {
    return this.#make('set', [], false, set);
  }

  cat(first: Term, next: Term): Term {
    if (first === this.none || next === this.none) return this.none;
    if (first === this.empty) return next;
    if (next === this.empty) return first;
    if (first.kind === 'cat') return this.cat(first.parts[0]!, this.cat(first.parts[1]!, next));
    return this.#make('cat', [first, next], first.nullable && next.nullable);
  }

  repeat(term: Term, least: number, most: number): Term {
    if (most === 0 || term === this.empty) return this.empty;
    if (least === 1 && most === 1) return term;
    if (term === this.none) return least === 0 ? this.empty : this.none;
    const from = term.nullable ? 0 : least;
    return this.#make('repeat', [term], from === 0, [], from, most);
  }

  or(...terms: readonly Term[]): Term {
    const flat = terms.flatMap((term) => (term.kind === 'or' ? term.parts : [term]));
    this.#spend(flat.length);
    if (flat.includes(this.all)) return this.all;
    const sets = flat.filter(({ kind }) => kind === 'set');
    const one = this.set(joined(sets.flatMap(({ set }) => set)));
    const parts = unique(
      [one, ...flat.filter(({ kind }) => kind !== 'set')].filter((term) => term !== this.none),
    );
    if (parts.length < 2) return parts[0] ?? this.none;
    return this.#make(
      'or',
      parts,
      parts.some(({ nullable }) => nullable),
    );
  }

  and(...terms: readonly Term[]): Term {
    const flat = terms.flatMap((term) => (term.kind === 'and' ? term.parts : [term]));
    this.#spend(flat.length);
    if (flat.includes(this.none)) return this.none;
    const parts = unique(flat.filter((term) => term !== this.all));
    const nullable = parts.every((part) => part.nullable);
    if (parts.includes(this.empty)) return nullable ? this.empty : this.none;
    if (parts.length < 2) return parts[0] ?? this.all;
    return this.#make('and', parts, nullable);
  }

  /** Every text that does not match. */
  not(term: Term): Term {
    if (term.kind === 'not') return term.parts[0]!;
    if (term === this.none) return this.all;
    if (term === this.all) return this.none;
    return this.#make('not', [term], !term.nullable);
  }

  /** What may follow a character. @throws TooManySteps */
  after(term: Term, point: number): Term {
    if (term.kind === 'set') return hasCodePoint(term.set, point) ? this.empty : this.none;
    const key = `${term.id} ${point}`;
    const known = this.#derived.get(key);
    if (known) return known;
    this.#spend(term.parts.length);
    const derived = this.#after(term, point);
    this.#derived.set(key, derived);
    return derived;
  }

  #spend(steps: number): void {
    this.#budget.left -= steps;
    if (this.#budget.left < 0) throw new TooManySteps();
  }

  #after({ kind, parts, least, most }: Term, point: number): Term {
    const [first, second] = parts as [Term, Term];
    switch (kind) {
      case 'cat': {
        const rest = this.cat(this.after(first, point), second);
        return first.nullable ? this.or(rest, this.after(second, point)) : rest;
      }
      case 'repeat':
        return this.cat(this.after(first, point), this.repeat(first, Math.max(0, least - 1), most - 1));
      case 'or':
        return this.or(...parts.map((part) => this.after(part, point)));
      case 'and':
        return this.and(...parts.map((part) => this.after(part, point)));
      default:
        return this.not(this.after(first, point));
    }
  }

  /** All characters, parted into sets of those between which no set of the expressions tells: they are followed by the same. */
  classes(): CodePoints[] {
    const sets = [...this.#known.values()].filter(({ kind }) => kind === 'set').map(({ set }) => set);
    const begins = [...new Set([0, ...sets.flat().flatMap(([from, to]) => [from, to + 1])])].sort(
      (a, b) => a - b,
    );
    const places = new Map(begins.map((begin, i) => [begin, i]));
    const holding = begins.map((): number[] => []);
    for (const [i, set] of sets.entries())
      for (const [from, to] of set) {
        const end = places.get(to + 1)!;
        this.#spend(end - places.get(from)!);
        for (let k = places.get(from)!; k < end; k++) holding[k]!.push(i);
      }
    const classes = new Map<string, (readonly [number, number])[]>();
    for (const [i, begin] of begins.entries()) {
      const key = holding[i]!.join();
      const range = intersection([[begin, (begins[i + 1] ?? 0x110000) - 1]], everyCodePoint);
      classes.set(key, [...(classes.get(key) ?? []), ...range]);
    }
    return [...classes.values()].map(joined).filter((set) => set.length > 0);
  }
}

const unique = (terms: readonly Term[]): Term[] => [...new Set(terms)].sort((a, b) => a.id - b.id);
