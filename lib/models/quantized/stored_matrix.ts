/**
 * The ways in which checkpoints keep a matrix [out, in]: as floats, as int8 rows with scales (compressed-tensors, bitsandbytes), as 4-bit
 * codes with scales of blocks (bitsandbytes), or as blocks of GGUF files. Each says which tensors a file must hold for it, and reads what a frozen matrix is packed of.
 */
import { LoRAError, loraError } from '../../errors';
import { floatOfStored, storedFloats, torchNames } from '../../formats/dtypes';
import { parseJson } from '../../formats/json';
import type { ModelTensors } from '../../formats/sharded';
import { fromBytes } from '../../tensor/create';
import { inSlices } from '../../tensor/pace';
import { isBlockFormat, type BlockFormat } from '../../native/block_formats';
import { blockValues, codeValues } from '../../native/constants';
import type { FloatDType } from '../../native/dtype';
import { scalesOf, type PackedFormat } from '../../tensor/frozen_weight';
import { isRecord, shapeText } from '../../validate';
import { nestedBlock, unnested } from './double_quant';

const op = 'from_pretrained';

/** bitsandbytes writes less than 200 bytes. */
const maxStateBytes = 65_536;

/** What `FrozenWeight.packQuantized` takes: W = q·s, or blocks that hold their scales. */
export interface QuantizedMatrix {
  readonly format: PackedFormat;
  readonly values: Uint8Array;
  readonly scales: Float32Array | null;
}

/** A tensor of a quantized matrix in a file. */
export interface Plane {
  readonly name: string;
  readonly dtype: 'F32' | 'I8' | 'U8';
  readonly shape: readonly number[];
}

/** Int8 rows as bitsandbytes has them: with the largest magnitude of each row, and a number for their order. */
export function rowPlanes(
  name: string,
  [out, inside]: Shape,
): Readonly<Record<'values' | 'magnitudes' | 'layout', Plane>> {
  const module = name.replace(/\.weight$/, '');
  return {
    values: { name, dtype: 'I8', shape: [out, inside] },
    magnitudes: { name: `${module}.SCB`, dtype: 'F32', shape: [out] },
    layout: { name: `${module}.weight_format`, dtype: 'U8', shape: [] },
  };
}

/** What names the planes of 4-bit codes, and gives their sizes. */
interface CodeLayout {
  readonly format: 'nf4' | 'fp4';
  /** Values that share a magnitude. */
  readonly blocksize: number;
  /** Magnitudes that share a second one; absent: they are f32. */
  readonly nestedBlocksize?: number | undefined;
  /** Of the description, which is JSON. */
  readonly stateBytes: number;
}
type CodePlanes = Readonly<Record<'values' | 'magnitudes' | 'map' | 'state', Plane>> &
  Readonly<Partial<Record<'nestedMagnitudes' | 'nestedMap', Plane>>>;

const stateName = (name: string, format: 'nf4' | 'fp4'): string =>
  `${name}.quant_state.bitsandbytes__${format}`;
const nestedName = (name: string): string => `${name}.nested_absmax`;

/** 4-bit codes as bitsandbytes has them: with magnitudes of blocks in f32, or in codes of 8 bits with magnitudes of their own. */
export function codePlanes(
  name: string,
  shape: Shape,
  { format, blocksize, nestedBlocksize, stateBytes }: CodeLayout,
): CodePlanes {
  const values = shape[0] * shape[1];
  const blocks = Math.ceil(values / blocksize);
  return {
    values: { name, dtype: 'U8', shape: [Math.ceil(values / 2), 1] },
    magnitudes: { name: `${name}.absmax`, dtype: nestedBlocksize ? 'U8' : 'F32', shape: [blocks] },
    map: { name: `${name}.quant_map`, dtype: 'F32', shape: [16] },
    state: { name: stateName(name, format), dtype: 'U8', shape: [stateBytes] },
    ...(nestedBlocksize && {
      nestedMagnitudes: {
        name: nestedName(name),
        dtype: 'F32',
        shape: [Math.ceil(blocks / nestedBlocksize)],
      },
      nestedMap: { name: `${name}.nested_quant_map`, dtype: 'F32', shape: [256] },
    }),
  };
}

