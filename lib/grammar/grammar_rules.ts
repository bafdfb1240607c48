/** The rules of a grammar in the EBNF of xgrammar, those of any JSON first. */
import { utf8Rules } from './alphabet';
import { anyNumber, numberRules } from './json_numbers';
import { unsupported } from './json_schema_parts';

/** The grammar is made in one piece. */
const maxCharacters = 2 ** 18;

/** The end of a string. */
export const stringEnd = '"\\""';
/** A character of a string, and what follows it. It is not a rule of its own: xgrammar settles a token that lies within one rule once. */
export const charThen = (next: string): string =>
  `[\\x20-\\x21\\x23-\\x5b\\x5d-\\x7f] ${next} | utf8 ${next} | "\\\\" escape ${next}`;
/** Those of any JSON. */
const baseRules = [
  'ws ::= [ \\n\\t]?',
  'hex ::= [0-9a-fA-F]',
  // Without halves of surrogate pairs, which are no characters.
  'escape ::= ["\\\\/bfnrt] | "u" ([0-9a-cefA-CEF] hex hex hex | [dD] [0-7] hex hex)',
  ...utf8Rules,
  `chars ::= ${stringEnd} | ${charThen('chars')}`,
  'string ::= "\\"" chars',
  `number ::= ${anyNumber}`,
  ...numberRules,
  'members ::= string ws ":" ws value (ws "," ws string ws ":" ws value)*',
  'object ::= "{" ws (members ws)? "}"',
  'array ::= "[" ws (value (ws "," ws value)* ws)? "]"',
  'value ::= string | number | object | array | "true" | "false" | "null"',
];

export class GrammarRules {
  readonly #rules: string[] = [...baseRules];
  #characters = baseRules.join('\n').length;
  /** The rule of each expression that has one. */
  readonly #named = new Map<string, string>();

  get text(): string {
    return this.#rules.join('\n');
  }

  add(name: string, body: string): void {
    const rule = `${name} ::= ${body}`;
    this.#characters += 1 + rule.length;
    if (this.#characters > maxCharacters)
      unsupported('#', `a schema whose grammar has more than ${maxCharacters} characters`);
    this.#rules.push(rule);
  }

  /** The rule that stands for an expression; what is written twice is one rule. */
  named(body: string): string {
    const known = this.#named.get(body);
    if (known !== undefined) return known;
    const name = `r${this.#named.size}`;
    this.#named.set(body, name);
    this.add(name, body);
    return name;
  }
}
