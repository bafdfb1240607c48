/**
 * A call of the native binding as JSON: what makes its operands, not the operands themselves, so that it can be damaged, printed, kept and
 * made again. An object with `$` stands for what that maker makes; every other value stands for itself.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { types } from 'node:util';
import { LoRAError, type ErrorCode } from '../../../lib/errors';
import {
  native,
  type NativeBinding,
  type NativeDevice,
  type NativeTensor,
  type WeightFormat,
} from '../../../lib/native/binding';
import type { DType } from '../../../lib/native/dtype';

export type Spec = null | boolean | number | string | Spec[] | { [key: string]: Spec };
export type SpecObject = { [key: string]: Spec };
export interface Call {
  fn: string;
  args: Spec[];
}
export interface Plan extends Call {
  /** The device of operands that name none. */
  device: string;
  threads: number;
  /** What is called before it, undamaged: a recording, a profile. */
  before: Call[];
  /** 'program': recorded, and run twice. 'release': its operands are released while it may be queued. */
  way: 'call' | 'program' | 'release';
  /** How many of its values were damaged. */
  damaged: number;
}

type AnyFunction = (...args: unknown[]) => unknown;
type Functions = Record<string, AnyFunction>;
/** Larger tensors, which only damage makes, have no values of ours. */
const maxValues = 2 ** 16;
const elementBytes: Record<string, number> = { f32: 4, bf16: 2, f16: 2, i32: 4, i8: 1 };

let scratch: string | undefined;
let files = 0;
/** A new file that may be locked, gone with the process. */
function lockable(): string {
  if (scratch === undefined) {
    const dir = mkdtempSync(join(tmpdir(), 'lora-fuzz-'));
    process.once('exit', () => rmSync(dir, { recursive: true, force: true }));
    scratch = dir;
  }
  const path = join(scratch, String(files++));
  writeFileSync(path, '');
  return path;
}

const product = (shape: readonly number[]): number => shape.reduce((all, dim) => all * dim, 1);
export const isSpec = (value: Spec | undefined): value is SpecObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The bytes of a tensor: uniform in [low, high) by its seed, with `set` in single places. */
function bytesOf(dtype: string, shape: readonly number[], spec: SpecObject): Uint8Array {
  const count = product(shape);
  const low = Number(spec['low'] ?? -2);
  const high = Number(spec['high'] ?? 2);
  const values = new Float64Array(count);
  let state = Number(spec['seed'] ?? 1) >>> 0;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = low + (high - low) * (state / 2 ** 32);
  }
  for (const [place, value] of (spec['set'] ?? []) as [number, Spec][])
    if (count > 0) values[place % count] = numberOf(value);
  if (dtype === 'i32') return new Uint8Array(Int32Array.from(values, Math.floor).buffer);
  if (dtype === 'i8') return new Uint8Array(Int8Array.from(values, (value) => value * 30).buffer);
  const floats = Float32Array.from(values);
  if (dtype === 'f32') return new Uint8Array(floats.buffer);
  const words = new Uint32Array(floats.buffer);
  if (dtype === 'bf16') return new Uint8Array(Uint16Array.from(words, (word) => word >>> 16).buffer);
  // f16: the sign, an exponent near that of 1, and bits of the fraction.
  const half = (word: number): number => ((word >>> 16) & 0x8000) | 0x3400 | ((word >>> 12) & 0x7ff);
  return new Uint8Array(Uint16Array.from(words, half).buffer);
}

/** Numbers that JSON has not. */
const numberOf = (value: Spec): number => (isSpec(value) ? Number(value['of']) : Number(value));

/** Makes the values of one call and holds them until it has run. */
class Maker {
  /** In the order in which they were made: those that are read after the call, since it may have changed them. */
  readonly tensors: NativeTensor[] = [];
  readonly #others: unknown[] = [];
  readonly #binding: NativeBinding;
  readonly #device: string;

  constructor(binding: NativeBinding, device: string) {
    this.#binding = binding;
    this.#device = device;
  }

  all(specs: readonly Spec[]): unknown[] {
    return specs.map((spec) => this.make(spec));
  }

