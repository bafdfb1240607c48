// JavaScript that runs inside a call (getters, setters, hooks) and releases what the call has taken:  node callbacks.mjs CASE
import { promiseHooks } from 'node:v8';
import { branchOf, cpu, f32, native, packed, print, valuesSync } from './common.mjs';

native.setQueueLimits({ commands: 512, bytes: 2 ** 40 });
/** Releases, and has the add-on give the memory back and take some of that size again. */
function discard(...references) {
  for (const reference of references) native.release(reference);
  native.synchronizeSync(cpu);
  for (let i = 0; i < 4; i++) native.fill(native.alloc(cpu, 'f32', [2, 2]), 1e9);
  native.synchronizeSync(cpu);
}
/** An object with a property that runs `fn` when it is read. */
const reading = (object, name, fn) =>
  Object.defineProperty({ ...object }, name, {
    get: () => {
      fn();
      return object[name];
    },
  });
/** A property whose setter discards. */
const releasing = (...references) => ({
  set() {
    discard(...references);
  },
  configurable: true,
});
const matrix = () => f32([1, 2, 3, 4], [2, 2]);

const cases = {
  // The tensor that was taken before an object is read.
  operand() {
    const x = matrix();
    const w = packed(matrix());
    const [[y]] = native.loraLinearForward(
      x,
      [reading(branchOf(w), 'scale', () => discard(x))],
      'auto',
      null,
      null,
      false,
    );
    return valuesSync(y);
  },
  weight() {
    const w = packed(matrix());
    const branches = [reading(branchOf(w), 'scale', () => discard(w))];
    const [[y]] = native.loraLinearForward(matrix(), branches, 'auto', null, null, false);
    return valuesSync(y);
  },
  // The gradient's call reads the weight too.
  backwardWeight() {
    const w = packed(matrix());
    const branches = [reading(branchOf(w), 'scale', () => discard(w))];
    const [dx] = native.loraLinearBackward(
      null,
      branches,
      [matrix()],
      [null],
      [],
      true,
      [false],
      [false],
      false,
    );
    return valuesSync(dx);
  },
  list() {
    const tensors = [f32([3]), f32([4])];
    const [first] = tensors;
    Object.defineProperty(tensors, 1, {
      get() {
        discard(first);
        return f32([4]);
      },
    });
    return valuesSync(native.globalNorm(tensors));
  },
  // A list that grows while it is read keeps the length that it had.
  growingList() {
    const w = packed(matrix());
    const branches = [branchOf(w)];
    let more = 1000;
    branches[0] = reading(branches[0], 'scale', () => {
      while (more-- > 0) branches.push(branchOf(w));
    });
    const [ys] = native.loraLinearForward(matrix(), branches, 'auto', null, null, false);
    return ys.map(valuesSync);
  },
  growingTensors() {
    const tensors = [f32([3])];
    Object.defineProperty(tensors, 0, {
      get() {
        for (let i = 0; i < 10; i++) tensors.push(f32([4]));
        return f32([3]);
      },
    });
    return valuesSync(native.globalNorm(tensors));
  },
  growingDimensions() {
    const perm = [0, 1];
    let more = 1000;
    Object.defineProperty(perm, 0, {
      get() {
        while (more-- > 0) perm.push(1);
        return 1;
      },
    });
    perm[1] = 0;
    return valuesSync(native.transpose(matrix(), perm));
  },
  view() {
    const x = matrix();
    const shape = [2];
    Object.defineProperty(shape, 0, {
      get() {
        discard(x);
        return 2;
      },
    });
    return valuesSync(native.view(x, 1, shape));
  },
  // A property of a fresh object runs a setter of Object.prototype.
  info() {
    const x = matrix();
    Object.defineProperty(Object.prototype, 'dtype', releasing(x));
    try {
      return native.info(x).shape;
    } finally {
      delete Object.prototype.dtype;
    }
  },
  infoShape() {
    const x = matrix();
    Object.defineProperty(Array.prototype, 0, releasing(x));
    try {
      return native.info(x).device;
    } finally {
      delete Array.prototype[0];
    }
  },
  // A promise that is made runs the hooks for promises.
  async read() {
    const x = matrix();
    const stop = promiseHooks.onInit(() => {
      stop();
      discard(x);
    });
    return [...new Float32Array(await native.read(x))];
  },
  // The answer is made while a setter of Array.prototype releases what was computed from.
  answer() {
    const [x, w] = [matrix(), packed(matrix())];
    const branches = [branchOf(w)];
    let y;
    Object.defineProperty(Array.prototype, 0, {
      set(value) {
        y ??= value;
        discard(x, w);
      },
      configurable: true,
    });
    try {
      native.loraLinearForward(x, branches, 'auto', null, null, false);
    } finally {
      delete Array.prototype[0];
    }
    return valuesSync(y);
  },
};

print(await cases[process.argv[2]]());
