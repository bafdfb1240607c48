// Builds the documentation: docs/*.md, the reference out of doc comments and out of the table of the command line, and
// the sources that they link to become static pages in build/site, which open from disk or from any server.
//   node scripts/docs/build.mjs [--out DIR] [--docs DIR] [--without-api]
// Fails, with every reason at once, on dead links and anchors, unreachable pages, pages outside docs/site.json, and
// public names without a place in the reference or without a doc comment.
//
// Why this is not VitePress: docs/internals/own-code.md.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, extname, join, posix, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { buildSync } from 'esbuild';
import { areas as allAreas } from './areas.mjs';
import { commandReference, exitCodeReference, readCommandLine } from './command_line.mjs';
import { document, logo } from './layout.mjs';
import { createMarkdown, escapeHtml, highlight } from './markdown.mjs';
import { createReference, indexApi } from './reference.mjs';
import { sectionsOf, textOf } from './sections.mjs';
import { readApi } from './typescript.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '../..');
const { values } = parseArgs({
  options: {
    out: { type: 'string', default: join(root, 'build/site') },
    docs: { type: 'string', default: 'docs' },
    'without-api': { type: 'boolean', default: false },
  },
});
const out = resolve(values.out);
const docs = posix.normalize(values.docs); // from the root of the repository
const withApi = !values['without-api'];
const problems = [];

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const layout = JSON.parse(readFileSync(join(root, docs, 'site.json'), 'utf8'));
const api = withApi ? await readApi(root) : new Map();
const areas = withApi ? allAreas : [];
const { targets, problems: unlisted } = indexApi(api, areas);
problems.push(...unlisted);
const commandLine = readCommandLine(root);

/** path → { path, title, short, source (Markdown) | file, base (directory that its links start from), … } */
const pages = new Map();
const assets = new Set();

