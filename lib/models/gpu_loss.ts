/** The scratch of the loss on a GPU, which is computed from some rows of hidden states at a time. */
import { cudaLossChunk } from '../native/constants';
import { bytesFrom, laid, upTo } from './gpu_memory';

/** What the loss is computed from. */
export interface GpuLoss {
  readonly tokens: number;
  /** Bytes of a number of the activations. */
  readonly size: number;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  /** Whether the output embedding is quantized: a call expands it before it multiplies. */
  readonly expandedHead: boolean;
}

/** The bytes of logits that the loss holds at once. */
export const lossBytes = (): number => bytesFrom('LORA_CUDA_LOSS_BYTES', cudaLossChunk.bytes);

/**
 * Scratch of linear_cross_entropy with a gradient, as native/backend/cuda/linear_cross_entropy_plan.cc lays it out, but for the parts of products that are
 * split, which depend on the GPU.
 */
export function lossScratch({
  tokens,
  size,
  hiddenSize: dim,
  vocabSize: vocab,
  expandedHead,
}: GpuLoss): number {
  const { minRows, maxRows, rowStep } = cudaLossChunk;
  const bytes = lossBytes();
  const pitch = upTo(vocab, 8);
  const fit = Math.floor(Math.floor(bytes / (size * pitch)) / minRows) * minRows;
  const chunk = Math.min(Math.max(minRows, Math.min(maxRows, fit)), upTo(tokens, rowStep));
  const whole = !expandedHead || size * dim * vocab <= bytes;
  const slice = whole ? vocab : Math.min(vocab, Math.max(64, Math.floor(bytes / (size * dim) / 64) * 64));
  return laid(
    ...[32, 4 * tokens, 8 * tokens, 4 * chunk, 4 * chunk, size * chunk * dim],
    size * chunk * pitch,
    4 * chunk * dim,
    expandedHead ? size * dim * slice : 0,
    // Three sums for each 64 columns of a row.
    size === 2 ? 12 * chunk * Math.ceil(vocab / 64) : 0,
  );
}
