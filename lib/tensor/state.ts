/** Saved state: what stateDict() gives and loadStateDict() takes. */
import { binding, call } from '../native/calls';
import { nativeDevice } from '../native/device';
import { temporaries } from './scope';
import { handleOf, Tensor } from './tensor';
import { check, describe, shapeText } from '../validate';

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

/** What a class of the library may have beside the methods of {@link Stateful}. */
export interface Settling {
  [settle]?(): Promise<void>;
}

/** Copies a saved tensor into a live one, bit for bit where the dtypes agree. */
export function restore(op: string, name: string, target: Tensor, source: unknown): void {
  checkSaved(op, name, target.shape, source);
  temporaries(() => {
    const away = source.device !== target.device;
    const handle = away ? call().toDevice(source.handle, nativeDevice(target.device)) : source.handle;
    call().copyInto(handle, target.handle);
    if (away) binding().release(handle);
  });
}

/** The state holds a tensor of this shape. */
export function checkSaved(
  op: string,
  name: string,
  shape: readonly number[],
  source: unknown,
): asserts source is Tensor {
  check(
    source instanceof Tensor && shapeText(source.shape) === shapeText(shape),
    op,
    () =>
      `expected ${name} of the state to be a tensor of shape ${shapeText(shape)} but received ${describe(source)}`,
  );
  handleOf(source, op, `${name} of the state`);
}
