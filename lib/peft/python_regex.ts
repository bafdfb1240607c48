/** PEFT's patterns are Python regular expressions; module paths are what they are matched with. */

const flagLetters: Readonly<Record<string, string>> = { i: 'i', m: 'm', s: 's', a: '', u: '' };

/** Rewrites what Python spells differently; throws a SyntaxError for what JavaScript cannot express. */
function translate(pattern: string): { source: string; flags: string } {
  let source = '';
  let flags = '';
  let inClass = false;
  for (let at = 0; at < pattern.length;) {
    const rest = pattern.slice(at);
    let taken = rest[0]!;
    let written = taken;
    let found: RegExpExecArray | null;
    if (taken === '\\') {
      taken = rest.slice(0, 2);
      written = inClass ? taken : taken === '\\A' ? '^' : taken === '\\Z' ? '$' : taken;
    } else if (inClass) {
      inClass = taken !== ']';
    } else if ((found = /^\[\^?\]?/.exec(rest))) {
      // Python takes a bracket that comes first as a member of the class.
      inClass = true;
      taken = found[0];
      written = taken.replace(']', '\\]');
    } else if ((found = /^\(\?P<(\w+)>/.exec(rest))) {
      taken = found[0];
      written = `(?<${found[1]}>`;
    } else if ((found = /^\(\?P=(\w+)\)/.exec(rest))) {
      taken = found[0];
      written = `\\k<${found[1]}>`;
    } else if ((found = /^\(\?#[^)]*\)/.exec(rest))) {
      taken = found[0];
      written = '';
    } else if ((found = /^\(\?([a-zA-Z]+)\)/.exec(rest))) {
      if (at !== 0) throw new SyntaxError('flags must stand at the start');
      taken = found[0];
      written = '';
      for (const letter of found[1]!) {
        const flag = flagLetters[letter];
        if (flag === undefined) throw new SyntaxError(`the flag ${letter} is not supported`);
        if (!flags.includes(flag)) flags += flag;
      }
    } else if (/^\(\?(?![:=!]|<[=!])/.test(rest)) {
      throw new SyntaxError(`${rest.slice(0, 4)}… is not supported`);
    } else if ((found = /^\{,(\d+)\}/.exec(rest))) {
      taken = found[0];
      written = `{0,${found[1]}}`;
    }
    source += written;
    at += taken.length;
  }
  return { source, flags };
}

/** re.fullmatch(pattern, …) as a JavaScript expression. */
export function fullMatch(pattern: string): RegExp {
  const { source, flags } = translate(pattern);
  // Python would reject "a)(b" alone; the group around it must not hide that.
  new RegExp(source, flags);
  return new RegExp(`^(?:${source})$`, flags);
}

/** re.match(before + pattern + after, …) as a JavaScript expression. */
export function matchAround(before: string, pattern: string, after: string): RegExp {
  const { source, flags } = translate(pattern);
  if (flags !== '') throw new SyntaxError('flags must stand at the start');
  new RegExp(source);
  return new RegExp(`^(?:${before}${source}${after})`);
}