/** A number as Python writes it. */
function pythonFloat(x: number): string {
  if (x !== 0 && Math.abs(x) < 1e-4) return x.toExponential().replace(/e-(\d)$/, 'e-0$1');
  return Number.isInteger(x) ? `${x}.0` : String(x);
}

/** The description that bitsandbytes keeps beside 4-bit codes, byte for byte. `offset`: the mean of magnitudes that are quantized too. */
export function stateOfCodes(
  format: 'nf4' | 'fp4',
  dtype: FloatDType,
  shape: Shape,
  offset?: number,
): Uint8Array {
  const fields = [
    `"quant_type": "${format}"`,
    `"blocksize": ${blockValues}`,
    `"dtype": "${torchNames[dtype]}"`,
    `"shape": [${shape.join(', ')}]`,
  ];
  if (offset !== undefined)
    fields.push(
      `"nested_blocksize": ${nestedBlock}`,
      '"nested_dtype": "float32"',
      `"nested_offset": ${pythonFloat(offset)}`,
    );
  return new TextEncoder().encode(`{${fields.join(', ')}}`);
}

/** A quantized matrix in a file. */
export interface StoredMatrix {
  readonly format: PackedFormat;
  readonly shape: Shape;
  /** Every tensor that it takes, by name, with its shape. */
  readonly tensors: ReadonlyMap<string, readonly number[]>;
  /** @throws ERR_FILE for scales that are not finite */
  read(): Promise<QuantizedMatrix>;
}

type Shape = readonly [out: number, inside: number];

const fail = (name: string, problem: string, code: 'ERR_FILE' | 'ERR_UNSUPPORTED' = 'ERR_FILE'): LoRAError =>
  loraError(op, code, `${name} ${problem}`);

async function bytesOf(stored: ModelTensors, name: string, wanted: Plane['dtype']): Promise<Uint8Array> {
  const { dtype } = stored.get(name);
  if (dtype !== wanted) throw fail(name, `is stored as ${dtype}; supported is ${wanted}`, 'ERR_UNSUPPORTED');
  return stored.get(name).read();
}

async function floatsOf(stored: ModelTensors, name: string): Promise<Float32Array> {
  const bytes = await bytesOf(stored, name, 'F32');
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** The scales of compressed-tensors, which have the dtype of the model that was quantized. */
async function widenedOf(stored: ModelTensors, name: string): Promise<Float32Array> {
  const { dtype, shape } = stored.get(name);
  const float = floatOfStored(dtype);
  if (float === undefined)
    throw fail(name, `is stored as ${dtype}; supported are ${storedFloats}`, 'ERR_UNSUPPORTED');
  if (float === 'f32') return floatsOf(stored, name);
  const narrow = fromBytes(await stored.get(name).read(), float, shape, 'cpu');
  try {
    return await narrow.data<Float32Array>();
  } finally {
    narrow.dispose();
  }
}

/** The scales of values in a file, each of which must be finite. */
function checkScales(name: string, scales: Float32Array): Float32Array {
  const bad = scales.findIndex((scale) => !Number.isFinite(scale));
  if (bad >= 0) throw fail(name, `has scale ${scales[bad]} at ${bad}: expected finite scales`);
  return scales;
}

/** Int8 rows as compressed-tensors has them, with scales [out, 1], and as bitsandbytes has them, with the magnitudes [out] of the rows. */
function int8Rows(
  stored: ModelTensors,
  names: ReadonlySet<string>,
  name: string,
  [out, inside]: Shape,
): StoredMatrix {
  const planes = rowPlanes(name, [out, inside]);
  const version = planes.layout.name;
  const ofBitsandbytes = names.has(planes.magnitudes.name);
  const scalesName = ofBitsandbytes ? planes.magnitudes.name : `${name}_scale`;
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
      const read = ofBitsandbytes ? floatsOf : widenedOf;
      const scales = checkScales(scalesName, await read(stored, scalesName));
      if (ofBitsandbytes) scalesOf('int8', scales);
      return { format: 'int8', values: await stored.get(name).read(), scales };
    },
  };
}

