/**
 * JSON Schema (draft 2020-12, https://json-schema.org/draft/2020-12) as a grammar. What the grammar allows is valid under the schema; a
 * keyword that it could not hold to is refused.
 */
import { loraError } from '../errors';
import { describe, isRecord, listed } from '../validate';
import { schemaOfAll } from './all_of';
import { literal } from './alphabet';
import { isWide, ruleOf } from './automaton';
import { charThen, GrammarRules, stringEnd } from './grammar_rules';
import { integers, multiples, numbers } from './json_numbers';
import {
  annotations,
  checkPointer,
  bounds,
  count,
  fractionsOf,
  isOfType,
  keywordsOf,
  list,
  malformed,
  op,
  ordered,
  referredTo,
  stepOf,
  stringParts,
  typesOf,
  unsupported,
  type Schema,
  type StringPart,
} from './json_schema_parts';
import { SchemaFacts, type NamePattern } from './schema_facts';
import { hasTexts, stringRules, stringStates, type StringRules } from './string_language';
import { patternBudget } from './terms';
import { differentItems } from './unique_items';

/** A JSON Schema: an object, or `true` for any JSON. */
export type JsonSchema = true | Readonly<Record<string, unknown>>;

/** A grammar of a schema. */
export interface SchemaGrammar {
  /** In the EBNF of xgrammar. */
  readonly text: string;
  /** States within strings of bounded length; every token of the vocabulary is looked at for each when it is compiled. */
  readonly states: number;
}

/** Characters of the schema as JSON, which is made in one piece. */
const maxCharacters = 2 ** 17;
const maxNesting = 64;
const maxLength = 128;
const maxItems = 4096;
/** Values whose orders are written one by one where no item may come twice. */
const maxUnique = 4;
/** Different schemas that allOf makes: a few that refer to each other can make very many. */
const maxMerges = 500;

/** Keywords of which a schema has at most one, and none of the types beside. */
const alternatives = ['$ref', 'const', 'enum', 'anyOf', 'oneOf'];
const supported = [...new Set([...alternatives, 'allOf', 'type', ...Object.values(keywordsOf).flat()])];

/** The short ones come first: xgrammar takes minutes for some thousand numbers of which one may come before another that begins it. */
function anyOf(parts: readonly string[]): string {
  const different = [...new Set(parts)].sort((a, b) => a.length - b.length);
  return different.length === 1 ? different[0]! : `(${different.join(' | ')})`;
}

class Grammar {
  readonly #root: Schema | true;
  readonly #rules = new GrammarRules();
  /** The rule of each schema that a $ref named, and of each that an allOf makes, by the pointer or the schema itself. */
  readonly #referred = new Map<string, string>();
  /** Schemas with an allOf that were made one. */
  #merges = 0;
  /** References that are followed and have not come to a value. */
  readonly #open = new Set<string>();
  /** The rules of strings of bounded length. */
  readonly #strings = new Set<string>();
  /** The first rule of the texts of each pattern or format. */
  readonly #languages = new Map<string, string>();
  /** The states of these that many tokens may follow. */
  #wideStates = 0;
  readonly #budget = patternBudget();
  readonly #facts: SchemaFacts;

  constructor(root: Schema | true) {
    this.#root = root;
    this.#facts = new SchemaFacts(root);
    this.#rules.add('root', this.#expression(root, '#', 0));
  }

