// Markdown to HTML: anchors on headings, coloured code with a copy button, links between pages.
import hljs from 'highlight.js/lib/core';
import bash from 'highlight.js/lib/languages/bash';
import cpp from 'highlight.js/lib/languages/cpp';
import dockerfile from 'highlight.js/lib/languages/dockerfile';
import javascript from 'highlight.js/lib/languages/javascript';
import json from 'highlight.js/lib/languages/json';
import python from 'highlight.js/lib/languages/python';
import typescript from 'highlight.js/lib/languages/typescript';
import yaml from 'highlight.js/lib/languages/yaml';
import MarkdownIt from 'markdown-it';

for (const [name, language] of Object.entries({
  bash,
  cpp,
  dockerfile,
  javascript,
  json,
  python,
  typescript,
  yaml,
}))
  hljs.registerLanguage(name, language);
hljs.registerAliases(['jsonl'], { languageName: 'json' });

export const escapeHtml = (text) =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]);

/** The anchor of a heading, by GitHub's rule, so that links to it work there too. */
export const slug = (text) =>
  text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .trim()
    .replace(/\s/g, '-');

export function highlight(code, language) {
  if (!language || language === 'text' || !hljs.getLanguage(language)) return escapeHtml(code);
  return hljs.highlight(code, { language }).value;
}

const icons = {
  link: '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M10 14a4 4 0 0 0 6 .5l3-3a4 4 0 0 0-5.7-5.7l-1.5 1.5M14 10a4 4 0 0 0-6-.5l-3 3a4 4 0 0 0 5.7 5.7l1.5-1.5"/></svg>',
};

/** A block of code in its frame. The copy button leaves out the prompts of a shell. */
export function codeBlock(code, language) {
  const text = code.replace(/\n$/, '');
  const label = { ts: 'ts', js: 'js', mjs: 'js', sh: 'sh', text: '' }[language] ?? language;
  return (
    `<div class="code" data-language="${escapeHtml(label)}"><button type="button" class="copy" aria-label="Copy this code">Copy</button>` +
    `<pre tabindex="0"><code>${highlight(text, language)}</code></pre></div>\n`
  );
}

/** Words of an inline token as they read, for titles, anchors and the search. */
const plainText = (token) =>
  (token.children ?? [])
    .filter(({ type }) => type === 'text' || type === 'code_inline' || type === 'softbreak')
    .map(({ content, type }) => (type === 'softbreak' ? ' ' : content))
    .join('');

/**
 * What turns the Markdown of a page into HTML. `env.resolveLink(href)` maps the target of a link, `env.nameLink(name)`
 * gives the page of a public name or undefined; `env.headings` collects { level, text, id }.
 */
export function createMarkdown() {
  const md = new MarkdownIt({ html: true, linkify: false, typographer: false });

  md.core.ruler.push('headings', ({ tokens, env }) => {
    const used = new Map();
    env.headings ??= [];
    tokens.forEach((token, i) => {
      if (token.type !== 'heading_open') return;
      const inline = tokens[i + 1];
      const last = inline.children.at(-1);
      const own = last?.type === 'text' ? /\s*\{#([\w.-]+)\}$/.exec(last.content) : null;
      if (own) last.content = last.content.slice(0, own.index);
      const text = plainText(inline);
      const base = own ? own[1] : slug(text);
      const count = used.get(base) ?? 0;
      used.set(base, count + 1);
      const id = count === 0 ? base : `${base}-${count}`;
      token.attrSet('id', id);
      env.headings.push({ level: Number(token.tag.slice(1)), text, id });
    });
  });

  md.core.ruler.push('links', ({ tokens, env }) => {
    for (const { children } of tokens) {
      let inside = 0;
      for (const token of children ?? []) {
        if (token.type === 'link_open') {
          inside++;
          const href = token.attrGet('href');
          token.attrSet('href', env.resolveLink?.(href) ?? href);
          if (/^https?:/.test(href)) token.attrSet('rel', 'external noopener');
        } else if (token.type === 'link_close') inside--;
        else if (token.type === 'image')
          token.attrSet('src', env.resolveLink?.(token.attrGet('src')) ?? token.attrGet('src'));
        else if (token.type === 'code_inline' && inside === 0) {
          const name = /^(?:new )?([A-Za-z]\w+(?:\.\w+)?)(?:\(\)|\(…\))?$/.exec(token.content)?.[1];
          const href = name && env.nameLink?.(name);
          if (href) token.meta = { href };
        }
      }
    }
  });

  md.renderer.rules.code_inline = (tokens, i) => {
    const { content, meta } = tokens[i];
    const code = `<code>${escapeHtml(content)}</code>`;
    return meta?.href ? `<a class="name" href="${meta.href}">${code}</a>` : code;
  };
  md.renderer.rules.fence = (tokens, i) =>
    codeBlock(tokens[i].content, tokens[i].info.trim().split(/\s+/)[0]);
  md.renderer.rules.code_block = (tokens, i) => codeBlock(tokens[i].content, 'text');
  md.renderer.rules.heading_close = (tokens, i) => {
    const open = tokens[i - 2];
    const id = open.attrGet('id');
    if (tokens[i].tag === 'h1') return '</h1>\n';
    return ` <a class="anchor" href="#${id}" aria-label="Link to this section">${icons.link}</a></${tokens[i].tag}>\n`;
  };
  // Wide tables scroll by themselves, so that the page does not.
  md.renderer.rules.table_open = () => '<div class="table" tabindex="0"><table>\n';
  md.renderer.rules.table_close = () => '</table></div>\n';
  // Comments tell the tests about snippets; readers need none of it.
  const dropComments = (tokens, i) => tokens[i].content.replace(/<!--[^]*?-->\s*/g, '');
  md.renderer.rules.html_block = dropComments;
  md.renderer.rules.html_inline = dropComments;
  return md;
}
