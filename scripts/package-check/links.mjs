// Links of the Markdown pages, and places that the types name, to files that a package does not have.
import { readFileSync } from 'node:fs';
import { join, posix } from 'node:path';

const links = /\]\(([^)\s]+)\)/g;
/** A page or a program that a doc comment cites. */
const cited = /\b(?:docs|examples)\/[\w./-]+\.(?:md|mjs)\b/g;

/** Without what stands in blocks of code, where brackets are no links. */
const prose = (page) => page.replace(/^```[\s\S]*?^```/gm, '').replace(/`[^`\n]*`/g, '');

/** `files`: those of the package in this folder, relative to it. Gives a line for each link that leads nowhere. */
export function deadLinks(folder, files) {
  const there = new Set(files);
  for (const file of files)
    for (let dir = posix.dirname(file); dir !== '.'; dir = posix.dirname(dir)) there.add(dir);
  const dead = [];
  const check = (file, target, written) => {
    if (!there.has(target)) dead.push(`${file}: ${written}`);
  };
  for (const file of files) {
    if (!/\.(md|d\.m?ts)$/.test(file)) continue;
    const text = readFileSync(join(folder, file), 'utf8');
    if (file.endsWith('.md'))
      for (const [, link] of prose(text).matchAll(links)) {
        const [path] = link.split('#');
        if (path !== '' && !/^[a-z]+:/.test(path))
          check(file, posix.normalize(posix.join(posix.dirname(file), path)).replace(/\/$/, ''), link);
      }
    else if (file.startsWith('dist/')) for (const [path] of text.matchAll(cited)) check(file, path, path);
  }
  return dead;
}
