import { isUtf8 } from 'node:buffer';
import { isSafetensorsDType, tensorBytes, type SafetensorsDType } from './dtypes';
import { recognize } from './recognize';
import { JsonScanner } from './json_scanner';
import { defaultLimits, limitText } from './limits';
import { inSlices, sortInSlices } from '../tensor/pace';

/** Where one tensor lies, in bytes from the start of the data. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

export interface Header {
  /** In the order of the data. */
  readonly entries: readonly TensorEntry[];
  readonly metadata: Record<string, string>;
}

/** Why the content is not a safetensors file; the reader adds the path. */
export class HeaderError extends Error {}

function fail(reason: string): never {
  throw new HeaderError(reason);
}

/** The limit of the official reader. */
export const maxHeaderBytes = 100_000_000;
export const metadataKey = '__metadata__';

/** The header's length, from the first bytes of a file. */
export function headerLength(start: Uint8Array, fileBytes: number, limits = defaultLimits): number {
  if (fileBytes < 8) fail(`is ${fileBytes} bytes long; a safetensors file has at least 8`);
  // Little endian on every machine, and beyond 2^53 without loss.
  const length = Buffer.from(start.subarray(0, 8)).readBigUInt64LE();
  if (length > maxHeaderBytes) {
    // Only now: a length of 640 is spelt like the start of a pickle.
    const what = recognize(start);
    if (what !== undefined) fail(what);
    fail(`does not begin like a safetensors file: its header would be longer than ${maxHeaderBytes} bytes`);
  }
  if (8 + Number(length) > fileBytes) {
    fail(`is cut off: the header alone needs ${8 + Number(length)} bytes and the file has ${fileBytes}`);
  }
  if (length > limits.headerBytes) {
    fail(`has a header of ${length} bytes: ${limitText(limits, 'headerBytes')}`);
  }
  return Number(length);
}

/**
 * The header of a file with `dataBytes` bytes of data behind it. Every rule of the format is checked. Long headers are read in
 * slices, between which timers and I/O run.
 */
export function parseHeader(bytes: Uint8Array, dataBytes: number): Promise<Header> {
  return inSlices(headerSteps(bytes, dataBytes));
}

/** After how many entries the parser may be interrupted: some milliseconds. */
const entriesPerStep = 512;

function* headerSteps(bytes: Uint8Array, dataBytes: number): Generator<void, Header, void> {
  if (!isUtf8(bytes)) return fail('has a header that is not UTF-8');
  const entries: TensorEntry[] = [];
  let metadata: Record<string, string> = emptyMetadata();
  try {
    const json = new JsonScanner(bytes);
    json.spaces();
    if (json.peek() !== '{') {
      json.skipValue();
      json.end();
      fail('has a header that is not a JSON object');
    }
    const seen = new Set<string>();
    for (const name of json.keys()) {
      if (seen.has(name)) {
        fail(name === metadataKey ? `has ${metadataKey} twice` : `names the tensor ${quoted(name)} twice`);
      }
      seen.add(name);
      if (name === metadataKey) metadata = yield* parseMetadata(json);
      else entries.push(parseEntry(name, json));
      if (seen.size % entriesPerStep === 0) yield;
    }
    json.end();
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return fail(`has a header that is not JSON: ${error.message}`);
  }
  return { entries: yield* checkLayout(entries, dataBytes), metadata };
}

/** A name for a message. Names may be as long as the header. */
const quoted = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name);

const labelOf = (name: string): string => `the tensor ${quoted(name)}`;

/** Without a prototype, so that "__proto__" is a name like any other. */
function emptyMetadata(): Record<string, string> {
  return Object.create(null) as Record<string, string>;
}

function* parseMetadata(json: JsonScanner): Generator<void, Record<string, string>, void> {
  const metadata = emptyMetadata();
  let count = 0;
  if (json.peek() !== '{') {
    if (json.literal() === 'null') return metadata;
    json.skipValue();
    return fail(`has a ${metadataKey} that is not an object`);
  }
  for (const key of json.keys()) {
    if (key in metadata) fail(`has ${quoted(key)} twice in ${metadataKey}`);
    if (json.peek() !== '"') {
      json.skipValue();
      fail(`has a value that is not text in ${metadataKey}, at ${quoted(key)}`);
    }
    metadata[key] = json.string();
    if (++count % entriesPerStep === 0) yield;
  }
  return metadata;
}

