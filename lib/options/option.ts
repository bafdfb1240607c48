/** What an option is: a row that the calls of the library, the flags of commands, their help and their reference read. */
import { check, describe, isListOf, isRecord } from '../validate';

/** An option of a call. One with a sentence of help is a flag of commands too: maxSteps is --max-steps. */
export interface Option {
  /**
   * 'integer' is a whole number; 'steps' too, or below 1 a share of all steps; 'names' is a list, or its `word`; 'numbers' an
   * object of them. 'object' is for programs alone.
   */
  type: 'string' | 'number' | 'integer' | 'steps' | 'boolean' | 'names' | 'numbers' | 'object';
  /** What it sets, without its default. */
  help?: string;
  /** What stands for the value in the help: DIR, FILE, N. */
  value?: string;
  required?: boolean;
  /** Taken when the option is not given. */
  default?: string | number | boolean;
  /** Says what happens without the option, where that is no constant; for the help alone. */
  defaultText?: string;
  /** Of names: a word that is no list of one name. Of numbers: a word that stands for one. */
  word?: string;
  /** The words that are allowed. */
  choices?: readonly string[];
  /** The least number that is allowed. */
  minimum?: number;
  /** The largest one, beside `minimum`. */
  maximum?: number;
  /** What a number must be larger than. */
  above?: number;
  /** Options that must be given too; with a word, that one. */
  needs?: Readonly<Record<string, true | string>>;
  /** Programs may give something else, too: what takes the option checks it. */
  own?: boolean;
  /** May be given several times: its values are a list, also where a file has one text. For texts. */
  repeat?: boolean;
  /** The name that it had, which flags still take. */
  formerly?: string;
  /** One letter: -h. */
  short?: string;
  /** Named without its sentence where the help has to fit a screen. */
  rare?: boolean;
}

export type Options = Readonly<Record<string, Option>>;

type Plain<O extends Option> = O extends { type: 'string' }
  ? O extends { choices: readonly (infer Word)[] }
    ? Word
    : string
  : O extends { type: 'names' }
    ? string | readonly string[]
    : O extends { type: 'numbers' }
      ? Readonly<Record<string, number>>
      : O extends { type: 'number'; word: infer Word }
        ? number | Word
        : number;

/** What an option gives: undefined only where it may be left out and has no default. */
export type ValueOf<O extends Option> = O extends { type: 'boolean' }
  ? boolean
  : O extends { type: 'string'; repeat: true }
    ? readonly string[]
    : O extends { required: true } | { default: string | number }
      ? Plain<O>
      : Plain<O> | undefined;

/** Values by the names of the table. */
export type Values<O extends Options> = { readonly [Name in keyof O]: ValueOf<O[Name]> };

type OwnNames<O extends Options> = {
  [Name in keyof O]: O[Name] extends { own: true } | { type: 'object' } ? Name : never;
}[keyof O];
type FlagNames<O extends Options> = {
  [Name in keyof O]: O[Name] extends { help: string } ? Name : never;
}[keyof O];

/** What checkedOptions gives: all that the table alone can check. */
export type CheckedValues<O extends Options> = Values<Omit<O, OwnNames<O>>>;

/** The rows that are flags: those with a sentence of help. */
export function flagsOf<const O extends Options>(table: O): Pick<O, FlagNames<O>> {
  const flags = Object.entries(table).filter(([, { help }]) => help !== undefined);
  return Object.fromEntries(flags) as Pick<O, FlagNames<O>>;
}

/** The values that a table has a row for. */
export function valuesOf<O extends Options, V extends object>(
  table: O,
  values: V,
): Pick<V, keyof V & keyof O> {
  const own = Object.entries(values).filter(([name]) => Object.hasOwn(table, name));
  return Object.fromEntries(own) as Pick<V, keyof V & keyof O>;
}

/** What a value must be, for "expected maxSteps to be …". */
export function expectation({ type, choices, minimum, maximum, above, repeat, word }: Option): string {
  if (choices !== undefined) return `one of ${choices.join(', ')}`;
  if (type === 'boolean') return 'true or false';
  if (type === 'string') return repeat ? 'a text or a list of texts' : 'a text';
  if (type === 'names') return 'a list of names';
  if (type === 'numbers') return 'an object of numbers';
  if (type === 'steps') return 'a whole number of at least 0, or below 1 as a share of all steps';
  const most = maximum === undefined ? '' : ` and at most ${maximum}`;
  const bound = minimum === undefined ? '' : ` of at least ${minimum}${most}`;
  const other = word === undefined ? '' : ` or '${word}'`;
  return `a ${type === 'integer' ? 'whole ' : ''}number${above === undefined ? bound : ` above ${above}`}${other}`;
}

const isText = (value: unknown): value is string => typeof value === 'string';
const isNumber = (value: unknown): value is number => Number.isFinite(value);

/** Whether a value is what the row says. */
export function allows(
  { type, choices, minimum = -Infinity, maximum = Infinity, above = -Infinity, repeat, word }: Option,
  value: unknown,
): boolean {
  if (type === 'object') return true;
  if (type === 'boolean') return typeof value === 'boolean';
  if (type === 'names') return isText(value) || isListOf(value, isText);
  if (type === 'numbers') return isRecord(value) && Object.values(value).every(isNumber);
  if (type === 'string')
    return (
      (repeat === true && isListOf(value, isText)) || (isText(value) && (choices?.includes(value) ?? true))
    );
  if (type === 'number' && word !== undefined && value === word) return true;
  if (!isNumber(value) || value < minimum || value > maximum || value <= above) return false;
  return type === 'number' || Number.isSafeInteger(value) || (type === 'steps' && value < 1);
}

/** @throws ERR_ARGUMENT for a value that the row does not allow. */
export function checkValue(op: string, name: string, option: Option, value: unknown): void {
  check(
    allows(option, value),
    op,
    () => `expected ${name} to be ${expectation(option)} but received ${describe(value)}`,
  );
}

/** The options that a table can check by itself, with their defaults; one that is null or undefined is not given. */
export function checkedOptions<const O extends Options>(
  op: string,
  table: O,
  options: object,
): CheckedValues<O> {
  const values: Record<string, unknown> = {};
  for (const [name, option] of Object.entries(table)) {
    if (option.own || option.type === 'object') continue;
    const standard = option.type === 'boolean' ? (option.default ?? false) : option.default;
    const value = (options as Record<string, unknown>)[name] ?? standard;
    if (value !== undefined) checkValue(op, name, option, value);
    values[name] = value;
  }
  return values as CheckedValues<O>;
}

/** An option that is given without another one that it needs. */
export interface Lack {
  option: string;
  needs: string;
  /** The word that the other one must have. */
  word?: string;
}

/** The first lack, in the order of the table; `values` has what is given and, of what may be needed, the defaults. */
export function lackOf(
  table: Options,
  values: Readonly<Record<string, unknown>>,
  isGiven: (name: string) => boolean,
): Lack | undefined {
  for (const [option, { needs = {} }] of Object.entries(table)) {
    if (!isGiven(option)) continue;
    for (const [name, word] of Object.entries(needs)) {
      if (word !== true && values[name] !== word) return { option, needs: name, word };
      if (word === true && (values[name] === undefined || values[name] === false))
        return { option, needs: name };
    }
  }
  return undefined;
}
