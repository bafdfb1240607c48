/** y = silu(gate)·up. */
import { type BackwardFunction, record } from '../tensor/autograd';
import { call } from '../native/calls';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';

/** gate and up of one shape;  dgate = g·up·silu′(gate), dup = g·silu(gate). */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  const y = forward(gate, up);
  const backward: BackwardFunction = ([g], [kg, ku]) => {
    const [dgate, dup] = call().swigluBackward(kg!.handle, ku!.handle, g!.handle);
    return [wrap(dgate, kg!.dtype, kg!.shape, kg!.device), wrap(dup, ku!.dtype, ku!.shape, ku!.device)];
  };
  record([gate, up], [y], [gate, up], backward, { again: ([kg, ku]) => forward(kg!, ku!) });
  return y;
}

function forward(gate: Tensor, up: Tensor): Tensor {
  const y = call().swigluForward(handleOf(gate, 'swiglu', 'gate'), handleOf(up, 'swiglu', 'up'));
  return wrap(y, gate.dtype, gate.shape, gate.device);
}
