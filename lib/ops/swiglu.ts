/** y = silu(gate)·up. */
import { type BackwardFunction, record } from '../tensor/autograd';
import { call } from '../native/calls';
import { type Tensor, wrap } from '../tensor/tensor';
import { check } from '../validate';
import { checkDims, checkFloat, checkSameDevice } from '../tensor/arguments';

/** gate and up of one shape;  dgate = g·up·silu′(gate), dup = g·silu(gate). */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  checkFloat('swiglu', gate, 'gate');
  checkFloat('swiglu', up, 'up');
  checkSameDevice('swiglu', 'up', up.device, gate.device);
  checkDims('swiglu', 'up', up, gate.shape, 'that of gate');
  check(up.dtype === gate.dtype, 'swiglu', `expected up of dtype ${gate.dtype} but received ${up.dtype}`);
  const y = forward(gate, up);
  const backward: BackwardFunction = ([g], [kg, ku]) => {
    const [dgate, dup] = call().swigluBackward(kg!.handle, ku!.handle, g!.handle);
    return [wrap(dgate, kg!.dtype, kg!.shape, kg!.device), wrap(dup, ku!.dtype, ku!.shape, ku!.device)];
  };
  record([gate, up], [y], [gate, up], backward, { again: ([kg, ku]) => forward(kg!, ku!) });
  return y;
}

function forward(gate: Tensor, up: Tensor): Tensor {
  return wrap(call().swigluForward(gate.handle, up.handle), gate.dtype, gate.shape, gate.device);
}
