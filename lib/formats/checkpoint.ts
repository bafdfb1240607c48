/** Whole states in one file: values, and anything with stateDict() and loadStateDict(). */
import { join } from 'node:path';
import { SlicedUpload } from '../tensor/slices';
import { LoRAError } from '../errors';
import { dtypeOfStored, storedDType, type SafetensorsDType } from './dtypes';
import { cannotWrite, makeDirectory } from './atomic';
import { isRecord } from './json';
import { SavedFolder } from './file_group';
import { toPath } from './paths';
import { checkNesting, readLimits, type Limits, type ReadLimits } from './limits';
import { writeSafetensors, type SafetensorsTensor } from './safetensors';
import { StoredTensors } from './stored_tensors';
import { isThenable, runDetached, Scope } from '../tensor/scope';
import { settle, type Settling, type StateDict, type Stateful, type StateValue } from '../tensor/state';
import { handleOf, Tensor } from '../tensor/tensor';
import { check, checkAttached, checkOptions, describe, suggest } from '../validate';

export type { StateDict, Stateful, StateValue } from '../tensor/state';

export const checkpointFile = 'checkpoint.safetensors';
const metadataKey = 'lora-native.checkpoint';
const version = '1';
/** Of values, so that the file can be read within the bound on the nesting of JSON. */
const maxDepth = 120;

const arrayDTypes: Readonly<Record<string, SafetensorsDType>> = {
  Float32Array: 'F32',
  Float64Array: 'F64',
  Int8Array: 'I8',
  Uint8Array: 'U8',
  Uint8ClampedArray: 'U8',
  Int16Array: 'I16',
  Uint16Array: 'U16',
  Int32Array: 'I32',
  Uint32Array: 'U32',
  BigInt64Array: 'I64',
  BigUint64Array: 'U64',
};

/** JSON that stands for a value; `{ "$tensor": name }` and the like stand for what JSON cannot hold. */
type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Collects what goes into the file. Reads are queued at once, so that later steps do not change them. */
class Writer {
  readonly tensors = new Map<string, Promise<SafetensorsTensor>>();