  make(spec: Spec): unknown {
    if (Array.isArray(spec)) return this.all(spec);
    if (!isSpec(spec)) return spec;
    const kind = spec['$'];
    if (kind === undefined)
      return Object.fromEntries(Object.entries(spec).map(([key, value]) => [key, this.make(value)]));
    const made = this.#makers[kind as string]!(spec);
    if (spec['gone'] === true) this.#binding.release(made as NativeTensor);
    return made;
  }

  #deviceOf(spec: SpecObject): NativeDevice {
    return this.#binding.openDevice((spec['on'] as string | undefined) ?? this.#device);
  }
  #keep<T>(made: T): T {
    this.#others.push(made);
    return made;
  }

  readonly #makers: Record<string, (spec: SpecObject) => unknown> = {
    number: numberOf,
    undefined: () => undefined,
    symbol: () => Symbol('s'),
    bigint: () => 1n,
    function: () => () => 1,
    factory: () => makeError,
    list: (spec) => new Array<undefined>(Number(spec['length'])),
    bytes: (spec) => {
      let room = maxValues;
      const shape = (spec['shape'] as Spec[]).map((dim) => {
        const size = Math.min(Math.max(0, Math.floor(numberOf(dim))), room);
        room = Math.floor(room / Math.max(1, size));
        return size;
      });
      return bytesOf(spec['dtype'] as string, shape, spec);
    },
    device: (spec) => this.#deviceOf(spec),
    guard: () => this.#binding.createGuard(),
    file: () => this.#keep(this.#binding.openFile(process.execPath).file),
    lockable,
    lock: () => this.#keep(this.#binding.lockFile(lockable())),
    tensor: (spec) => {
      const dtype = spec['dtype'] as DType;
      const shape = spec['shape'] as number[];
      const device = this.#deviceOf(spec);
      const made =
        product(shape) > maxValues
          ? this.#binding.alloc(device, dtype, shape)
          : this.#binding.fromBytes(device, dtype, shape, bytesOf(dtype, shape, spec));
      this.tensors.push(made);
      return made;
    },
    /** A part of the storage of an earlier operand; where there is none yet, of a tensor of its own. */
    part: (spec) => {
      const of = this.tensors[Number(spec['of']) % Math.max(1, this.tensors.length)];
      const made = this.#binding.view(
        of ?? (this.make({ $: 'tensor', dtype: 'f32', shape: [16] }) as NativeTensor),
        Number(spec['offset'] ?? 0),
        spec['shape'] as number[],
      );
      this.tensors.push(made);
      return made;
    },
    /** An earlier operand itself. */
    same: (spec) => this.tensors[Number(spec['of']) % Math.max(1, this.tensors.length)] ?? null,
    weight: (spec) =>
      this.#keep(
        this.#binding.pack(
          this.make(spec['values']!) as NativeTensor,
          this.make(spec['scales'] ?? null) as NativeTensor | null,
          spec['format'] as WeightFormat,
          spec['shape'] as number[],
          spec['dtype'] as DType,
        ),
      ),
    table: (spec) => {
      const table = this.#binding.createDeltaTable(
        this.#deviceOf(spec),
        spec['sites'] as number[][],
        Number(spec['slots']),
        Number(spec['maxRank']),
        spec['dtype'] as DType,
      );
      this.#keep(table);
      for (const [slot, changes] of spec['changes'] as [number, Spec][])
        this.#binding.setDeltaSlot(table, slot, this.make(changes) as never);
      return table;
    },
    program: (spec) => {
      const device = this.#deviceOf(spec);
      const steps = (spec['steps'] as unknown as Call[]).map(({ fn, args }) => [fn, this.all(args)] as const);
      this.#binding.beginRecording(device);
      try {
        for (const [fn, args] of steps) (this.#binding as unknown as Functions)[fn]!(...args);
      } catch (error) {
        this.#binding.abandonRecording(device);
        throw error;
      }
      return this.#keep(this.#binding.endRecording(device));
    },
  };

  release(): void {
    for (const tensor of this.tensors) this.#binding.release(tensor);
    for (const other of this.#others) {
      const end = other as never;
      for (const finish of ['release', 'closeFile', 'unlockFile'] as const) {
        try {
          this.#binding[finish](end);
          break;
        } catch {
          // of another kind
        }
      }
    }
  }
}

