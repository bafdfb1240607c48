// Ops whose arguments release others while they are read, at random:  node releasing.mjs CALLS. No crash, and no result of
// memory that was given away: a result is that of the same call without the releasing, or there is an error.
import { branchOf, cpu, f32, native, packed, print } from './common.mjs';

/** A small generator, so that a failure can be repeated: numbers below n. */
function generator(seed) {
  return (n) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * n);
  };
}
/** For the arguments of a call, and for what happens meanwhile. */
let random;
const chance = generator(7);
let live = [];
let disturbing = false;
function tensor(...shape) {
  const values = Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random(64) / 16 - 2);
  const made = f32(values, shape);
  live.push(made);
  return made;
}
function weight(rows, cols) {
  const made = packed(tensor(rows, cols));
  live.push(made);
  return made;
}
let releases = 0;
/** Releases something, and has its memory taken by something else. */
function disturb() {
  if (!disturbing || chance(3) > 0) return;
  native.release(live[chance(live.length)]);
  releases++;
  for (let i = 0; i < 3; i++) native.fill(native.alloc(cpu, 'f32', [1 + chance(6), 1 + chance(6)]), 1e30);
  if (chance(50) === 0) globalThis.gc();
}
/** The same object or list, each of whose elements is read through a getter. */
function watched(object) {
  const copy = Array.isArray(object) ? [] : {};
  for (const key of Object.keys(object))
    Object.defineProperty(copy, key, {
      enumerable: true,
      get() {
        disturb();
        return object[key];
      },
    });
  return copy;
}
const dropout = () => (random(2) ? watched({ p: 0.5, seed: 1, layer: 2, forward: 3 }) : null);
const branch = (inner, outer) =>
  watched(
    branchOf(weight(outer, inner), {
      bias: random(2) ? tensor(outer) : null,
      up: tensor(outer, 2),
      down: tensor(2, inner),
      scale: 0.5,
      dropout: dropout(),
    }),
  );
const options = () => watched({ lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.1, step: 1 });
const calls = [
  () =>
    native
      .loraLinearForward(tensor(3, 4), watched([branch(4, 5), branch(4, 2)]), 'auto', null, null, true)
      .flat(),
  () =>
    native
      .loraLinearBackward(
        tensor(3, 4),
        watched([branch(4, 5)]),
        watched([tensor(3, 5)]),
        watched([tensor(3, 2)]),
        watched([null]),
        true,
        watched([true]),
        watched([true]),
        true,
      )
      .flat(),
  () => [native.globalNorm(watched([tensor(3), tensor(2, 2), tensor(5)]))],
  () => {
    const list = [tensor(3), tensor(4)];
    native.clipByNorm(watched(list), tensor(), 0.5);
    return list;
  },
  () => {
    const [param, grad, m, v] = [tensor(3), tensor(3), tensor(3), f32([1, 1, 1])];
    native.adamw(watched([watched({ param, grad, m, v })]), options(), native.createGuard());
    return [param, m];
  },
  () => [native.reduceSum(tensor(3, 4), watched([1, 4]), 'f32')],
  () => [native.transpose(tensor(2, 3, 4), watched([2, 0, 1]))],
  () => [native.view(tensor(4, 4), 3, watched([2, 5]))],
  () =>
    native.attentionForward(
      tensor(1, 3, 2, 4),
      tensor(1, 3, 2, 4),
      tensor(1, 3, 2, 4),
      null,
      null,
      watched({ window: 0, scale: 0.5 }),
      true,
      null,
    ),
];
const bytesOf = (results) =>
  results.map((result) => (result === null ? 'null' : Buffer.from(native.readSync(result)).toString('hex')));

const report = { same: 0, errors: {}, different: [] };
for (let i = 0; i < Number(process.argv[2]); i++) {
  const run = (disturbed) => {
    random = generator(i);
    live = [];
    try {
      disturbing = disturbed;
      const results = calls[i % calls.length]();
      disturbing = false;
      return bytesOf(results).join();
    } catch (error) {
      return error.code;
    }
  };
  const expected = run(false);
  if (expected.startsWith('ERR_')) report.different.push(`${i % calls.length} is no valid call: ${expected}`);
  const value = run(true);
  if (value === expected) report.same++;
  else if (value.startsWith('ERR_')) report.errors[value] = (report.errors[value] ?? 0) + 1;
  else report.different.push(`${i % calls.length} at ${i}`);
}
print({ ...report, releases });
