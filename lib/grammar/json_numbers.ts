/** EBNF of JSON numbers within bounds. */

/** Digits that a number within bounds has at most: decimal numbers of so many keep their order as doubles. */
const mostDigits = 15;
const largest = 10 ** mostDigits - 1;

/** A number, with exponents that a double has. */
export const anyNumber = `"-"? ("0" | [1-9] [0-9]{0,${mostDigits - 1}}) ("." [0-9]{1,16})? ([eE] [+-]? [0-9]{1,2})?`;

const counts = Array.from({ length: mostDigits }, (_, i) => i + 1);
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

/** Numbers from `low` to `high`, both whole and at least 0, without the ends that are open. */
function decimals(low: number, high: number, lowOpen: boolean, highOpen: boolean): string[] {
  if (low > high || (low === high && (lowOpen || highOpen))) return [];
  /** Digits behind the point of a number that has `length` before it. */
  const places = (length: number): number => Math.max(0, mostDigits - length);
  const end = (value: number): string => {
    const zeros = places(String(value).length);
    return zeros > 0 ? `"${value}" ("." "0"{1,${zeros}})?` : `"${value}"`;
  };
  if (low === high) return [end(low)];
  const parts: string[] = [];
  const lowPlaces = places(String(low).length);
  if (lowOpen && lowPlaces > 0) parts.push(`"${low}" "." [0-9]{0,${lowPlaces - 1}} [1-9]`);
  for (const { length, digits } of natural(lowOpen ? low + 1 : low, high - 1))
    parts.push(places(length) > 0 ? `(${digits}) fraction_${places(length)}` : `(${digits})`);
  if (!highOpen) parts.push(end(high));
  return parts;
}

/** Numbers within whole bounds, without exponents; an end that is open does not belong to them. Undefined where there is none. */
export function numbers(bounds: Bounds, leastOpen: boolean, mostOpen: boolean): string | undefined {
  const [least, most] = closed(bounds);
  const parts =
    most < 0
      ? []
      : least > 0 || (least === 0 && leastOpen)
        ? decimals(least, most, leastOpen, mostOpen)
        : decimals(0, most, false, mostOpen);
  if (least < 0) {
    const negative =
      most < 0 || (most === 0 && mostOpen)
        ? decimals(-most, -least, mostOpen, leastOpen)
        : decimals(0, -least, false, leastOpen);
    if (negative.length > 0) parts.push(`"-" ${group(negative)}`);
  }
  return parts.length > 0 ? parts.join(' | ') : undefined;
}
