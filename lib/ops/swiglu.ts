/** y = silu(gate)·up. */
import { type BackwardFunction, record } from '../tensor/autograd';
import { call } from '../native/calls';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';

/** gate and up of one shape;  dgate = g·up·silu′(gate), dup = g·silu(gate). */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  const y = forward(gate, up);
  const backward: BackwardFunction = ([g], [kg, ku], rematerialize) => {
    const handles = call().swigluBackward(
      kg!.handle,
      ku!.handle,
      g!.handle,
      rematerialize ? g!.handle : null,
    );
    const [dgate, dup] = handles.map((handle) => wrap(handle, kg!.dtype, kg!.shape, kg!.device));
    return rematerialize ? [dgate!, dup!, g!] : [dgate!, dup!];
  };
  record([gate, up], [y], [gate, up], backward, { rematerialize: ([kg, ku]) => forward(kg!, ku!) });
  return y;
}

function forward(gate: Tensor, up: Tensor): Tensor {
  const y = call().swigluForward(handleOf(gate, 'swiglu', 'gate'), handleOf(up, 'swiglu', 'up'));
  return wrap(y, gate.dtype, gate.shape, gate.device);
}
