// Proposes single faults for C++ sources: operators, bounds, constants, dropped calls. It reads what clang-format
// has laid out, where an operator has a space on either side and a template's bracket has none.

/** The source with comments, literals and preprocessor lines blanked; every other character stays where it is. */
export function codeOnly(source) {
  const blank = (text) => text.replace(/[^\n]/g, ' ');
  const pattern =
    /\/\/[^\n]*|\/\*[\s\S]*?\*\/|R"\(([\s\S]*?)\)"|"(?:[^"\\\n]|\\.)*"|(?<![0-9a-fA-F])'(?:[^'\\\n]|\\.)*'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*/gm;
  return source.replace(pattern, blank);
}

const operators = {
  '<': ['<='],
  '<=': ['<'],
  '>': ['>='],
  '>=': ['>'],
  '==': ['!='],
  '!=': ['=='],
  '&&': ['||'],
  '||': ['&&'],
  '+': ['-'],
  '-': ['+'],
  '*': ['/'],
  '/': ['*'],
  '%': ['/'],
  '+=': ['-='],
  '-=': ['+='],
  '*=': ['/='],
  '/=': ['*='],
  '|=': ['&='],
  '&=': ['|='],
  '<<': ['>>'],
  '>>': ['<<'],
};

// What a number may become: beside it, and for powers of two, which are mostly sizes, half of it.
function neighbors(text) {
  const float = /^(\d+\.\d*)(f?)$/.exec(text);
  if (float)
    return [
      `${Number(float[1]) === 0 ? '1.0' : `(2 * ${float[1]}${float[2]})`}${Number(float[1]) === 0 ? float[2] : ''}`,
    ];
  const value = Number(text);
  if (value === 0) return ['1'];
  if (value === 1) return ['0', '2'];
  return value >= 8 && Number.isInteger(Math.log2(value))
    ? [String(value / 2)]
    : [String(value + 1), String(value - 1)];
}

// The end of a statement that starts at `begin`, behind its semicolon; −1 where brackets do not balance before it.
function statementEnd(code, begin) {
  let depth = 0;
  for (let i = begin; i < code.length; i++) {
    if ('([{'.includes(code[i])) depth++;
    if (')]}'.includes(code[i]) && --depth < 0) return -1;
    if (code[i] === ';' && depth === 0) return i + 1;
  }
  return -1;
}

/**
 * All faults of a source, in its order: { kind, at, end, before, after, line }. `source` with [at, end) replaced by `after`
 * is the mutant.
 */
