/** Gradients and parameters in pieces of one size, so that what crosses the network takes little memory beside them. */
import { binding } from '../native/calls';
import { rawFilled } from '../tensor/raw';
import { runDetached } from '../tensor/scope';
import { wrap, type Parameter, type Tensor } from '../tensor/tensor';

/** Numbers that are sent at once, 16 MiB. */
const bucketSize = 2 ** 22;

/** Neighboring numbers of a parameter. */
interface Piece {
  readonly parameter: Parameter;
  readonly begin: number;
  readonly count: number;
}

/** Pieces that are sent at once. */
export type Bucket = readonly Piece[];

/** All numbers of the parameters, in buckets that are full but for the last one. */
export function cut(parameters: readonly Parameter[]): Bucket[] {
  const buckets: Piece[][] = [[]];
  let room = bucketSize;
  for (const parameter of parameters) {
    let begin = 0;
    while (begin < parameter.numel) {
      if (room === 0) {
        buckets.push([]);
        room = bucketSize;
      }
      const count = Math.min(room, parameter.numel - begin);
      buckets.at(-1)!.push({ parameter, begin, count });
      begin += count;
      room -= count;
    }
  }
  return buckets;
}

const numbersOf = (bucket: Bucket): number => bucket.reduce((sum, { count }) => sum + count, 0);

/** The numbers of a piece where they are. */
function within(tensor: Tensor, { begin, count }: Piece): Tensor {
  const { dtype, device } = tensor;
  return runDetached(null, () => wrap(binding().view(tensor.handle, begin, [count]), dtype, [count], device));
}

async function readTo(values: Float32Array, at: number, tensor: Tensor, piece: Piece): Promise<void> {
  const part = within(tensor, piece);
  try {
    values.set(await part.data(), at);
  } finally {
    part.dispose();
  }
}

/** The numbers of the parameters. */
export async function valuesOf(bucket: Bucket): Promise<Float32Array<ArrayBuffer>> {
  const values = new Float32Array(numbersOf(bucket));
  let at = 0;
  await Promise.all(
    bucket.map((piece) => readTo(values, (at += piece.count) - piece.count, piece.parameter, piece)),
  );
  return values;
}

/** The gradients, then 1 for each piece that has one and 0 for each that has none: a rank without a batch has none, and gives zeros. */
export async function gradientsOf(bucket: Bucket): Promise<Float32Array<ArrayBuffer>> {
  const total = numbersOf(bucket);
  const values = new Float32Array(total + bucket.length);
  let at = 0;
  await Promise.all(
    bucket.map(async (piece, i) => {
      const begin = at;
      at += piece.count;
      const { grad } = piece.parameter;
      if (grad === null) return;
      values[total + i] = 1;
      await readTo(values, begin, grad, piece);
    }),
  );
  return values;
}

/** Puts sums of gradientsOf() into the gradients; a parameter without one on any rank keeps none. */
export function spread(bucket: Bucket, values: Float32Array<ArrayBuffer>): void {
  const total = numbersOf(bucket);
  let at = 0;
  for (const [i, piece] of bucket.entries()) {
    const { parameter, count } = piece;
    const bytes = new Uint8Array(values.buffer, 4 * at, 4 * count);
    at += count;
    if (values[total + i] === 0) continue;
    const { shape, device } = parameter;
    const grad = (parameter.grad ??= runDetached(null, () => rawFilled(shape, 0, 'f32', device)));
    const part = within(grad, piece);
    binding().writeBytes(part.handle, bytes);
    part.dispose();
  }
}
