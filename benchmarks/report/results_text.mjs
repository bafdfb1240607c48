// The text of a results file.

/** A measured figure has two or three digits that count; five keep what ratios and charts say. Counts stay exact. */
const short = (_key, value) =>
  typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value;

/** JSON in which a field, and each row of a list, is one line: a diff shows the rows that changed. */
export function resultsText(results) {
  const lineOf = (value) => JSON.stringify(value, short);
  const fieldOf = ([name, value]) =>
    Array.isArray(value) && typeof value[0] === 'object'
      ? `${JSON.stringify(name)}: [\n${value.map((row) => `  ${lineOf(row)}`).join(',\n')}\n ]`
      : `${JSON.stringify(name)}: ${lineOf(value)}`;
  const fields = Object.entries(results).filter(([, value]) => value !== undefined);
  return `{\n${fields.map((field) => ` ${fieldOf(field)}`).join(',\n')}\n}\n`;
}
