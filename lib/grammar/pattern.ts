/**
 * The regular expressions of JSON Schemas, which are those of ECMAScript, as terms. A pattern may match anywhere in a text, so that what is
 * before and behind it is free unless it says otherwise. What no automaton has, such as references to groups, is refused.
 */
import { charactersOf, complement, everyCodePoint, joined, type CodePoints } from './code_points';
import type { Term, Terms } from './terms';

/** What is wrong with a pattern; whoever knows its place says where. */
export class PatternError extends Error {
  constructor(
    message: string,
    /** Whether it is no regular expression; otherwise it is one that no grammar is made of. */
    readonly malformed = false,
  ) {
    super(message);
  }
}

const maxCharacters = 8192;
const maxNesting = 100;
const maxRepeats = 1000;

type Node =
  | { readonly kind: 'set'; readonly set: CodePoints }
  | { readonly kind: 'all' | 'any'; readonly parts: readonly Node[] }
  | { readonly kind: 'repeat'; readonly of: Node; readonly least: number; readonly most: number }
  | { readonly kind: 'look'; readonly of: Node; readonly negative: boolean }
  | { readonly kind: 'begin' | 'end' };

const digits: CodePoints = [[48, 57]];
const words: CodePoints = joined([...digits, [65, 90], [95, 95], [97, 122]]);
/** WhiteSpace and LineTerminator of ECMA-262. */
const spaces: CodePoints = joined([
  [9, 13],
  [32, 32],
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
  [0xfeff, 0xfeff],
]);
const notLineEnds = complement(charactersOf('\n\r\u2028\u2029'));
const classes: Readonly<Record<string, CodePoints>> = {
  d: digits,
  w: words,
  s: spaces,
  D: complement(digits),
  W: complement(words),
  S: complement(spaces),
};
const controls: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13 };
const quantifier = /(?:([*+?])|\{(\d+)(,(\d*))?\})\??/y;

/** Reads a pattern that JavaScript's engine compiles. */
class PatternReader {
  #at = 0;
  #depth = 0;

  constructor(private readonly text: string) {}

  read(): Node {
    const node = this.#choice();
    if (this.#at < this.text.length) this.#refuse(`${this.text[this.#at]!} without an opening one`, true);
    return node;
  }

  #refuse(what: string, malformed = false): never {
    throw new PatternError(what, malformed);
  }

