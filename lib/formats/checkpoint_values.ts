/** The values of a checkpoint as JSON, in which names stand for tensors and arrays. */
import { LoRAError } from '../errors';
import type { StateValue } from '../tensor/state';
import { slicedBytes } from '../tensor/slices';
import { handleOf, Tensor } from '../tensor/tensor';
import { check, checkAttached, describe } from '../validate';
import { storedDType, type SafetensorsDType } from './dtypes';
import { childrenOf } from './limits';
import type { LateTensor, SafetensorsTensor } from './safetensors';

/** Of this form of a state. */
export const version = '1';
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
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** After how many values work on a state may be interrupted. */
export const valuesPerStep = 1024;

/** A list, or an object whose keys are beside its values, as it was at the moment of a call. */
class Part {
  constructor(
    readonly values: unknown[],
    readonly keys?: readonly string[],
  ) {}
}

/** What stands in the file for a tensor or an array. */
class Stored {
  constructor(readonly json: Json) {}
}

/** Where a value lies in what is saved. */
interface Place {
  readonly name: string;
  readonly parent?: Place | undefined;
}

function pathOf({ name, parent }: Place): string {
  return parent === undefined ? name : `${pathOf(parent)}.${name}`;
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** Collects what goes into the file. Values are taken and reads are queued at once, so that later steps do not change them. */
export class Writer {
  readonly tensors = new Map<string, LateTensor | Promise<LateTensor>>();
  readonly #text: string[] = [];
  #values = 0;

  /** `late`: tensors are read while the file is written; nothing may change them until then. */
  constructor(private readonly late = false) {}

  /** The value as it is now: texts and numbers themselves, lists and objects as parts, all else as what stands for it. */
  take(value: unknown, place: Place, depth = 0): unknown {
    if (isPlain(value)) return value;
    const fails = (why: string): string => `'${pathOf(place)}' cannot be saved: ${why}`;
    check(
      depth <= maxDepth,
      'saveCheckpoint',
      () =>
        `'${pathOf(place).slice(0, 40)}…' is nested more than ${maxDepth} levels deep: does it contain itself?`,
    );
    if (value instanceof Tensor) {
      const path = pathOf(place);
      handleOf(value, 'saveCheckpoint', `'${path}'`);
      const { dtype, shape, device } = value;
      const kept = { dtype: storedDType[dtype], shape };
      const read: LateTensor | Promise<LateTensor> = this.late
        ? { ...kept, parts: () => slicedBytes(value) }
        : value.bytes().then((bytes) => ({ ...kept, parts: () => once(bytes) }));
      if (!this.late) Promise.resolve(read).catch(() => undefined); // awaited later; until then not unhandled
      return new Stored({ $tensor: this.#add(path, read), device });
    }
    if (ArrayBuffer.isView(value)) {
      const kind = Object.prototype.toString.call(value).slice(8, -1);
      const dtype = arrayDTypes[kind];
      check(dtype !== undefined, 'saveCheckpoint', () => fails(`it is ${describe(value)}`));
      const path = pathOf(place);
      checkAttached('saveCheckpoint', `'${path}'`, value);
      const { buffer, byteOffset, byteLength } = value;
      const bytes = new Uint8Array(buffer, byteOffset, byteLength).slice();
      const shape = [(value as unknown as { length: number }).length];
      return new Stored({ $array: this.#add(path, { dtype, shape, parts: () => once(bytes) }), kind });
    }
    const isList = Array.isArray(value);
    check(isList || isPlainObject(value), 'saveCheckpoint', () =>
      fails(
        `expected plain values, typed arrays, tensors or something with stateDict() but received ${describe(value)}`,
      ),
    );
    const keys = isList ? undefined : Object.keys(value as object);
    // Object.values() takes twice as long for an object of many keys.
    const values: unknown[] = isList
      ? value.slice()
      : keys!.map((key) => (value as Record<string, unknown>)[key]);
    for (let i = 0; i < values.length; i++) {
      const item = values[i];
      if (isPlain(item) || (item === undefined && keys !== undefined)) continue;
      values[i] = this.take(item, { name: keys?.[i] ?? String(i), parent: place }, depth + 1);
    }
    return new Part(values, keys);
  }

  #add(path: string, read: LateTensor | Promise<LateTensor>): string {
    let name = path;
    for (let i = 2; this.tensors.has(name); i++) name = `${path}#${i}`; // keys may hold dots
    this.tensors.set(name, read);
    return name;
  }

  /** The text of all states. Yields where it may be interrupted. */
  *json(
    states: ReadonlyMap<string, readonly [kind: 'state' | 'value', taken: unknown]>,
  ): Generator<void, string, void> {
    this.#text.push(`{"version":${JSON.stringify(version)},"states":{`);
    let first = true;
    for (const [name, [kind, taken]] of states) {
      this.#text.push(`${first ? '' : ','}${JSON.stringify(name)}:{"${kind}":`);
      yield* this.#write(taken);
      this.#text.push('}');
      first = false;
    }
    this.#text.push('}}');
    return this.#text.join('');
  }

  *#write(value: unknown): Generator<void, void, void> {
    if (++this.#values % valuesPerStep === 0) yield;
    if (!(value instanceof Part)) {
      this.#text.push(JSON.stringify(value instanceof Stored ? value.json : jsonOf(value)));
      return;
    }
    const { values, keys } = value;
    let separator = keys ? '{' : '[';
    for (const [i, item] of values.entries()) {
      if (item === undefined) continue; // of an object: it is left out
      const key = keys?.[i];
      const label = key === undefined ? '' : `${JSON.stringify(key.startsWith('$') ? `$${key}` : key)}:`;
      this.#text.push(separator, label);
      yield* this.#write(item);
      separator = ',';
    }
    if (separator !== ',') this.#text.push(separator);
    this.#text.push(keys ? '}' : ']');
  }
}

const plainTypes: ReadonlySet<string> = new Set(['boolean', 'string', 'number', 'bigint']);
const isPlain = (value: unknown): boolean => value === null || plainTypes.has(typeof value);

function isPlainObject(value: unknown): boolean {
  if (typeof value !== 'object') return false;
  const prototype = Object.getPrototypeOf(value) as object | null;
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

function jsonOf(value: unknown): Json {
  if (typeof value === 'bigint') return { $bigint: String(value) };
  if (typeof value !== 'number' || (Number.isFinite(value) && !Object.is(value, -0))) return value as Json;
  return { $number: Object.is(value, -0) ? '-0' : String(value) };
}

/** The content of a file: of its tensors and arrays those that were asked for. */
export interface Saved {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: Map<string, Tensor>;
  readonly arrays: Map<string, SafetensorsTensor>;
}

/** What a value names. */
export interface Referred {
  readonly tensors: Set<string>;
  readonly arrays: Set<string>;
}

/** The names in a state. A file may name one tensor any number of times, and it is read once. Yields where it may be interrupted. */
export function* namesIn(json: Json, names: Referred): Generator<void, void, void> {
  const waiting: Json[] = [json];
  for (let seen = 1; waiting.length > 0; seen++) {
    if (seen % valuesPerStep === 0) yield;
    const next = waiting.pop()!;
    if (typeof next !== 'object' || next === null) continue;
    const name = Array.isArray(next) ? undefined : (next.$tensor ?? next.$array);
    if (typeof name === 'string') ('$tensor' in next ? names.tensors : names.arrays).add(name);
    else for (const item of childrenOf(next)) if (typeof item === 'object') waiting.push(item as Json);
  }
}

/** The values that JSON stands for. Yields where it may be interrupted. */
export class Reader {
  #values = 0;

  constructor(private readonly file: Saved) {}

  *#decode(json: Json[] | { [key: string]: Json }): Generator<void, StateValue, void> {
    const { file } = this;
    if (Array.isArray(json)) {
      const list: StateValue[] = [];
      for (const item of json) list.push(yield* this.item(item));
      return list;
    }
    if (typeof json.$number === 'string') return Number(json.$number);
    if (typeof json.$bigint === 'string') {
      if (!/^-?\d{1,10000}$/.test(json.$bigint))
        throw damaged(file, `${describe(json.$bigint)} is no bigint`);
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
    const object: { [key: string]: StateValue } = {};
    for (const key of Object.keys(json))
      setOwn(object, key.startsWith('$$') ? key.slice(1) : key, yield* this.item(json[key]!));
    return object;
  }

  /** A value, which may be one of a million. */
  *item(json: Json): Generator<void, StateValue, void> {
    if (++this.#values % valuesPerStep === 0) yield;
    return typeof json === 'object' && json !== null ? yield* this.#decode(json) : json;
  }
}

/** Also for the key `__proto__`, which an assignment would take for the prototype. */
export function setOwn<T>(object: { [key: string]: T }, key: string, value: T): void {
  if (key !== '__proto__') object[key] = value;
  else Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
}

function decodeArray({ dtype, bytes }: SafetensorsTensor, kind: unknown, file: Saved): StateValue {
  if (typeof kind !== 'string') throw damaged(file, `the kind of an array is ${describe(kind)}`);
  if (arrayDTypes[kind] !== dtype) throw damaged(file, `a ${kind} has the dtype ${dtype}`);
  const Type = (globalThis as unknown as Record<string, new (buffer: ArrayBufferLike) => ArrayBufferView>)[
    kind
  ]!;
  return new Type(bytes.buffer); // which is memory of its own
}

export function damaged(file: Saved, why: string): LoRAError {
  return new LoRAError('ERR_SAFETENSORS', `${file.path} is not a checkpoint of lora-native: ${why}`);
}
