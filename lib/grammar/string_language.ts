/** The texts that a JSON Schema allows as a string, where it says more than their length. */
import { describe } from '../validate';
import { automaton, TooManyStates, type State } from './automaton';
import { count, malformed, ordered, textsOf, unsupported, type StringPart } from './json_schema_parts';
import { PatternError, patternTerm } from './pattern';
import { Terms, TooManySteps, type Budget, type Term } from './terms';

const date =
  '(?:\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))|(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)';
const time = '(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)';
const label = '[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*';
const host = `(?:${label}\\.)*[A-Za-z][A-Za-z0-9]*`;
const inAddress = "(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*";
const octet = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';
const group = '[0-9A-Fa-f]{1,4}';
const shortened = Array.from(
  { length: 7 },
  (_, i) => `(?:${group}:){1,${i + 1}}(?::${group}){1,${6 - i}}`,
).slice(0, 6);

/** Formats that a text is held to, as patterns. What is valid in a format in more ways is made in these. */
const formats: Readonly<Record<string, string>> = {
  date,
  time,
  'date-time': `${date}T${time}`,
  duration: 'P(?!$)(?:\\d+W|(?:\\d+Y)?(?:\\d+M)?(?:\\d+D)?(?:T(?=\\d)(?:\\d+H)?(?:\\d+M)?(?:\\d+S)?)?)',
  uuid: '[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}',
  email: `[A-Za-z0-9!#$%&'*+/=?^_\`{|}~-]+(?:\\.[A-Za-z0-9!#$%&'*+/=?^_\`{|}~-]+)*@(?:${label}\\.)+[A-Za-z]{2,}`,
  hostname: host,
  uri: `https?://${host}(?::\\d{1,4})?(?:/${inAddress})?(?:\\?${inAddress})?(?:#${inAddress})?`,
  ipv4: `${octet}(?:\\.${octet}){3}`,
  ipv6: `(?:${group}:){7}${group}|(?:${group}:){1,7}:|:(?:(?::${group}){1,7}|:)|${shortened.join('|')}`,
};

export interface StringRules {
  readonly patterns: readonly string[];
  readonly formats: readonly string[];
  readonly least: number;
  readonly most: number;
}

/** What several schemas of one string say, each with its place; `maxLength` is the greatest count of characters that is taken. */
export function stringRules(parts: readonly StringPart[], maxLength: number): StringRules {
  const counts = (key: string, otherwise: number): number[] =>
    parts.map(([schema, path]) => count(schema, key, path, maxLength) ?? otherwise);
  const least = Math.max(...counts('minLength', 0));
  const most = Math.min(...counts('maxLength', Infinity));
  ordered(least, most, parts[0]![1], 'minLength', 'maxLength');
  const texts = (key: string): string[] => parts.flatMap(([schema, path]) => textsOf(schema, key, path));
  const known = texts('format').filter((format) => Object.hasOwn(formats, format));
  return { patterns: texts('pattern'), formats: [...new Set(known)], least, most };
}

/** Compiling more takes as long as for the longest strings. */
const maxStates = 2000;

/**
 * The automaton of the texts in which all patterns match, which have all formats and so many characters.
 * @throws ERR_ARGUMENT where no text is left, and for what is no pattern; ERR_UNSUPPORTED for one that no automaton is made of.
 */
export function stringStates(budget: Budget, rules: StringRules, path: string): State[] {
  const states = statesOf(budget, rules, path);
  return states.length > 0 ? states : malformed(path, 'what a text can match', describedRules(rules));
}

/** Whether there is such a text. @throws as stringStates() does for patterns. */
export const hasTexts = (budget: Budget, rules: StringRules, path: string): boolean =>
  statesOf(budget, rules, path).length > 0;

const describedRules = ({ patterns, formats, least, most }: StringRules): string =>
  [
    ...formats.map((format) => `the format ${format}`),
    ...patterns.map(describe),
    ...(least > 0 ? [`minLength ${least}`] : []),
    ...(most < Infinity ? [`maxLength ${most}`] : []),
  ].join(', ');

function statesOf(budget: Budget, rules: StringRules, path: string): State[] {
  const { patterns, formats: named, least, most } = rules;
  const terms = new Terms(budget);
  const parts: Term[] = named.map((format) => patternTerm(terms, `^(?:${formats[format]!})$`));
  for (const pattern of patterns)
    try {
      parts.push(patternTerm(terms, pattern));
    } catch (error) {
      if (!(error instanceof PatternError)) throw error;
      if (error.malformed)
        malformed(`${path}/pattern`, 'a regular expression', `${describe(pattern)}: ${error.message}`);
      unsupported(`${path}/pattern`, `${describe(pattern)}: ${error.message}`);
    }
  if (least > 0 || most < Infinity) parts.push(terms.repeat(terms.any, least, most));
  try {
    return automaton(terms, terms.and(...parts), maxStates);
  } catch (error) {
    if (error instanceof TooManyStates || error instanceof TooManySteps)
      unsupported(
        path,
        `${describedRules(rules)}: more than ${maxStates} states, or too many steps to find them`,
      );
    throw error;
  }
}
