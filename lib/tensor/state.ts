/** Saved state: what stateDict() gives and loadStateDict() takes. */
import { binding, call } from '../native/calls';
import { nativeDevice } from '../native/device';
import { temporaries } from './scope';
import { handleOf, Tensor, type Parameter } from './tensor';
import { check, checkInteger, describe, shapeText } from '../validate';

/** A value of a checkpoint: plain data, typed arrays and tensors, in lists and plain objects. */
export type StateValue =
  | null
  | boolean
  | number
  | string
  | bigint
  | Tensor
  | ArrayBufferView
  | readonly StateValue[]
  | { readonly [key: string]: StateValue | undefined };

/** What stateDict() gives: values by name. */
export type StateDict = Record<string, StateValue | undefined>;

/**
 * Anything whose state a checkpoint can hold.
 *
 * @example
 * class Counter implements Stateful {
 *   count = 0;
 *   stateDict = () => ({ count: this.count });
 *   loadStateDict = (state: StateDict) => void (this.count = Number(state['count']));
 * }
 */
export interface Stateful {
  /** The values to save, as they are now. */
  stateDict(): StateDict | Promise<StateDict>;
  /** Takes them back. */
  loadStateDict(state: StateDict): void | Promise<void>;
}

/** Of what can fail after stateDict(): waits for what is queued, and throws that failure. */
export const settle = Symbol('lora-native.settle');

/** Of what takes a state: checks it, and gives the function that takes it, so that of several states all are taken or none. */
export const prepare = Symbol('lora-native.prepare');

/** What a class of the library may have beside the methods of {@link Stateful}. */
export interface Settling {
  [settle]?(): Promise<void>;
  [prepare]?(state: StateDict): () => void;
}

/** Copies a saved tensor into a live one, bit for bit where the dtypes agree. */
export function restore(op: string, name: string, target: Tensor, source: unknown): void {
  checkSaved(op, name, target, source);
  temporaries(() => {
    const away = source.device !== target.device;
    const handle = away ? call().toDevice(source.handle, nativeDevice(target.device)) : source.handle;
    call().copyInto(handle, target.handle);
    if (away) binding().release(handle);
  });
}

/** The state holds a tensor of the shape of `target`, and integers only where that has them. */
export function checkSaved(
  op: string,
  name: string,
  { shape, dtype }: Pick<Tensor, 'shape' | 'dtype'>,
  source: unknown,
): asserts source is Tensor {
  const fits =
    source instanceof Tensor &&
    shapeText(source.shape) === shapeText(shape) &&
    (source.dtype === 'i32') === (dtype === 'i32');
  check(
    fits,
    op,
    () =>
      `expected ${name} of the state to be a tensor of shape ${shapeText(shape)}${dtype === 'i32' ? ' of i32' : ''} but received ${describe(source)}`,
  );
  handleOf(source, op, `${name} of the state`);
}

/** Checks the saved values of parameters, by their names, and gives what takes them. `owner`: whose they are, for messages. */
export function prepareParameters(
  op: string,
  owner: string,
  parameters: readonly Parameter[],
  saved: Readonly<Record<string, unknown>>,
): () => void {
  const known = new Set(parameters.map(({ name }) => name));
  for (const name of Object.keys(saved))
    check(known.has(name), op, () => `the state has the tensor ${describe(name)}, which ${owner} has not`);
  for (const p of parameters) checkSaved(op, p.name, p, saved[p.name]);
  return () => {
    for (const p of parameters) {
      restore(op, p.name, p, saved[p.name]);
      p.version++;
    }
  };
}

/** The count of training forwards in a state, which starts again after 2³² − 1. */
export function checkForwards(op: string, forwards: unknown): asserts forwards is number {
  checkInteger(op, 'forwards of the state', forwards);
  check(
    forwards < 2 ** 32,
    op,
    () => `expected forwards of the state to be below 2^32 but received ${forwards}`,
  );
}
