/** Tensors from numbers. */
import { binding, call } from '../native/calls';
import { deviceName, nativeDevice, type Device } from '../native/device';
import { bytesPerElement, dtypes, type DType } from '../native/dtype';
import { rawCast } from './raw';
import { runDetached } from './scope';
import { handleOf, type NestedNumbers, Parameter, storageOf, Tensor, wrap } from './tensor';
import {
  check,
  checkAttached,
  checkBoolean,
  checkOneOf,
  checkOptions,
  checkShape,
  describe,
  numelOf,
  refuseF16Training,
  shapeText,
} from '../validate';

type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array;

/** What a tensor is made of: nested lists or a typed array. */
export type TensorData = NestedNumbers | TypedArray;

/** What {@link tensor} makes of its numbers. */
export interface TensorOptions {
  /** The element type. Default: f32, and i32 for an Int32Array. */
  dtype?: DType | undefined;
  /** Where it lies. Default: 'cpu'. */
  device?: Device | undefined;
  /** The shape of a typed array. Default: [length]. */
  shape?: readonly number[] | undefined;
  /** Whether backward() fills its `.grad`. Default false. */
  requiresGrad?: boolean | undefined;
}

/**
 * A tensor of the given numbers: a number, nested lists, or a typed array with a shape. The numbers are
 * copied at the call. A Uint16Array with dtype bf16 or f16 holds the raw bits of its elements; any other
 * array holds values, which are rounded to the dtype.
 *
 * @throws ERR_ARGUMENT for ragged lists, a shape of another size, numbers that i32 cannot hold; ERR_OUT_OF_MEMORY.
 * @example
 * tensor([[1, 2], [3, 4]], { dtype: 'bf16' });
 * tensor(new Float32Array(6), { shape: [2, 3], requiresGrad: true });
 */
export function tensor(data: TensorData, options: TensorOptions = {}): Tensor {
  checkOptions('tensor', options, ['dtype', 'device', 'shape', 'requiresGrad']);
  const { requiresGrad = false } = options;
  const device = deviceName('tensor', options.device ?? 'cpu');
  const kind = typedArrayKind(data);
  const dtype = options.dtype ?? (kind === 'Int32Array' ? 'i32' : 'f32');
  checkOneOf('tensor', 'dtype', dtype, dtypes);
  checkBoolean('tensor', 'requiresGrad', requiresGrad);
  if (requiresGrad) {
    check(dtype !== 'i32', 'tensor', 'integers have no gradient: expected requiresGrad false with dtype i32');
    if (dtype === 'f16') refuseF16Training('tensor', 'in f16');
  }
  if (options.shape !== undefined) checkShape('tensor', options.shape);
  const { values, shape } =
    kind === null ? flatten(data as NestedNumbers, options.shape) : shaped(data as TypedArray, options.shape);
  const out = upload(values, kind, dtype, shape, device);
  out.requiresGrad = requiresGrad;
  return out;
}

function typedArrayKind(data: unknown): string | null {
  if (!ArrayBuffer.isView(data)) return null;
  const kind = Object.prototype.toString.call(data).slice(8, -1);
  check(
    kind !== 'DataView' && !kind.startsWith('Big'),
    'tensor',
    () => `expected numbers or a typed array of numbers but received ${describe(data)}`,
  );
  checkAttached('tensor', 'the typed array', data);
  return kind;
}

function shaped(data: TypedArray, shape: readonly number[] = [data.length]) {
  check(
    numelOf(shape) === data.length,
    'tensor',
    () => `expected ${numelOf(shape)} numbers for shape ${shapeText(shape)} but received ${data.length}`,
  );
  return { values: data, shape };
}