  encode(value: unknown, path: string, depth = 0): Json {
    check(
      depth <= maxDepth,
      'saveCheckpoint',
      `'${path.slice(0, 40)}…' is nested more than ${maxDepth} levels deep: does it contain itself?`,
    );
    if (value === null || typeof value === 'boolean' || typeof value === 'string') return value;
    if (typeof value === 'number') {
      return Number.isFinite(value) && !Object.is(value, -0)
        ? value
        : { $number: Object.is(value, -0) ? '-0' : String(value) };
    }
    if (typeof value === 'bigint') return { $bigint: String(value) };
    if (value instanceof Tensor) {
      handleOf(value, 'saveCheckpoint', `'${path}'`);
      const { dtype, shape, device } = value;
      const read = value.bytes().then((bytes) => ({ dtype: storedDType[dtype], shape, bytes }));
      return { $tensor: this.#add(path, read), device };
    }
    if (ArrayBuffer.isView(value)) {
      const kind = Object.prototype.toString.call(value).slice(8, -1);
      const dtype = arrayDTypes[kind];
      check(dtype !== undefined, 'saveCheckpoint', `'${path}' cannot be saved: it is ${describe(value)}`);
      checkAttached('saveCheckpoint', `'${path}'`, value);
      const { buffer, byteOffset, byteLength } = value;
      const bytes = new Uint8Array(buffer, byteOffset, byteLength).slice();
      const shape = [(value as unknown as { length: number }).length];
      return { $array: this.#add(path, Promise.resolve({ dtype, shape, bytes })), kind };
    }
    if (Array.isArray(value)) return value.map((item, i) => this.encode(item, `${path}.${i}`, depth + 1));
    const prototype = typeof value === 'object' ? (Object.getPrototypeOf(value) as object | null) : undefined;
    const plain =
      prototype === null || (prototype !== undefined && Object.getPrototypeOf(prototype) === null);
    check(
      plain,
      'saveCheckpoint',
      `'${path}' cannot be saved: expected plain values, typed arrays, tensors or something with stateDict() ` +
        `but received ${describe(value)}`,
    );
    // Without a prototype, so that a key "__proto__" is a key like any other.
    const out = Object.create(null) as { [key: string]: Json };
    for (const [key, item] of Object.entries(value as object)) {
      if (item !== undefined)
        out[key.startsWith('$') ? `$${key}` : key] = this.encode(item, `${path}.${key}`, depth + 1);
    }
    return out;
  }

  #add(path: string, read: Promise<SafetensorsTensor>): string {
    let name = path;
    for (let i = 2; this.tensors.has(name); i++) name = `${path}#${i}`; // keys may hold dots
    read.catch(() => undefined); // awaited later; until then not unhandled
    this.tensors.set(name, read);
    return name;
  }
}

/** The content of a file: of its tensors and arrays those that were asked for. */
interface Saved {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: Map<string, Tensor>;
  readonly arrays: Map<string, SafetensorsTensor>;
}

/** Reads the tensors and arrays that a value refers to, those that are missing excepted: decode names them. */
async function readReferred(json: Json, stored: StoredTensors, file: Saved, scope?: Scope): Promise<void> {
  if (typeof json !== 'object' || json === null) return;
  const name = Array.isArray(json) ? undefined : (json.$tensor ?? json.$array);
  if (typeof name !== 'string') {
    for (const item of Object.values(json)) await readReferred(item, stored, file, scope);
    return;
  }
  const found = stored.tensors.get(name);
  if (found === undefined) return;
  const { dtype, shape } = found;
  if (!('$tensor' in json)) {
    file.arrays.set(name, { dtype, shape, bytes: await found.read() });
    return;
  }
  if (file.tensors.has(name)) return;
  const ours = dtypeOfStored(dtype);
  if (ours === undefined) throw damaged(file, `a tensor has the dtype ${dtype}`);
  const begin = (): SlicedUpload => new SlicedUpload(ours, ours, shape, 'cpu');
  const upload = scope ? runDetached(scope, begin) : begin();
  file.tensors.set(name, upload.tensor);
  for await (const slice of found.slices()) await upload.add(slice);
}

function decode(json: Json, file: Saved): StateValue {
  if (typeof json !== 'object' || json === null) return json;
  if (Array.isArray(json)) return json.map((item) => decode(item, file));
  if (typeof json.$number === 'string') return Number(json.$number);
  if (typeof json.$bigint === 'string') {
    if (!/^-?\d{1,10000}$/.test(json.$bigint)) throw damaged(file, `${describe(json.$bigint)} is no bigint`);
    return BigInt(json.$bigint);
  }
  const name = json.$tensor ?? json.$array;
  if (typeof name === 'string') {
    const missing = (): LoRAError => damaged(file, `it has no tensor '${name}'`);
    if ('$tensor' in json) {
      const tensor = file.tensors.get(name);
      if (tensor === undefined) throw missing();
      return tensor;
    }
    const saved = file.arrays.get(name);
    if (saved === undefined) throw missing();
    return decodeArray(saved, json.kind, file);
  }
  const entries = Object.entries(json).map(([key, item]) => [
    key.startsWith('$$') ? key.slice(1) : key,
    decode(item, file),
  ]);
  return Object.fromEntries(entries) as StateValue;
}

function decodeArray({ dtype, bytes }: SafetensorsTensor, kind: unknown, file: Saved): StateValue {
  if (typeof kind !== 'string') throw damaged(file, `the kind of an array is ${describe(kind)}`);
  if (arrayDTypes[kind] !== dtype) throw damaged(file, `a ${kind} has the dtype ${dtype}`);
  const Type = (globalThis as unknown as Record<string, new (buffer: ArrayBufferLike) => ArrayBufferView>)[
    kind
  ]!;
  // They were read into memory of their own.
  return new Type(bytes.byteLength === bytes.buffer.byteLength ? bytes.buffer : bytes.slice().buffer);
}

function damaged(file: Saved, why: string): LoRAError {
  return new LoRAError('ERR_SAFETENSORS', `${file.path} is not a checkpoint of lora-native: ${why}`);
}

function hasState(value: unknown): value is Stateful & Settling {
  const item = value as Partial<Stateful> | null;
  return typeof item === 'object' && item !== null && typeof item.stateDict === 'function';
}

function directory(op: string, dir: unknown): string {
  check(
    (typeof dir === 'string' && dir !== '') || dir instanceof URL,
    op,
    `expected a directory but received ${describe(dir)}`,
  );
  return toPath(dir, op);
}

/**
 * Writes `dir/checkpoint.safetensors`, which appears whole or not at all: plain values (numbers, strings,
 * booleans, bigints, lists and plain objects of them), typed arrays, tensors, and the stateDict() of
 * whatever has one. The values are those of the moment of the call.
 *
 * @throws ERR_ARGUMENT for a value that cannot be saved, ERR_FILE, and the failure of an op that the state depends on.
 * @example
 * await saveCheckpoint('run', { layer, optimizer, step: 10 });
 */
export async function saveCheckpoint(dir: string | URL, state: Record<string, unknown>): Promise<void> {
  const op = 'saveCheckpoint';
  const path = directory(op, dir);
  check(
    typeof state === 'object' && state !== null && !Array.isArray(state),
    op,
    `expected an object of what to save but received ${describe(state)}`,
  );
  const writer = new Writer();
  const scope = new Scope(null); // owns what stateDict() makes
  try {
    const states = new Map<string, Json>();
    const waiting: Promise<void>[] = [];
    for (const [name, value] of Object.entries(state)) {
      if (value === undefined) continue;
      if (!hasState(value)) {
        states.set(name, { value: writer.encode(value, name) });
        continue;
      }
      const put = (saved: StateDict): void => void states.set(name, { state: writer.encode(saved, name) });
      const saved = runDetached(scope, () => value.stateDict());
      if (isThenable(saved)) waiting.push(Promise.resolve(saved).then(put));
      else put(saved);
    }
    await Promise.all(waiting);
    const tensors = new Map<string, SafetensorsTensor>();
    for (const [name, read] of writer.tensors) tensors.set(name, await read);
    // An update that was queued before the reads may have failed, and its moments are those before it.
    for (const value of Object.values(state)) if (hasState(value)) await value[settle]?.();
    await makeDirectory(path).catch((error: unknown) => {
      throw cannotWrite(path, error);
    });
    const metadata = {
      format: 'pt',
      [metadataKey]: JSON.stringify({ version, states: Object.fromEntries(states) }),
    };
    await writeSafetensors(join(path, checkpointFile), tensors, metadata);
  } finally {
    scope.close();
  }
}

/** The options of {@link loadCheckpoint}. */
export interface LoadCheckpointOptions {
  /** Bounds on what the file may ask for. */
  limits?: ReadLimits | undefined;
}

/**
 * Loads what saveCheckpoint wrote into the given objects (each by its loadStateDict), bit for bit, and
 * gives the plain values. States that are not asked for stay in the file.
 *
 * @throws ERR_ARGUMENT for a name that the file does not have, ERR_FILE, ERR_SAFETENSORS.
 * @example
 * const { step } = await loadCheckpoint('run', { layer, optimizer });
 */
export async function loadCheckpoint<T extends object = Record<string, unknown>>(
  dir: string | URL,
  targets: Record<string, Pick<Stateful, 'loadStateDict'>> = {},
  options: LoadCheckpointOptions = {},
): Promise<T> {
  const op = 'loadCheckpoint';
  checkOptions(op, options, ['limits']);
  const limits = readLimits(op, options.limits);
  const folder = directory(op, dir);
  const path = join(folder, checkpointFile);
  for (const [name, target] of Object.entries(targets)) {
    check(
      typeof (target as Partial<Stateful> | null)?.loadStateDict === 'function',
      op,
      `expected ${name} to have loadStateDict() but received ${describe(target)}`,
    );
  }
  const saved = await SavedFolder.open(folder).catch(() => undefined);
  const stored = await StoredTensors.open(saved?.path(checkpointFile) ?? path, { limits });
  const scope = new Scope(null);
  try {
    const { metadata } = stored;
    const file: Saved = { path, metadata, tensors: new Map(), arrays: new Map() };
    const states = readStates(file, limits);
    const names = Object.keys(states);
    for (const name of Object.keys(targets)) {
      const near = suggest(name, names);
      check(
        Object.hasOwn(states, name) && 'state' in states[name]!,
        op,
        `${path} holds no state of '${name}'` +
          (near ? `; did you mean '${near}'?` : `; it holds ${names.join(', ') || 'nothing'}`),
      );
    }
    const valueNames = names.filter((name) => 'value' in states[name]!);
    for (const name of Object.keys(targets)) await readReferred(states[name]!.state!, stored, file, scope);
    for (const name of valueNames) await readReferred(states[name]!.value!, stored, file);
    await stored.file.checkUnchanged();
    for (const [name, target] of Object.entries(targets)) {
      const state = runDetached(scope, () => decode(states[name]!.state!, file)) as StateDict;
      await target.loadStateDict(state);
    }
    return Object.fromEntries(valueNames.map((name) => [name, decode(states[name]!.value!, file)])) as T;
  } finally {
    scope.close();
    await stored.close();
  }
}

function readStates(file: Saved, limits: Limits): Record<string, { state?: Json; value?: Json }> {
  const text = file.metadata[metadataKey];
  if (text === undefined) throw damaged(file, `it has no '${metadataKey}' in its metadata`);
  let parsed: { version?: unknown; states?: unknown };
  try {
    parsed = JSON.parse(text) as typeof parsed;
  } catch (cause) {
    throw damaged(file, (cause as Error).message);
  }
  checkNesting(parsed, limits, `the state in ${file.path}`);
  if (!isRecord(parsed)) throw damaged(file, `its state is ${describe(parsed)}`);
  if (parsed.version !== version) throw damaged(file, `its version is ${describe(parsed.version)}`);
  const { states } = parsed;
  if (!isRecord(states)) throw damaged(file, 'it has no states');
  for (const [name, entry] of Object.entries(states)) {
    if (!isRecord(entry) || !('state' in entry || 'value' in entry)) {
      throw damaged(file, `its state '${name}' is ${describe(entry)}`);
    }
  }
  return states as Record<string, { state?: Json; value?: Json }>;
}
