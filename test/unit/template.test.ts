/** Chat templates of strangers: they give what @huggingface/jinja gives, and end within their steps. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { defaultLimits } from '../../lib/formats/limits';
import { ChatTemplate } from '../../lib/text/chat';
import { BoundedTemplate } from '../../lib/text/template';
import { expectThrow } from '../support/errors';
import { cpuMilliseconds, endlessMilliseconds } from '../support/gaps';
import { describeWithData } from '../support/shared_data';

const messages = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: 'Hi, <|im_end|> you' },
  {
    role: 'assistant',
    content: '<think>\nhm\n</think>\n\nHello',
    tool_calls: [{ function: { name: 'f', arguments: { a: 1 } } }],
  },
  { role: 'tool', content: 'done' },
  { role: 'user', content: 'é🙂 again' },
];
const variables = {
  messages,
  bos_token: '<s>',
  eos_token: '</s>',
  tools: null,
  documents: null,
  add_generation_prompt: true,
};

/** What a template gives, or the sentence with which it fails. */
function outcome(run: () => string): string {
  try {
    return `gave ${run()}`;
  } catch (error) {
    return `threw ${(error as Error).message}`;
  }
}

describe('the same values as from the interpreter alone', () => {
  test.each([
    'plain\n',
    '{{ 1 + 2 * 3 ** 2 }} {{ "a" ~ 1 ~ none }} {{ 7 // 2 }} {{ -3 }} {{ 1.0 }} {{ not true }}',
    '{% for m in messages if m.role != "tool" %}{{ loop.index }}{{ m.role }}{% if loop.last %}.{% else %},{% endif %}{% endfor %}',
    '{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% for k in messages[0] %}{{ k }}{% endfor %}',
    '{% for i in [] %}x{% else %}none{% endfor %}{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}',
    '{% for m in messages %}{{ loop }}{{ loop.previtem.role }}<{{ loop.nextitem.role }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.length }}{{ loop.first }}{{ loop.index0 }}{% endfor %}{{ loop }}{{ m }}',
    '{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{% for j in [i, 3] %}{% if j == 3 %}{% break %}{% endif %}{{ loop.index }}{{ x }}{% else %}e{% endfor %}{{ loop.index }}{% endfor %}{{ x }}',
    '{% for i in [1, 2] %}a{% continue %}b{% else %}none{% endfor %}{% for i in [1, 2] %}{{ i }}{% break %}{% else %}left{% endfor %}{% if [] %}x{% elif "" %}y{% else %}{{ none }}z{{ nothing }}{% endif %}',
    '{% for k in {"a": 1} %}{{ k }}{{ loop.last }}{% endfor %}{% for i in (1, 2) %}{{ i }}{% endfor %}{% for i in "ab" %}{{ i }}{% endfor %}',
    '{% for i in nothing %}{{ i }}{% endfor %}',
    '{% for i in [1] %}{{ raise_exception("in a loop") }}{% endfor %}',
    '{% break %}',
    '{{ range(3) }}{{ range(2, 9, 3) | join("-") }}{{ range(5, 0, -2) | list }}{{ range(0) }}{{ range(0, 5, 0) }}',
    '{% macro m(a, b=2) %}{{ a }}{{ b }}{{ kwargs }}{{ varargs }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=4) }}{{ m(1, 2, 5) }}',
    '{% macro m(a) %}{{ a.kwargs }}{{ caller(a) }}{% endmacro %}{% call(x) m("q") %}[{{ x }}]{% endcall %}{{ m(1, k=2) }}',
    '{% set ns = namespace(a=1, b=[]) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns }}',
    '{% set x %}block {{ 1 }}{% endset %}{{ x }}{% set a, b = [1, 2] %}{{ a }}{{ b }}',
    '{% filter upper %}abc {{ "d" }}{% endfilter %}{% filter replace("a", "b") %}banana{% endfilter %}',
    '{{ messages | tojson(indent=2) }}{{ messages | tojson }}{{ [1, [2, {"k": 3}]] | tojson(indent=4) }}',
    '{{ messages | selectattr("role", "equalto", "user") | list | length }}{{ messages | map(attribute="role") | join(", ") }}',
    '{{ messages | rejectattr("tool_calls") | map(attribute="content") | list }}{{ "b,a" .split(",") | sort | first }}',
    '{{ "abc".upper() }}{{ " x ".strip() }}{{ "a-b-c".split("-", 1) }}{{ "aXbX".replace("X", "yy") }}{{ "aaa".replace("", ".") }}',
    '{% set f = "a,b".split %}{{ f(",") }}{{ "abc"["upper"]() }}{{ "abc"[1] }}{{ "abcdef"[1:4] }}{{ [1,2,3][::-1] }}{{ messages[-1].role }}',
    '{{ "x\ny" | indent }}{{ "x\ny\n\nz" | indent(2, true, true) }}{{ " a " | trim | length }}{{ "ab" | title }}',
    '{{ undefined_name }}{{ undefined_name is defined }}{{ messages.foo.bar }}{{ "a" in "cab" }}{{ 1 in [1] }}{{ "role" in messages[0] }}',
    '{{ [1, 2] == "1,2" }}{{ [1] + [2] }}{{ "a" == "a" }}{{ 1 == 1.0 }}{{ "s" + 1 }}',
    '{{ m(*[1, 2]) }}',
    '{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{"a": 3, "b": 4}) }}{{ m(b=1, *[2]) }}',
    '{{ {"b": 1, "a": 2} | dictsort }}{{ {"b": 1} | items }}{{ {"a": 1}.get("z", 5) }}{{ {"a": 1} | length }}',
    '{{ raise_exception("no") }}',
    '{{ strftime_now("%Y") }}{{ (1, 2) }}{{ 3 if false else 4 }}{{ 3 if false }}{{ none is none }}{{ "a" is string }}',
    '{{ True }} {{ False }} {{ None }}{% if True and not False %} Python writes them so{% endif %}',
    '{{ nothing() }}',
    '{{ 1 + none }}',
    '{{ "a" | odd }}',
    '{{ messages | nope }}',
    '{% for a, b in [1] %}{% endfor %}',
    '{% unknown %}',
    '{{ "open',
    '{% if true %}',
    '{{ 1',
    '{# note',
    '{{ [1, }}',
    '{{ {1: 2} }}',
    '{{ "\\q" }}',
    '{%- generation -%} a {%- endgeneration %} b',
    '  {# c #}\n  {%- if true %}\n x\n {% endif -%}  \n y',
  ])('%j', (source) => {
    const expected = outcome(() => new Template(source).render(variables));
    expect(outcome(() => new BoundedTemplate(source, defaultLimits).render(variables))).toBe(expected);
  });

  test('a name of the template itself is still taken', () => {
    const render = (given: object): string =>
      outcome(() => new BoundedTemplate('x', defaultLimits).render({ ...given }));
    expect(render({ range: 1 })).toBe('threw Variable already declared: range');
  });

  describeWithData('published templates', 'chat_templates', (dir) => {
    test.each(readdirSync(dir).filter((name) => name.endsWith('.jinja')))('%s', (name) => {
      const source = readFileSync(join(dir, name), 'utf8');
      const tools = [
        {
          type: 'function',
          function: { name: 'f', description: 'd', parameters: { type: 'object', properties: {} } },
        },
      ];
      for (const given of [
        variables,
        { ...variables, tools },
        { ...variables, messages: messages.slice(1, 2) },
        { ...variables, messages: messages.filter(({ role }) => role === 'user' || role === 'assistant') },
        { ...variables, enable_thinking: false },
      ])
        expect(outcome(() => new BoundedTemplate(source, defaultLimits).render(given))).toBe(
          outcome(() => new Template(source).render(given)),
        );
    });

    test.each(readdirSync(dir).filter((name) => name.endsWith('.jinja')))(
      '%s has steps for 500 turns',
      (name) => {
        const source = readFileSync(join(dir, name), 'utf8');
        const long = Array.from({ length: 1000 }, (_, i) => ({
          role: i % 2 ? 'assistant' : 'user',
          content:
            i % 2
              ? `<think>\n${'so '.repeat(100)}</think>\n\n${'words '.repeat(100)}`
              : 'question '.repeat(50),
        }));
        const text = new BoundedTemplate(source, defaultLimits).render({ ...variables, messages: long });
        expect(text.length).toBeGreaterThan(100_000);
      },
    );
  });
});

