// What one pass of a kernel's innermost loops around matrix instructions consists of, as scripts/sass-mix.awk counts it.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

/**
 * @param root the repository
 * @param listed the text of kernels (sass.mjs)
 * @returns by the symbols of kernels with such loops: for each loop, those with the most products first, the instructions of a pass (`pass`) and of
 * each kind among them, by the names of the table's columns
 */
export function passesIn(root, listed) {
  const table = execFileSync('awk', ['-f', join(root, 'scripts/sass-mix.awk')], {
    encoding: 'utf8',
    input: listed,
    maxBuffer: 1 << 28,
  });
  const [head, , ...rows] = table
    .trim()
    .split('\n')
    .map((line) => line.split('|').map((cell) => cell.trim()));
  const passes = new Map();
  for (const row of rows) {
    const symbol = row[1].replaceAll('`', '');
    const pass = Object.fromEntries(head.slice(2, -1).map((column, i) => [column, Number(row[i + 2])]));
    const known = passes.get(symbol) ?? [];
    // A kernel without a loop around its products has a row that says so.
    passes.set(symbol, pass.loop > 0 ? [...known, pass] : known);
  }
  return passes;
}
