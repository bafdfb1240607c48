/**
 * PEFT's patterns are Python regular expressions; module paths are what they are matched with. They come with adapters, from
 * strangers, so an engine of linear time runs them. What it cannot do is refused by name.
 */
import { linearRegex } from '../text/linear_regex';

/** What is matched with a path; `exec` gives the groups. */
export interface PathPattern {
  test(path: string): boolean;
  exec(path: string): readonly (string | undefined)[] | null;
}

/** How long the patterns of one configuration may take, in milliseconds: usual ones need one or two. */
const patience = 1000;

/** Bounds the time of the patterns of a configuration: many of them, each within its bounds, can still take minutes. */
export class Deadline {
  #spent = 0;

  /** Does a part of that work. @throws SyntaxError when the time is over. */
  spend<T>(work: () => T): T {
    if (this.#spent > patience) throw new SyntaxError(`the patterns take more than ${patience} ms`);
    const begin = performance.now();
    try {
      return work();
    } finally {
      this.#spent += performance.now() - begin;
    }
  }
}

const flagLetters: Readonly<Record<string, string>> = { i: 'i', m: 'm', s: 's', a: '', u: '' };
/** Escapes that mean the same in Python and RE2. */
const sameEscapes = 'AbBdDsSwWntrfva';

/** Python's escapes, in RE2's spelling. */
function escape(rest: string, inClass: boolean): [taken: string, written: string] {
  const next = rest[1];
  if (next === undefined) throw new SyntaxError('bad escape at the end');
  const hex = /^\\(?:x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8})/.exec(rest)?.[0];
  if (hex !== undefined) return [hex, `\\x{${hex.slice(2)}}`];
  const octal = /^\\(?:0[0-7]{0,2}|[0-3][0-7]{2})/.exec(rest)?.[0];
  if (octal !== undefined) return [octal, `\\x{${parseInt(octal.slice(1), 8).toString(16)}}`];
  if (/\d/.test(next)) throw new SyntaxError(`\\${next}, a reference to a group, is not supported`);
  const taken = rest.slice(0, 2);
  if (inClass && next === 'b') return [taken, '\\x08'];
  if (next === 'Z' && !inClass) return [taken, '\\z'];
  if (/[a-zA-Z]/.test(next)) {
    if (!sameEscapes.includes(next) || (inClass && 'AB'.includes(next)))
      throw new SyntaxError(`bad escape ${taken}`);
    return [taken, taken];
  }
  const character = String.fromCodePoint(rest.codePointAt(1)!);
  return [`\\${character}`, next.charCodeAt(0) < 128 ? taken : character];
}

/** Names what begins with `(?` and has no place in an expression of linear time, or is not known. */
function refuseGroup(rest: string): never {
  const kinds: readonly (readonly [RegExp, string])[] = [
    [/^\(\?<?[=!]/, 'look-around'],
    [/^\(\?P=/, 'a reference to a group'],
    [/^\(\?>/, 'an atomic group'],
    [/^\(\?\(/, 'a conditional group'],
  ];
  const kind = kinds.find(([start]) => start.test(rest))?.[1];
  throw new SyntaxError(`${rest.slice(0, 4)}…${kind === undefined ? '' : `, ${kind},`} is not supported`);
}

function flagsOf(letters: string): string {
  let flags = '';
  for (const letter of letters) {
    const flag = letter === '-' ? '-' : flagLetters[letter];
    if (flag === undefined) throw new SyntaxError(`the flag ${letter} is not supported`);
    if (flag === '-' || !flags.includes(flag)) flags += flag;
  }
  return flags.endsWith('-') ? flags.slice(0, -1) : flags;
}

/** Rewrites what Python spells differently; throws a SyntaxError for what RE2 cannot express. */
function translate(pattern: string): { source: string; flags: string } {
  let source = '';
  let flags = '';
  let inClass = false;
  for (let at = 0; at < pattern.length;) {
    const rest = pattern.slice(at);
    let taken = rest[0]!;
    let written = taken;
    let found: RegExpExecArray | null;
    if (taken === '\\') [taken, written] = escape(rest, inClass);
    else if (inClass) {
      inClass = taken !== ']';
      if (taken === '[') written = '\\['; // not the start of a class such as [:alpha:]
    } else if ((found = /^\[\^?\]?/.exec(rest))) {
      // Python takes a bracket that comes first as a member of the class.
      inClass = true;
      taken = found[0];
      written = taken.replace(']', '\\]');
    } else if ((found = /^\(\?#[^)]*\)/.exec(rest))) {
      taken = found[0];
      written = '';
    } else if ((found = /^\(\?([a-zA-Z]+)\)/.exec(rest))) {
      if (at !== 0) throw new SyntaxError('flags must stand at the start');
      taken = found[0];
      written = '';
      flags = flagsOf(found[1]!);
    } else if ((found = /^\(\?([a-zA-Z]*-?[a-zA-Z]*):/.exec(rest))) {
      taken = found[0];
      written = `(?${flagsOf(found[1]!)}:`;
    } else if (rest.startsWith('(?') && !/^\(\?P<\w+>/.test(rest)) {
      refuseGroup(rest);
    } else if ((found = /^\{,(\d+)\}/.exec(rest))) {
      taken = found[0];
      written = `{0,${found[1]}}`;
    }
    source += written;
    at += taken.length;
  }
  return { source, flags };
}

/** A name, in which only a dot is special: adapters have hundreds of these as keys. JavaScript's engine takes linear time for it. */
const isPlain = (pattern: string): boolean => /^[\w.-]{1,1000}$/.test(pattern);

function compile(before: string, pattern: string, after: string, mayHaveFlags: boolean): PathPattern {
  const whole = (source: string): string => `^(?:${before}${source}${after})`;
  if (isPlain(pattern)) return new RegExp(whole(pattern));
  const { source, flags } = translate(pattern);
  if (flags !== '' && !mayHaveFlags) throw new SyntaxError('flags must stand at the start');
  // Python would reject "a)(b" alone; what is around it must not hide that.
  linearRegex(source);
  return linearRegex(`${flags === '' ? '' : `(?${flags})`}${whole(source)}`);
}

/** re.fullmatch(pattern, …). */
export function fullMatch(pattern: string): PathPattern {
  return compile('(?:', pattern, ')$', true);
}

/** re.match(before + pattern + after, …). */
export function matchAround(before: string, pattern: string, after: string): PathPattern {
  return compile(before, pattern, after, false);
}
