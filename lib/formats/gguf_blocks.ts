/** Floats as blocks of ggml's, with its own bits: native/core/maths/quantize_blocks.h says what they are. */
import { binding, call } from '../native/calls';
import { nativeDevice, roomInQueue } from '../native/device';
import type { WrittenBlocks } from '../native/block_formats';
import { bytesPerElement, type FloatDType } from '../native/dtype';

/**
 * Whole blocks of values, little endian in `dtype`; undefined where one is not finite, or its scale too large for f16. The threads of
 * the device `cpu` compute them.
 */
export async function quantizedBlocks(
  values: Uint8Array,
  dtype: FloatDType,
  format: WrittenBlocks,
): Promise<Uint8Array | undefined> {
  await roomInQueue('cpu');
  const shape = [values.byteLength / bytesPerElement[dtype]];
  const source = binding().fromBytes(nativeDevice('cpu'), dtype, shape, values);
  const owned = [source];
  try {
    const [blocks, held] = call().quantizeBlocks(source, format);
    owned.push(blocks, held);
    if (new Uint8Array(await binding().read(held)).includes(0)) return undefined;
    return new Uint8Array(await binding().read(blocks));
  } finally {
    for (const tensor of owned) binding().release(tensor);
  }
}