function flatten(data: NestedNumbers, wanted?: readonly number[]) {
  const shape: number[] = [];
  for (let level = data; Array.isArray(level); level = level[0] as NestedNumbers) {
    shape.push(level.length);
    // Also ends the walk through a list that holds itself.
    check(shape.length <= 8, 'tensor', 'expected at most 8 dimensions but received lists that are deeper');
    if (level.length === 0) break;
  }
  const values = new Float64Array(numelOf(shape));
  let count = 0;
  const visit = (item: NestedNumbers, depth: number, path: string): void => {
    if (depth === shape.length) {
      check(
        typeof item === 'number',
        'tensor',
        () => `expected a number${path && ` at ${path}`} but received ${describe(item)}`,
      );
      values[count++] = item;
      return;
    }
    const received = Array.isArray(item) ? item.length : describe(item);
    check(
      received === shape[depth],
      'tensor',
      `expected a list of ${shape[depth]}${path && ` at ${path}`} but received ${Array.isArray(item) ? `one of ${received}` : received}`,
    );
    // It goes by index, because forEach would skip the holes of a sparse list.
    const list = item as readonly NestedNumbers[];
    for (let i = 0; i < list.length; i++) visit(list[i]!, depth + 1, `${path}[${i}]`);
  };
  visit(data, 0, '');
  if (wanted === undefined) return { values, shape };
  check(
    numelOf(wanted) === values.length,
    'tensor',
    () => `expected ${numelOf(wanted)} numbers for shape ${shapeText(wanted)} but received ${values.length}`,
  );
  return { values, shape: wanted };
}

function upload(
  values: TypedArray,
  kind: string | null,
  dtype: DType,
  shape: readonly number[],
  device: Device,
): Tensor {
  if (dtype === 'i32') {
    if (kind !== 'Int32Array') {
      for (const v of values) {
        check(
          v === (v | 0),
          'tensor',
          () => `expected 32-bit integers for dtype i32 but received ${describe(v)}`,
        );
      }
    }
    return fromBytes(bytesOf(Int32Array.from(values)), dtype, shape, device);
  }
  if (kind === 'Uint16Array' && dtype !== 'f32') return fromBytes(bytesOf(values), dtype, shape, device);
  const floats = kind === 'Float32Array' ? values : Float32Array.from(values);
  const wide = fromBytes(bytesOf(floats), 'f32', shape, device);
  if (dtype === 'f32') return wide;
  const out = rawCast(wide, dtype);
  wide.dispose();
  return out;
}

function bytesOf(array: TypedArray): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** A tensor of raw little-endian bytes, which are copied. */
export function fromBytes(bytes: Uint8Array, dtype: DType, shape: readonly number[], device: Device): Tensor {
  const expected = numelOf(shape) * bytesPerElement[dtype];
  check(
    bytes.byteLength === expected,
    'tensor',
    () => `expected ${expected} bytes for ${dtype} ${shapeText(shape)} but received ${bytes.byteLength}`,
  );
  return wrap(binding().fromBytes(nativeDevice(device), dtype, shape, bytes), dtype, shape, device);
}

/** Overwrites a tensor with raw little-endian bytes, which are copied, after the work that is queued so far. */
export function writeBytes(target: Tensor, bytes: Uint8Array): void {
  const handle = handleOf(target, 'write', 'the target');
  const expected = target.numel * bytesPerElement[target.dtype];
  check(
    bytes.byteLength === expected,
    'write',
    () =>
      `expected ${expected} bytes for ${target.dtype} ${shapeText(target.shape)} but received ${bytes.byteLength}`,
  );
  call().writeBytes(handle, bytes);
}

/**
 * A trainable weight of your own: an f32 copy of `x` whose gradient backward() fills and an optimizer uses.
 *
 * @throws ERR_ARGUMENT for integers, ERR_DISPOSED for a tensor that is gone.
 * @example
 * const w = parameter(tensor([[0.1, 0.2]]), 'w');
 * const optimizer = new AdamW([w], { lr: 1e-3 });
 */
export function parameter(x: Tensor | TensorData, name = ''): Parameter {
  const source = x instanceof Tensor ? x : tensor(x);
  handleOf(source, 'parameter', 'x');
  check(source.dtype !== 'i32', 'parameter', 'expected a float tensor but received i32');
  check(
    typeof name === 'string',
    'parameter',
    () => `expected name to be a string but received ${describe(name)}`,
  );
  const copy = runDetached(null, () => rawCast(source, 'f32'));
  if (source !== x) source.dispose();
  return adoptParameter(copy, name);
}

/** A parameter that takes over the storage of an f32 tensor nobody else uses. */
export function adoptParameter(x: Tensor, name = ''): Parameter {
  const out = new Parameter(storageOf(x).retain(), x.dtype, x.shape, x.device, name);
  x.dispose();
  return out;
}

/** Zeros (or another value) of a shape. */
export function filled(shape: readonly number[], value: number, dtype: DType, device: Device): Tensor {
  const handle = binding().alloc(nativeDevice(device), dtype, shape);
  call().fill(handle, value);
  return wrap(handle, dtype, shape, device);
}