/** Tensors have fewer dimensions, in PyTorch and NumPy too. */
const maxDimensions = 64;

function parseEntry(name: string, json: JsonScanner): TensorEntry {
  const label = labelOf(name);
  if (json.peek() !== '{') {
    json.skipValue();
    return fail(`describes ${label} by something that is not an object`);
  }
  const integers = (key: string): number[] => {
    if (json.peek() !== '[') {
      json.skipValue();
      return fail(`gives ${label} a ${key} that is not a list`);
    }
    const list: number[] = [];
    json.list(() => {
      const value = '-0123456789'.includes(json.peek()) ? json.integer() : json.skipValue();
      if (value === undefined)
        return fail(`gives ${label} a ${key} with a value that is not an integer from 0 to 2^53 − 1`);
      if (list.push(value) > maxDimensions)
        fail(`gives ${label} a ${key} of more than ${maxDimensions} numbers`);
    });
    return list;
  };
  let dtype: unknown;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  for (const key of json.keys()) {
    if (key === 'dtype') {
      if (dtype !== undefined) fail(`gives ${label} two fields dtype`);
      if (json.peek() === '"') dtype = json.string();
      else {
        json.skipValue();
        dtype = null;
      }
    } else if (key === 'shape') {
      if (shape !== undefined) fail(`gives ${label} two fields shape`);
      shape = integers(key);
    } else if (key === 'data_offsets') {
      if (offsets !== undefined) fail(`gives ${label} two fields data_offsets`);
      offsets = integers(key);
    } else json.skipValue(2); // unknown fields are ignored, as the official reader does
  }
  if (dtype === undefined) return fail(`gives ${label} no dtype`);
  if (!isSafetensorsDType(dtype)) {
    return fail(
      `gives ${label} the unknown dtype ${typeof dtype === 'string' ? quoted(dtype) : 'that is not text'}`,
    );
  }
  if (shape === undefined) return fail(`gives ${label} no shape`);
  if (offsets === undefined) return fail(`gives ${label} no data_offsets`);
  const [begin, end] = offsets;
  if (begin === undefined || end === undefined || offsets.length > 2) {
    return fail(`gives ${label} data_offsets that are not two numbers`);
  }
  return { name, dtype, shape, begin, end };
}

/** The data must be filled from its first to its last byte, without holes and overlaps. */
function* checkLayout(
  entries: readonly TensorEntry[],
  dataBytes: number,
): Generator<void, readonly TensorEntry[], void> {
  const compare = (a: TensorEntry, b: TensorEntry): number => a.begin - b.begin || a.end - b.end;
  const sorted = yield* sortInSlices(entries, compare);
  let next = 0;
  for (const [i, { name, dtype, shape, begin, end }] of sorted.entries()) {
    if (i % 4096 === 4095) yield;
    const label = labelOf(name);
    if (begin > next) fail(`has a hole of ${begin - next} bytes before ${label}`);
    if (begin < next) fail(`has overlapping tensors: ${label} begins at byte ${begin}, before byte ${next}`);
    if (end < begin) fail(`gives ${label} data_offsets that end before they begin`);
    const bytes = tensorBytes(dtype, shape);
    if (typeof bytes === 'string') return fail(`has a bad size for ${label}: ${bytes}`);
    if (end - begin !== bytes) {
      fail(`gives ${label} ${end - begin} bytes, but ${dtype} [${shape.join(', ')}] has ${bytes}`);
    }
    next = end;
  }
  if (next > dataBytes) fail(`is cut off: the tensors need ${next} bytes and the file has ${dataBytes}`);
  if (next < dataBytes) fail(`has ${dataBytes - next} bytes after the last tensor`);
  return sorted;
}
