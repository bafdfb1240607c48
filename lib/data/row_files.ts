/** Files of rows: objects on lines or in a list, the records of a table, or the rows of a Parquet file. */
import { loraError } from '../errors';
import { Pace } from '../tensor/pace';
import { csvRecords, CsvRows } from './csv';
import { parseRow } from './json_rows';
import { formatByName, readLines, readObjects, type DataFormat, type LineOptions } from './lines';
import { parquetRows, type NumberedRow } from './parquet';
import type { Line } from './sources';

type Row = Readonly<Record<string, unknown>>;
type LineFormat = Exclude<DataFormat, 'text' | 'parquet'>;

/** The texts of the rows, and what makes a row of one; undefined where it names the columns. */
function openedRows(
  file: string,
  format: LineFormat,
  lines: LineOptions,
): [source: AsyncIterable<readonly Line[]>, parse: (line: Line) => Row | undefined] {
  if (format === 'lines')
    return [readLines(file, lines), ({ line: text, number: line }) => parseRow(text, { file, line })];
  if (format === 'objects')
    return [
      readObjects(file, lines),
      ({ line: text, number: line }) => parseRow(text, { file, line }, 'a JSON object'),
    ];
  const table = new CsvRows(file, format === 'commas' ? ',' : '\t');
  const records = csvRecords(readLines(file, lines), file, lines.maxLineBytes);
  return [records, ({ line, number }) => table.row(line, number)];
}

/** The rows of a file that has them in lines, and the line of each. */
export async function* rowsInLines(
  file: string,
  format: LineFormat,
  lines: LineOptions,
): AsyncGenerator<NumberedRow & { readonly line: Line }, void, void> {
  const pace = new Pace();
  const [source, parse] = openedRows(file, format, lines);
  for await (const block of source)
    for (const line of block) {
      if (pace.due) await pace.rest(lines.signal);
      const row = line.line.trim() === '' ? undefined : parse(line);
      if (row) yield { row, number: line.number, line };
    }
}

const boundsOf = (signal: AbortSignal): LineOptions => ({
  ...{ maxLineBytes: 64 * 2 ** 20, maxUnzippedBytes: 2 * 2 ** 30, maxUnzippedRatio: 100, signal },
});

/** The rows of a file as it has them. `columns`: of a Parquet file, those that are read; absent: all. @throws ERR_DATA for plain text. */
export async function* rowsOfFile(
  op: string,
  file: string,
  signal: AbortSignal,
  columns?: ReadonlySet<string>,
): AsyncGenerator<NumberedRow, void, void> {
  const format = formatByName(file);
  if (format === 'text')
    throw loraError(op, 'ERR_DATA', `${file}: expected rows of JSON or of a table, and plain text has none`);
  if (format !== 'parquet') return yield* rowsInLines(file, format, boundsOf(signal));
  for await (const rows of parquetRows(file, { ...boundsOf(signal), columns })) yield* rows;
}

/** The texts of a file: the values of one column of its rows, or of plain text its lines; empty lines are none. */
export async function textsOfFile(file: string, column: string, signal: AbortSignal): Promise<string[]> {
  const texts: string[] = [];
  if (formatByName(file) === 'text') {
    for await (const lines of readLines(file, boundsOf(signal)))
      for (const { line } of lines) if (line.trim() !== '') texts.push(line);
    return texts;
  }
  for await (const { row, number } of rowsOfFile('embed', file, signal, new Set([column]))) {
    const text = row[column];
    if (typeof text !== 'string')
      throw loraError(
        'embed',
        'ERR_DATA',
        `${file}:${number}: expected the text ${JSON.stringify(column)} but received the keys ${Object.keys(row).join(', ') || '(none)'}`,
      );
    texts.push(text);
  }
  return texts;
}
