/**
 * The ways in which checkpoints keep a matrix [out, in]: as floats, as int8 rows with scales (compressed-tensors, bitsandbytes), or as 4-bit
 * codes with scales of blocks (bitsandbytes). Each says which tensors a file must hold for it, and reads what a frozen matrix is packed of.
 */
import { LoRAError } from '../errors';
import { isRecord, parseJson } from '../formats/json';
import type { ModelTensors } from '../formats/sharded';
import { inSlices } from '../tensor/pace';
import type { QuantisedFormat } from '../tensor/frozen_weight';
import { shapeText } from '../validate';
import { unnested } from './double_quant';

const op = 'from_pretrained';

/** bitsandbytes writes less than 200 bytes. */
const mostStateBytes = 65_536;

/** Values of the flattened matrix that share a scale of a 4-bit format. */
export const blockValues = 64;

/** What `FrozenWeight.packQuantised` takes: W = q·s. */
export interface QuantisedMatrix {
  readonly format: QuantisedFormat;
  readonly values: Uint8Array;
  readonly scales: Float32Array;
}

/** A quantised matrix in a file. */
export interface StoredMatrix {
  readonly format: QuantisedFormat;
  readonly shape: Shape;
  /** Every tensor that it takes, by name, with its shape. */
  readonly tensors: ReadonlyMap<string, readonly number[]>;
  /** @throws ERR_FILE for scales that are not finite */
  read(): Promise<QuantisedMatrix>;
}

type Shape = readonly [out: number, inside: number];

const fail = (name: string, problem: string, code: 'ERR_FILE' | 'ERR_UNSUPPORTED' = 'ERR_FILE'): LoRAError =>
  new LoRAError(code, `[${op}] ${name} ${problem}`, { op });

async function floatsOf(stored: ModelTensors, name: string): Promise<Float32Array> {
  const { dtype } = stored.get(name);
  if (dtype !== 'F32') throw fail(name, `is stored as ${dtype}; supported is F32`, 'ERR_UNSUPPORTED');
  const bytes = await stored.get(name).read();
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** The scales of values in a file, each of which must be finite. */
function checkScales(name: string, scales: Float32Array): Float32Array {
  const bad = scales.findIndex((scale) => !Number.isFinite(scale));
  if (bad >= 0) throw fail(name, `has scale ${scales[bad]} at ${bad}: expected finite scales`);
  return scales;
}

/** The scale of int8 values of a row whose largest magnitude this is. */
export const scaleOfInt8 = (magnitude: number): number => Math.fround(magnitude * Math.fround(1 / 127));

/** Int8 rows as compressed-tensors has them, with scales [out, 1], and as bitsandbytes has them, with the magnitudes [out] of the rows. */
function int8Rows(
  stored: ModelTensors,
  names: ReadonlySet<string>,
  name: string,
  [out, inside]: Shape,
): StoredMatrix {
  const module = name.replace(/\.weight$/, '');
  const magnitudes = `${module}.SCB`;
  const version = `${module}.weight_format`;
  const ofBitsandbytes = names.has(magnitudes);
  const scalesName = ofBitsandbytes ? magnitudes : `${name}_scale`;
  const tensors = new Map<string, readonly number[]>([
    [name, [out, inside]],
    [scalesName, ofBitsandbytes ? [out] : [out, 1]],
  ]);
  if (ofBitsandbytes && names.has(version)) tensors.set(version, []);
  return {
    format: 'int8',
    shape: [out, inside],
    tensors,
    async read() {
      const layout = tensors.has(version) ? (await stored.get(version).read())[0] : 0;
      if (layout !== 0)
        throw fail(
          version,
          `is ${layout}; supported are rows (0), as bitsandbytes saves them`,
          'ERR_UNSUPPORTED',
        );
      const scales = checkScales(scalesName, await floatsOf(stored, scalesName));
      if (ofBitsandbytes) scales.forEach((magnitude, row) => (scales[row] = scaleOfInt8(magnitude)));
      return { format: 'int8', values: await stored.get(name).read(), scales };
    },
  };
}

/** What bitsandbytes' quant_state of a 4-bit matrix says. */
interface QuantState {
  readonly format: 'nf4' | 'fp4';
  readonly blocksize: number;
  /** Of the second quantisation, that of the magnitudes of blocks. */
  readonly nested?: { readonly blocksize: number; readonly offset: number };
}

async function quantState(
  stored: ModelTensors,
  names: ReadonlySet<string>,
  name: string,
  file: string,
  shape: Shape,
): Promise<QuantState> {
  const format = file.endsWith('nf4') ? 'nf4' : 'fp4';
  const { dtype, byteLength } = stored.get(file);
  if (dtype !== 'U8' || byteLength > mostStateBytes)
    throw fail(
      file,
      `is ${byteLength} bytes of ${dtype}: expected JSON as U8, of at most ${mostStateBytes} bytes`,
    );
  const state = parseJson(new TextDecoder().decode(await stored.get(file).read()), file);
  const expected = (what: string): LoRAError => fail(file, `lacks ${what}, as bitsandbytes writes it`);
  if (!isRecord(state)) throw expected('an object');
  const { quant_type, blocksize, shape: saved, nested_blocksize, nested_offset } = state;
  if (quant_type !== format) throw expected(`quant_type "${format}"`);
  const isSize = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) > 0;
  if (!isSize(blocksize)) throw expected('a blocksize');
  if (blocksize % blockValues !== 0)
    throw fail(
      name,
      `has blocks of ${blocksize} values; supported are multiples of ${blockValues}`,
      'ERR_UNSUPPORTED',
    );
  const same = Array.isArray(saved) && saved.length === 2 && saved.every((n, i) => n === shape[i]);
  if (!same) throw fail(file, `is of a matrix of another shape than ${shapeText(shape)}`);
  if (!names.has(`${name}.nested_absmax`)) return { format, blocksize };
  if (!isSize(nested_blocksize)) throw expected('a nested_blocksize');
  if (typeof nested_offset !== 'number') throw expected('a nested_offset');
  return { format, blocksize, nested: { blocksize: nested_blocksize, offset: nested_offset } };
}

