/** EBNF of JSON numbers within bounds. */

/** Digits that a number within bounds has at most: decimal numbers of so many keep their order as doubles. */
const maxDigits = 15;
const largest = 10 ** maxDigits - 1;

/** A number, with exponents that a double has. */
export const anyNumber = `"-"? ("0" | [1-9] [0-9]{0,${maxDigits - 1}}) ("." [0-9]{1,16})? ([eE] [+-]? [0-9]{1,2})?`;

const counts = Array.from({ length: maxDigits }, (_, i) => i + 1);
/**
 * Rules that numbers within bounds share, since each repetition is compiled anew where it stands: exactly so many digits, and a point with
 * one to so many behind it, or neither.
 */
export const numberRules: readonly string[] = [
  ...counts.map((n) => `digits_${n} ::= [0-9]${n === 1 ? '' : ` digits_${n - 1}`}`),
  ...counts.map((n) => `upto_${n} ::= [0-9]${n === 1 ? '' : ` upto_${n - 1}?`}`),
  ...counts.map((n) => `fraction_${n} ::= ("." upto_${n})?`),
];

/** Inclusive bounds; both are whole. */
export interface Bounds {
  readonly least?: number | undefined;
  readonly most?: number | undefined;
}

const digit = (from: number, to: number): string => (from === to ? `"${from}"` : `[${from}-${to}]`);
const free = (n: number): string => (n === 0 ? '""' : `digits_${n}`);

/** Numbers of as many digits, from `low` to `high`, leading zeros included. */
function sameLength(low: string, high: string): string {
  const n = low.length - 1;
  if (/^0*$/.test(low) && /^9*$/.test(high)) return free(low.length);
  const [first, last] = [Number(low[0]), Number(high[0])];
  const join = (head: string, rest: string): string => (n === 0 ? head : `${head} ${rest}`);
  if (first === last)
    return join(digit(first, first), n === 0 ? '' : `(${sameLength(low.slice(1), high.slice(1))})`);
  const parts: string[] = [];
  let [from, to] = [first, last];
  if (!/^0*$/.test(low.slice(1))) {
    parts.push(join(digit(first, first), `(${sameLength(low.slice(1), '9'.repeat(n))})`));
    from++;
  }
  const highIsFree = /^9*$/.test(high.slice(1));
  if (!highIsFree) to--;
  if (from <= to) parts.push(join(digit(from, to), free(n)));
  if (!highIsFree) parts.push(join(digit(last, last), `(${sameLength('0'.repeat(n), high.slice(1))})`));
  return parts.join(' | ');
}

/** Whole numbers from `low` to `high`, both at least 0, by their number of digits; none where low > high. */
function natural(low: number, high: number): { length: number; digits: string }[] {
  const parts: { length: number; digits: string }[] = [];
  for (let from = low; from <= high;) {
    const { length } = String(from);
    const to = Math.min(high, 10 ** length - 1);
    parts.push({ length, digits: sameLength(String(from), String(to)) });
    from = to + 1;
  }
  return parts;
}

const group = (parts: readonly string[]): string => `(${parts.join(' | ')})`;

/** Of bounds that the schema leaves open: as far as whole numbers are exact. */
function closed({ least, most }: Bounds): [least: number, most: number] {
  const clamp = (value: number): number =>
    Math.max(-Number.MAX_SAFE_INTEGER, Math.min(Number.MAX_SAFE_INTEGER, value));
  const low = clamp(least ?? Math.min(-largest, most ?? 0));
  return [low, clamp(most ?? Math.max(largest, low))];
}

/** Whole numbers within bounds; undefined where there is none. */
export function integers(bounds: Bounds): string | undefined {
  const [least, most] = closed(bounds);
  const digitsOf = (low: number, high: number): string[] => natural(low, high).map(({ digits }) => digits);
  const parts = digitsOf(Math.max(0, least), most);
  const negative = digitsOf(Math.max(1, -most), -least);
  if (negative.length > 0) parts.push(`"-" ${group(negative)}`);
  return parts.length > 0 ? parts.join(' | ') : undefined;
}

/** What stands behind the point of a number. */
export interface Fractions {
  /** Digits at most, of a number that has `length` before the point. */
  places(length: number): number;
  /** A point and one to so many digits, or neither. */
  optional(places: number): string;
  /** One to so many digits that are not all 0. */
  nonzero(places: number): string;
}

/** Any digits, so many at most. */
export const digitsBehind = (most: number): Fractions => ({
  places: (length) => Math.max(0, Math.min(most, maxDigits - length)),
  optional: (places) => `fraction_${places}`,
  nonzero: (places) => `[0-9]{0,${places - 1}} [1-9]`,
});

/**
 * The fractions of so many digits that are multiples of a step, which divides 10 to the power of their number: with step 25 and two digits
 * 0, .25, .5, .50, .75. `rule` gives the name of a rule for an expression.
 */
