/**
 * Tensors of files that hold a matrix, or a bias, of all experts of a block: read as those of single experts, which the rows of a model have,
 * and written of them.
 */
import { loraError } from '../../errors';
import { floatOfStored } from '../../formats/dtypes';
import type { LateTensor } from '../../formats/safetensors';
import type { ModelTensors } from '../../formats/sharded';
import type { StoredTensor } from '../../formats/stored_tensors';
import { blockFormats } from '../../native/block_formats';
import { breathe } from '../../tensor/pace';
import { listed, shapeText } from '../../validate';
import type { ModelConfig } from '../config/model_config';
import type { StackedPlace } from '../config/rows';
import { rowsOf } from './tensor_table';

/** One of the tensors that a stack is made of. */
interface Member {
  readonly name: string;
  readonly place: StackedPlace;
  /** Of its matrix; a bias has one column. */
  readonly out: number;
  readonly in: number;
  readonly isBias: boolean;
}

/** Bytes of a matrix that change places in one go. */
const stepBytes = 2 ** 20;

/** The members of each stack of a model, expert after expert and part after part, by the name of the stack. */
function stacksOf(c: ModelConfig): Map<string, Member[]> {
  const stacks = new Map<string, Member[]>();
  for (const { row, path } of rowsOf(c).layers.flat()) {
    if ((row.kind !== 'expert' && row.kind !== 'vector') || !row.stacked) continue;
    const { stacked: place, module } = row;
    const isBias = row.kind === 'vector';
    const stack = `${path.slice(0, path.length - module.length)}${place.tensor}`;
    const members = stacks.get(stack) ?? [];
    stacks.set(stack, members);
    members[place.expert * place.parts + place.part] = {
      name: `${path}.${isBias ? row.tensor : 'weight'}`,
      place,
      ...(isBias ? { out: row.shape[0]!, in: 1 } : { out: row.out, in: row.in }),
      isBias,
    };
  }
  return stacks;
}

/** The shape of a stack in a file. */
function stackShape({ place: { layout, experts, parts }, out, in: inside, isBias }: Member): number[] {
  if (isBias) return [experts, out * parts];
  return layout === 'below' ? [experts, parts * out, inside] : [experts, inside, out * parts];
}

type Elements = Uint16Array | Uint32Array;

/** The same bytes as elements of 2 or 4 of them. */
function elementsOf(bytes: Uint8Array, width: number): Elements {
  const aligned = bytes.byteOffset % width === 0 ? bytes : bytes.slice();
  const kind = width === 2 ? Uint16Array : Uint32Array;
  return new kind(aligned.buffer as ArrayBuffer, aligned.byteOffset, aligned.byteLength / width);
}

/** For steps of rows of a matrix: move(row). */
async function eachRow(rows: number, rowBytes: number, move: (row: number) => void): Promise<void> {
  const step = Math.max(1, Math.floor(stepBytes / rowBytes));
  for (let first = 0; first < rows; first += step) {
    for (let row = first; row < Math.min(rows, first + step); row++) move(row);
    await breathe();
  }
}

/** What of the bytes of an expert is a member: its matrix as [out, in]. */
async function memberOf(bytes: Uint8Array, { place, out, in: inside }: Member): Promise<Uint8Array> {
  const { layout, part, parts } = place;
  const size = bytes.byteLength / parts;
  if (layout === 'below') return bytes.slice(part * size, (part + 1) * size);
  const width = size / (out * inside);
  const from = elementsOf(bytes, width);
  const result = new Uint8Array(size);
  const to = elementsOf(result, width);
  await eachRow(out, inside * width, (row) => {
    for (let col = 0; col < inside; col++) to[row * inside + col] = from[(col * out + row) * parts + part]!;
  });
  return result;
}

