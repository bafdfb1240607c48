// What the functions that follow from the descriptions of ops take and answer.
import { branchOf, complaint, f32, native, packed, print, valuesSync } from './common.mjs';

const x = f32([1, 2, 3, 4], [2, 2]);
const branch = branchOf(packed(x), { up: f32([1, 2], [2, 1]), down: f32([3, 4], [1, 2]) });
const [[y], [h]] = native.loraLinearForward(x, [branch], 'auto', null, null, true);
const shapes = (results) =>
  results.map((result) =>
    Array.isArray(result) ? shapes(result) : result === null ? null : native.info(result).shape,
  );
const backward = (...wanted) => native.loraLinearBackward(x, [branch], [y], [h], [], ...wanted);
const over = native.unary('copy', 1, x, 'f32');
const apart = native.gatedBackward('silu', x, x, x, null).map(valuesSync);
const inPlace = native.gatedBackward('silu', x, x, over, over).map(valuesSync);
const ids = native.fromBytes(native.openDevice('cpu'), 'i32', [1, 1, 1, 1, 1, 1, 1, 1], new Uint8Array(4));
print({
  forward: shapes([[y], [h]]),
  withoutH: shapes(native.loraLinearForward(x, [branch], 'auto', null, null, false)),
  all: shapes(backward(true, [true], [true], false)),
  upAlone: shapes(backward(false, [true], [false], false)),
  downAlone: shapes(backward(false, [false], [true], false)),
  keptU: shapes(backward(true, [false], [false], true)),
  inPlace: [inPlace, valuesSync(over)],
  apart: [apart, valuesSync(native.gatedForward('silu', x, x))],
  one: native.info(native.gatedForward('silu', x, x)).shape,
  none: native.accumulate(x, x),
  leading: shapes(
    native.rmsNormForward(f32([1, 2], [1, 1, 2]), f32([3, 4], [1, 1, 2]), f32([1, 1]), 1e-5, 0, 'f32', true),
  ),
  absent: shapes(native.rmsNormForward(x, null, f32([1, 1]), 1e-5, 0, 'f32', false)),
  flags: await complaint(() => backward(true, [true, true], [true], false)),
  noTensor: await complaint(() => native.globalNorm([])),
  kind: await complaint(() => native.binary('mod', x, x, 'f32')),
  dtype: await complaint(() => native.binary('add', x, x, 'f64')),
  dimensions: await complaint(() => native.embedding(packed(x), ids)),
});
