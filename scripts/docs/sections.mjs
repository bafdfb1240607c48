// The parts of a page that the search finds: what stands under a heading, and each field, option or flag by itself.

const entities = { amp: '&', lt: '<', gt: '>', quot: '"', '#x27': "'" };

/** The text of HTML. */
export const textOf = (html) =>
  html
    .replace(/<button[^]*?<\/button>|<svg[^]*?<\/svg>|<style[^]*?<\/style>/g, ' ')
    .replace(/<a class="anchor"[^]*?<\/a>/g, ' ')
    .replace(/<span class="flag[^>]*>/g, ' ')
    .replace(/<\/?(?:a|code|em|strong|span|sub|sup|mark)\b[^>]*>/g, '')
    .replace(/<[^>]*>/g, ' ')
    .replace(/&(amp|lt|gt|quot|#x27);/g, (_, name) => entities[name])
    .replace(/\s+/g, ' ')
    .trim();

const marker =
  /<h([1-3])(?: id="([^"]*)")?[^>]*>([^]*?)<\/h\1>|<div class="field" id="([^"]*)">\s*<div class="field-head">([^]*?)<\/div>/g;

/** [{ id, url, title, page, text }] of one page; ids are given by the caller. */
export function sectionsOf(url, page, html) {
  const marks = [...html.matchAll(marker)];
  let heading = page;
  return marks.map((mark, i) => {
    const [all, , headingId, headingHtml, fieldId, fieldHtml] = mark;
    const text = textOf(html.slice(mark.index + all.length, marks[i + 1]?.index ?? html.length));
    if (fieldId === undefined) {
      heading = textOf(headingHtml);
      return { url: headingId === undefined ? url : `${url}#${headingId}`, title: heading, page, text };
    }
    const name = /<a class="field-name"[^>]*>([^]*?)<\/a>/.exec(fieldHtml);
    return {
      url: `${url}#${fieldId}`,
      title: textOf(name ? name[1] : fieldHtml),
      page: heading === page ? page : `${heading} · ${page}`,
      text: `${textOf(fieldHtml.replace(name?.[0] ?? '', ''))} ${text}`.trim(),
    };
  });
}