/** The bytes of an expert, of those of its members. */
async function expertOf(
  parts: readonly Uint8Array[],
  { place, out, in: inside }: Member,
): Promise<Uint8Array> {
  const size = parts[0]!.byteLength;
  const result = new Uint8Array(size * parts.length);
  if (place.layout === 'below') {
    for (const [part, bytes] of parts.entries()) result.set(bytes, part * size);
    return result;
  }
  const width = size / (out * inside);
  const to = elementsOf(result, width);
  for (const [part, bytes] of parts.entries()) {
    const from = elementsOf(bytes, width);
    await eachRow(out, inside * width, (row) => {
      for (let col = 0; col < inside; col++)
        to[(col * out + row) * parts.length + part] = from[row * inside + col]!;
    });
  }
  return result;
}

/** What a tensor [experts, …] has of one of them. */
async function partOf(stored: StoredTensor, expert: number, experts: number): Promise<Uint8Array> {
  const size = stored.byteLength / experts;
  if (stored.range) return stored.range(expert * size, size);
  return (await stored.read()).subarray(expert * size, (expert + 1) * size);
}

/** The last expert that was read: the parts of one follow each other. */
class LastExpert {
  #key = '';
  #read: Promise<readonly Uint8Array[]> | undefined;

  /** What each of some tensors has of an expert. */
  read(
    stack: string,
    tensors: readonly StoredTensor[],
    { expert, experts }: StackedPlace,
  ): Promise<readonly Uint8Array[]> {
    const key = `${stack} ${expert}`;
    if (this.#key !== key || this.#read === undefined) {
      this.#read = Promise.all(tensors.map((stored) => partOf(stored, expert, experts)));
      this.#key = key;
    }
    return this.#read;
  }
}

/** The shape of a tensor must be that of the configuration. @throws ERR_FILE */
function checkShape(stored: ModelTensors, name: string, shape: readonly number[]): void {
  const have = stored.get(name).shape;
  if (have.length === shape.length && have.every((n, i) => n === shape[i])) return;
  throw loraError(
    'from_pretrained',
    'ERR_FILE',
    `the configuration asks for ${stored.nameInFile(name)} of shape ${shapeText(shape)} but received ${shapeText(have)}`,
  );
}

/** A member of a stack of floats. */
function floatMember(stored: ModelTensors, stack: string, member: Member, last: LastExpert): StoredTensor {
  const { place, out, in: inside, isBias } = member;
  const found = stored.get(stack);
  return {
    dtype: found.dtype,
    shape: isBias ? [out] : [out, inside],
    byteLength: found.byteLength / (place.experts * place.parts),
    ...readBy(async () => memberOf((await last.read(stack, [found], place))[0]!, member)),
  };
}

const readBy = (read: () => Promise<Uint8Array>): Pick<StoredTensor, 'read' | 'slices'> => ({
  read,
  async *slices() {
    yield await read();
  },
});

/** The names of the two tensors that hold a stack in MXFP4, as OpenAI's gpt-oss has it. */
const planeNames = (stack: string): readonly [blocks: string, scales: string] => [
  `${stack}_blocks`,
  `${stack}_scales`,
];

/** Their shapes: rows as the columns of floats, in blocks of 32 values with a scale each. */
function planeShapes({ place: { experts, parts }, out, in: inside }: Member): [number[], number[]] {
  const { values } = blockFormats.mxfp4;
  const scales = [experts, parts * out, inside / values];
  return [[...scales, values / 2], scales];
}

/**
 * A member of a stack in MXFP4 (OCP Microscaling Formats, 2023): a value is a code of 4 bits times 2^(scale − 127). Files have value 2j in the low
 * bits of byte j and value 2j + 1 in the high ones; ggml's blocks, which stay in memory, have the scale and then value j and value j + 16.
 */
