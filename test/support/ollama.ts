/** What Ollama makes of a Modelfile: its commands, and the subset of Go's text/template that ours are written in. */

/** The commands of a Modelfile with their values. A value in quotation marks ends with them, and another one with its line. */
export function modelfileCommands(text: string): [name: string, value: string][] {
  const commands: [string, string][] = [];
  const form =
    /\s*(?:#[^\n]*\n|(FROM|ADAPTER|TEMPLATE|PARAMETER \w+) (?:"""([^]*?)"""(?=\n)|"([^"\n]*)"(?=\n)|([^"\n]+)(?=\n)))/y;
  let at = 0;
  while (text.slice(at).trim() !== '') {
    form.lastIndex = at;
    const found = form.exec(text);
    if (!found) throw new Error(`no command: ${text.slice(at, at + 80)}`);
    at = form.lastIndex;
    const [, name, ...values] = found;
    if (name !== undefined)
      commands.push([name.replace('PARAMETER ', ''), values.find((v) => v !== undefined)!]);
  }
  return commands;
}

interface Message {
  readonly role: string;
  readonly content: string;
}
type Names = Readonly<Record<string, unknown>>;

/** The value of a pipeline such as `eq (len (slice $.Messages $i)) 1`. */
function valueOf(source: string, dot: unknown, names: Names): unknown {
  const words = source.match(/\(|\)(?:\.\w+)*|"[^"]*"|[^\s()]+/g)!;
  let at = 0;
  const field = (from: unknown, path: string): unknown =>
    path
      .split('.')
      .filter((name) => name !== '')
      .reduce((value, name) => {
        if (!Object.hasOwn(value as object, name)) throw new Error(`no field ${name}`);
        return (value as Names)[name];
      }, from);
  const call = (name: string, args: unknown[]): unknown => {
    const [a, b] = args;
    if (name === 'eq') return a === b;
    if (name === 'ne') return a !== b;
    if (name === 'not') return !a;
    if (name === 'and') return a && b;
    if (name === 'len') return (a as unknown[]).length;
    if (name === 'slice') return (a as unknown[]).slice(b as number);
    if (name === 'index') {
      if ((b as number) >= (a as unknown[]).length) throw new Error('index out of range');
      return (a as unknown[])[b as number];
    }
    throw new Error(`no function ${name}`);
  };
  const term = (): unknown => {
    const word = words[at++]!;
    if (word === '(') {
      const value = list();
      return field(value, words[at++]!.slice(1));
    }
    if (word.startsWith('"')) return word.slice(1, -1);
    if (/^\d+$/.test(word)) return Number(word);
    if (word.startsWith('.')) return field(dot, word);
    const [, name, path] = /^(\$\w*)((?:\.\w+)*)$/.exec(word)!;
    if (!Object.hasOwn(names, name!)) throw new Error(`no variable ${word}`);
    return field(names[name!], path!);
  };
  const list = (): unknown => {
    const isCall = /^[a-z]+$/.test(words[at] ?? '');
    const name = isCall ? words[at++]! : undefined;
    const args: unknown[] = [];
    while (at < words.length && !words[at]!.startsWith(')')) args.push(term());
    if (name === undefined && args.length !== 1) throw new Error(`no value: ${source}`);
    return name === undefined ? args[0] : call(name, args);
  };
  return list();
}

/** The prompt that a template gives of messages. */
export function goPrompt(template: string, messages: readonly Message[]): string {
  const root = { Messages: messages.map(({ role, content }) => ({ Role: role, Content: content })) };
  const pieces = template.split(/\{\{ (.*?) \}\}/s);
  let out = '';
  /** Runs from a piece to the end or else that closes its block, and gives the place of that. */
  function run(at: number, dot: unknown, names: Record<string, unknown>, writes: boolean): number {
    for (;;) {
      if (at % 2 === 0) {
        if (/\{\{|\}\}/.test(pieces[at]!.replaceAll('}}', '}').replaceAll('{ z }', '')))
          throw new Error('a brace');
        if (writes) out += pieces[at]!;
        if (++at === pieces.length) return at;
        continue;
      }
      const action = pieces[at]!;
      const [, word = '', rest = ''] = /^(if|range|else if|else|end)?\s*(.*)$/s.exec(action)!;
      if (word === 'end' || word.startsWith('else')) return at;
      if (word === 'range') {
        const [, index, , source] = /^(\$\w+), (\$\w+) := (.*)$/.exec(rest)!;
        let next = 0;
        const values = valueOf(source!, dot, names) as unknown[];
        values.forEach((value, i) => (next = run(at + 1, value, { ...names, [index!]: i }, writes)));
        at = next + 1;
      } else if (word === 'if') {
        let done = false;
        let condition: string | undefined = rest;
        for (;;) {
          const taken: boolean =
            !done && (condition === undefined || Boolean(valueOf(condition, dot, names)));
          at = run(at + 1, dot, { ...names }, writes && taken);
          done ||= taken;
          if (pieces[at] === 'end') break;
          condition = pieces[at] === 'else' ? undefined : pieces[at]!.slice('else if '.length);
        }
        at++;
      } else {
        const [, name, source] = /^(\$\w+) := (.*)$/.exec(action) ?? [];
        if (name !== undefined) names[name] = valueOf(source!, dot, names);
        else if (writes) out += String(valueOf(action, dot, names));
        at++;
      }
    }
  }
  run(0, root, { $: root }, true);
  return out;
}