/** What bitsandbytes' quant_state of a 4-bit matrix says. */
interface QuantState {
  readonly format: 'nf4' | 'fp4';
  readonly blocksize: number;
  /** Of the second quantization, that of the magnitudes of blocks. */
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
  if (dtype !== 'U8' || byteLength > maxStateBytes)
    throw fail(
      file,
      `is ${byteLength} bytes of ${dtype}: expected JSON as U8, of at most ${maxStateBytes} bytes`,
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
  if (!names.has(nestedName(name))) return { format, blocksize };
  if (!isSize(nested_blocksize)) throw expected('a nested_blocksize');
  if (typeof nested_offset !== 'number') throw expected('a nested_offset');
  return { format, blocksize, nested: { blocksize: nested_blocksize, offset: nested_offset } };
}

/** 4-bit codes of a file, with what their description says. */
async function codes(
  stored: ModelTensors,
  names: ReadonlySet<string>,
  name: string,
  file: string,
  shape: Shape,
): Promise<StoredMatrix> {
  const { format, blocksize, nested } = await quantState(stored, names, name, file, shape);
  const values = shape[0] * shape[1];
  const planes = codePlanes(name, shape, {
    format,
    blocksize,
    nestedBlocksize: nested?.blocksize,
    stateBytes: stored.get(file).byteLength,
  });
  const tensors = new Map(Object.values(planes).map((plane) => [plane.name, plane.shape]));
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
      const table = await floatsOf(stored, planes.map.name);
      codeTables[format].forEach((value, code) => {
        if (table[code] !== value)
          throw fail(planes.map.name, `has value ${table[code]} for code ${code}: ${format} has ${value}`);
      });
      let of: (block: number) => number;
      if (nested) {
        const [map, magnitudes] = [
          await floatsOf(stored, planes.nestedMap!.name),
          await floatsOf(stored, planes.nestedMagnitudes!.name),
        ];
        const bytes = await bytesOf(stored, planes.magnitudes.name, 'U8');
        const second = { codes: bytes, magnitudes, offset: Math.fround(nested.offset) };
        of = (block) => unnested(second, block, map, nested.blocksize);
      } else {
        const magnitudes = await floatsOf(stored, planes.magnitudes.name);
        of = (block) => magnitudes[block]!;
      }
      const scales = checkScales(planes.magnitudes.name, await inSlices(expand(of)));
      return { format, values: await stored.get(name).read(), scales };
    },
  };
}

/** GGUF's blocks, which hold their scales and are packed as they are. */
const blocks = (stored: ModelTensors, name: string, shape: Shape, format: BlockFormat): StoredMatrix => ({
  format,
  shape,
  tensors: new Map([[name, shape]]),
  read: async () => ({ format, values: await stored.get(name).read(), scales: null }),
});

/** How a matrix is kept; undefined: as floats. Only the description of its blocks is read. */
export async function storedMatrix(
  stored: ModelTensors,
  names: ReadonlySet<string>,
  name: string,
  shape: Shape,
): Promise<StoredMatrix | undefined> {
  if (!names.has(name)) return undefined;
  const { dtype } = stored.get(name);
  const block = dtype.toLowerCase();
  if (isBlockFormat(block)) return blocks(stored, name, shape, block);
  if (dtype === 'I8') return int8Rows(stored, names, name, shape);
  if (dtype !== 'U8') return undefined;
  for (const type of ['nf4', 'fp4'] as const) {
    const file = stateName(name, type);
    if (names.has(file)) return codes(stored, names, name, file, shape);
  }
  throw fail(name, 'is stored as U8 without a quant_state of bitsandbytes for nf4 or fp4', 'ERR_UNSUPPORTED');
}

/** The values of the codes. */
export const codeTables: Readonly<Record<'nf4' | 'fp4', Float32Array>> = {
  nf4: Float32Array.from(codeValues.nf4),
  fp4: Float32Array.from(codeValues.fp4),
};
