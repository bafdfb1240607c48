/** Damage that knows what it damages: JSON by its values, text by its words, bytes last. */
import type { Dice } from './random';

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

const numbers = [
  0,
  -0,
  1,
  -1,
  2,
  3,
  7,
  64,
  127,
  128,
  255,
  1e3,
  65_536,
  4e8,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  2 ** 53 + 2,
  1e308,
  -1e308,
  0.5,
  1e-300,
];
const words = [
  '',
  'a',
  ' ',
  'é',
  '🙂',
  '\u0000',
  '\ud800',
  '\u2028',
  '__proto__',
  'constructor',
  'toString',
  '../../x',
  '/dev/zero',
  '$&',
  '$`',
  '<s>',
  '▁',
  'F32',
  'U8',
  'BPE',
  'Unigram',
  'WordPiece',
  'Split',
  'Replace',
  'Sequence',
  'ByteLevel',
  'Metaspace',
  'Digits',
  'Strip',
  'llama',
  'qwen3',
  'LORA',
];

/** Regular expressions, many of which are slow or wrong. */
export function expression(dice: Dice, depth = 0): string {
  const atoms = [
    'a',
    'b',
    '.',
    '\\d',
    '\\s',
    '\\w',
    '\\p{L}',
    '[a-z]',
    '[^a]',
    '\\.',
    'proj',
    '_',
    '[0-9]+',
    '^',
    '$',
    '\\b',
    '\\1',
    '(?=a)',
    '(?<!a)',
    '\\Z',
    '\\x41',
    '[[a]&&[b]]',
    '(?i)',
    '{2}',
    '(',
  ];
  const atom =
    depth > 4 || dice.once(2)
      ? dice.pick(atoms)
      : `${dice.pick(['(', '(?:', '(?P<n>', '(?i:', '(?>', '('])}${expression(dice, depth + 1)})`;
  const counted = atom + dice.pick(['', '', '*', '+', '?', '*?', '++', '{2,}', '{,3}', '{1000}', '{1,200}']);
  if (depth > 6 || dice.once(3)) return counted;
  return counted + dice.pick(['', '|', '']) + expression(dice, depth + 1);
}

function value(dice: Dice, depth = 0): Json {
  switch (dice.below(depth > 2 ? 6 : 9)) {
    case 0:
      return null;
    case 1:
      return dice.once(2);
    case 2:
      return dice.pick(numbers);
    case 3:
      return dice.pick(words);
    case 4:
      return dice.pick(words).repeat(dice.once(40) ? 100_000 : dice.count(300));
    case 5:
      return expression(dice);
    case 6:
      return Array.from({ length: dice.count(5) }, () => value(dice, depth + 1));
    case 7: {
      let deep: Json = dice.pick(numbers);
      for (let i = dice.count(300); i > 0; i--) deep = dice.once(2) ? [deep] : { a: deep };
      return deep;
    }
    default:
      return Object.fromEntries(
        Array.from({ length: dice.count(5) }, () => [dice.pick(words), value(dice, depth + 1)]),
      );
  }
}

/** A place in a value, chosen by walking down; gives the parent and the key. */
function place(
  root: Json,
  dice: Dice,
): [parent: Json[] | { [key: string]: Json }, key: string | number] | undefined {
  let parent: Json = root;
  for (let depth = 0; ; depth++) {
    if (typeof parent !== 'object' || parent === null) return undefined;
    const keys: (string | number)[] = Array.isArray(parent) ? [...parent.keys()] : Object.keys(parent);
    if (keys.length === 0) return undefined;
    // Vocabularies are long: mostly their first entries, else only they would be hit.
    const key = keys[dice.once(4) ? dice.below(keys.length) : dice.below(Math.min(keys.length, 40))]!;
    const child = (parent as Record<string | number, Json>)[key]!;
    if (typeof child !== 'object' || child === null || dice.once(depth === 0 ? 6 : 3)) return [parent, key];
    parent = child;
  }
}