export function propose(source) {
  const code = codeOnly(source);
  const lineStarts = [0];
  for (let i = 0; i < code.length; i++) if (code[i] === '\n') lineStarts.push(i + 1);
  const lineOf = (at) => {
    let low = 0;
    let high = lineStarts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (lineStarts[middle] <= at) low = middle;
      else high = middle - 1;
    }
    return low + 1;
  };
  const textOfLine = (at) => code.slice(lineStarts[lineOf(at) - 1], lineStarts[lineOf(at)] ?? code.length);
  const found = [];
  const add = (kind, at, end, after) =>
    found.push({ kind, at, end, before: source.slice(at, end), after, line: lineOf(at) });
  const each = (pattern, visit) => {
    for (const match of code.matchAll(pattern)) {
      // What only the compiler reads: a fault there does not compile, or changes nothing.
      if (
        /^\s*(static_assert|using|namespace|template|friend|class|struct|enum)\b/.test(
          textOfLine(match.index),
        )
      )
        continue;
      if (/\boperator\b/.test(textOfLine(match.index))) continue;
      visit(match);
    }
  };

  each(/(?<=[\w)\]}] )(<<|>>|[<>=!]=|&&|\|\||[-+*/|&]=|[-+*/%<>])(?= [^\n])/g, ({ 0: operator, index }) => {
    // Text is joined, not added up, and what is left of it says nothing that a test should pin.
    if (/["']|std::string/.test(source.slice(lineStarts[lineOf(index) - 1], lineStarts[lineOf(index)])))
      return;
    for (const after of operators[operator] ?? []) add('operator', index, index + operator.length, after);
  });
  each(/(?<=[(\s&|])!(?=[\w(])/g, ({ index }) => add('operator', index, index + 1, ''));
  each(/\bstd::(min|max)\b/g, ({ 1: name, index }) =>
    add('operator', index + 5, index + 8, name === 'min' ? 'max' : 'min'),
  );
  // for (…; i < n; …): the last turn is left out. for (T i = 0; …): so is the first.
  each(/\bfor \(([^;{}]*);([^;{}]*?[<>]=? )([^;{}]*);/g, (match) => {
    const at = match.index + match[0].length - 1 - match[3].length;
    if (!/[<>]/.test(match[3]) && !/&&|\|\|/.test(match[3]))
      add('bound', at, at + match[3].length, `${source.slice(at, at + match[3].length)} - 1`);
    const zero = / = 0$/.exec(match[1]);
    if (zero) add('bound', match.index + 5 + match[1].length - 1, match.index + 5 + match[1].length, '1');
  });
  each(/(?<![\w.'])(\d+\.\d*f?|\d+)(?![\w.'])/g, ({ 0: number, index }) => {
    // Template arguments and case labels.
    const head = code.slice(Math.max(0, index - 3), index);
    if (/[<:] ?$/.test(head) && !/ < $/.test(head)) return;
    if (code[index + number.length] === '>') return;
    if (/\bfor \([^;]*= $/.test(code.slice(lineStarts[lineOf(index) - 1], index))) return; // a bound, above
    for (const after of neighbors(number)) add('constant', index, index + number.length, after);
  });
  each(
    /(?<=[;{})]\s*\n[ \t]*)(?:[\w:]+(?:<[^;(){}]*>)?(?:(?:\.|->)(?:template )?\w+(?:<[^;(){}]*>)?)*)\(/g,
    ({ 0: head, index }) => {
      if (/^(if|for|while|switch|return|throw|else|do|sizeof|defined|LORA_UNROLL)\b/.test(head)) return;
      const end = statementEnd(code, index);
      // A call and no more: nothing but calls on its result may follow the bracket.
      if (end < 0 || /[^=!<>]=[^=]/.test(code.slice(index, end).replace(/\([\s\S]*\)/, ''))) return;
      if (/\)\s*(const|override|noexcept|:|\{)/.test(code.slice(index, end)) || /^\w+ /.test(head)) return;
      add('dropped', index, end, '(void)0;');
    },
  );
  each(/(?<=[;{})]\s*\n[ \t]*)(?:if \([^\n{}]*\) )(return\b[^;{}]*|continue|break);/g, ({ 0: text, index }) =>
    add('dropped', index, index + text.length, '(void)0;'),
  );
  each(
    /(?<=[;{})]\s*\n[ \t]*)[*\w][\w.[\]>-]*(?:\[[^\]\n]*\])? (?:[-+*/|&]?=) [^;{}]*;/g,
    ({ 0: text, index }) => {
      if (
        /^(const|auto|static|constexpr|using|return|int\w*|size_t|float|double|bool|unsigned|T|V)\b/.test(
          text,
        )
      )
        return;
      add('dropped', index, index + text.length, '(void)0;');
    },
  );
  return found
    .sort((a, b) => a.at - b.at || a.end - b.end || (a.after < b.after ? -1 : 1))
    .filter(
      (m, i, all) =>
        i === 0 || m.at !== all[i - 1].at || m.end !== all[i - 1].end || m.after !== all[i - 1].after,
    );
}

export const apply = (source, mutant) => source.slice(0, mutant.at) + mutant.after + source.slice(mutant.end);

// mulberry32: the same numbers on every machine.
export function randomOf(seed) {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/**
 * `count` of the faults of several files, the same for the same seed: by chance, but kinds take turns, and a line has one
 * fault as long as there are other lines.
 */
export function pick(byFile, count, seed) {
  const random = randomOf(seed);
  const all = [...byFile.keys()]
    .sort()
    .flatMap((file) => byFile.get(file).map((mutant) => ({ file, ...mutant })));
  for (let i = all.length - 1; i > 0; i--) {
    const j = random(i + 1);
    [all[i], all[j]] = [all[j], all[i]];
  }
  const lines = new Set();
  const [first, second] = [[], []];
  for (const mutant of all) {
    const line = `${mutant.file}:${mutant.line}`;
    (lines.has(line) ? second : first).push(mutant);
    lines.add(line);
  }
  const queues = new Map();
  for (const mutant of [...first, ...second])
    queues.set(mutant.kind, [...(queues.get(mutant.kind) ?? []), mutant]);
  const picked = [];
  for (let turn = 0; picked.length < Math.min(count, all.length); turn++)
    for (const kind of [...queues.keys()].sort()) {
      const mutant = queues.get(kind)[turn];
      if (mutant && picked.length < count) picked.push(mutant);
    }
  return picked;
}
