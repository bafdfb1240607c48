/**
 * The regular expressions of tokenizers. Those of published models are known: they have a look-ahead, which an engine of linear time
 * does not know, and are linear in JavaScript's engine. All others run in an engine of linear time.
 */
import { linearRegex, type LinearRegex } from './linear_regex';

const tail = String.raw`\s+(?!\S)|\s+`;
const lines = String.raw`\s*[\r\n]+|${tail}`;
const upper = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const lower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const before = String.raw`[^\r\n\p{L}\p{N}]?`;
const endings = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const symbols = String.raw` ?[^\s\p{L}\p{N}]+`;

/** As they stand in the files of published models. */
export const publishedPatterns: ReadonlySet<string> = new Set([
  // GPT-2 and what has its pattern: StarCoder, Falcon, SmolLM2 where it is spelt out
  String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|${symbols}|${tail}`,
  // Llama 3, Phi-4, OLMo 2, SmolLM3 (cl100k)
  String.raw`${endings}|${before}\p{L}+|\p{N}{1,3}|${symbols}[\r\n]*|${lines}`,
  // Qwen, Qwen2, Qwen2.5, Qwen3
  String.raw`${endings}|${before}\p{L}+|\p{N}|${symbols}[\r\n]*|${lines}`,
  // Qwen3.5
  String.raw`${endings}|${before}[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|${lines}`,
  // gpt-oss, Llama 4, Phi-4-mini (o200k)
  String.raw`${before}${upper}*${lower}+${endings}?|${before}${upper}+${lower}*${endings}?|\p{N}{1,3}|${symbols}[\r\n/]*|${lines}`,
  // Mistral NeMo and later (tekken)
  String.raw`${before}${upper}*${lower}+|${before}${upper}+${lower}*|\p{N}|${symbols}[\r\n/]*|${lines}`,
  // DeepSeek V3 and R1
  '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|' +
    lines,
  // BLOOM
  String.raw` ?[^(\s|[.,!?…。，、।۔،])]+`,
]);

const words = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}`;
/** Escapes of Oniguruma, in RE2's spelling: outside a class, and inside. */
const escapes: Readonly<Record<string, readonly [outside: string, inside?: string]>> = {
  s: [String.raw`\p{White_Space}`, String.raw`\p{White_Space}`],
  S: [String.raw`\P{White_Space}`, String.raw`\P{White_Space}`],
  d: [String.raw`\p{Nd}`, String.raw`\p{Nd}`],
  D: [String.raw`\P{Nd}`, String.raw`\P{Nd}`],
  w: [String.raw`[${words}²³¹¼-¾]`, words],
  W: [String.raw`[^${words}²³¹¼-¾]`],
  h: ['[0-9A-Fa-f]', '0-9A-Fa-f'],
  H: ['[^0-9A-Fa-f]'],
  A: [String.raw`\A`],
  z: [String.raw`\z`],
  a: [String.raw`\x07`, String.raw`\x07`],
  e: [String.raw`\x1B`, String.raw`\x1B`],
  ...Object.fromEntries([...'nrtfv'].map((letter) => [letter, [`\\${letter}`, `\\${letter}`] as const])),
};

/** One escape, and how RE2 spells it. */
function escape(rest: string, inClass: boolean): [taken: string, written: string] {
  const braced =
    /^\\(?:([pP])\{(\^?)(?:Script=|sc=)?([A-Za-z_]+)\}|x\{([\da-fA-F]+)\}|[xu]([\da-fA-F]{4}|[\da-fA-F]{2}))/.exec(
      rest,
    );
  if (braced) {
    const [taken, kind, not, name, code, fixed] = braced;
    if (name !== undefined) return [taken, `\\${(kind === 'P') === (not === '^') ? 'p' : 'P'}{${name}}`];
    const fits = code !== undefined || taken.length === (taken[1] === 'u' ? 6 : 4);
    if (fits) return [taken, `\\x{${code ?? fixed!}}`];
    if (taken[1] === 'x') return [taken.slice(0, 4), `\\x{${taken.slice(2, 4)}}`];
  }
  const next = rest[1];
  if (next === undefined) throw new SyntaxError('bad escape at the end');
  const taken = rest.slice(0, 2);
  if (/[a-zA-Z0-9]/.test(next)) {
    const written = Object.hasOwn(escapes, next) ? escapes[next]![inClass ? 1 : 0] : undefined;
    if (written === undefined) throw new SyntaxError(`${taken} is not supported`);
    return [taken, written];
  }
  if (next.charCodeAt(0) < 128)
    return [taken, next < ' ' ? `\\x{${next.charCodeAt(0).toString(16)}}` : taken];
  const character = String.fromCodePoint(rest.codePointAt(1)!);
  return [`\\${character}`, character];
}

/** Oniguruma's spelling in RE2's. @throws SyntaxError for what is different or not known there. */
export function translateOniguruma(pattern: string): string {
  let source = '';
  let inClass = false;
  for (let at = 0; at < pattern.length;) {
    const rest = pattern.slice(at, at + 64);
    let taken = rest[0]!;
    let written = taken;
    if (taken === '\\') [taken, written] = escape(rest, inClass);
    else if (inClass) {
      inClass = taken !== ']';
      if (taken === '[' || rest.startsWith('&&'))
        throw new SyntaxError('a class within a class is not supported');
    } else if (taken === '[') {
      inClass = true;
      taken = /^\[\^?\]?/.exec(rest)![0];
      written = taken.replace(']', '\\]');
    } else if (taken === '.') written = '[^\\n]';
    else if (taken === '^') written = '(?m:^)';
    else if (taken === '$') written = '(?m:$)';
    else if (rest.startsWith('(?')) {
      const group = /^\(\?(?:(:|i:)|<(\w+)>)/.exec(rest);
      if (!group) throw new SyntaxError(`${rest.slice(0, 4)}… is not supported`);
      taken = group[0];
      written = group[2] === undefined ? taken : `(?P<${group[2]}>`;
    } else if (taken === '{') {
      const count = /^\{(,?)(\d+(?:,\d*)?)\}/.exec(rest);
      taken = count?.[0] ?? taken;
      written = count ? `{${count[1] === ',' ? '0,' : ''}${count[2]!}}` : '\\{';
    }
    source += written;
    at += taken.length;
  }
  return source;
}

/**
 * An expression in the place of a global RegExp with the flag u: what String's methods ask of one. Replacing takes the text as it is,
 * without references to groups.
 */
export class LinearPattern {
  readonly #regex: LinearRegex;
  readonly flags = 'gu';

  /** @throws SyntaxError with the reason when it is not one of the expressions that run in linear time. */
  constructor(oniguruma: string) {
    this.#regex = linearRegex(translateOniguruma(oniguruma));
  }

  [Symbol.matchAll](text: string): IterableIterator<RegExpExecArray> {
    return this.#regex.matchAll(text)[Symbol.iterator]() as IterableIterator<RegExpExecArray>;
  }

  [Symbol.match](text: string): string[] | null {
    const found = [...this.#regex.matchAll(text)].map(([match]) => match);
    return found.length > 0 ? found : null;
  }

  [Symbol.split](text: string): string[] {
    const parts: string[] = [];
    let from = 0;
    for (const match of this.#regex.matchAll(text)) {
      if (match[0] === '' && (match.index === from || match.index >= text.length)) continue;
      parts.push(text.slice(from, match.index));
      from = match.index + match[0].length;
    }
    parts.push(text.slice(from));
    return parts;
  }

  [Symbol.replace](text: string, content: string): string {
    let result = '';
    let from = 0;
    for (const match of this.#regex.matchAll(text)) {
      result += text.slice(from, match.index) + content;
      from = match.index + match[0].length;
    }
    return result + text.slice(from);
  }
}