describe('what would not end', () => {
  const refused =
    '[chat_template] the chat template of the model does not end within its steps: the limit is 500000, which limits.templateSteps raises';
  const big = '{% set s = "a" %}{% for i in range(20) %}{% set s = s ~ s %}{% endfor %}';
  // Variables do not leave a loop: doublings go through a namespace.
  const doubled = (to: number): string =>
    `{% set n = namespace(s="a") %}{% for i in range(${to}) %}{% set n.s = n.s ~ n.s %}{% endfor %}`;
  test.each([
    ['a long loop', '{% for i in range(1000000000) %}x{% endfor %}'],
    ['a long range in steps below one', '{{ range(0, 1, 0.0000000001) }}'],
    [
      'nested loops',
      '{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}x{% endfor %}{% endfor %}{% endfor %}',
    ],
    [
      'nested loops without a body',
      '{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}',
    ],
    ['a text that doubles', `${doubled(60)}{{ n.s }}`],
    [
      'a list that doubles',
      '{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}',
    ],
    [
      'a list that is added to itself',
      '{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}',
    ],
    [
      'an object that doubles',
      '{% set n = namespace(a={}) %}{% for i in range(60) %}{% set n.a = {"x": n.a, "y": n.a} %}{% endfor %}{{ n.a | tojson }}',
    ],
    [
      'a namespace that has grown since it was written first',
      `{% set n = namespace(s="a") %}{% set x = n == "" %}{% for i in range(15) %}{% set n.s = n.s ~ n.s %}{% endfor %}{% for i in range(1000) %}{% set x = n == "" %}{% endfor %}`,
    ],
    ['replacing nothing by much', `${doubled(20)}{{ n.s.replace("", n.s) }}`],
    ['replacing by a method in a variable', `${doubled(20)}{% set f = n.s.replace %}{{ f("", n.s) }}`],
    ['replacing by a computed name', `${doubled(20)}{{ n.s["replace"]("", n.s) }}`],
    ['an indent without end', '{{ "a\nb" | indent(500000000, true) }}'],
    ['JSON with an indent without end', '{{ [[[1]]] | tojson(indent=500000000) }}'],
    ['a separator that is long', `${doubled(20)}{{ range(10000) | join(n.s) }}`],
    [
      'searching for a long text in a long one',
      `${doubled(20)}{% set b = "b" ~ n.s[:500000] %}{{ b in n.s }}`,
    ],
    [
      'a long list written again and again',
      '{% set a = range(100000) | list %}{% for i in range(1000) %}{{ a }}{% endfor %}',
    ],
    [
      'macros that call each other twice',
      '{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}',
    ],
    ['names that nothing defines', '{% for i in range(60000) %}{{ a or b or c }}{% endfor %}'],
    ['dates', '{% for i in range(60000) %}{{ strftime_now("%B") }}{% endfor %}'],
    [
      'splitting',
      `${doubled(22)}{% for i in range(1000) %}{% set x = n.s.split("") or n.s.split("a") %}{% endfor %}`,
    ],
  ])('%s', (_, source) => {
    const begin = cpuMilliseconds();
    expectThrow(() => new BoundedTemplate(source, defaultLimits).render(variables), 'ERR_DATA', refused);
    expect(cpuMilliseconds() - begin).toBeLessThan(endlessMilliseconds);
  });
  test('a variable of a loop alone does not double', () => {
    expect(new BoundedTemplate(`${big}{{ s | length }}`, defaultLimits).render({})).not.toBe('');
  });

  test.each([
    ['a macro that calls itself', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}'],
    ['brackets without end', `{{ ${'('.repeat(50_000)} }}`],
    ['signs without end', `{{ ${'- '.repeat(50_000)}1 }}`],
    ['statements without end', '{% if true %}'.repeat(10_000)],
  ])('%s fails as a template does', (_, source) => {
    const template = ChatTemplate.from(source, undefined, {})!;
    expectThrow(
      () => template.render([]),
      'ERR_DATA',
      /^\[chat_template\] the chat template of the model failed: /,
    );
  });

  test('a namespace in a container', () => {
    const render = (source: string) => () => new BoundedTemplate(source, defaultLimits).render({});
    expectThrow(
      render('{% set n = namespace() %}{% set n.n = n %}'),
      'ERR_DATA',
      /puts a namespace into a namespace$/,
    );
    expectThrow(
      render('{% set n = namespace() %}{{ [n] }}'),
      'ERR_DATA',
      /puts a namespace into a list or object$/,
    );
    expectThrow(
      render('{% set n = namespace() %}{{ namespace(m=n) }}'),
      'ERR_DATA',
      /into a list or object$/,
    );
  });

  test('a text that is too long, or full of spaces, is not even parsed', () => {
    expectThrow(
      () => new BoundedTemplate('x'.repeat(2 ** 18 + 1), defaultLimits),
      'ERR_DATA',
      '[chat_template] the chat template of the model has 262145 characters: the limit is 262144, which limits.templateCharacters raises',
    );
    expectThrow(
      () => new BoundedTemplate(' '.repeat(257), defaultLimits),
      'ERR_DATA',
      '[chat_template] the chat template of the model has more than 256 white-space characters in a row',
    );
    expect(new BoundedTemplate(`a${' '.repeat(256)}b`, defaultLimits).render({})).toHaveLength(258);
    const begin = cpuMilliseconds();
    const spaces = `${' '.repeat(255)}{%${' '.repeat(255)}`.repeat(500);
    expect(outcome(() => new BoundedTemplate(spaces, defaultLimits).render({}))).toMatch(/^threw /);
    expect(cpuMilliseconds() - begin).toBeLessThan(endlessMilliseconds);
  });

  test('the reason that a template gives is not longer than a sentence', () => {
    const template = ChatTemplate.from('{{ raise_exception("no" ~ messages[0].content) }}', undefined, {})!;
    let message = '';
    try {
      template.render([{ role: 'user', content: 'x'.repeat(1e6) }]);
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message).toMatch(/^\[chat_template\] the chat template of the model failed: nox+$/);
    expect(message.length).toBeLessThan(1100);
  });

  test('nor is the reason that its language gives', () => {
    const template = ChatTemplate.from(`{{ messages | ${'f'.repeat(5000)} }}`, undefined, {})!;
    const { message } = expectThrow(
      () => template.render([{ role: 'user', content: 'Hi' }]),
      'ERR_DATA',
      /failed: .*f{500}/,
    );
    expect(message!.length).toBeLessThan(1100);
  });

  test('more steps, and fewer', () => {
    const source = '{% for i in range(60000) %}x{% endfor %}';
    const render = (templateSteps: number) => () =>
      new BoundedTemplate(source, { ...defaultLimits, templateSteps }).render({});
    expect(render(10_000_000)()).toBe('x'.repeat(60_000));
    expect(render(defaultLimits.templateSteps)).toThrow('the limit is 500000,');
    expect(render(1000)).toThrow('the limit is 1000,');
  });
});
