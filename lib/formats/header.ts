import { isSafetensorsDType, tensorBytes, type SafetensorsDType } from './dtypes';
import { recognise } from './recognise';
import { JsonNumber, JsonObject, parseStrictJson, type StrictJson } from './strict_json';

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
export function headerLength(start: Uint8Array, fileBytes: number): number {
  if (fileBytes < 8) fail(`is ${fileBytes} bytes long; a safetensors file has at least 8`);
  // Little endian on every machine, and beyond 2^53 without loss.
  const length = Buffer.from(start.subarray(0, 8)).readBigUInt64LE();
  if (length > maxHeaderBytes) {
    // Only now: a length of 640 is spelt like the start of a pickle.
    const what = recognise(start);
    if (what !== undefined) fail(what);
    fail(`does not begin like a safetensors file: its header would be ${length} bytes long`);
  }
  if (8 + Number(length) > fileBytes) {
    fail(`is cut off: the header alone needs ${8 + Number(length)} bytes and the file has ${fileBytes}`);
  }
  return Number(length);
}

/** The header of a file with `dataBytes` bytes of data behind it. Every rule of the format is checked. */
export function parseHeader(bytes: Uint8Array, dataBytes: number): Header {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return fail('has a header that is not UTF-8');
  }
  let root: StrictJson;
  try {
    root = parseStrictJson(text);
  } catch (error) {
    return fail(`has a header that is not JSON: ${(error as SyntaxError).message}`);
  }
  if (!(root instanceof JsonObject)) return fail('has a header that is not a JSON object');

  const seen = new Set<string>();
  const entries: TensorEntry[] = [];
  let metadata: Record<string, string> = emptyMetadata();
  for (const [name, value] of root.entries) {
    if (seen.has(name)) {
      fail(
        name === metadataKey ? `has ${metadataKey} twice` : `names the tensor ${JSON.stringify(name)} twice`,
      );
    }
    seen.add(name);
    if (name === metadataKey) metadata = parseMetadata(value);
    else entries.push(parseEntry(name, value));
  }
  return { entries: checkLayout(entries, dataBytes), metadata };
}

/** Without a prototype, so that "__proto__" is a name like any other. */
function emptyMetadata(): Record<string, string> {
  return Object.create(null) as Record<string, string>;
}

function parseMetadata(value: StrictJson): Record<string, string> {
  const metadata = emptyMetadata();
  if (value === null) return metadata;
  if (!(value instanceof JsonObject)) return fail(`has a ${metadataKey} that is not an object`);
  for (const [key, text] of value.entries) {
    if (key in metadata) fail(`has ${JSON.stringify(key)} twice in ${metadataKey}`);
    if (typeof text !== 'string')
      return fail(`has a value that is not text in ${metadataKey}, at ${JSON.stringify(key)}`);
    metadata[key] = text;
  }
  return metadata;
}

function parseEntry(name: string, value: StrictJson): TensorEntry {
  const label = `the tensor ${JSON.stringify(name)}`;
  if (!(value instanceof JsonObject)) return fail(`describes ${label} by something that is not an object`);
  const fields = new Map<string, StrictJson>();
  for (const [key, field] of value.entries) {
    // Unknown fields are ignored, as the official reader does.
    if (fields.has(key) && ['dtype', 'shape', 'data_offsets'].includes(key))
      fail(`gives ${label} two fields ${key}`);
    fields.set(key, field);
  }
  const field = (key: string): StrictJson => {
    const found = fields.get(key);
    return found === undefined ? fail(`gives ${label} no ${key}`) : found;
  };
  const integers = (key: string): number[] => {
    const list = field(key);
    if (!Array.isArray(list)) return fail(`gives ${label} a ${key} that is not a list`);
    return list.map((item) => {
      const integer = item instanceof JsonNumber ? item.integer : undefined;
      return (
        integer ?? fail(`gives ${label} a ${key} with a value that is not an integer from 0 to 2^53 − 1`)
      );
    });
  };

  const dtype = field('dtype');
  if (!isSafetensorsDType(dtype)) {
    return fail(
      `gives ${label} the unknown dtype ${typeof dtype === 'string' ? JSON.stringify(dtype) : 'that is not text'}`,
    );
  }
  const shape = integers('shape');
  const [begin, end, ...more] = integers('data_offsets');
  if (begin === undefined || end === undefined || more.length > 0) {
    return fail(`gives ${label} data_offsets that are not two numbers`);
  }
  return { name, dtype, shape, begin, end };
}

/** The data must be filled from its first to its last byte, without holes and overlaps. */
function checkLayout(entries: readonly TensorEntry[], dataBytes: number): TensorEntry[] {
  const sorted = [...entries].sort((a, b) => a.begin - b.begin || a.end - b.end);
  let next = 0;
  for (const { name, dtype, shape, begin, end } of sorted) {
    const label = `the tensor ${JSON.stringify(name)}`;
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