const makeError = (code: string, op: string, message: string): Error =>
  new LoRAError(code as ErrorCode, message, { op });

function quietly(run: () => unknown): void {
  try {
    run();
  } catch {
    // nothing was begun
  }
}

/** Whatever the last call has switched on goes off, so that a call is the same whatever ran before. */
function reset(binding: NativeBinding, devices: readonly NativeDevice[]): void {
  binding.setErrorFactory(makeError);
  binding.injectOutOfMemory(0);
  binding.setQueueLimits({ commands: 4096, bytes: 2 ** 30 });
  for (const device of devices) {
    quietly(() => binding.abandonRecording(device));
    quietly(() => binding.endProfile(device));
  }
}

/** The tensors and promises in an answer. */
function* parts(value: unknown): Generator<unknown> {
  if (Array.isArray(value)) for (const element of value) yield* parts(element);
  else if (value !== null && value !== undefined) yield value;
}

const maxBytesRead = 2 ** 22;

/** Reads a tensor whole. Late failures are thrown. */
function readBack(binding: NativeBinding, tensor: NativeTensor): void {
  const { dtype, shape } = binding.info(tensor);
  const bytes = product(shape) * elementBytes[dtype]!;
  if (bytes > maxBytesRead) return;
  const read = binding.readSync(tensor).byteLength;
  if (read !== bytes) throw new Error(`read ${read} bytes of a tensor of ${bytes}`);
}

const isHandle = (part: unknown): part is NativeTensor => types.isExternal(part);
const expected =
  /^\[info\] (tensor was disposed|expected tensor to be a native tensor but received a native )/;

let threads = 0;

/** Makes the operands, calls, and reads everything back. Throws the LoRAError of a refusal, at the call or when its work ran. */
export async function runPlan(plan: Plan): Promise<void> {
  const binding = native();
  const functions = binding as unknown as Functions;
  const devices = ['cpu', 'reference'].map((name) => binding.openDevice(name));
  reset(binding, devices);
  if (threads !== plan.threads) binding.setThreads((threads = plan.threads));
  const device = binding.openDevice(plan.device);
  const maker = new Maker(binding, plan.device);
  const results: NativeTensor[] = []; // and other handles: which of them are tensors, info() tells
  let late: Error | undefined;
  try {
    // While a program is recorded, no operand can be made.
    const before = plan.before.map(({ fn, args }) => [fn, maker.all(args)] as const);
    const args = maker.all(plan.args);
    for (const [fn, given] of before) functions[fn]!(...given);
    let answer: unknown;
    if (plan.way === 'program') {
      binding.beginRecording(device);
      answer = functions[plan.fn]!(...args);
      const program = binding.endRecording(device);
      for (let i = 0; i < 2; i++) binding.runProgram(program);
      binding.release(program);
    } else answer = functions[plan.fn]!(...args);
    if (plan.way === 'release') maker.release();
    if (plan.fn === 'setThreads') threads = 0;
    if (plan.fn === 'injectFailure') binding.injectFailure(args[0] as string, '');
    reset(binding, devices);
    for (const part of parts(answer)) {
      await part;
      if (isHandle(part)) results.push(part);
    }
    for (const tensor of plan.way === 'release' ? results : [...results, ...new Set(maker.tensors)])
      try {
        readBack(binding, tensor);
      } catch (error) {
        // Not of a tensor that was damaged by releasing it, nor of a handle of another kind.
        if (!expected.test((error as Error).message)) late ??= error as Error;
      }
  } finally {
    reset(binding, devices);
    if (plan.way !== 'release') maker.release();
    for (const handle of results) quietly(() => binding.release(handle));
    for (const device of devices) binding.synchronizeSync(device);
  }
  if (late !== undefined) throw late;
}
