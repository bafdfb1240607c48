/** Figures under their names. */
export type Metrics = Readonly<Record<string, number>>;

/** The mean of each figure over those that have it. */
export function meanMetrics(all: readonly Metrics[]): Metrics {
  const names = new Set(all.flatMap(Object.keys));
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  return Object.fromEntries([...names].map((name) => [name, mean(all.flatMap((own) => own[name] ?? []))]));
}