function blockMember(stored: ModelTensors, stack: string, member: Member, last: LastExpert): StoredTensor {
  const { place, out, in: inside } = member;
  const names = planeNames(stack);
  const { values, bytes: size } = blockFormats.mxfp4;
  const half = values / 2;
  const count = inside / values;
  const read = async (): Promise<Uint8Array> => {
    const tensors = names.map((name) => stored.get(name));
    const [blocks, scales] = (await last.read(stack, tensors, place)) as [Uint8Array, Uint8Array];
    const result = new Uint8Array(out * count * size);
    await eachRow(out, count * size, (row) => {
      const first = (row * place.parts + place.part) * count;
      for (let block = 0; block < count; block++) {
        const from = (first + block) * half;
        const to = (row * count + block) * size;
        const scale = scales[first + block]!;
        if (scale === 255)
          throw loraError('from_pretrained', 'ERR_FILE', `${names[1]} has a scale that is no number`);
        result[to] = scale;
        const code = (n: number): number => (blocks[from + (n >> 1)]! >> ((n & 1) * 4)) & 15;
        for (let j = 0; j < half; j++) result[to + 1 + j] = code(j) | (code(j + half) << 4);
      }
    });
    return result;
  };
  return { dtype: 'MXFP4', shape: [out, inside], byteLength: out * count * size, ...readBy(read) };
}

/**
 * The tensors of a model by the names of its rows. A stack that is not there has its members as they are.
 * @throws ERR_FILE for a stack of another shape than the configuration's
 */
export function unstacked(stored: ModelTensors, config: ModelConfig): ModelTensors {
  const stacks = stacksOf(config);
  if (stacks.size === 0) return stored;
  const names = new Set(stored.names);
  const last = new LastExpert();
  const made = new Map<string, { readonly stack: string; readonly tensor: StoredTensor }>();
  const lacking = new Map<string, string>();
  for (const [stack, members] of stacks) {
    const planes = planeNames(stack);
    if (planes.every((name) => names.has(name))) {
      for (const [i, shape] of planeShapes(members[0]!).entries()) {
        checkShape(stored, planes[i]!, shape);
        names.delete(planes[i]!);
      }
      for (const member of members)
        made.set(member.name, { stack: planes[0], tensor: blockMember(stored, stack, member, last) });
      continue;
    }
    if (!names.has(stack)) {
      if (members.every(({ name }) => !names.has(name)))
        for (const { name } of members) lacking.set(name, stack);
      continue;
    }
    if (floatOfStored(stored.get(stack).dtype) === undefined) continue; // what is said of the elements of the file
    checkShape(stored, stack, stackShape(members[0]!));
    names.delete(stack);
    for (const member of members) {
      if (names.has(member.name))
        throw loraError(
          'from_pretrained',
          'ERR_FILE',
          `the weights hold ${listed([stack, member.name].map((name) => stored.nameInFile(name)))}: expected one of them`,
        );
      made.set(member.name, { stack, tensor: floatMember(stored, stack, member, last) });
    }
  }
  return {
    names: [...names, ...made.keys()],
    get: (name) => made.get(name)?.tensor ?? stored.get(name),
    nameInFile: (name) => stored.nameInFile(made.get(name)?.stack ?? lacking.get(name) ?? name),
    checkUnchanged: () => stored.checkUnchanged(),
    close: () => stored.close(),
  };
}

async function bytesOf(tensor: LateTensor): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of tensor.parts()) parts.push(part.slice()); // the next may overwrite it
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}

/** The tensors as files of the family hold them: members of a stack together, where all of them are floats of one kind. */
export function stacked(
  config: ModelConfig,
  tensors: ReadonlyMap<string, LateTensor>,
): Map<string, LateTensor> {
  const written = new Map(tensors);
  for (const [stack, members] of stacksOf(config)) {
    const parts = members.flatMap(({ name }) => tensors.get(name) ?? []);
    const [first] = parts;
    const isWhole = ({ dtype }: LateTensor): boolean => floatOfStored(dtype) !== undefined;
    if (
      !first ||
      parts.length < members.length ||
      !parts.every((one) => isWhole(one) && one.dtype === first.dtype)
    )
      continue;
    for (const { name } of members) written.delete(name);
    const member = members[0]!;
    const { experts, parts: count } = member.place;
    written.set(stack, {
      dtype: first.dtype,
      shape: stackShape(member),
      async *parts() {
        for (let expert = 0; expert < experts; expert++) {
          const own: Uint8Array[] = [];
          for (const part of parts.slice(expert * count, (expert + 1) * count)) own.push(await bytesOf(part));
          yield await expertOf(own, member);
        }
      },
    });
  }
  return written;
}