/** The value with a few of its parts replaced, taken away, repeated, renamed, or put elsewhere. Changes it. */
export function mutateJson(root: Json, dice: Dice, others: readonly Json[] = []): Json {
  for (let edits = 1 + dice.count(4); edits > 0; edits--) {
    const found = place(root, dice);
    if (!found) return value(dice);
    const [parent, key] = found;
    const at = parent as Record<string | number, Json>;
    const old = at[key]!;
    switch (dice.below(8)) {
      case 0:
        if (Array.isArray(parent)) parent.splice(Number(key), 1);
        else delete at[key];
        break;
      case 1:
        if (Array.isArray(parent)) parent.push(...Array.from({ length: dice.count(80) }, () => old));
        else
          Object.defineProperty(parent, dice.once(2) ? dice.pick(words) : `${key}_`, {
            value: old,
            enumerable: true,
            configurable: true,
            writable: true,
          });
        break;
      case 2: {
        const other = others.length > 0 ? place(structuredClone(dice.pick(others)), dice) : undefined;
        at[key] = other ? (other[0] as Record<string | number, Json>)[other[1]]! : value(dice);
        break;
      }
      case 3:
        at[key] =
          typeof old === 'number'
            ? old * dice.pick([-1, 0, 0.5, 2, 1e9]) + dice.pick([0, 1, -1])
            : typeof old === 'string'
              ? mutateText(old, dice)
              : value(dice);
        break;
      case 4:
        at[key] = [old];
        break;
      case 5:
        at[key] = {
          ...(typeof old === 'object' && !Array.isArray(old) ? old : {}),
          [dice.pick(words)]: value(dice),
        };
        break;
      default:
        at[key] = value(dice);
    }
  }
  return root;
}

/** The text with parts taken away, doubled, moved or replaced. */
export function mutateText(text: string, dice: Dice, pieces: readonly string[] = words): string {
  let result = text;
  for (let edits = 1 + dice.count(4); edits > 0; edits--) {
    const at = dice.below(result.length + 1);
    const to = Math.min(result.length, at + dice.count(40));
    const middle = dice.pick([
      '',
      result.slice(at, to).repeat(1 + dice.count(20)),
      dice.pick(pieces),
      dice.pick(pieces).repeat(dice.count(200)),
      result.slice(to, to + 20),
    ]);
    result = (result.slice(0, at) + middle + result.slice(to)).slice(0, 20_000);
  }
  return result;
}

/** The bytes with some changed, cut or added. */
export function mutateBytes(bytes: Uint8Array, dice: Dice): Buffer {
  let result = Buffer.from(bytes);
  for (let edits = 1 + dice.count(6); edits > 0; edits--) {
    const at = dice.below(result.length + 1);
    switch (dice.below(4)) {
      case 0:
        if (at < result.length) result[at] = dice.below(256);
        break;
      case 1:
        result = Buffer.concat([
          result.subarray(0, at),
          result.subarray(Math.min(result.length, at + dice.count(64))),
        ]);
        break;
      case 2:
        result = Buffer.concat([
          result.subarray(0, at),
          Buffer.from(dice.pick(['{', '}', '[', ']', '"', ',', ':', '\\', '0', '-', '\n', '\0'])),
          result.subarray(at),
        ]);
        break;
      default:
        result = Buffer.concat([
          result.subarray(0, at),
          Buffer.from(Array.from({ length: dice.count(8) }, () => dice.below(256))),
          result.subarray(at),
        ]);
    }
  }
  return result;
}

/** JSON text that is mostly valid, with equal keys and broken ends now and then. */
export function jsonText(json: Json, dice: Dice): string {
  const text = JSON.stringify(json) ?? 'null';
  if (dice.once(12)) return mutateBytes(Buffer.from(text), dice).toString();
  if (dice.once(12) && text.startsWith('{') && text.length > 2)
    return `${text.slice(0, -1)},${text.slice(1)}`;
  return text;
}

