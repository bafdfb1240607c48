/** Every block of code in the documentation: TypeScript is compiled, programs that say so run, commands are parsed. */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ts from 'typescript';
import { parse } from '../../lib/cli/args';
import { commands } from '../../lib/cli/commands';
import { allBlocks, blocksOf, exampleBlocks, place, publicNames, root, type Block } from './markdown';
import { shellCommands } from './shell';

/** The folder from which programs find `lora-native`: this one, or a program that has it installed (scripts/package-check.mjs --docs). */
const testedPackage = process.env['LORA_TESTED_PACKAGE'] ?? root;

const scripts = new Set(['ts', 'js', 'mjs', 'typescript', 'javascript']);
const blocks = allBlocks();
const examples = exampleBlocks(publicNames());
/** One test per block, named by its place. */
const each = (list: readonly Block[], check: (block: Block) => void): void =>
  list.forEach((block) => test(place(block), () => check(block)));
const hasImport = (code: string): boolean => /^\s*import[\s{*'"]/m.test(code);

/** Names of `export declare const` in placeholders.ts, and what the entries export. */
const placeholders = [
  ...readFileSync(join(__dirname, 'placeholders.ts'), 'utf8').matchAll(/^export declare const (\w+)/gm),
].map(([, name]) => name!);

function exportsOf(checker: ts.TypeChecker, source: ts.SourceFile): { values: string[]; types: string[] } {
  const symbols = checker.getExportsOfModule(checker.getSymbolAtLocation(source)!);
  const values: string[] = [];
  const types: string[] = [];
  for (const symbol of symbols) {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
    // What is exported as a type only has an alias that says so.
    const typeOnly = symbol.declarations?.some(
      (d) => ts.isExportSpecifier(d) && (d.isTypeOnly || d.parent.parent.isTypeOnly),
    );
    if (target.flags & ts.SymbolFlags.Value && !typeOnly) values.push(symbol.name);
    else types.push(symbol.name);
  }
  return { values, types };
}

/** One file per snippet, in memory. A block that continues another is checked as the two together. */
function snippetFiles(prelude: string): Map<string, { block: Block; text: string; skipLines: number }> {
  const files = new Map<string, { block: Block; text: string; skipLines: number }>();
  const before = new Map<string, string>();
  for (const block of [...blocks, ...examples]) {
    if (!scripts.has(block.language) || block.unchecked !== undefined || block.from !== undefined) continue;
    const start = block.continues ? `${before.get(block.file) ?? ''}\n` : '';
    const code = start + block.code;
    before.set(block.file, code);
    // A fragment stands in a block of its own, so that it may shadow what is in scope.
    const text = hasImport(code) ? `${code}\nexport {};\n` : `${prelude}{\n${code}\n}\n`;
    const added = hasImport(code) ? 0 : prelude.split('\n').length;
    const name = `${block.file}_${block.line}`.replace(/[^\w]/g, '_');
    files.set(join(__dirname, `snippet_${name}.ts`), {
      block,
      text,
      skipLines: added + start.split('\n').length - 1,
    });
  }
  return files;
}

function compile(): Map<string, string[]> {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), (path) => readFileSync(path, 'utf8'));
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  options.types = ['node'];
  const paths = [
    'index',
    'serve/index',
    'compare/index',
    'train/index',
    'ai-sdk/index',
    'langchain/index',
  ].map((entry) => join(root, `lib/${entry}.ts`));
  const first = ts.createProgram(paths, options);
  const known = new Set<string>();
  const imports = paths.map((path) => {
    const { values, types } = exportsOf(first.getTypeChecker(), first.getSourceFile(path)!);
    const names = [...values, ...types.map((name) => `type ${name}`)].filter((name) => !known.has(name));
    for (const name of names) known.add(name);
    return `import { ${names.join(', ')} } from '${path.slice(0, -3)}'; `;
  });
  const prelude = `${imports.join('')}import { ${placeholders.join(', ')} } from './placeholders';\n`;
  const files = snippetFiles(prelude);
  const disk = ts.createCompilerHost(options);
  const host: ts.CompilerHost = {
    ...disk,
    fileExists: (path) => files.has(path) || disk.fileExists(path),
    readFile: (path) => files.get(path)?.text ?? disk.readFile(path),
    getSourceFile: (path, target, ...rest) => {
      const own = files.get(path);
      if (own) return ts.createSourceFile(path, own.text, target);
      return first.getSourceFile(path) ?? disk.getSourceFile(path, target, ...rest);
    },
  };
  const program = ts.createProgram([...files.keys()], options, host);
  const problems = new Map<string, string[]>();
  for (const [path, { block, skipLines }] of files) {
    const source = program.getSourceFile(path)!;
    const found = [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)];
    problems.set(
      place(block),
      found.map(({ start = 0, messageText }) => {
        const line = source.getLineAndCharacterOfPosition(start).line - skipLines + block.line + 1;
        return `${block.file}:${line}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`;
      }),
    );
  }
  return problems;
}