  get grammar(): SchemaGrammar {
    return { text: this.#rules.text, states: this.#strings.size + this.#wideStates };
  }

  #expression(schema: unknown, path: string, depth: number): string {
    if (schema === true) return 'value';
    if (!isRecord(schema)) malformed(path, 'a schema: an object or true', describe(schema));
    if (depth > maxNesting) malformed(path, `schemas within at most ${maxNesting} others`, 'more');
    const given = Object.keys(schema).filter(
      (key) => !annotations.includes(key) && schema[key] !== undefined,
    );
    const unknown = given.filter((key) => !supported.includes(key));
    if (unknown.length > 0) unsupported(path, `${listed(unknown)}; supported are ${supported.join(', ')}`);
    const texts = stringParts(schema, given, path);
    if (texts) return this.#string(texts);
    if (schema['allOf'] !== undefined) return this.#ofAll(schema, path, depth);
    const choice = given.filter((key) => alternatives.includes(key));
    const valued = choice[0] === 'const' || choice[0] === 'enum';
    const rest = given.filter((key) => key !== choice[0] && !(valued && key === 'type'));
    if (choice.length > 0 && rest.length > 0) unsupported(path, `${listed(rest)} beside ${choice[0]}`);
    switch (choice[0]) {
      case '$ref':
        return this.#reference(schema['$ref'], path, depth);
      case 'const':
        return this.#values([schema['const']], schema, path);
      case 'enum':
        return this.#values(schema['enum'], schema, path);
      case 'anyOf':
      case 'oneOf': {
        const name = choice[0];
        const all = list(schema[name], `${path}/${name}`, 1);
        if (name === 'oneOf') this.#facts.checkApart(all, `${path}/oneOf`);
        return anyOf(all.map((one, i) => this.#expression(one, `${path}/${name}/${i}`, depth + 1)));
      }
      default:
        return this.#typed(schema, given, path, depth);
    }
  }

  #typed(schema: Schema, given: readonly string[], path: string, depth: number): string {
    const named = typesOf(schema, path);
    const known = named.flatMap((type) => keywordsOf[type]!);
    const stray = given.filter((key) => key !== 'type' && !known.includes(key));
    if (stray.length > 0)
      malformed(
        path,
        `"type" to name what ${listed(stray)} is about`,
        schema['type'] === undefined ? 'none' : JSON.stringify(schema['type']),
      );
    if (named.length === 0) return 'value';
    return anyOf(named.map((type) => this.#ofType(type, schema, path, depth)));
  }

  #ofType(type: string, schema: Schema, path: string, depth: number): string {
    switch (type) {
      case 'null':
        return '"null"';
      case 'boolean':
        return '("true" | "false")';
      case 'string':
        return this.#string([[schema, path]]);
      case 'integer':
      case 'number':
        return this.#number(type, schema, path);
      case 'array':
        return this.#array(schema, path, depth);
      default:
        return this.#object(schema, path, depth);
    }
  }

  /** A string that several schemas are about. */
  #string(parts: readonly StringPart[]): string {
    const rules = stringRules(parts, maxLength);
    const free = rules.patterns.length === 0 && rules.formats.length === 0;
    return `"\\"" ${free ? this.#charactersFrom(rules.least, rules.most) : this.#language(rules, parts[0]![1])}`;
  }

  /** The characters of a string in which patterns match, and its end. */
  #language(rules: StringRules, path: string): string {
    const key = JSON.stringify(rules);
    const known = this.#languages.get(key);
    if (known !== undefined) return known;
    const states = stringStates(this.#budget, rules, path);
    const language = `t${this.#languages.size}`;
    const nameOf = (state: number): string => `${language}_${state}`;
    this.#languages.set(key, nameOf(0));
    const rule = (body: string): string => this.#rules.named(body);
    for (const [i, state] of states.entries()) this.#rules.add(nameOf(i), ruleOf(state, nameOf, rule));
    this.#wideStates += states.filter(isWide).length;
    return nameOf(0);
  }

  /** From `least` to `most` characters, and the end of the string. */
  #charactersFrom(least: number, most: number): string {
    if (most === 0) return stringEnd;
    if (least === 0 && most === Infinity) return 'chars';
    const name = most === Infinity ? `from_${least}` : `from_${least}_to_${most}`;
    if (!this.#strings.has(name)) {
      this.#strings.add(name);
      const next = this.#charactersFrom(Math.max(0, least - 1), most - 1);
      this.#rules.add(name, `${least === 0 ? `${stringEnd} | ` : ''}${charThen(next)}`);
    }
    return name;
  }