/** A template, out of pieces of the language. */
export function template(dice: Dice, depth = 0): string {
  const name = (): string =>
    dice.pick(['messages', 'm', 'x', 'loop', 'ns', 'bos_token', 'tools', 'namespace', 'range', 'nothing']);
  const expr = (d: number): string => {
    if (d > 4) return dice.pick([name(), '1', "'a'", '[]', '1e3', '10000', 'none', 'true']);
    const inner = (): string => expr(d + 1 + dice.below(2));
    return dice.pick([
      () =>
        `${inner()} ${dice.pick(['+', '-', '*', '/', '//', '%', '**', '~', '==', '!=', '<', 'in', 'not in', 'and', 'or'])} ${inner()}`,
      () =>
        `${inner()}.${dice.pick(['role', 'content', 'items()', 'split("")', 'replace("", "ab")', 'upper()', 'a', 'get("x")', 'strip', 'length'])}`,
      () =>
        `${inner()} | ${dice.pick(['tojson', 'tojson(indent=9)', 'length', 'join("ab")', 'list', 'first', 'replace("a", "bb")', 'sort', 'indent(9)', 'map(attribute="role")', 'selectattr("role")', 'upper', 'string', 'items', 'default("z")', 'dictsort', 'unique', 'int', 'nope'])}`,
      () => `[${inner()}, ${inner()}]`,
      () => `{"a": ${inner()}, "b": ${inner()}}`,
      () => `${inner()}[${inner()}]`,
      () => `${inner()}[${dice.pick(['1:', ':1', '::-1', '0:9'])}]`,
      () => `range(${dice.pick(['3', '100', '1000', '1000000', inner()])})`,
      () => `namespace(a=${inner()})`,
      () => `f(${inner()}, ${inner()})`,
      () => `${inner()} if ${inner()} else ${inner()}`,
      () => `not ${inner()}`,
      () => `${inner()} is ${dice.pick(['defined', 'string', 'mapping', 'none', 'odd', 'not defined'])}`,
      () => `strftime_now("%d %b")`,
      () => name(),
      () => name(),
      () => dice.pick(['1', '0', "'ab'", '""', '-1', '2.5']),
    ])();
  };
  const body = (): string => (depth > 3 ? 'x' : template(dice, depth + 1));
  return Array.from({ length: 1 + dice.count(4) }, () =>
    dice.pick([
      () => `{{ ${expr(0)} }}`,
      () => `{% for m in ${expr(1)} %}${body()}{% endfor %}`,
      () => `{% for a, b in ${expr(1)} %}${body()}{% else %}${body()}{% endfor %}`,
      () => `{% if ${expr(1)} %}${body()}{% elif ${expr(2)} %}${body()}{% else %}${body()}{% endif %}`,
      () => `{% set x = ${expr(1)} %}`,
      () => `{% set ns.a = ${expr(1)} %}`,
      () => `{% set ns = namespace(a=${expr(2)}, b="a") %}`,
      () =>
        `{% for i in range(40) %}{% set ns.a = ${dice.pick(['ns.a ~ ns.a', '[ns.a, ns.a]', 'ns.a + ns.a', '{"k": ns.a, "l": ns.a}'])} %}{% endfor %}`,
      () =>
        `{% macro f(a, b=1) %}${body()}{{ ${dice.pick(['f(a, b)', 'a', 'kwargs', 'varargs', 'caller()'])} }}{% endmacro %}`,
      () => `{% call(x) f(${expr(2)}) %}${body()}{% endcall %}`,
      () =>
        `{% filter ${dice.pick(['upper', 'trim', 'indent(4)', 'replace("a", "b")'])} %}${body()}{% endfilter %}`,
      () =>
        dice.pick([
          '{% break %}',
          '{% continue %}',
          '{# note #}',
          '{%- generation -%}',
          'text',
          '\n  ',
          "{{ raise_exception('no') }}",
        ]),
    ])(),
  ).join('');
}
