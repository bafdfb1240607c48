/**
 * NEFTune: while training, uniform noise is added to the embeddings of a text of L tokens of width d, ε ~ U(−1, 1) times α/√(L·d).
 * Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning" (2023). L counts the text's own tokens and no padding.
 */
import { randomUniform } from '../../ops';
import { fromBytes } from '../../tensor/create';
import type { Device } from '../../native/device';
import { computed } from '../../tensor/scope';
import { Tensor } from '../../tensor/tensor';
import { check } from '../../validate';
import type { TokenRows } from './batch';

export interface EmbeddingNoise {
  readonly alpha: number;
  readonly seed: number;
  /** Another one for each batch. */
  readonly stream: number;
}

export interface NoiseFactors extends EmbeddingNoise {
  /** α/√(L·d) of the text of each token, 0 for padding: [batch, seq, 1] in f32. */
  readonly factors: Tensor;
}

/** The factor of each token, for embeddings of `width` numbers. */
export function noiseFactors(
  noise: EmbeddingNoise,
  ids: TokenRows,
  segmentIds: readonly ArrayLike<number>[] | undefined,
  width: number,
  device: Device,
): NoiseFactors {
  check(!(ids instanceof Tensor), 'forward', 'expected ids to be number[][], since noise is asked for');
  const longest = Math.max(...ids.map((row) => row.length));
  const factors = new Float32Array(ids.length * longest);
  for (const [i, row] of ids.entries()) {
    const segments = segmentIds?.[i] ?? Array.from(row, () => 1);
    const lengths = new Map<number, number>();
    for (let t = 0; t < row.length; t++) lengths.set(segments[t]!, (lengths.get(segments[t]!) ?? 0) + 1);
    for (let t = 0; t < row.length; t++)
      if (segments[t] !== 0)
        factors[i * longest + t] = noise.alpha / Math.sqrt(lengths.get(segments[t]!)! * width);
  }
  return {
    ...noise,
    factors: fromBytes(new Uint8Array(factors.buffer), 'f32', [ids.length, longest, 1], device),
  };
}

/** x + ε·factor in f32. Consumes x. */
export function addNoise(x: Tensor, { factors, seed, stream }: NoiseFactors): Tensor {
  const scaled = computed(() =>
    randomUniform(x.shape, { seed, stream, lo: -1, hi: 1, device: x.device }).mul(factors),
  );
  const y = scaled.add(x);
  for (const t of [scaled, x]) t.dispose();
  return y;
}
