/** The site says everything that exists: public names, flags, error codes, variables, events. And nothing dead. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import ts from 'typescript';
import { commands } from '../../lib/cli/commands';
import { commandLine } from '../support/command_line';
import { publicNames, root } from './markdown';

const idsOf = (html: string): Set<string> =>
  new Set([...html.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id!));
const source = (path: string): ts.SourceFile =>
  ts.createSourceFile(path, readFileSync(join(root, path), 'utf8'), ts.ScriptTarget.Latest, true);

/** A declaration of a file by its name. */
function declaration<T extends ts.Node>(
  file: ts.SourceFile,
  name: string,
  is: (node: ts.Node) => node is T,
): T {
  const found = file.statements.find(
    (statement) => is(statement) && (statement as unknown as { name?: ts.Identifier }).name?.text === name,
  );
  if (!found) throw new Error(`${file.fileName} does not declare ${name}`);
  return found as unknown as T;
}

/** The strings of a union type. */
function literals(node: ts.TypeNode): string[] {
  if (ts.isUnionTypeNode(node)) return node.types.flatMap(literals);
  if (ts.isLiteralTypeNode(node) && ts.isStringLiteral(node.literal)) return [node.literal.text];
  throw new Error(`expected a union of strings but received ${node.getText()}`);
}

