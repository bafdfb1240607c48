/** Tensors of an adapter file: their names, and the checks before they become parameters. */
import { fromBytes } from '../tensor/create';
import type { Device } from '../native/device';
import { loraError } from '../errors';
import { floatOfStored } from '../formats/dtypes';
import { sliceBytes } from '../formats/input';
import type { SafetensorsTensor } from '../formats/safetensors';
import { SlicedUpload } from '../tensor/slices';
import type { Tensor } from '../tensor/tensor';
import { listed, shapeText } from '../validate';

/** Per dtype: the bits of the exponent, all set in infinities and NaN. */
const exponents: Readonly<Record<string, number>> = { F32: 0x7f800000, BF16: 0x7f80, F16: 0x7c00 };

/** Yields between slices of it. */
function* isFiniteTensor({ dtype, bytes }: SafetensorsTensor): Generator<void, boolean, void> {
  const mask = exponents[dtype]!;
  const step = 2 ** 18;
  for (let at = 0; at < bytes.length; at += step) {
    const copy = bytes.slice(at, at + step).buffer; // aligned
    const words = dtype === 'F32' ? new Uint32Array(copy) : new Uint16Array(copy);
    if (words.some((word) => (word & mask) === mask)) return false;
    yield;
  }
  return true;
}

/**
 * Compares a file with what the model and the adapter's configuration ask for. `trainedFor`: its base model, where it says so. Steps, for
 * {@link inSlices}.
 * @throws ERR_ADAPTER with everything that is missing, unexpected, misshapen, of another type or not finite.
 */
export function* checkAdapterTensors(
  name: string,
  trainedFor: unknown,
  expected: ReadonlyMap<string, readonly number[]>,
  tensors: ReadonlyMap<string, SafetensorsTensor>,
): Generator<void, void, void> {
  const missing = [...expected.keys()].filter((key) => !tensors.has(key));
  const unexpected = [...tensors.keys()].filter((key) => !expected.has(key));
  const wrong: string[] = [];
  const broken: string[] = [];
  for (const [key, shape] of expected) {
    const have = tensors.get(key);
    if (!have) continue;
    if (!floatOfStored(have.dtype)) wrong.push(`${key} of type F32, BF16 or F16 but received ${have.dtype}`);
    else if (shapeText(have.shape) !== shapeText(shape))
      wrong.push(`${key} of shape ${shapeText(shape)} but received ${shapeText(have.shape)}`);
    else if (!(yield* isFiniteTensor(have))) broken.push(key);
  }
  const problems: string[] = [];
  if (missing.length) problems.push(`it lacks ${listed(missing)}`);
  if (unexpected.length) problems.push(`it holds unexpected ${listed(unexpected)}`);
  if (wrong.length) problems.push(`expected ${listed(wrong)}`);
  if (broken.length) problems.push(`values that are not finite in ${listed(broken)}`);
  if (problems.length)
    throw loraError(
      'adapter',
      'ERR_ADAPTER',
      `adapter '${name}'${typeof trainedFor === 'string' ? `, which was trained for ${trainedFor},` : ''} does not fit the model: ${problems.join('; ')}`,
    );
}

/** A checked tensor on a device as f32, in which LoRA parameters are kept. A large one is copied in slices. */
export async function adapterTensor(
  { dtype, shape, bytes }: SafetensorsTensor,
  device: Device,
): Promise<Tensor> {
  const from = floatOfStored(dtype)!;
  if (from === 'f32' && bytes.length <= sliceBytes) return fromBytes(bytes, from, shape, device);
  const upload = new SlicedUpload(from, 'f32', shape, device);
  for (let at = 0; at < bytes.length; at += sliceBytes) await upload.add(bytes.subarray(at, at + sliceBytes));
  return upload.tensor;
}
