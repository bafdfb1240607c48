/** The scratch of the loss on a GPU, which is computed from some rows of hidden states at a time. */
import { loraError } from '../errors';
import { cudaLossChunk } from '../native/constants';
import { laid, upTo } from './gpu_memory';

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

/** LORA_CUDA_LOSS_BYTES as native/core/runtime/memory_limit.cc reads it, or what holds without it. */
export function lossBytes(text = process.env['LORA_CUDA_LOSS_BYTES']): number {
  if (text === undefined || text === '') return cudaLossChunk.bytes;
  const found = /^(\d+\.?\d*|\.\d+)(?:b|([kmgt])(b|ib)?)?$/i.exec(text.replace(/\s/g, ''));
  if (found === null)
    throw loraError(
      'device',
      'ERR_ARGUMENT',
      `expected LORA_CUDA_LOSS_BYTES to be a size such as 2GiB but received "${text}"`,
    );
  const [, digits, unit, rest] = found;
  const power = unit === undefined ? 0 : 'kmgt'.indexOf(unit.toLowerCase()) + 1;
  return Math.floor(Number(digits) * (rest?.toLowerCase() === 'b' ? 1000 : 1024) ** power);
}

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
