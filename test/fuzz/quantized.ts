/** A matrix as bitsandbytes writes it: its description, and planes of other types and sizes. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tensorBytes, isSafetensorsDType } from '../../lib/formats/dtypes';
import { parseJson } from '../../lib/formats/json';
import { openModelTensors } from '../../lib/formats/sharded';
import { nestedBlock, nestedMap } from '../../lib/models/quantized/double_quant';
import {
  codePlanes,
  codeTables,
  rowPlanes,
  stateOfCodes,
  storedMatrix,
} from '../../lib/models/quantized/stored_matrix';
import { blockValues } from '../../lib/native/constants';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { fileOf } from '../support/safetensors_bytes';
import { jsonText, mutateJson } from './mutate';
import { bytes, text, type Json } from './seeds';
import type { Target } from './target';
import { isRecord } from '../../lib/validate';

const name = 'w.weight';
const shape = [6, 22] as const; // blocks straddle rows, and the last is short
const maxBytes = 65_536;

function seed(format: 'nf4' | 'fp4' | 'int8', nested: boolean): Json {
  if (format === 'int8') return { format, planes: Object.values(rowPlanes(name, shape)) } as unknown as Json;
  const state = stateOfCodes(format, 'bf16', shape, nested ? 0.25 : undefined);
  const nestedBlocksize = nested ? nestedBlock : undefined;
  const planes = codePlanes(name, shape, { format, blocksize: blockValues, nestedBlocksize, stateBytes: 0 });
  return {
    format,
    state: JSON.parse(text(state)) as Json,
    planes: Object.values(planes) as unknown as Json,
  };
}

/** Bytes of a plane: tables as they are, others of any content. */
function content(plane: string, length: number, format: unknown): Uint8Array {
  const table =
    plane.endsWith('.quant_map') && (format === 'nf4' || format === 'fp4')
      ? codeTables[format]
      : plane.endsWith('.nested_quant_map')
        ? nestedMap
        : undefined;
  if (table?.byteLength === length) return new Uint8Array(Float32Array.from(table).buffer);
  return Uint8Array.from({ length }, (_, i) => (plane.endsWith('weight_format') ? 0 : (i * 37) % 64));
}

export const quantized: Target = {
  make(dice) {
    const good = seed(dice.pick(['nf4', 'fp4', 'int8'] as const), dice.once(2));
    return bytes(jsonText(dice.once(5) ? good : mutateJson(structuredClone(good), dice, [good]), dice));
  },
  async run(input, dir) {
    const value = parseJson(text(input), 'input');
    if (!isRecord(value) || !Array.isArray(value['planes'])) return;
    const header: Record<string, unknown> = {};
    const data: Uint8Array[] = [];
    let at = 0;
    for (const plane of value['planes'] as unknown[]) {
      if (!isRecord(plane) || typeof plane['name'] !== 'string' || !isSafetensorsDType(plane['dtype']))
        continue;
      const { name: plain, dtype } = plane;
      const isState = plain.includes('.quant_state.');
      const state = bytes(JSON.stringify(value['state']) ?? '');
      const size: unknown = isState ? [state.length] : plane['shape'];
      if (!Array.isArray(size) || !size.every((n) => Number.isSafeInteger(n) && (n as number) >= 0)) continue;
      const length = tensorBytes(dtype, size as number[]);
      if (typeof length !== 'number' || length > maxBytes || plain in header) continue;
      header[plain] = { dtype, shape: size, data_offsets: [at, at + length] };
      data.push(isState && length === state.length ? state : content(plain, length, value['format']));
      at += length;
    }
    writeFileSync(join(dir, 'model.safetensors'), fileOf(header, Buffer.concat(data)));
    const stored = await openModelTensors(dir);
    try {
      const names = new Set(stored.names);
      const matrix = await storedMatrix(stored, names, name, shape);
      if (matrix === undefined) return;
      // As loading does: what lacks a tensor, or has one of another shape, is not read.
      for (const [plane, of] of matrix.tensors)
        if (!names.has(plane) || String(stored.get(plane).shape) !== String(of)) return;
      const { format, values, scales } = await matrix.read();
      const packed = FrozenWeight.packQuantized(format, values, scales, shape, 'f32', 'reference');
      packed.unpack().dispose();
      packed.dispose();
      const count = shape[0] * shape[1];
      const sizes = format === 'int8' ? [count, shape[0]] : [count / 2, Math.ceil(count / blockValues)];
      if (String([values.length, scales?.length]) !== String(sizes) || !scales?.every(Number.isFinite))
        throw new Error(`read ${values.length} values with ${scales?.length} scales: ${String(scales)}`);
    } finally {
      await stored.close();
    }
  },
};