  #takes(words: string): boolean {
    if (!this.text.startsWith(words, this.#at)) return false;
    this.#at += words.length;
    return true;
  }

  #choice(): Node {
    if (++this.#depth > maxNesting) this.#refuse(`groups within more than ${maxNesting} others`);
    const parts = [this.#sequence()];
    while (this.#takes('|')) parts.push(this.#sequence());
    this.#depth--;
    return parts.length === 1 ? parts[0]! : { kind: 'any', parts };
  }

  #sequence(): Node {
    const parts: Node[] = [];
    while (this.#at < this.text.length && this.text[this.#at] !== '|' && this.text[this.#at] !== ')')
      parts.push(this.#quantified(this.#atom()));
    return { kind: 'all', parts };
  }

  #quantified(of: Node): Node {
    quantifier.lastIndex = this.#at;
    const found = quantifier.exec(this.text);
    if (!found) return of;
    this.#at = quantifier.lastIndex;
    const [, sign, from, range, to] = found;
    const least = sign === '+' ? 1 : Number(from ?? 0);
    const end = range === undefined ? least : to === '' ? Infinity : Number(to);
    const most = sign === undefined ? end : sign === '?' ? 1 : Infinity;
    if (least > maxRepeats || (most > maxRepeats && most !== Infinity))
      this.#refuse(`more than ${maxRepeats} repetitions`);
    return { kind: 'repeat', of, least, most };
  }

  #atom(): Node {
    if (this.#takes('(')) return this.#group();
    if (this.#takes('[')) return { kind: 'set', set: this.#class() };
    if (this.#takes('^')) return { kind: 'begin' };
    if (this.#takes('$')) return { kind: 'end' };
    if (this.#takes('.')) return { kind: 'set', set: notLineEnds };
    if (this.#takes('\\')) {
      const next = this.text[this.#at];
      if (next === 'b' || next === 'B') this.#refuse(`\\${next}`);
      if (next === 'k' || (next !== undefined && /[1-9]/.test(next))) this.#refuse('references to groups');
      return { kind: 'set', set: this.#escaped() };
    }
    return { kind: 'set', set: this.#character() };
  }

  #character(): CodePoints {
    const point = this.text.codePointAt(this.#at)!;
    this.#at += point > 0xffff ? 2 : 1;
    return [[point, point]];
  }

  #group(): Node {
    let look: { negative: boolean } | undefined;
    if (this.#takes('?:')) look = undefined;
    else if (this.#takes('?=')) look = { negative: false };
    else if (this.#takes('?!')) look = { negative: true };
    else if (this.#takes('?<=') || this.#takes('?<!')) this.#refuse('lookbehind');
    else if (this.#takes('?<')) this.#at = this.text.indexOf('>', this.#at) + 1;
    else if (this.#takes('?')) this.#refuse('flags of a group');
    const of = this.#choice();
    if (!this.#takes(')')) this.#refuse('a group that does not end', true);
    return look ? { kind: 'look', of, ...look } : of;
  }

  /** A character or class behind a backslash. */
  #escaped(): CodePoints {
    const c = this.text[this.#at++]!;
    if (Object.hasOwn(classes, c)) return classes[c]!;
    const one = (point: number): CodePoints => [[point, point]];
    if (Object.hasOwn(controls, c)) return one(controls[c]!);
    if (c === 'p' || c === 'P') this.#refuse(`\\${c}, the properties of Unicode`);
    if (c === '0') return one(0);
    if (c === 'c') return one(this.text.charCodeAt(this.#at++) % 32);
    const code = /^(?:x([\da-f]{2})|u([\da-f]{4})|u\{([\da-f]+)\})/i.exec(
      this.text.slice(this.#at - 1, this.#at + 11),
    );
    if (!code) return charactersOf(c);
    this.#at += code[0].length - 1;
    const point = parseInt(code[1] ?? code[2] ?? code[3]!, 16);
    if (point < 0xd800 || point > 0xdfff) return one(point);
    const low = /^\\u(d[c-f][\da-f]{2})/i.exec(this.text.slice(this.#at, this.#at + 6));
    if (!low || point > 0xdbff) this.#refuse('a half of a surrogate pair');
    this.#at += 6;
    return one(0x10000 + (point - 0xd800) * 0x400 + parseInt(low[1]!, 16) - 0xdc00);
  }

  #class(): CodePoints {
    const inverted = this.#takes('^');
    const ranges: (readonly [number, number])[] = [];
    while (!this.#takes(']')) {
      if (this.#at >= this.text.length) this.#refuse('a class that does not end', true);
      const from = this.#member();
      const single = from.length === 1 && from[0]![0] === from[0]![1];
      if (single && this.text[this.#at] === '-' && this.text[this.#at + 1] !== ']') {
        const before = this.#at++;
        const to = this.#member();
        if (to.length === 1 && to[0]![0] === to[0]![1]) {
          ranges.push([from[0]![0], to[0]![0]]);
          continue;
        }
        this.#at = before; // the hyphen is one of the characters
      }
      ranges.push(...from);
    }
    const set = joined(ranges);
    return inverted ? complement(set) : set;
  }

  #member(): CodePoints {
    if (!this.#takes('\\')) return this.#character();
    return this.#takes('b') ? [[8, 8]] : this.#escaped();
  }
}

/** Whether a place is where the text begins; undefined where that depends on the text. */
type AtBegin = boolean | undefined;

const hasAssertion = (node: Node): boolean =>
  node.kind === 'begin' ||
  node.kind === 'end' ||
  node.kind === 'look' ||
  (node.kind === 'repeat' && hasAssertion(node.of)) ||
  ((node.kind === 'all' || node.kind === 'any') && node.parts.some(hasAssertion));

/** Whether a place behind a node is where the text begins, if the place before it is. */
function behind(node: Node): AtBegin {
  switch (node.kind) {
    case 'set':
      return false;
    case 'all': {
      const parts = node.parts.map(behind);
      return parts.includes(false) ? false : parts.includes(undefined) ? undefined : true;
    }
    case 'any': {
      const [first, ...others] = node.parts.map(behind);
      return others.every((other) => other === first) ? first : undefined;
    }
    case 'repeat': {
      const of = behind(node.of);
      return node.most === 0 || of === true ? true : node.least === 0 ? undefined : of;
    }
    default:
      return true;
  }
}

/** The term of a node before what follows it. */
function termOf(terms: Terms, node: Node, next: Term, begin: AtBegin): Term {
  switch (node.kind) {
    case 'set':
      return terms.cat(terms.set(node.set), next);
    case 'any':
      return terms.or(...node.parts.map((part) => termOf(terms, part, next, begin)));
    case 'all': {
      let at = begin;
      const begins = node.parts.map((part) => {
        const here = at;
        if (at !== false) {
          const passed = behind(part);
          at = passed === true ? at : passed;
        }
        return here;
      });
      return node.parts.reduceRight((rest, part, i) => termOf(terms, part, rest, begins[i]), next);
    }
    case 'repeat': {
      const { of, least, most } = node;
      if (!hasAssertion(of))
        return terms.cat(terms.repeat(termOf(terms, of, terms.empty, begin), least, most), next);
      if (most > 1) throw new PatternError('^, $ or lookahead within a repetition');
      const once = most === 0 ? next : termOf(terms, of, next, begin);
      return least === 0 ? terms.or(once, next) : once;
    }
    case 'look': {
      const ahead = termOf(terms, node.of, terms.all, begin);
      return terms.and(node.negative ? terms.not(ahead) : ahead, next);
    }
    case 'begin':
      if (begin === undefined) throw new PatternError('^ behind what may be empty');
      return begin ? next : terms.none;
    default:
      return next.nullable ? terms.empty : terms.none;
  }
}

/** Throws unless JavaScript's engine takes it for a regular expression: with the flag u, as Ajv compiles patterns, or without. */
function checkSyntax(pattern: string): void {
  let reason: unknown;
  for (const flags of ['u', ''])
    try {
      new RegExp(pattern, flags);
      return;
    } catch (error) {
      reason = error;
    }
  throw new PatternError(reason instanceof Error ? reason.message : String(reason), true);
}

/**
 * The texts in which a pattern matches.
 * @throws PatternError for what is no pattern, or none that an automaton can be made of.
 */
export function patternTerm(terms: Terms, pattern: string): Term {
  if (pattern.length > maxCharacters) throw new PatternError(`more than ${maxCharacters} characters`);
  checkSyntax(pattern);
  const node = new PatternReader(pattern).read();
  const later = termOf(terms, node, terms.all, false);
  return terms.or(
    termOf(terms, node, terms.all, true),
    terms.cat(terms.repeat(terms.set(everyCodePoint), 1, Infinity), later),
  );
}
