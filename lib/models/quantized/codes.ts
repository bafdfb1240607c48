/** Matrices rounded to codes on their device. */
import type { NativeTensor } from '../../native/binding';
import { binding } from '../../native/calls';
import { nativeDevice, type Device } from '../../native/device';
import type { FloatDType } from '../../native/dtype';
import { finiteMagnitudes, FrozenWeight, scalesOf, type QuantizedFormat } from '../../tensor/frozen_weight';
import type { Tensor } from '../../tensor/tensor';
import { roundedTwice } from './double_quant';
import type { QuantizePlan } from './quantize_options';

/** The codes of a matrix, which the caller releases, and the magnitudes that they are of. @throws ERR_FILE for values that are not finite */
export async function codesOf(
  op: string,
  name: string,
  x: Tensor,
  format: QuantizedFormat,
): Promise<{ values: NativeTensor; magnitudes: Float32Array }> {
  const { values, magnitudes } = FrozenWeight.quantize(x, format);
  try {
    const found = finiteMagnitudes(op, 'ERR_FILE', ` in ${name}`, await binding().read(magnitudes));
    return { values, magnitudes: found };
  } catch (error) {
    binding().release(values);
    throw error;
  } finally {
    binding().release(magnitudes);
  }
}

/** W of codes, and of magnitudes that it may overwrite, as a file that is written with them gives it back. */
export async function packCodes(
  { values, magnitudes }: { values: NativeTensor; magnitudes: Float32Array },
  { format, doubleQuant }: QuantizePlan,
  shape: readonly number[],
  dtype: FloatDType,
  device: Device,
): Promise<FrozenWeight> {
  const scales = scalesOf(format, doubleQuant ? await roundedTwice(magnitudes) : magnitudes);
  return FrozenWeight.packQuantized(format, values, scales, shape as [number, number], dtype, device);
}

/** Quantizes a matrix on its device. The floats are given back before the codes are packed, so that the two copies of the codes take no more than they did. */
export async function quantizedWeight(
  name: string,
  x: Tensor,
  plan: QuantizePlan,
  dtype: FloatDType,
): Promise<FrozenWeight> {
  const { shape, device } = x;
  const codes = await codesOf('from_pretrained', name, x, plan.format).finally(() => x.dispose());
  binding().trim(nativeDevice(device));
  try {
    return await packCodes(codes, plan, shape, dtype, device);
  } finally {
    binding().release(codes.values);
    binding().trim(nativeDevice(device));
  }
}