export function steppedFractions(step: number, digits: number, rule: (body: string) => string): Fractions {
  const texts = Array.from({ length: 10 ** digits / step }, (_, i) =>
    String(i * step).padStart(digits, '0'),
  ).flatMap((text) => {
    const least = Math.max(1, text.replace(/0+$/, '').length);
    return Array.from({ length: digits - least + 1 }, (_, i) => text.slice(0, least + i));
  });
  const choice = (some: readonly string[]): string =>
    rule(
      [...some]
        .sort((a, b) => a.length - b.length)
        .map((text) => `"${text}"`)
        .join(' | '),
    );
  const all = choice(texts);
  const nonzero = choice(texts.filter((text) => /[1-9]/.test(text)));
  return {
    places: (length) => (maxDigits - length >= digits ? digits : 0),
    optional: () => `("." ${all})?`,
    nonzero: () => nonzero,
  };
}

/** Numbers from `low` to `high`, both whole and at least 0, without the ends that are open. */
function decimals(
  low: number,
  high: number,
  lowOpen: boolean,
  highOpen: boolean,
  fractions: Fractions,
): string[] {
  if (low > high || (low === high && (lowOpen || highOpen))) return [];
  const places = (length: number): number => fractions.places(length);
  const end = (value: number): string => {
    const zeros = places(String(value).length);
    return zeros > 0 ? `"${value}" ("." "0"{1,${zeros}})?` : `"${value}"`;
  };
  if (low === high) return [end(low)];
  const parts: string[] = [];
  const lowPlaces = places(String(low).length);
  if (lowOpen && lowPlaces > 0) parts.push(`"${low}" "." ${fractions.nonzero(lowPlaces)}`);
  for (const { length, digits } of natural(lowOpen ? low + 1 : low, high - 1))
    parts.push(places(length) > 0 ? `(${digits}) ${fractions.optional(places(length))}` : `(${digits})`);
  if (!highOpen) parts.push(end(high));
  return parts;
}

/** Numbers within whole bounds, without exponents; an end that is open does not belong to them. Undefined where there is none. */
export function numbers(
  bounds: Bounds,
  leastOpen: boolean,
  maxOpen: boolean,
  fractions = digitsBehind(maxDigits),
): string | undefined {
  const [least, most] = closed(bounds);
  const parts = decimals(Math.max(0, least), most, least >= 0 && leastOpen, maxOpen, fractions);
  if (least < 0) {
    const negative = decimals(Math.max(0, -most), -least, most <= 0 && maxOpen, leastOpen, fractions);
    if (negative.length > 0) parts.push(`"-" ${group(negative)}`);
  }
  return parts.length > 0 ? parts.join(' | ') : undefined;
}

/** Multiples up to which they are listed one by one. */
const maxListed = 200;

/** Digits of multiples of a divisor, by automata whose states are remainders. */
class Multiples {
  readonly #known = new Map<string, string | undefined>();

  constructor(
    private readonly divisor: number,
    private readonly rule: (body: string) => string,
  ) {}

  /** Those from `low` to `high`, both at least 1. */
  natural(low: number, high: number): string[] {
    const { divisor } = this;
    const first = Math.ceil(low / divisor);
    const count = Math.floor(high / divisor) - first + 1;
    if (count <= maxListed)
      return Array.from({ length: Math.max(0, count) }, (_, i) => `"${(first + i) * divisor}"`);
    const parts: string[] = [];
    for (let from = low; from <= high;) {
      const to = Math.min(high, 10 ** String(from).length - 1);
      const digits = this.#between(String(from), String(to), 0);
      if (digits !== undefined) parts.push(digits);
      from = to + 1;
    }
    return parts;
  }

  /** Digits from `low` to `high`, of as many digits, behind those that leave a remainder; undefined where there are none. */
  #between(low: string, high: string, remainder: number): string | undefined {
    if (low === '') return remainder === 0 ? '""' : undefined;
    const n = low.length - 1;
    const free = /^0*$/.test(low) && /^9*$/.test(high);
    const key = `${n} ${remainder}`;
    if (free && this.#known.has(key)) return this.#known.get(key);
    const parts: string[] = [];
    for (let digit = Number(low[0]); digit <= Number(high[0]); digit++) {
      const rest = this.#between(
        digit === Number(low[0]) ? low.slice(1) : '0'.repeat(n),
        digit === Number(high[0]) ? high.slice(1) : '9'.repeat(n),
        (remainder * 10 + digit) % this.divisor,
      );
      if (rest !== undefined) parts.push(rest === '""' ? `"${digit}"` : `"${digit}" ${rest}`);
    }
    const all = parts.length === 0 ? undefined : this.rule(parts.join(' | '));
    if (free) this.#known.set(key, all);
    return all;
  }
}

/** Whole multiples of a divisor within bounds; undefined where there is none. `rule` gives the name of a rule for an expression. */
export function multiples(
  divisor: number,
  bounds: Bounds,
  rule: (body: string) => string,
): string | undefined {
  const [least, most] = closed(bounds);
  const zeros = /0*$/.exec(String(divisor))![0].length;
  const unit = 10 ** zeros;
  const all = new Multiples(divisor / unit, rule);
  const of = (low: number, high: number): string[] => {
    const parts = all.natural(Math.max(1, Math.ceil(low / unit)), Math.floor(high / unit));
    return parts.length > 0 && zeros > 0 ? [`${group(parts)} "${'0'.repeat(zeros)}"`] : parts;
  };
  const parts = least <= 0 && most >= 0 ? ['"0"'] : [];
  parts.push(...of(least, most));
  const negative = of(-most, -least);
  if (negative.length > 0) parts.push(`"-" ${group(negative)}`);
  return parts.length > 0 ? parts.join(' | ') : undefined;
}
