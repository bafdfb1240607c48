// How the search reads words: shared by the page and by the tests of the index.

/** Words, and the parts of compound names: loraAlpha is also lora and alpha, ERR_OUT_OF_MEMORY also memory. */
export function tokenize(text) {
  return text.split(/[^\p{L}\p{N}_]+/u).flatMap((word) => {
    const parts = word
      .replace(/(\p{Ll})(\p{Lu})/gu, '$1_$2')
      .split('_')
      .filter((part) => part !== '');
    return parts.length > 1 ? [word, ...parts] : parts;
  });
}

export const indexOptions = {
  fields: ['title', 'page', 'text'],
  idField: 'id',
  storeFields: [],
  tokenize,
};

export const searchOptions = {
  boost: { title: 6, page: 2 },
  prefix: (term) => term.length > 1,
  fuzzy: (term) => (term.length > 4 ? 0.2 : false),
  combineWith: 'AND',
  tokenize: (query) => query.split(/[^\p{L}\p{N}_]+/u).filter((word) => word !== ''),
};
