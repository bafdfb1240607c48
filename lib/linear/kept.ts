/** What is computed from the parameters of a change, and kept until these have changed. */
import type { Tensor } from '../tensor/tensor';

/** Tensors, and what they were computed from. */
export interface Kept {
  readonly of: readonly unknown[];
  readonly values: readonly Tensor[];
}

export function disposeKept(kept: Kept | undefined): void {
  for (const one of kept?.values ?? []) one.dispose();
}

/** The kept tensors where they were computed from the same; else they are freed, and computed anew. */
export function upToDate(
  kept: Kept | undefined,
  of: readonly unknown[],
  compute: () => readonly Tensor[],
): Kept {
  if (kept?.of.every((value, i) => value === of[i])) return kept;
  const values = compute();
  disposeKept(kept);
  return { of, values };
}
