/**
 * Regular expressions of strangers. JavaScript's own engine tries one way after the other, and some expressions have exponentially
 * many; RE2's takes time in proportion to the text. It knows neither look-around nor references to groups.
 */

/** What is used of re2js. */
export interface LinearRegex {
  test(text: string): boolean;
  exec(text: string): (RegExpExecArray & { index: number }) | null;
  matchAll(text: string): Iterable<RegExpExecArray & { index: number }>;
  programSize(): number;
}
interface Engine {
  RE2JS: { compile(pattern: string): LinearRegex };
}

/** Longer ones take noticeable time to compile. */
const maxCharacters = 8192;
/** The time for each character of a text grows with it. */
const maxStates = 20_000;

let engine: Engine | undefined;

/** Compiles an expression in the syntax of RE2. @throws SyntaxError with the reason when it cannot be. */
export function linearRegex(pattern: string): LinearRegex {
  if (pattern.length > maxCharacters)
    throw new SyntaxError(`it has ${pattern.length} characters, and at most ${maxCharacters} are read`);
  // Loaded here, since few programs need it.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  engine ??= require('re2js') as Engine;
  let compiled: LinearRegex;
  try {
    compiled = engine.RE2JS.compile(pattern);
  } catch (error) {
    const reason =
      error instanceof Error ? error.message.replace(/^error parsing regexp: /, '') : String(error);
    throw new SyntaxError(reason.slice(0, 200), { cause: error });
  }
  if (compiled.programSize() > maxStates)
    throw new SyntaxError(`it has ${compiled.programSize()} states, and at most ${maxStates} are kept`);
  return compiled;
}
