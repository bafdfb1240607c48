// What a page does in the browser: search, theme, menu, copying, the mark in the table of contents. Bundled by
// scripts/docs/build.mjs; works from file:// too, so the search index comes as a script and not by fetch.
import MiniSearch from 'minisearch';
import { indexOptions, searchOptions } from '../search_options.mjs';

const root = document.documentElement;
const find = (selector) => document.querySelector(selector);

find('.theme')?.addEventListener('click', () => {
  const dark = root.dataset.theme
    ? root.dataset.theme === 'dark'
    : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  try {
    localStorage.setItem('theme', root.dataset.theme);
  } catch {
    // A page without storage forgets the choice.
  }
});

const menu = find('.menu');
const setMenu = (open) => {
  document.body.classList.toggle('menu-open', open);
  menu.setAttribute('aria-expanded', String(open));
};
menu?.addEventListener('click', () => setMenu(!document.body.classList.contains('menu-open')));
find('.frame')?.addEventListener('click', ({ target }) => {
  if (document.body.classList.contains('menu-open') && !target.closest('.sidebar')) setMenu(false);
});
const current = find('.sidebar [aria-current]');
if (current) {
  // Not scrollIntoView: that scrolls the page as well.
  const list = find('.sidebar');
  const [box, own] = [list.getBoundingClientRect(), current.getBoundingClientRect()];
  if (own.bottom > box.bottom) list.scrollTop += own.top - box.top - box.height / 2;
}

document.addEventListener('click', async ({ target }) => {
  const button = target.closest?.('.copy');
  if (!button) return;
  const code = button.parentElement.querySelector('code').textContent;
  const text = code.replace(/^\$ /gm, '');
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren(button.parentElement.querySelector('code'));
    button.textContent = 'Selected';
  }
  setTimeout(() => (button.textContent = 'Copy'), 1500);
});

// The section that is being read: the last heading above the upper third of the window.
const entries = [...document.querySelectorAll('.toc a')].map((link) => ({
  link,
  heading: document.getElementById(decodeURIComponent(link.hash.slice(1))),
}));
if (entries.length > 0) {
  let shown;
  const mark = () => {
    const line = innerHeight / 3;
    const above = entries.filter(({ heading }) => heading && heading.getBoundingClientRect().top < line);
    const now = (above.at(-1) ?? entries[0]).link;
    if (now === shown) return;
    shown?.classList.remove('here');
    now.classList.add('here');
    shown = now;
    const toc = now.closest('.toc');
    const [box, own] = [toc.getBoundingClientRect(), now.getBoundingClientRect()];
    if (own.top < box.top + 40 || own.bottom > box.bottom - 40)
      toc.scrollTop += own.top - box.top - box.height / 2;
  };
  let waiting = false;
  addEventListener(
    'scroll',
    () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        mark();
      });
    },
    { passive: true },
  );
  mark();
}

// Search.
const dialog = find('dialog.search');
const input = dialog.querySelector('input');
const list = dialog.querySelector('ul');
let engine;
let sections;

function load() {
  if (engine) return;
  engine = new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = `${root.dataset.root}assets/search-index.js`;
    script.onload = () => {
      ({ sections } = globalThis.searchIndex);
      const index = new MiniSearch(indexOptions);
      index.addAll(sections);
      resolve(index);
    };
    script.onerror = () => reject(new Error('the search index cannot be loaded'));
    document.head.append(script);
  });
  engine.then(show, (error) => list.replaceChildren(item('none', error.message)));
}

function item(className, text) {
  const li = document.createElement('li');
  li.className = className;
  li.textContent = text;
  return li;
}

/** Text around the first term, with the terms marked. */
function excerpt(text, terms) {
  const pattern = new RegExp(
    terms.map((term) => term.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')).join('|') || '$^',
    'giu',
  );
  const at = Math.max(0, text.search(pattern) - 50);
  const piece = `${at > 0 ? '… ' : ''}${text.slice(at, at + 170)}${at + 170 < text.length ? ' …' : ''}`;
  const out = document.createElement('span');
  out.className = 'excerpt';
  let end = 0;
  for (const match of piece.matchAll(pattern)) {
    out.append(piece.slice(end, match.index));
    const mark = document.createElement('mark');
    mark.textContent = match[0];
    out.append(mark);
    end = match.index + match[0].length;
  }
  out.append(piece.slice(end));
  return out;
}

async function show() {
  const index = await engine;
  const query = input.value.trim();
  if (query === '')
    return list.replaceChildren(item('none', 'Type a word, a name, a flag or an error code.'));
  const found = index.search(query, searchOptions);
  // What is called exactly so comes first: a name, a flag, a code.
  const isExact = ({ id }) => sections[id].title.replace(/\(\)$/, '').toLowerCase() === query.toLowerCase();
  const hits = [...found.filter(isExact), ...found.filter((hit) => !isExact(hit))].slice(0, 12);
  if (hits.length === 0) return list.replaceChildren(item('none', `Nothing about “${query}”.`));
  list.replaceChildren(
    ...hits.map(({ id, terms }, i) => {
      const { url, title, page, text } = sections[id];
      const li = document.createElement('li');
      li.role = 'option';
      li.setAttribute('aria-selected', String(i === 0));
      const a = document.createElement('a');
      a.href = root.dataset.root + url;
      const head = document.createElement('strong');
      head.textContent = title;
      a.append(head);
      if (page !== title) {
        const where = document.createElement('span');
        where.className = 'where';
        where.textContent = page;
        a.append(where);
      }
      a.append(excerpt(text, terms));
      a.addEventListener('click', () => dialog.close());
      li.append(a);
      return li;
    }),
  );
}

function open() {
  load();
  if (!dialog.open) dialog.showModal();
  input.select();
  void show();
}
find('.search-open')?.addEventListener('click', open);
input.addEventListener('input', () => void show());
dialog.addEventListener('click', ({ target }) => target === dialog && dialog.close());
dialog.querySelector('form').addEventListener('submit', (event) => {
  event.preventDefault();
  list.querySelector('[aria-selected=true] a')?.click();
});
dialog.addEventListener('keydown', (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const options = [...list.querySelectorAll('[role=option]')];
  const at = options.findIndex((option) => option.getAttribute('aria-selected') === 'true');
  const next = options[(at + step + options.length) % options.length];
  if (!next) return;
  options[at]?.setAttribute('aria-selected', 'false');
  next.setAttribute('aria-selected', 'true');
  next.scrollIntoView({ block: 'nearest' });
});
addEventListener('keydown', (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName ?? '');
  if ((event.key === '/' && !typing) || (event.key === 'k' && (event.metaKey || event.ctrlKey))) {
    event.preventDefault();
    open();
  } else if (event.key === 'Escape') setMenu(false);
});
