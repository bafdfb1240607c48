/** A table for people: a line for the heads of its columns, and one for each row. */

/** Columns of a head and cells, the first of names; those in which no cell has something are left out. */
export function textTable(columns: readonly (readonly string[])[]): string[] {
  const shown = columns
    .filter(([, ...cells]) => cells.some((cell) => cell !== ''))
    .map((cells, column) => {
      const width = Math.max(...cells.map(({ length }) => length));
      return cells.map((cell) => (column === 0 ? cell.padEnd(width) : cell.padStart(width)));
    });
  return shown[0]!.map((_, row) => shown.map((cells) => cells[row]).join('  '));
}
