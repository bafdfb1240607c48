// Operands without elements whose result would have more than can be counted.
import { branchOf, complaint, cpu, native, packed, print } from './common.mjs';

const empty = (...shape) => native.fromBytes(cpu, 'f32', shape, new Uint8Array(0));
const wide = 2 ** 31;
print({
  matmul: await complaint(() => native.matmul(empty(wide, 0), empty(0, wide), false, false, 'f32')),
  wraps: await complaint(() => native.matmul(empty(2 ** 40, 0), empty(0, 2 ** 40), false, false, 'f32')),
  linear: await complaint(() =>
    native.loraLinearForward(empty(wide, 0), [branchOf(packed(empty(wide, 0)))], 'auto', null, null, false),
  ),
  broadcast: await complaint(() => native.binary('add', empty(2 ** 40, 1, 0), empty(1, 2 ** 40, 0), 'f32')),
});