describe('code that is compiled', () => {
  let problems: Map<string, string[]>;
  beforeAll(() => {
    problems = compile();
  }, 240_000);

  const checked = [...blocks, ...examples].filter(
    ({ language, unchecked, from }) => scripts.has(language) && unchecked === undefined && from === undefined,
  );

  test('there is some in the README, in docs/ and in doc comments', () => {
    for (const start of ['README.md', 'docs/', 'lib/'])
      expect(checked.filter(({ file }) => file.startsWith(start))).not.toEqual([]);
  });
  each(checked, (block) => expect(problems.get(place(block))).toEqual([]));
});

describe('blocks that are part of a file', () => {
  const lines = (text: string): string =>
    text
      .split('\n')
      .map((line) => line.trim())
      .filter((line) => line !== '')
      .join('\n');
  const parts = blocks.filter(({ from }) => from !== undefined);
  each(parts, ({ from, code }) => {
    expect(`\n${lines(readFileSync(join(root, from!), 'utf8'))}\n`).toContain(`\n${lines(code)}\n`);
  });
  test('are read with their comments', () => {
    const [block] = blocksOf('a.md', 'x\n\n<!-- from: examples/layer.mjs -->\n```js\nlet a;\n```\n');
    expect(block).toMatchObject({ from: 'examples/layer.mjs', language: 'js', code: 'let a;', line: 4 });
  });
});

describe('programs that run', () => {
  let folder: string;
  beforeAll(() => {
    if (!existsSync(join(root, 'dist/index.mjs'))) throw new Error('dist/ is missing: npm run build:js');
    folder = mkdtempSync(join(tmpdir(), 'snippets-'));
    // What programs of the documentation find beside them.
    symlinkSync(join(root, 'examples/base-model'), join(folder, 'model'));
    writeFileSync(
      join(folder, 'train.jsonl'),
      Array.from({ length: 8 }, (_, i) => `{"text":"Mia finds ${i} red apples."}\n`).join(''),
    );
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const programs = blocks.filter(({ run }) => run);
  test('the README has one', () => {
    expect(programs.map(({ file }) => file)).toContain('README.md');
  });
  each(programs, (block) => {
    expect(hasImport(block.code)).toBe(true); // only a whole program can run
    // Inside the package, so that `lora-native` is this package.
    const own = join(testedPackage, 'build/snippets');
    mkdirSync(own, { recursive: true });
    const path = join(own, `${place(block).replace(/[^\w]/g, '_')}.mjs`);
    const { outputText } = ts.transpileModule(block.code, {
      compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
    });
    writeFileSync(path, outputText);
    const { status, stderr } = spawnSync(process.execPath, [path], { cwd: folder, encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });
});

describe('data', () => {
  const json = blocks.filter(
    ({ language, unchecked }) => /^jsonl?$/.test(language) && unchecked === undefined,
  );
  each(json, ({ language, code }) => {
    const texts = language === 'jsonl' ? code.split('\n').filter((line) => line !== '') : [code];
    for (const text of texts) expect(() => JSON.parse(text) as unknown).not.toThrow();
  });
});

describe('commands', () => {
  const shell = blocks.filter(
    ({ language, unchecked, from }) =>
      ['sh', 'bash', 'shell'].includes(language) && unchecked === undefined && from === undefined,
  );
  const { scripts: npmScripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>;
  };

  /** What is wrong with a command, or undefined. */
  function problem(words: readonly string[]): string | undefined {
    const [program, ...rest] = words;
    if (program === 'npx') return problem(rest.filter((word) => word !== '--yes' && word !== '-y'));
    if (program === 'lora-native') {
      const [name, ...argv] = rest;
      if (name === undefined || name === '--version' || name === '--help') return undefined;
      const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
      if (!command) return `lora-native has no command ${name}`;
      try {
        if (!argv.includes('--help')) parse(name, command, argv);
      } catch (error) {
        return (error as Error).message;
      }
    }
    if (program === 'npm' && rest[0] === 'run' && rest[1] !== undefined && !(rest[1] in npmScripts))
      return `package.json has no script ${rest[1]}`;
    const path = ['bash', 'node', 'sh', 'python3'].includes(program!) ? rest[0] : program;
    if (
      path !== undefined &&
      /^(?:\.ci|scripts|examples|benchmarks)\//.test(path) &&
      !existsSync(join(root, path))
    )
      return `${path} does not exist`;
    return undefined;
  }

  each(shell, ({ code }) => {
    expect(shellCommands(code).map(problem)).toEqual(shellCommands(code).map(() => undefined));
  });
  test('wrong ones are seen', () => {
    const wrong =
      'lora-native train --model DIR --data FILE --learning-rate 1   # no\nnpm run nothing && node scripts/none.mjs';
    expect(shellCommands(wrong).map(problem)).toEqual([
      expect.stringContaining('unknown flag --learning-rate; did you mean --lr?'),
      'package.json has no script nothing',
      'scripts/none.mjs does not exist',
    ]);
  });
});
