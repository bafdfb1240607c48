// Operands that seem huge and hold nothing: lists of holes, and tensors of which a dimension is 0. They cost no time and no memory.
import { branchOf, complaint, cpu, native, packed, print } from './common.mjs';

const reference = native.openDevice('reference');
const holes = () => new Array(2 ** 32 - 1);
const options = {
  lr: 0.1,
  beta1: 0.9,
  beta2: 0.9,
  eps: 1e-8,
  weightDecay: 0,
  momentum: 0,
  nesterov: false,
  step: 1,
};
const guard = native.createGuard();
const empty = (device, ...shape) => native.alloc(device, 'f32', shape);
const small = native.alloc(cpu, 'f32', [2, 2]);
const weight = packed(native.fromBytes(cpu, 'f32', [2, 2], new Uint8Array(16)));
const branch = branchOf(weight, { factor: null });

const lists = {};
for (const op of ['adamw', 'adamw8bit', 'sgd', 'lion'])
  lists[op] = await complaint(() => native[op](holes(), options, guard));
lists.forward = await complaint(() => native.loraLinearForward(small, holes(), 'auto', null, null, false));
lists.h = await complaint(() =>
  native.loraLinearBackward(small, [branch], [small], holes(), [], true, [false], [false], false),
);

const shapes = {};
for (const [name, device] of Object.entries({ cpu, reference })) {
  const wide = empty(device, 2 ** 40, 0);
  const heads = empty(device, 1, 2 ** 40, 1, 0);
  const calls = {
    dropout: () => native.dropout(wide, { p: 0.5, seed: 1, layer: 1, forward: 1 }),
    rmsNorm: () => native.rmsNormForward(wide, wide, empty(device, 0), 1e-5, 0, 'f32', false),
    gated: () => native.gatedForward('silu', wide, wide),
    accumulate: () => native.accumulate(wide, wide),
    attention: () =>
      native.attentionForward(heads, heads, heads, null, null, { window: 0, scale: 1 }, false, null),
    matmul: () =>
      native.matmul(empty(device, 2 ** 40, 0, 3), empty(device, 2 ** 40, 3, 0), false, false, 'f32'),
    transpose: () => native.transpose(wide, [1, 0]),
    sum: () => native.reduceSum(wide, [], 'f32'),
    norm: () => native.globalNorm([wide]),
  };
  for (const [op, call] of Object.entries(calls))
    shapes[`${op} on ${name}`] = await complaint(() => {
      for (const tensor of [call()].flat()) if (tensor) native.readSync(tensor);
    });
}
print({ lists, shapes: Object.entries(shapes).filter(([, said]) => said !== 'no error') });