/** 4-bit codes as bitsandbytes has them: with magnitudes of blocks in f32, or in codes of 8 bits with magnitudes of their own. */
async function codes(
  stored: ModelTensors,
  names: ReadonlySet<string>,
  name: string,
  file: string,
  shape: Shape,
): Promise<StoredMatrix> {
  const { format, blocksize, nested } = await quantState(stored, names, name, file, shape);
  const values = shape[0] * shape[1];
  const blocks = Math.ceil(values / blocksize);
  const tensors = new Map<string, readonly number[]>([
    [name, [Math.ceil(values / 2), 1]],
    [`${name}.absmax`, [blocks]],
    [`${name}.quant_map`, [16]],
    [file, stored.get(file).shape],
  ]);
  if (nested) {
    tensors.set(`${name}.nested_absmax`, [Math.ceil(blocks / nested.blocksize)]);
    tensors.set(`${name}.nested_quant_map`, [256]);
  }
  /** The magnitude of each block of the file, for each of our blocks. */
  function* expand(of: (block: number) => number): Generator<void, Float32Array, void> {
    const scales = new Float32Array(Math.ceil(values / blockValues));
    const per = blocksize / blockValues;
    for (let i = 0; i < scales.length; i++) {
      scales[i] = of(Math.floor(i / per));
      if (i % 65_536 === 65_535) yield;
    }
    return scales;
  }
  return {
    format,
    shape,
    tensors,
    async read() {
      const table = await floatsOf(stored, `${name}.quant_map`);
      codeTables[format].forEach((value, code) => {
        if (table[code] !== value)
          throw fail(
            `${name}.quant_map`,
            `has value ${table[code]} for code ${code}: ${format} has ${value}`,
          );
      });
      let of: (block: number) => number;
      if (nested) {
        const [map, magnitudes] = [
          await floatsOf(stored, `${name}.nested_quant_map`),
          await floatsOf(stored, `${name}.nested_absmax`),
        ];
        const bytes = await stored.get(`${name}.absmax`).read();
        const second = { codes: bytes, magnitudes, offset: Math.fround(nested.offset) };
        of = (block) => unnested(second, block, map, nested.blocksize);
      } else {
        const magnitudes = await floatsOf(stored, `${name}.absmax`);
        of = (block) => magnitudes[block]!;
      }
      const scales = checkScales(`${name}.absmax`, await inSlices(expand(of)));
      return { format, values: await stored.get(name).read(), scales };
    },
  };
}

/** How a matrix is kept; undefined: as floats. Only the description of its blocks is read. */
export async function storedMatrix(
  stored: ModelTensors,
  names: ReadonlySet<string>,
  name: string,
  shape: Shape,
): Promise<StoredMatrix | undefined> {
  if (!names.has(name)) return undefined;
  const { dtype } = stored.get(name);
  if (dtype === 'I8') return int8Rows(stored, names, name, shape);
  if (dtype !== 'U8') return undefined;
  for (const type of ['nf4', 'fp4']) {
    const file = `${name}.quant_state.bitsandbytes__${type}`;
    if (names.has(file)) return codes(stored, names, name, file, shape);
  }
  throw fail(name, 'is stored as U8 without a quant_state of bitsandbytes for nf4 or fp4', 'ERR_UNSUPPORTED');
}

/** The values of the codes, as native/core/maths/weight_format.h has them. */
export const codeTables: Readonly<Record<'nf4' | 'fp4', Float32Array>> = {
  nf4: Float32Array.of(
    ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453],
    ...[-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0],
    ...[0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
    ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
  ),
  fp4: Float32Array.of(
    ...[0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4],
    ...[-0, -1 / 192, -2 / 3, -1, -1 / 3, -1 / 2, -1 / 6, -1 / 4],
  ),
};
