/** Tables as RFC 4180 has them: fields between commas or tabs, in quotes where they hold one, a quote or a line break. */
import { failAt } from './json_rows';
import type { Line } from './sources';

type Row = Readonly<Record<string, unknown>>;

/** A line of commas alone could name millions, in one block of the event loop. */
const maxColumns = 10_000;

/** Quotes in a text: an odd number of them leaves a field open. */
function quotesIn(text: string): number {
  let count = 0;
  for (let at = text.indexOf('"'); at >= 0; at = text.indexOf('"', at + 1)) count++;
  return count;
}

/**
 * The records of the lines of a table; one whose quotes are open goes on with the next line.
 * @throws ERR_DATA for a record that is too long, or whose last field does not end.
 */
export async function* csvRecords(
  blocks: AsyncIterable<readonly Line[]>,
  file: string,
  maxLineBytes: number,
): AsyncGenerator<readonly Line[]> {
  let open: Line | undefined;
  let parts: string[] = [];
  let bytes = 0;
  let quotes = 0;
  for await (const lines of blocks) {
    const records: Line[] = [];
    for (const line of lines) {
      open ??= line;
      bytes += line.bytes + 1;
      if (bytes - 1 > maxLineBytes)
        failAt(
          { file, line: open.number },
          `expected a record of at most ${maxLineBytes} bytes: a quote that does not end makes one of all that follows; raise maxLineBytes where records are so long`,
        );
      parts.push(line.line);
      quotes += quotesIn(line.line);
      if (quotes % 2 === 1) continue;
      const text = parts.length === 1 ? parts[0]! : parts.join('\n');
      records.push({ ...open, line: text.endsWith('\r') ? text.slice(0, -1) : text, bytes: bytes - 1 });
      [open, parts, bytes, quotes] = [undefined, [], 0, 0];
    }
    if (records.length > 0) yield records;
  }
  if (open) failAt({ file, line: open.number }, 'expected a quote that ends the field that one begins');
}

/** The fields of a record. @throws ERR_DATA, with the place. */
function fieldsOf(record: string, comma: string, place: { file: string; line: number }): string[] {
  const fields: string[] = [];
  for (let at = 0; ;) {
    let end: number;
    if (record[at] === '"') {
      let close = record.indexOf('"', at + 1);
      while (record[close + 1] === '"') close = record.indexOf('"', close + 2);
      end = close + 1;
      if (close < 0 || (end < record.length && record[end] !== comma))
        failAt(place, `expected a comma behind the quote that ends field ${fields.length + 1}`);
      fields.push(record.slice(at + 1, close).replaceAll('""', '"'));
    } else {
      const next = record.indexOf(comma, at);
      end = next < 0 ? record.length : next;
      const field = record.slice(at, end);
      if (field.includes('"'))
        failAt(place, `expected field ${fields.length + 1} to be in quotes, since it holds one`);
      fields.push(field);
    }
    if (end >= record.length) return fields;
    if (fields.length === maxColumns) failAt(place, `expected at most ${maxColumns} columns`);
    at = end + 1;
  }
}

/** Makes rows of the records of a table: the first one names the columns. */
export class CsvRows {
  #names: readonly string[] | undefined;

  constructor(
    private readonly file: string,
    private readonly comma: string,
  ) {}

  /** The row of a record; undefined for the names. @throws ERR_DATA, with the place. */
  row(record: string, line: number): Row | undefined {
    const place = { file: this.file, line };
    const fields = fieldsOf(record, this.comma, place);
    const names = this.#names;
    if (!names) {
      const known = new Set<string>();
      for (const name of fields) {
        if (known.has(name))
          failAt(place, `expected columns of different names but received ${JSON.stringify(name)} twice`);
        known.add(name);
      }
      this.#names = fields;
      return undefined;
    }
    if (fields.length !== names.length)
      failAt(
        place,
        `expected ${names.length} fields, as many as the first line names, but received ${fields.length}`,
      );
    return Object.fromEntries(fields.map((field, i) => [names[i]!, field]));
  }
}
