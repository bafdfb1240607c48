/** GGUF files: a right one with all kinds of values, whose bytes are damaged, most often those of numbers. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readGgufAdapter } from '../../lib/convert/gguf_adapter';
import { GgufError, parseGguf } from '../../lib/formats/gguf_header';
import { serializeGguf, type GgufField, type LateGgufTensor } from '../../lib/formats/gguf_write';
import { parseModelConfig } from '../../lib/models/families';
import { adapterMetadata, adapterTensors, counting } from '../support/gguf_bytes';
import { tinyConfig } from '../support/tiny_model';
import { mutateBytes } from './mutate';
import type { Dice } from './random';
import { once } from './seeds';
import type { Target } from './target';

/** Data of zeros: the headers are what is read with care. */
export function fileOf(
  metadata: ReadonlyMap<string, GgufField>,
  tensors: ReadonlyMap<string, LateGgufTensor>,
): Buffer {
  const pieces = serializeGguf(metadata, tensors, 'fuzz');
  return Buffer.concat(pieces.map((piece) => ('bytes' in piece ? piece.bytes : Buffer.alloc(piece.length))));
}

const seeds = once(() => [
  fileOf(adapterMetadata, adapterTensors),
  fileOf(
    new Map<string, GgufField>([
      ['general.alignment', { u32: 32 }],
      ['general.flag', { flag: true }],
      ['tokenizer.ggml.tokens', { texts: ['a', 'é', '', '🙂'] }],
      ['tokenizer.ggml.token_type', { i32s: [1, -1, 3] }],
      ['tokenizer.ggml.scores', { f32s: [0, -1.5] }],
    ]),
    new Map([
      ['token_embd.weight', counting([3, 8])],
      ['scalar', counting([])],
      ['none', counting([0, 4])],
    ]),
  ),
]);

const sizes = [
  0n,
  1n,
  2n,
  3n,
  8n,
  9n,
  32n,
  255n,
  65_536n,
  2n ** 31n,
  2n ** 32n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
];

/** Puts a number into one of the places where types, counts and lengths stand. */
export function otherNumber(file: Buffer, dice: Dice, before = 700): void {
  const at = dice.below(Math.min(file.length - 8, before));
  const value = dice.pick(sizes);
  if (dice.flag()) file.writeBigUInt64LE(value, at);
  else file.writeUInt32LE(Number(value % 2n ** 32n), at);
}

export const gguf: Target = {
  make(dice) {
    const file = Buffer.from(dice.pick(seeds()));
    for (let edits = dice.below(4); edits > 0; edits--) otherNumber(file, dice);
    return dice.once(3) ? mutateBytes(file, dice) : file;
  },
  async run(input, dir) {
    try {
      let read = 0;
      const more = async (): Promise<Uint8Array> => {
        if (read === input.length) throw new GgufError('is cut off');
        return input.subarray(0, (read = Math.min(input.length, 2 * read + 64)));
      };
      const { entries, dataStart } = await parseGguf(more);
      for (const { begin, byteLength } of entries)
        if (!Number.isSafeInteger(dataStart + begin + byteLength))
          throw new Error('gave a place that cannot be');
    } catch (error) {
      if (!(error instanceof GgufError)) throw error;
    }
    // The same through a file, which costs more.
    if (input.length % 4 !== 0) return;
    const path = join(dir, 'x.gguf');
    writeFileSync(path, input);
    await readGgufAdapter(path, parseModelConfig(tinyConfig), {});
  },
};
