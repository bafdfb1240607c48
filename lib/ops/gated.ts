/** y = f(gate)·up, by the formulas of native/core/maths/kinds.h. */
import { type BackwardFunction, record } from '../tensor/autograd';
import type { GatedKind } from '../native/binding';
import { call } from '../native/calls';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';

/** gate and up of one shape;  dgate = g·up·f′(gate), dup = g·f(gate). Of 'silu', this is SwiGLU; of 'gelu_tanh', GeGLU; 'clamped' is gpt-oss's, which changes up too. */
export function gated(gate: Tensor, up: Tensor, kind: GatedKind): Tensor {
  const y = forward(gate, up, kind);
  const backward: BackwardFunction = ([g], [kg, ku], rematerialize) => {
    const handles = call().gatedBackward(
      kind,
      kg!.handle,
      ku!.handle,
      g!.handle,
      rematerialize ? g!.handle : null,
    );
    const [dgate, dup] = handles.map((handle) => wrap(handle, kg!.dtype, kg!.shape, kg!.device));
    return rematerialize ? [dgate!, dup!, g!] : [dgate!, dup!];
  };
  record([gate, up], [y], [gate, up], backward, {
    rematerialize: ([kg, ku]) => forward(kg!, ku!, kind),
  });
  return y;
}

function forward(gate: Tensor, up: Tensor, kind: GatedKind): Tensor {
  const y = call().gatedForward(kind, handleOf(gate, 'gated', 'gate'), handleOf(up, 'gated', 'up'));
  return wrap(y, gate.dtype, gate.shape, gate.device);
}
