/** The blocks of code in the documentation, and what the comments before them ask for. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';

export const root = resolve(__dirname, '../..');

export interface Block {
  /** From the root of the repository. */
  file: string;
  /** Of the opening fence, from 1. */
  line: number;
  language: string;
  code: string;
  run: boolean;
  continues: boolean;
  /** The file that the block is a part of. */
  from?: string;
  /** Why it is left alone. */
  unchecked?: string;
}

export const place = ({ file, line }: Pick<Block, 'file' | 'line'>): string => `${file}:${line}`;

/** What the entries of the package export. */
export function publicNames(): Set<string> {
  const text = ['index', 'serve/index', 'compare/index', 'train/index', 'ai-sdk/index', 'langchain/index']
    .map((entry) => readFileSync(join(root, `lib/${entry}.ts`), 'utf8'))
    .join('');
  const lists = [...text.matchAll(/^export (?:type )?\{([^}]*)\}/gm)].map(([, list]) => list!);
  return new Set(
    lists.flatMap((list) =>
      list
        .split(',')
        .map((name) => name.trim().replace(/^type /, ''))
        .filter((name) => name !== ''),
    ),
  );
}

/** Every Markdown file that users or contributors read. */
export function markdownFiles(): string[] {
  const inDocs = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => join('docs', name));
  return ['README.md', 'CONTRIBUTING.md', ...inDocs.sort()];
}

const directive = /^<!--\s*(run|continues|from|unchecked)\b:?\s*(.*?)\s*-->$/;

/** The fenced blocks of a text. */
export function blocksOf(file: string, text: string): Block[] {
  const lines = text.split('\n');
  const blocks: Block[] = [];
  for (let i = 0; i < lines.length; i++) {
    const fence = /^(\s*)(`{3,}|~{3,})\s*(\S*)/.exec(lines[i]!);
    if (!fence) continue;
    const [, indent, marks, language] = fence;
    const start = i;
    const body: string[] = [];
    for (i++; i < lines.length && lines[i]!.trim() !== marks; i++) body.push(lines[i]!.slice(indent!.length));
    const block: Block = {
      file,
      line: start + 1,
      language: language!,
      code: body.join('\n'),
      run: false,
      continues: false,
    };
    for (let j = start - 1; j >= 0; j--) {
      const found = directive.exec(lines[j]!.trim());
      if (!found) break;
      const [, name, value] = found;
      if (name === 'run') block.run = true;
      else if (name === 'continues') block.continues = true;
      else if (name === 'from') block.from = value;
      else block.unchecked = value;
    }
    blocks.push(block);
  }
  return blocks;
}

export function allBlocks(): Block[] {
  return markdownFiles().flatMap((file) => blocksOf(file, readFileSync(join(root, file), 'utf8')));
}

/** The name that a top-level line of lib/ exports. */
const exported =
  /^export (?:declare )?(?:abstract )?(?:async )?(?:function\*?|class|interface|type|const|let) (\w+)/;

/** The `@example` blocks of the doc comments in lib/ of the given names and their members, by a plain reading. */
export function exampleBlocks(names: ReadonlySet<string>): Block[] {
  const files = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .sort();
  return files.flatMap((name) => {
    const file = relative(root, join(root, 'lib', name));
    const lines = readFileSync(join(root, file), 'utf8').split('\n');
    const blocks: Block[] = [];
    for (let i = 0; i < lines.length; i++) {
      const found = /^\s*(?:\/\*\*|\*)\s*@example\b\s?(.*?)(\s*\*\/)?$/.exec(lines[i]!);
      if (!found) continue;
      const [, first, closed] = found;
      const body = [first!];
      const line = i + 1;
      if (closed === undefined)
        for (i++; i < lines.length && !/\*\/\s*$/.test(lines[i]!) && !/^\s*\*\s*@/.test(lines[i]!); i++)
          body.push(lines[i]!.replace(/^\s*\* ?/, ''));
      if (i < lines.length && /^\s*\*\s*@example/.test(lines[i]!)) i--;
      // A member's comment is indented: it belongs to the declaration above it.
      const isMember = /^\s{2,}/.test(lines[line - 1]!);
      const owner = isMember
        ? lines.slice(0, line).findLast((text) => exported.test(text))
        : lines.slice(i).find((text) => /^export /.test(text));
      if (!names.has(exported.exec(owner ?? '')?.[1] ?? '')) continue;
      blocks.push({ file, line, language: 'ts', code: body.join('\n').trim(), run: false, continues: false });
    }
    return blocks;
  });
}
