// The HTML around a page.
import { escapeHtml } from './markdown.mjs';

const icon = (path) => `<svg viewBox="0 0 24 24" aria-hidden="true">${path}</svg>`;
const icons = {
  search: icon('<circle cx="11" cy="11" r="6.5"/><path d="m16 16 4.5 4.5"/>'),
  menu: icon('<path d="M4 7h16M4 12h16M4 17h16"/>'),
  sun: icon(
    '<circle cx="12" cy="12" r="4"/><path d="M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4"/>',
  ),
  moon: icon('<path d="M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z"/>'),
};

/** The mark: a frozen square and the two thin factors beside it. */
export const logo =
  '<svg class="logo" viewBox="0 0 32 32" aria-hidden="true"><rect class="w" x="2" y="9" width="21" height="21" rx="3"/><rect class="a" x="26" y="9" width="4" height="21" rx="2"/><rect class="b" x="2" y="2" width="21" height="4" rx="2"/></svg>';

const link = (href, text, current) =>
  `<a href="${href}"${current ? ' aria-current="page"' : ''}>${escapeHtml(text)}</a>`;

function sidebar(site, page) {
  return site.sections
    .filter(({ pages }) => pages.length > 0)
    .map(({ title, pages, collapsed }) => {
      const inside = pages.some(({ path }) => path === page.path);
      const items = pages
        .map((one) => `<li>${link(page.to(one.path), one.short ?? one.title, one.path === page.path)}</li>`)
        .join('');
      return `<details${collapsed && !inside ? '' : ' open'}><summary>${escapeHtml(title)}</summary><ul>${items}</ul></details>`;
    })
    .join('\n');
}

function contents(headings) {
  const shown = headings.filter(({ level }) => level === 2 || level === 3);
  if (shown.length < 2) return '';
  const items = shown
    .map(({ level, text, id }) => `<li class="level-${level}"><a href="#${id}">${escapeHtml(text)}</a></li>`)
    .join('');
  return `<nav class="toc" aria-label="On this page"><p>On this page</p><ul>${items}</ul></nav>`;
}

function neighbors(site, page) {
  const all = site.sections.flatMap(({ pages }) => pages);
  const at = all.findIndex(({ path }) => path === page.path);
  if (at < 0) return '';
  const one = (other, label, rel) =>
    other
      ? `<a class="${rel}" rel="${rel}" href="${page.to(other.path)}"><span>${label}</span>${escapeHtml(other.title)}</a>`
      : '<span></span>';
  return `<nav class="neighbors" aria-label="Pages before and after">${one(all[at - 1], 'Previous', 'prev')}${one(all[at + 1], 'Next', 'next')}</nav>`;
}

/**
 * A whole document. `page`: { path, title, description, html, headings, to(path), kind: 'page' | 'home' | 'source' }.
 */
export function document(site, page) {
  const home = page.kind === 'home';
  const root = page.to('index').replace(/index\.html$/, '');
  const top = site.sections
    .filter(({ pages, top }) => top && pages.length > 0)
    .map(({ title, pages, top: label }) =>
      link(
        page.to(pages[0].path),
        label === true ? title : label,
        pages.some(({ path }) => path === page.path),
      ),
    )
    .join('');
  const title = home ? `${site.title}: ${site.tagline}` : `${page.title} · ${site.title}`;
  return `<!doctype html>
<html lang="en" data-root="${root}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<meta name="description" content="${escapeHtml(page.description)}">
<link rel="icon" href="${root}assets/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="${root}assets/site.css">
<script>try{const t=localStorage.getItem('theme');if(t)document.documentElement.dataset.theme=t}catch{}</script>
</head>
<body class="${page.kind}">
<a class="skip" href="#content">Skip to the text</a>
<header>
<button type="button" class="menu" aria-label="Pages" aria-expanded="false" aria-controls="sidebar">${icons.menu}</button>
<a class="brand" href="${page.to('index')}">${logo}<span>${site.title}</span></a><span class="version">${site.version}</span>
<button type="button" class="search-open" aria-label="Search" aria-haspopup="dialog">${icons.search}<span>Search</span><kbd>/</kbd></button>
<nav class="top" aria-label="Parts">${top}</nav>
<button type="button" class="theme" aria-label="Light or dark">${icons.sun}${icons.moon}</button>
</header>
<div class="frame">
<aside id="sidebar" class="sidebar"><nav aria-label="All pages">${sidebar(site, page)}</nav></aside>
<main id="content" tabindex="-1"><article>
${page.html}
</article>
${home ? '' : neighbors(site, page)}
<footer>${site.title} ${site.version} · MIT license · <a href="${page.to('project/changelog')}">Changelog</a> · <a href="${page.to('project/contributing')}">Contributing</a></footer>
</main>
${home ? '' : contents(page.headings)}
</div>
<dialog class="search" aria-label="Search">
<form method="dialog" role="search">${icons.search}<input type="search" placeholder="Search the documentation" aria-label="Search the documentation" autocomplete="off" spellcheck="false" role="combobox" aria-expanded="true" aria-controls="results"><kbd>Esc</kbd></form>
<ul id="results" role="listbox" aria-label="Results"></ul>
</dialog>
<script src="${root}assets/site.js" defer></script>
</body>
</html>
`;
}
