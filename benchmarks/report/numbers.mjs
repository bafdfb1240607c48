// How figures are written.
/** 0.00123 → "1.23 ms"; three digits that count. */
export function time(seconds) {
  const [scale, unit] = seconds < 1e-3 ? [1e6, 'µs'] : seconds < 1 ? [1e3, 'ms'] : [1, 's'];
  return `${digits(seconds * scale)} ${unit}`;
}
export const digits = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));
export const percent = (x) => `${(100 * x).toFixed(0)}%`;

/** A figure of a row in the row's unit. */
export const figure = (row, x) =>
  row.unit === 'MiB' ? `${x.toFixed(0)} MiB` : row.tokens ? `${digits(row.tokens / x)} tokens/s` : time(x);

/** "1.23 ms (1.20–1.31)": the median, and the smallest and largest round. */
export function withSpread(row, spread) {
  const { median, min, max } = spread;
  const ends = row.tokens ? [max, min] : [min, max];
  const plain = (x) => figure(row, x).replace(/ .*/, '');
  const unit = (x) => figure(row, x).replace(/^\S+ /, '');
  const [low, high] = ends.map((x) => (unit(x) === unit(median) ? plain(x) : figure(row, x)));
  return spread.rounds === 1 ? figure(row, median) : `${figure(row, median)} (${low}–${high})`;
}

/** Our time (or memory) ÷ a rival's, below 1 is better; files of schema 1 have no ratios of rounds. */
export const ratioTo = (row, rival) => rival.ratio?.median ?? row.ours.median / rival.median;

/** The same by rival. */
export const ratios = (row) =>
  Object.fromEntries(Object.entries(row.rivals).map(([name, rival]) => [name, ratioTo(row, rival)]));

/** The share of a ceiling that a row reaches; undefined where none was measured. Schema 1 has the share of the best ceiling. */
export const shareOf = (row) => row.share?.median ?? row.shareOfCeiling;

/** The share of the best ceiling of the whole run, which is the smaller one where the machine's speed changes. */
export const shareOfBest = ({ share, gflops, gbps }, ceilings) =>
  share && ceilings[share.of] ? (share.of === 'read' ? gbps : gflops) / ceilings[share.of] : undefined;
