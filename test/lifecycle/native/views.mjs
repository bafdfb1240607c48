// A view lies within its tensor, to the element, also where the storage goes on behind it.
import { complaint, f32, native, print, valuesSync } from './common.mjs';

const six = f32([0, 1, 2, 3, 4, 5]);
const middle = native.view(six, 1, [4]);
const view = (tensor, offset, shape) => complaint(() => native.view(tensor, offset, shape));
print({
  all: valuesSync(native.view(six, 0, [2, 3])),
  last: valuesSync(native.view(six, 5, [1])),
  none: valuesSync(native.view(six, 6, [0])),
  ofView: valuesSync(native.view(middle, 3, [1])),
  oneOver: await view(six, 0, [7]),
  oneOverFromTheEnd: await view(six, 5, [2]),
  oneOverView: await view(middle, 1, [4]),
  beyond: await view(six, 7, [0]),
  before: await view(six, -1, [1]),
});
