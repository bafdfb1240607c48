/** Recorded programs: ops that are checked and planned once and run as one command, as decoding does for each token. */
import type { NativeProgram } from '../native/binding';
import { binding, call } from '../native/calls';
import { deviceName, nativeDevice, type Device } from '../native/device';
import { check, describe } from '../validate';
import { temporaries } from './scope';
import { alias, handleOf, type Tensor } from './tensor';

/** The ops of one call of a function, on fixed memory: each run computes the same outputs anew. */
export class Program {
  /** What the function gave. They have values after the first run, and new ones after each. */
  readonly outputs: readonly Tensor[];
  readonly #handle: NativeProgram;

  constructor(handle: NativeProgram, outputs: readonly Tensor[]) {
    this.#handle = handle;
    this.outputs = outputs;
  }

  /**
   * Enqueues one run, which reads the inputs as they are when its turn comes.
   *
   * @throws ERR_DISPOSED; ERR_OUT_OF_MEMORY for the first run after a change of threads.
   */
  run(): void {
    call().runProgram(this.#handle);
  }

  /** Frees the program and its outputs; a second time does nothing. Legal while runs are queued. */
  dispose(): void {
    for (const output of this.outputs) output.dispose();
    binding().release(this.#handle);
  }
}

/**
 * Records the ops that `fn` calls on a device, without running them and without a gradient. What `fn` returns are the
 * outputs; the other tensors that it makes are freed, and make room for later ones of the program as soon as they are
 * disposed. Tensors that were there before are inputs: the program holds their memory and reads it at each run, so
 * that writeBytes() changes what the next run computes. Numbers that are arguments of an op (a scale, an offset) stay
 * as they were recorded.
 *
 * @throws ERR_UNSUPPORTED for what is no op inside `fn`: tensors from numbers, reads, copies to another device.
 *   ERR_ARGUMENT inside another recording on the device. What `fn` throws ends the recording.
 * @example
 * const program = recordProgram('cpu', () => [x.mul(2).add(1)]);
 * writeBytes(x, bytes);
 * program.run();
 * await program.outputs[0]!.data();
 */
export function recordProgram(device: Device, fn: () => readonly Tensor[]): Program {
  const name = deviceName('record', device);
  const native = nativeDevice(name);
  binding().beginRecording(native);
  let outputs: Tensor[] = [];
  let ended = false;
  try {
    outputs = temporaries(() => takeOutputs(name, fn()));
    ended = true; // endRecording() ends it also where it throws
    return new Program(binding().endRecording(native), outputs);
  } catch (error) {
    if (!ended) binding().abandonRecording(native);
    for (const output of outputs) output.dispose();
    throw error;
  }
}

/** Other references to the tensors, which the scope of the recording does not free. */
function takeOutputs(device: Device, tensors: readonly Tensor[]): Tensor[] {
  const isList: boolean = Array.isArray(tensors); // a promise of an async function is none
  check(
    isList,
    'record',
    () => `expected the function to return a list of tensors but received ${describe(tensors)}`,
  );
  tensors.forEach((tensor, i) => {
    handleOf(tensor, 'record', `output ${i}`);
    check(
      tensor.device === device,
      'record',
      `expected output ${i} on ${device} but received one on ${tensor.device}`,
    );
  });
  return tensors.map(alias);
}