  #number(type: 'integer' | 'number', schema: Schema, path: string): string {
    const bound = (key: string): number | undefined => {
      const value = schema[key];
      if (value === undefined) return undefined;
      if (typeof value !== 'number' || !Number.isFinite(value))
        malformed(`${path}/${key}`, 'a number', describe(value));
      if (Math.abs(value) > Number.MAX_SAFE_INTEGER)
        unsupported(`${path}/${key}`, `bounds beyond ${Number.MAX_SAFE_INTEGER}`);
      if (type === 'number' && !whole && !Number.isInteger(value))
        unsupported(`${path}/${key}`, 'a bound of "number" that is not whole');
      return value;
    };
    const step = stepOf(schema, path);
    /** Whether only whole numbers are valid. */
    const whole = type === 'integer' || step?.digits === 0;
    const [minimum, maximum, above, below] = bounds.map(bound);
    if ([minimum, maximum, above, below, step].every((value) => value === undefined))
      return type === 'number' ? 'number' : this.#rules.named(integers({})!);
    const leastOpen = above !== undefined && above >= (minimum ?? -Infinity);
    const maxOpen = below !== undefined && below <= (maximum ?? Infinity);
    const least = leastOpen ? above : minimum;
    const most = maxOpen ? below : maximum;
    const rule = (body: string): string => this.#rules.named(body);
    let body: string | undefined;
    if (whole) {
      const from = least === undefined ? undefined : leastOpen ? Math.floor(least) + 1 : Math.ceil(least);
      const to = most === undefined ? undefined : maxOpen ? Math.ceil(most) - 1 : Math.floor(most);
      const within = { least: from, most: to };
      // A step that divides 1 divides every whole number.
      body = step?.digits === 0 && step.count > 1 ? multiples(step.count, within, rule) : integers(within);
    } else body = numbers({ least, most }, leastOpen, maxOpen, step && fractionsOf(step, rule));
    return this.#rules.named(
      body ?? malformed(path, 'bounds that a number can be within', JSON.stringify({ least, most })),
    );
  }

  #array(schema: Schema, path: string, depth: number): string {
    const least = count(schema, 'minItems', path, maxItems) ?? 0;
    const most = count(schema, 'maxItems', path, maxItems) ?? Infinity;
    ordered(least, most, path, 'minItems', 'maxItems');
    if (this.#isUnique(schema, path) && most > 1) return this.#uniqueItems(schema, least, most, path);
    const prefix =
      schema['prefixItems'] === undefined ? [] : list(schema['prefixItems'], `${path}/prefixItems`, 1);
    const { items = prefix.length === 0 } = schema;
    const leading = prefix
      .slice(0, most)
      .map((one, i) => this.#inner(one, `${path}/prefixItems/${i}`, depth));
    const [from, to] = [Math.max(0, least - leading.length), items === false ? 0 : most - leading.length];
    if (from > to) malformed(path, 'minItems that prefixItems and items allow', String(least));
    const comma = ' ws "," ws ';
    if (to === 0) return leading.length === 0 ? '"[" ws "]"' : `"[" ws ${leading.join(comma)} ws "]"`;
    const item = this.#inner(items, `${path}/items`, depth);
    const more = (low: number, high: number): string =>
      high === 0 ? '' : ` (${comma}${item}){${low},${high === Infinity ? '' : high}}`;
    if (leading.length > 0) return `"[" ws ${leading.join(comma)}${more(from, to)} ws "]"`;
    const some = `${item}${more(Math.max(0, from - 1), to - 1)} ws`;
    return from > 0 ? `"[" ws ${some} "]"` : `"[" ws (${some})? "]"`;
  }

  #isUnique({ uniqueItems = false }: Schema, path: string): boolean {
    if (typeof uniqueItems !== 'boolean')
      malformed(`${path}/uniqueItems`, 'true or false', describe(uniqueItems));
    return uniqueItems;
  }

  /** Lists of some values in any order, of which none comes twice. */
  #uniqueItems(schema: Schema, least: number, most: number, path: string): string {
    if (schema['prefixItems'] !== undefined)
      unsupported(`${path}/uniqueItems`, 'uniqueItems beside prefixItems');
    const values = this.#facts.fewValues(schema['items'] ?? true, maxUnique, path);
    if (least > values.length) malformed(path, 'minItems that different items allow', String(least));
    return `"[" ws ${differentItems(values, least, most, (body) => this.#rules.named(body))} "]"`;
  }

  /** What lies within another value, where a reference may come back to one that is open. */
  #inner(schema: unknown, path: string, depth: number): string {
    const open = [...this.#open];
    this.#open.clear();
    const expression = this.#expression(schema, path, depth + 1);
    for (const pointer of open) this.#open.add(pointer);
    return /^\w+$/.test(expression) ? expression : this.#rules.named(expression);
  }

  #object(schema: Schema, path: string, depth: number): string {
    const { additionalProperties: others = true, propertyNames: keys = true } = schema;
    if (typeof others !== 'boolean' && !isRecord(others))
      malformed(`${path}/additionalProperties`, 'a schema: an object, true or false', describe(others));
    const members = this.#facts.membersOf(schema, path);
    const names = [...members.properties.keys()];
    if (names.length === 0) {
      if (members.patterns.length > 0 && members.free && keys !== false)
        return this.#ofPatterns(members.patterns, keys, path, depth);
      if (!members.free || others === false || keys === false) return '"{" ws "}"';
      if (others === true && keys === true) return 'object';
      const key = this.#key(keys, `${path}/propertyNames`, depth);
      const member = `${key} ws ":" ws ${this.#inner(others, `${path}/additionalProperties`, depth)}`;
      return `"{" ws (${member} (ws "," ws ${member})* ws)? "}"`;
    }
    // From the last property to the first: what follows where a property has come before, and where none has.
    let after = '""';
    let first = '""';
    for (const [i, name] of [...names.entries()].reverse()) {
      const [property, at] = members.properties.get(name)!;
      const value = this.#inner(property, at, depth);
      const member = `${literal(JSON.stringify(name))} ws ":" ws ${value}`;
      const optional = !members.needed.has(name);
      const next = after === '""' ? '' : ` ${after}`;
      const begin = `${member}${next}`;
      first = optional ? this.#rules.named(`${begin} | ${first}`) : this.#rules.named(begin);
      if (i > 0) after = this.#rules.named(`ws "," ws ${begin}${optional ? ` | ${after}` : ''}`);
    }
    return `"{" ws ${first} ws "}"`;
  }

  /** Objects whose properties have the names of patterns, and no others. */
  #ofPatterns(patterns: readonly NamePattern[], keys: unknown, path: string, depth: number): string {
    const possible = patterns.filter(({ placed: [schema] }) => schema !== false);
    for (const [i, one] of patterns.entries())
      for (const other of patterns.slice(0, i))
        if (JSON.stringify(one.placed[0]) !== JSON.stringify(other.placed[0]) && this.#meet(one, other, path))
          unsupported(
            `${path}/patternProperties`,
            `${describe(other.pattern)} and ${describe(one.pattern)}, which may match the same name, with different schemas`,
          );
    const members = possible.map(({ pattern, placed: [schema, at] }) => {
      const own = { type: 'string', pattern };
      const key = this.#key(keys === true ? own : { allOf: [own, keys] }, at, depth);
      return `${key} ws ":" ws ${this.#inner(schema, at, depth)}`;
    });
    if (members.length === 0) return '"{" ws "}"';
    const member = this.#rules.named(members.join(' | '));
    return `"{" ws (${member} (ws "," ws ${member})* ws)? "}"`;
  }

  /** Whether a name may match both patterns. */
  #meet(one: NamePattern, other: NamePattern, path: string): boolean {
    const rules = { patterns: [one.pattern, other.pattern], formats: [], least: 0, most: Infinity };
    return hasTexts(this.#budget, rules, path);
  }

  /** The name of a property that the schema does not name. */
  #key(schema: unknown, path: string, depth: number): string {
    if (schema === true) return 'string';
    if (!isRecord(schema)) malformed(path, 'a schema: an object or true', describe(schema));
    const stated = ['type', ...alternatives].some((key) => schema[key] !== undefined);
    const named = stated ? schema : { ...schema, type: 'string' };
    if (stated && !this.#facts.isOfStrings(schema, path))
      unsupported(path, 'names that may be other than strings');
    return this.#inner(named, path, depth);
  }

  #values(values: unknown, schema: Schema, path: string): string {
    const texts = list(values, `${path}/enum`, 1).map((value) => {
      const named = typesOf(schema, path);
      if (named.length > 0 && !named.some((type) => isOfType(type, value)))
        malformed(path, `values of type ${JSON.stringify(schema['type'])}`, JSON.stringify(value));
      return literal(JSON.stringify(value));
    });
    return anyOf(texts);
  }

  #reference(pointer: unknown, path: string, depth: number): string {
    checkPointer(pointer, path);
    if (this.#open.has(pointer))
      malformed(`${path}/$ref`, 'a reference that comes to a value', describe(pointer));
    return this.#once(pointer, () =>
      this.#expression(referredTo(this.#root, pointer, path), pointer, depth + 1),
    );
  }

  /** What several schemas say of one value. Where it comes to itself within a part of the value, it is a reference to itself. */
  #ofAll(schema: Schema, path: string, depth: number): string {
    const merged = schemaOfAll(this.#root, schema, path);
    const key = JSON.stringify(merged);
    if (this.#open.has(key)) malformed(`${path}/allOf`, 'schemas that come to a value', 'themselves');
    return this.#once(key, () => {
      if (++this.#merges > maxMerges) unsupported(path, `more than ${maxMerges} different allOf`);
      return this.#expression(merged, path, depth + 1);
    });
  }

  /** The rule of what has this key, made when it is first asked for. */
  #once(key: string, make: () => string): string {
    const known = this.#referred.get(key);
    if (known !== undefined) return known;
    const name = `d${this.#referred.size}`;
    this.#referred.set(key, name);
    this.#open.add(key);
    const body = make();
    this.#open.delete(key);
    this.#rules.add(name, body);
    return name;
  }
}

/**
 * The grammar of the JSON texts that are generated under a schema.
 *
 * @throws ERR_ARGUMENT for what is no JSON Schema, or one that nothing is valid under; ERR_UNSUPPORTED for a keyword that the text could
 * not be held to, and for a grammar that is too long. Both name the place.
 */
export function schemaGrammar(schema: unknown): SchemaGrammar {
  if (schema !== true && !isRecord(schema))
    malformed('#', 'a JSON Schema: an object, or true for any JSON', describe(schema));
  let json: string | undefined;
  try {
    json = JSON.stringify(schema);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw loraError(op, 'ERR_ARGUMENT', `expected jsonSchema to be JSON but ${reason}`, cause);
  }
  if (json.length > maxCharacters)
    malformed('#', `at most ${maxCharacters} characters of JSON`, describe(json.length));
  return new Grammar(JSON.parse(json) as Schema | true).grammar;
}