function addMarkdown(path, file) {
  const source = readFileSync(join(root, file), 'utf8');
  const title = /^# (.+)$/m.exec(source)?.[1];
  if (title === undefined || !source.startsWith('# ')) {
    problems.push(`${file}: expected the first line to be "# Title"`);
    return;
  }
  if (/\bTODO\b/.test(source)) problems.push(`${file}: there is a TODO in it`);
  const short = path.endsWith('/index') ? 'Overview' : undefined;
  pages.set(path, {
    path,
    file,
    short,
    title: title.replace(/[`*]/g, ''),
    source,
    base: posix.dirname(file),
  });
}

/** Every Markdown file of the documentation, as paths without .md. */
function walk(folder) {
  return readdirSync(join(root, docs, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = posix.join(folder, entry.name);
    if (entry.isDirectory()) return walk(path);
    return extname(path) === '.md' ? [path.slice(0, -3)] : [];
  });
}

const sections = layout.sections.map((section) => ({
  ...section,
  paths: section.pages.flatMap((path) =>
    path === 'reference/api/*' ? areas.map(({ page }) => page) : [path],
  ),
}));
const ordered = sections.flatMap(({ paths }) => paths);
const written = walk('.').filter((path) => path !== 'README');
for (const path of written) {
  if (path !== 'index' && !ordered.includes(path))
    problems.push(`${path}.md stands in no section of site.json`);
  addMarkdown(path, `${docs}/${path}.md`);
}
for (const path of ordered)
  if (!written.includes(path) && !areas.some(({ page }) => page === path))
    problems.push(`site.json lists ${path}, but there is no ${path}.md`);
addMarkdown('project/changelog', 'CHANGELOG.md');
addMarkdown('project/contributing', 'CONTRIBUTING.md');
for (const area of areas)
  pages.set(area.page, {
    path: area.page,
    title: area.title,
    area,
    base: posix.dirname(`${docs}/${area.page}`),
  });

const site = {
  title: layout.title,
  tagline: layout.tagline,
  version,
  sections: sections.map(({ paths, ...section }) => ({
    ...section,
    pages: paths.filter((path) => pages.has(path)).map((path) => pages.get(path)),
  })),
};

const hrefBetween = (from, to) => {
  const [path, hash] = to.split('#');
  const file = relative(posix.dirname(from), `${path}.html`) || posix.basename(`${path}.html`);
  return hash === undefined ? file : `${file}#${hash}`;
};

/** The page of a file of the repository, made when it is first linked to. */
function pageOfFile(file) {
  if (file === `${docs}/README.md`) {
    if (!pages.has('project/documentation')) addMarkdown('project/documentation', file);
    return 'project/documentation';
  }
  if (file.startsWith(`${docs}/`) && file.endsWith('.md')) return file.slice(docs.length + 1, -3);
  const project = { 'CHANGELOG.md': 'project/changelog', 'CONTRIBUTING.md': 'project/contributing' }[file];
  if (project) return project;
  if (!/\.md$/.test(file) || file.includes('/')) {
    const path = `source/${file.replace(/\/$/, '')}`;
    if (!pages.has(path)) pages.set(path, { path, title: file, file, kind: 'source' });
    return path;
  }
  const path = `project/${file.slice(0, -3).toLowerCase()}`;
  if (!pages.has(path)) addMarkdown(path, file);
  return path;
}

/** Codes of errors and variables by name, from the anchors that their pages have for them. */
const constants = new Map();
for (const path of ['reference/errors', 'reference/environment']) {
  for (const [, heading, id] of (pages.get(path)?.source ?? '').matchAll(
    /^## (ERR_\w+)$|<span id="(\w+)">/gm,
  )) {
    const name = heading ?? id.toUpperCase();
    constants.set(name, `${path}#${name.toLowerCase()}`);
  }
}

const isImage = (file) => /\.(svg|png|jpg|webp)$/.test(file);

function resolveLink(page, href) {
  if (/^(?:[a-z]+:|#)/.test(href)) return href;
  const [path, hash] = href.split('#');
  const file = posix.normalize(posix.join(page.base, decodeURIComponent(path)));
  const area = areas.find((one) => file === `${docs}/${one.page}.md`);
  const target = area ? area.page : undefined;
  if (target === undefined && !existsSync(join(root, file))) {
    problems.push(
      `${page.file?.replace(`${docs}/`, '') ?? page.path}: the link ${href} leads to ${file}, which does not exist`,
    );
    return '#';
  }
  if (target === undefined && isImage(file) && file.startsWith(`${docs}/`)) {
    const asset = file.slice(docs.length + 1);
    assets.add(asset);
    return relative(posix.dirname(page.path), asset);
  }
  const to = target ?? pageOfFile(file);
  return hrefBetween(page.path, hash === undefined ? to : `${to}#${hash}`);
}

const md = createMarkdown();
const sourceLinkFrom = (page) => (file, line) => `${hrefBetween(page.path, pageOfFile(file))}#L${line}`;

/** Replaces `<!-- generated: … -->` by what the comment names. */
function expand(page) {
  const reference = createReference(api, {
    targets,
    linkTo: (target) => hrefBetween(page.path, target),
    sourceLink: sourceLinkFrom(page),
  });
  // What a page says where its source is read, as on GitHub, in the place of what is generated.
  let source = (page.area ? reference.page(page.area) : page.source).replace(
    /^<!-- source only -->\n[^]*?<!-- \/source only -->\n+/gm,
    '',
  );
  source = source.replace(/^<!-- generated: (\w+)(?: ([\w ]+))? -->$/gm, (_, what, name) => {
    if (what === 'commands') return commandReference(commandLine);
    if (what === 'exitCodes') return exitCodeReference(commandLine);
    if (what === 'fields') return reference.fieldsOf(name);
    if (what === 'areas') return areaList();
    throw new Error(`${page.file}: nothing generates '${what}'`);
  });
  problems.push(...reference.problems);
  return source;
}

const areaList = () =>
  areas
    .map(
      ({ page, title, names }) =>
        `### [${title}](api/${posix.basename(page)}.md)\n\n${names.map((name) => `\`${name}\``).join(' · ')}\n`,
    )
    .join('\n');

function renderMarkdown(page) {
  const env = {
    headings: [],
    resolveLink: (href) => resolveLink(page, href),
    nameLink: (name) => {
      const target = targets.get(name) ?? constants.get(name);
      return target && page.path !== 'project/changelog' ? hrefBetween(page.path, target) : undefined;
    },
  };
  let html = md.render(expand(page), env);
  page.headings = env.headings;
  if (page.path === 'index') {
    page.kind = 'home';
    html = homeHtml(html);
  }
  page.html = html;
  page.description = textOf(/<p>([^]*?)<\/p>/.exec(html)?.[1] ?? page.title).slice(0, 200);
}

/** The start page: what stands before the first section is the hero; a section that is one list is cards. */
function homeHtml(html) {
  const at = html.indexOf('<h2');
  const hero = (at < 0 ? html : html.slice(0, at)).replace('<ul>', '<ul class="actions">');
  const code = /<div class="code"[^]*?<\/div>/.exec(hero)?.[0] ?? '';
  const words = hero.replace(code, '');
  const body = at < 0 ? '' : html.slice(at);
  const parts = body
    .split(/(?=<h2)/)
    .filter((part) => part !== '')
    .map(
      (part) =>
        `<section>${/<\/h2>\s*<ul>/.test(part) ? part.replace('<ul>', '<ul class="cards">') : part}</section>`,
    );
  return `<div class="hero"><div class="words">${words}</div>${code}</div>\n${parts.join('\n')}`;
}

/** A file of the repository with numbered lines, or the list of a folder. */
function renderSource(page) {
  const path = join(root, page.file);
  page.headings = [];
  page.description = `${page.file} of lora-native`;
  const title = `<h1>${escapeHtml(page.file)}</h1>\n`;
  if (statSync(path).isDirectory()) {
    const files = readdirSync(path).filter((name) => !name.startsWith('.'));
    const items = files.map((name) => {
      const to = pageOfFile(posix.join(page.file, name));
      return `<li><a href="${hrefBetween(page.path, to)}"><code>${escapeHtml(name)}${statSync(join(path, name)).isDirectory() ? '/' : ''}</code></a></li>`;
    });
    page.html = `${title}<ul>${items.join('')}</ul>`;
    return;
  }
  const bytes = readFileSync(path);
  if (bytes.length > 400_000 || bytes.includes(0)) {
    page.html = `${title}<p>A file of ${bytes.length} bytes.</p>`;
    return;
  }
  const language = {
    '.ts': 'typescript',
    '.mjs': 'javascript',
    '.cjs': 'javascript',
    '.js': 'javascript',
    '.json': 'json',
    '.py': 'python',
    '.sh': 'bash',
    '.h': 'cpp',
    '.cc': 'cpp',
    '.cu': 'cpp',
    '.cuh': 'cpp',
    '.yml': 'yaml',
  }[extname(page.file)];
  page.html = `${title}<div class="code source"><pre tabindex="0"><code>${numbered(highlight(bytes.toString('utf8').replace(/\n$/, ''), language))}</code></pre></div>`;
}

/** One element per line; a colour that spans lines is closed and opened again. */
function numbered(html) {
  let open = [];
  return html
    .split('\n')
    .map((line, i) => {
      const start = open.join('');
      for (const [tag, closes] of line.matchAll(/<(\/?)span[^>]*>/g)) {
        if (closes) open = open.slice(0, -1);
        else open = [...open, tag];
      }
      return `<span class="line" id="L${i + 1}">${start}${line}${'</span>'.repeat(open.length)}</span>`;
    })
    .join('\n');
}

rmSync(out, { recursive: true, force: true });
const write = (file, content) => {
  mkdirSync(dirname(join(out, file)), { recursive: true });
  writeFileSync(join(out, file), content);
};

// Rendering a page may ask for further ones: a Map's iterator goes on to what is added meanwhile.
for (const page of pages.values()) {
  page.to = (path) => hrefBetween(page.path, path);
  page.kind ??= 'page';
  if (page.kind === 'source') renderSource(page);
  else renderMarkdown(page);
}
for (const page of pages.values()) {
  page.document = document(site, page);
  write(`${page.path}.html`, page.document);
}

const searched = [...pages.values()].filter(
  ({ kind, path }) => kind !== 'source' && path !== 'internals/cuda-kernels',
);
const found = searched.flatMap((page) => sectionsOf(`${page.path}.html`, page.title, page.html));
write(
  'assets/search-index.js',
  `globalThis.searchIndex=${JSON.stringify({ sections: found.map((section, id) => ({ id, ...section })) })};\n`,
);
const { outputFiles } = buildSync({
  entryPoints: [join(here, 'client/site.js')],
  bundle: true,
  minify: true,
  format: 'iife',
  target: 'es2022',
  write: false,
});
write('assets/site.js', outputFiles[0].contents);
copyFileSync(join(here, 'client/site.css'), join(out, 'assets/site.css'));
write(
  'assets/icon.svg',
  logo
    .replace('<svg class="logo"', '<svg xmlns="http://www.w3.org/2000/svg"')
    .replace('</svg>', '<style>.w{fill:#94a3b8}.a,.b{fill:#ea580c}</style></svg>'),
);
for (const asset of assets) {
  mkdirSync(dirname(join(out, asset)), { recursive: true });
  copyFileSync(join(root, docs, asset), join(out, asset));
}

// Links: every target exists, every page can be reached from the start page.
const ids = new Map();
for (const page of pages.values())
  ids.set(page.path, new Set([...page.document.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id)));
const leadsTo = new Map();
for (const page of pages.values()) {
  const next = new Set();
  for (const [, href] of page.document.matchAll(/<a [^>]*?href="([^"]+)"/g)) {
    if (/^[a-z]+:/.test(href)) continue;
    const [file, hash] = href.split('#');
    const path =
      file === ''
        ? page.path
        : posix.normalize(posix.join(posix.dirname(page.path), file)).replace(/\.html$/, '');
    if (!pages.has(path)) problems.push(`${page.path}: dead link ${href}`);
    else if (hash && !ids.get(path).has(decodeURIComponent(hash)))
      problems.push(`${page.path}: no anchor for ${href}`);
    next.add(path);
  }
  leadsTo.set(page.path, next);
}
const reached = new Set(['index']);
for (const path of reached) for (const next of leadsTo.get(path) ?? []) reached.add(next);
for (const path of pages.keys())
  if (!reached.has(path)) problems.push(`${path}: no way leads there from the start page`);

if (problems.length > 0) {
  console.error([...new Set(problems)].join('\n'));
  console.error(`${new Set(problems).size} problems`);
  process.exitCode = 1;
} else
  console.log(
    `${pages.size} pages, ${found.length} sections in the search: ${relative(process.cwd(), out) || out}`,
  );
