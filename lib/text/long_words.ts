/** Words that are too long to be found in one piece: an expression looks for the end of one without a pause. */
import { checkLimit, type Limits } from '../formats/limits';

const [other, letter, digit, space, beyondAscii, none] = [0, 1, 2, 3, 4, 5];

/** What a character is, by its code. Those beyond ASCII are in no class of their own: they go on with letters and signs. */
const classes = Uint8Array.from({ length: 129 }, (_, code) => {
  if (code === 128) return beyondAscii;
  const character = String.fromCharCode(code);
  return /[a-z]/i.test(character)
    ? letter
    : /\d/.test(character)
      ? digit
      : /\s/.test(character)
        ? space
        : other;
});

/**
 * Throws for a text that may hold a longer word than the limit: a run of letters, digits, signs or white space, which the expressions of
 * published tokenizers do not split. Yields now and then.
 */
export function* checkWords(text: string, limits: Limits): Generator<void, void, void> {
  const most = limits.wordCharacters;
  if (text.length <= most) return;
  /** Where the run of each class has begun that goes on here, and the longest that has ended. */
  const begins = [0, 0, 0, 0];
  let longest = 0;
  for (let at = 0; at <= text.length; at++) {
    const kind = at === text.length ? none : classes[Math.min(text.charCodeAt(at), 128)]!;
    for (let run = 0; run < begins.length; run++) {
      if (run === kind || (kind === beyondAscii && (run === letter || run === other))) continue;
      longest = Math.max(longest, at - begins[run]!);
      begins[run] = at + 1;
    }
    if (at % 65536 === 65535) yield;
  }
  const what = `a text has ${longest} characters without a place to split it`;
  checkLimit(limits, 'wordCharacters', longest, what, { code: 'ERR_DATA', op: 'tokenizer' });
}