export function describeReference(site: string): void {
  const page = (path: string): string => readFileSync(join(site, path), 'utf8');

  test('every public name has an entry with its signature', () => {
    const names = [...publicNames()];
    expect(names).toEqual(
      expect.arrayContaining(['CausalLM', 'OpenAIHandler', 'Comparison', 'TrainerEvent']),
    );
    const entryOf = (api: string, name: string): string | undefined =>
      page(`reference/api/${api}.html`)
        .split(`id="${name}"`)[1]
        ?.match(/from <code>([^<]+)<\/code>/)?.[1];
    expect(entryOf('serving', 'apikey')).toBe('lora-native/serve');
    expect(entryOf('training', 'trainer')).toBe('lora-native');

    const entries = new Map<string, string>();
    for (const file of readdirSync(join(site, 'reference/api')))
      for (const [, id, after] of page(join('reference/api', file)).matchAll(
        /<h2 id="([^"]+)">[^]*?<\/h2>\s*<div class="(\w+)"/g,
      ))
        entries.set(id!, after!);
    expect(names.filter((name) => entries.get(name.toLowerCase()) !== 'signature')).toEqual([]);
  });

  test('every command and flag has an entry, and only those', async () => {
    const ids = idsOf(page('reference/command-line.html'));
    for (const name of Object.keys(commands)) {
      expect(ids).toContain(name);
      const { out, status } = await commandLine([name, '--help', '--all']);
      expect(status).toBe(0);
      const flags = [...out.matchAll(/^ {2}(?:-\w, )?--(?:\[no-\])?([a-z-]+)/gm)].map(
        ([, flag]) => `${name}-${flag}`,
      );
      expect(flags).toContain(`${name}-json`);
      expect([...ids].filter((id) => id.startsWith(`${name}-`)).sort()).toEqual(flags.sort());
    }
  });

  test('a page that is generated says where its source is read what stands there, and the site does not', () => {
    const folder = join(root, 'docs/reference');
    for (const file of readdirSync(folder)) {
      const source = readFileSync(join(folder, file), 'utf8');
      if (!source.includes('<!-- generated:')) continue;
      expect([file, source.includes('<!-- source only -->')]).toEqual([file, true]);
      const html = page(`reference/${file.replace('.md', '.html')}`);
      expect([file, html.includes('source only') || html.includes('on the site, which')]).toEqual([
        file,
        false,
      ]);
    }
  });

  test('every error code has its cause and remedy, and only those', () => {
    const { type } = declaration(source('lib/errors.ts'), 'ErrorCode', ts.isTypeAliasDeclaration);
    const codes = literals(type);
    expect(codes).toContain('ERR_ARGUMENT');
    const html = page('reference/errors.html');
    const sections = new Map(
      html.split(/(?=<h2 id=)/).map((part) => [/^<h2 id="([^"]+)"/.exec(part)?.[1], part] as const),
    );
    for (const code of codes)
      expect(sections.get(code.toLowerCase())).toMatch(
        /<strong>Cause\.<\/strong>[^]*<strong>Remedy\.<\/strong>/,
      );
    const described = [...sections.keys()].filter((id) => id?.startsWith('err_'));
    expect(described.sort()).toEqual(codes.map((code) => code.toLowerCase()).sort());
  });

  test('every environment variable has an entry, and only those', () => {
    const read = new Set<string>();
    const inTests = new Set<string>();
    const files = (folder: string): string[] =>
      readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
        .map((name) => join(folder, name))
        .filter((name) => statSync(join(root, name)).isFile());
    // Names of the system (PATH, HOME, CI) are none of ours.
    const ours = /^(?:LORA|CUDA|STUB|HF|HUGGING|HUGGINGFACE|TRANSFORMERS|UCX|XDG)_/;
    const patterns = [
      /(?:getenv|BytesFromEnvironment)\("(\w+)"\)/g,
      /process\.env(?:\.|\[['"])(\w+)/g,
      /\benv\[['"](\w+)/g, // where a function is given the environment
      /\$\{(\w+):-/g,
      /\bENV\{(\w+)\}|\bENV (\w+)/g,
    ];
    const folders = ['lib', 'native', 'scripts', 'cmake', 'benchmarks', 'test'];
    for (const file of [...folders.flatMap(files), 'CMakeLists.txt']) {
      if (!/\.(?:ts|mjs|cjs|js|sh|h|cc|cu|cuh|cmake|txt)$|gpu-check$/.test(file)) continue;
      const text = readFileSync(join(root, file), 'utf8');
      for (const pattern of patterns)
        for (const match of text.matchAll(pattern)) {
          const name = match.slice(1).find((group) => group !== undefined)!;
          if (ours.test(name)) (/(?:^|\/)test\//.test(file) ? inTests : read).add(name);
        }
    }
    expect(read).toContain('LORA_THREADS');
    const cells = [...page('reference/environment.html').matchAll(/<tr>\s*<td>([^]*?)<\/td>/g)];
    const documented = cells.flatMap(([, cell]) =>
      [...cell!.matchAll(/<code>(\w+)<\/code>/g)].map(([, name]) => name!),
    );
    expect([...read].filter((name) => !documented.includes(name))).toEqual([]);
    // What only tests read may be documented, what nothing reads may not.
    expect(documented.filter((name) => !read.has(name) && !inTests.has(name))).toEqual([]);
  });

  test('every event and each of its fields has an entry', () => {
    const ids = idsOf(page('reference/events.html'));
    const file = source('lib/train/events.ts');
    const { type: union } = declaration(file, 'TrainerEvent', ts.isTypeAliasDeclaration);
    const names = (union as ts.UnionTypeNode).types.map((node) => node.getText());
    expect(names).toContain('StepEvent');
    const fields = (name: string): string[] => {
      const { members, heritageClauses = [] } = declaration(file, name, ts.isInterfaceDeclaration);
      const parents = heritageClauses.flatMap(({ types }) => types.map((one) => one.expression.getText()));
      return [...parents.flatMap(fields), ...members.map((member) => (member.name as ts.Identifier).text)];
    };
    for (const name of names) {
      const { members } = declaration(file, name, ts.isInterfaceDeclaration);
      const type = members.find((member) => member.name?.getText() === 'type') as ts.PropertySignature;
      expect(ids).toContain(literals(type.type!)[0]!);
      for (const field of fields(name)) expect(ids).toContain(`${name}.${field}`.toLowerCase());
    }
  });

  test('what loading reports is described', () => {
    const ids = idsOf(page('reference/events.html'));
    const file = source('lib/hub/progress.ts');
    const { type: union } = declaration(file, 'LoadProgress', ts.isTypeAliasDeclaration);
    const names = (union as ts.UnionTypeNode).types.map((node) => node.getText());
    expect(names).toContain('DownloadProgress');
    for (const name of names) {
      const { members } = declaration(file, name, ts.isInterfaceDeclaration);
      const type = members.find((member) => member.name?.getText() === 'type') as ts.PropertySignature;
      expect(ids).toContain(literals(type.type!)[0]!);
      for (const member of members)
        expect(ids).toContain(`${name}.${(member.name as ts.Identifier).text}`.toLowerCase());
    }
  });

  describe('links', () => {
    const files = (): string[] =>
      readdirSync(site, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.html'));

    test('no link, script, style or picture is dead', () => {
      const dead: string[] = [];
      const ids = new Map<string, Set<string>>();
      for (const file of files()) {
        // Code shows tags that are none: they are escaped there.
        for (const [, target] of page(file).matchAll(/ (?:href|src)="([^"]*)"/g)) {
          if (/^(?:https?|mailto):/.test(target!)) continue;
          const [path, hash] = target!.split('#');
          const to = path === '' ? file : relative(site, resolve(site, dirname(file), path!));
          if (!existsSync(join(site, to))) dead.push(`${file}: ${target}`);
          else if (hash) {
            if (!ids.has(to)) ids.set(to, idsOf(page(to)));
            if (!ids.get(to)!.has(decodeURIComponent(hash))) dead.push(`${file}: ${target}`);
          }
        }
      }
      expect(dead).toEqual([]);
    });

    test('every page can be reached from the start page', () => {
      const seen = new Set(['index.html']);
      for (const file of seen)
        for (const [, target] of page(file).matchAll(/<a [^>]*?href="([^"#:]+\.html)/g))
          seen.add(relative(site, resolve(site, dirname(file), target!)));
      expect(files().filter((file) => !seen.has(file))).toEqual([]);
    });

    test('nothing is fetched from elsewhere', () => {
      const fetched = files().flatMap((file) =>
        [...page(file).matchAll(/<(?:script|link|img)[^>]* (?:src|href)="(?:https?:)?\/\/[^"]*"/g)].map(
          ([tag]) => tag,
        ),
      );
      expect(fetched).toEqual([]);
    });
  });
}
