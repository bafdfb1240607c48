// A failure when an op runs: what depends on it, and nothing else.
import { branchOf, complaint, cpu, f32, native, packed, print, values, valuesSync } from './common.mjs';

const a = f32([1, 2]);
const bad = () => {
  native.injectFailure('binary', 'broken on purpose');
  native.setTag(42);
  const result = native.binary('mul', a, a, 'f32');
  native.setTag(43);
  return result;
};
const report = {};
const failed = bad();
const dependent = native.unary('square', 1, native.binary('add', failed, a, 'f32'), 'f32');
const independent = native.binary('add', a, a, 'f32');
const error = await native.read(dependent).then(
  () => null,
  (e) => e,
);
report.dependent = [error.code, error.op, error.message, error.tag];
report.sync = await complaint(() => valuesSync(dependent));
report.independent = await values(independent);

const m = f32([0, 0]);
const v = f32([0, 0]);
const guard = native.createGuard();
const options = { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, step: 1 };
native.adamw([{ param: a, grad: failed, m, v }], options, guard);
report.kept = [await values(a), await values(m)];
report.guard = await complaint(() => native.checkGuard(guard));
native.clearGuard(guard);
report.cleared = await complaint(() => native.checkGuard(guard));

// An accumulation that did not happen would leave a wrong value; a whole write makes it good again.
const sum = f32([5, 5]);
native.accumulate(failed, sum);
report.accumulate = await complaint(() => native.read(sum));
native.fill(sum, 3);
report.filled = await values(sum);
// A copy over all of a failed tensor makes it good; one over a part of it cannot.
const lost = () => native.binary('add', bad(), f32([0]), 'f32');
const whole = lost();
native.copyInto(f32([7, 8]), whole);
report.copiedWhole = await values(whole);
const part = lost();
native.copyInto(f32([7]), native.view(part, 0, [1]));
report.copiedPart = await complaint(() => native.read(part));
const target = f32([5, 5]);
native.copyInto(lost(), target);
report.copiedFailure = await complaint(() => native.read(target));
const half = f32([5, 5]);
native.copyInto(native.view(lost(), 1, [1]), native.view(half, 0, [1]));
report.copiedFailedPart = await complaint(() => native.read(half));
// A gradient that was not clipped is not a gradient to step with.
const grad = f32([3, 4]);
native.injectFailure('clip_by_norm', 'broken on purpose');
native.clipByNorm([grad], native.globalNorm([grad]), 1);
report.clip = await complaint(() => native.read(grad));
// Packed weights and other devices inherit it.
const square = native.binary('add', f32([1, 2, 3, 4], [2, 2]), f32([0]), 'f32');
native.injectFailure('pack', 'broken on purpose');
report.unpacked = await complaint(() => native.read(native.unpack(packed(square))));
// A product with a weight that was not packed fails, and so does its gradient.
native.injectFailure('pack', 'broken on purpose');
const plain = branchOf(packed(f32([1, 2, 3, 4], [2, 2])));
const backward = () =>
  native.loraLinearBackward(
    null,
    [plain],
    [f32([1, 2], [1, 2])],
    [null],
    [],
    true,
    [false],
    [false],
    false,
  )[0];
report.backwardPack = await complaint(() => native.read(backward()));
report.moved = await complaint(() => native.read(native.toDevice(failed, native.openDevice('reference'))));
report.data = await complaint(() =>
  native.read(
    native.embedding(
      packed(f32([1, 2, 3, 4], [2, 2])),
      native.fromBytes(cpu, 'i32', [1], new Uint8Array(Int32Array.of(9).buffer)),
    ),
  ),
);
print(report);
