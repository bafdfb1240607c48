/**
 * Mixtures of experts. A token has k experts, and its assignment a = token·k + choice is a row of their products. Rows are sorted by expert: `order` says
 * which assignment a row is, `places` which row an assignment is, and expert e has rows offsets[e] … offsets[e + 1] − 1.
 */
import { needsGrad, record } from '../tensor/autograd';
import type { LinearPhase } from '../native/binding';
import type { DType } from '../native/dtype';
import { call } from '../native/calls';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { gradientMade } from '../tensor/gradient_memory';
import { rawCast, rawFilled, rawView } from '../tensor/raw';
import { gradientIsWanted, moved } from '../tensor/scope';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { binary } from './binary';
import { embedding } from './embedding';
import { reshape } from './layout';

/** Which experts the tokens of a call have. */
export interface Routing {
  /** [n, k] in f32. */
  readonly weights: Tensor;
  /** All i32: [n, k], [n·k], [n·k] and [experts + 1]. */
  readonly experts: Tensor;
  readonly order: Tensor;
  readonly places: Tensor;
  readonly offsets: Tensor;
  /** k. */
  readonly chosen: number;
}

export function disposeRouting({ weights, experts, order, places, offsets }: Routing): void {
  for (const t of [weights, experts, order, places, offsets]) t.dispose();
}

/**
 * logits [n, experts] in f32 → the k largest of each token, of equal ones the lower index, weighted by their softmax: over all experts, or over the k
 * alone;  dlogits = w·(g − Σ w·g).
 */
export function route(logits: Tensor, chosen: number, amongChosen: boolean): Routing {
  const [n, count] = logits.shape as [number, number];
  const { device } = logits;
  const handles = call().routeForward(handleOf(logits, 'route', 'logits'), chosen, amongChosen);
  const k = Math.min(chosen, count);
  const weights = wrap(handles[0], 'f32', [n, k], device);
  const experts = wrap(handles[1], 'i32', [n, k], device);
  record([logits], [weights], [logits, experts], ([g], [kept, of]) => {
    const d = call().routeBackward(kept!.handle, of!.handle, g!.handle, amongChosen);
    return [wrap(d, 'f32', [n, count], device)];
  });
  return {
    ...{ weights, experts },
    order: wrap(handles[2], 'i32', [n * k], device),
    places: wrap(handles[3], 'i32', [n * k], device),
    offsets: wrap(handles[4], 'i32', [count + 1], device),
    chosen: k,
  };
}

/** The same choice, with each weight times the number that its expert has in `scales` [experts, 1], which may be trained. Consumes the weights of `routing`. */
export function scaledRouting(routing: Routing, scales: FrozenWeight): Routing {
  const { weights, experts } = routing;
  const factors = moved(embedding(scales, experts, 'f32'), (t) => reshape(t, weights.shape));
  const scaled = binary('mul', weights, factors);
  for (const t of [weights, factors]) t.dispose();
  return { ...routing, weights: scaled };
}

/** x [n, d] → [n·k, d], the rows that the experts read;  dx is the sum of the gradients of the k rows of a token. */
export function spreadRows(x: Tensor, { order, places, chosen }: Routing): Tensor {
  const { dtype, device, shape } = x;
  const d = shape[1]!;
  const y = wrap(
    call().spreadRows(handleOf(x, 'spread_rows', 'x'), order.handle, null),
    dtype,
    [order.shape[0]!, d],
    device,
  );
  record([x], [y], [places], ([g], [kept]) => [
    wrap(call().combineRows(g!.handle, kept!.handle, null, chosen), dtype, shape, device),
  ]);
  return y;
}

/** x [n·k, d], what the experts made → [n, d], Σ w·x over the experts of a token;  dx = w·g, dw = g·x. */
export function combineRows(x: Tensor, { weights, order, places, chosen }: Routing): Tensor {
  const { dtype, device, shape } = x;
  const [m, d] = shape as [number, number];
  const y = wrap(
    call().combineRows(handleOf(x, 'combine_rows', 'x'), places.handle, weights.handle, chosen),
    dtype,
    [m / chosen, d],
    device,
  );
  const [wantX, wantWeights] = [x.requiresGrad, weights.requiresGrad];
  const saved = [order, places, weights, ...(wantWeights ? [x] : [])];
  record([x, weights], [y], saved, ([g], [keptOrder, keptPlaces, w, keptX]) => [
    wantX ? wrap(call().spreadRows(g!.handle, keptOrder!.handle, w!.handle), dtype, shape, device) : null,
    wantWeights
      ? rawView(
          wrap(call().rowDots(g!.handle, keptX!.handle, keptPlaces!.handle), 'f32', [m], device),
          0,
          w!.shape,
        )
      : null,
  ]);
  return y;
}

/** The change of the matrices of all experts: up [experts, out, r] and down [experts, r, in] in f32. */
export interface ExpertChange {
  readonly up: Tensor;
  readonly down: Tensor;
  readonly scale: number;
}

interface RoutedOptions {
  readonly change?: ExpertChange | undefined;
  /** One of each expert, or none. */
  readonly biases?: readonly Tensor[] | undefined;
  readonly phase?: LinearPhase | undefined;
}

/**
 * x [m, in], sorted by expert → y [m, out], W_e·x + scale·up_e·(down_e·x) + bias_e of the expert e of each row. Weights that are trained get dW_e = Σ g ⊗ x over the rows
 * of the expert, biases [out] dbias_e = Σ g. A call with a phase is part of generation, as one of `loraLinear` is.
 */
export function routedLinear(
  x: Tensor,
  offsets: Tensor,
  weights: readonly FrozenWeight[],
  { change, biases = [], phase = 'auto' }: RoutedOptions = {},
): Tensor {
  const op = 'routed_linear';
  const { dtype, device, shape } = x;
  for (const weight of weights) weight.check(op);
  const [first] = weights as readonly [FrozenWeight];
  const masters = gradientIsWanted() ? weights.flatMap(({ master }) => master ?? []) : [];
  const wantsChange = needsGrad([change?.up, change?.down]);
  const [handle, hHandle] = call().routedLinearForward(
    handleOf(x, op, 'x'),
    offsets.handle,
    weights.map((weight, e) => ({
      weight: weight.handle,
      bias: biases[e] ? handleOf(biases[e], op, 'bias') : null,
      activations: phase === 'auto' ? 'exact' : weight.activations,
    })),
    change?.up.handle ?? null,
    change?.down.handle ?? null,
    change?.scale ?? 1,
    phase,
    wantsChange,
  );
  const m = shape[0]!;
  const y = wrap(handle, dtype, [m, first.rows], device);
  const h = hHandle && change ? wrap(hHandle, 'f32', [m, change.up.shape[2]!], device) : null;
  const biasTypes = biases.map(({ requiresGrad, dtype: of }) => (requiresGrad ? of : null));
  const inputs = [x, ...(change ? [change.up, change.down] : []), ...masters, ...biases];
  if (!needsGrad(inputs)) return y;
  for (const weight of weights) weight.retain();
  const wantX = x.requiresGrad;
  const keepsX = wantsChange || masters.length > 0;
  const saved = [
    offsets,
    ...(change ? [change.up, change.down] : []),
    ...(h ? [h] : []),
    ...(keepsX ? [x] : []),
  ];
  record(
    inputs,
    [y],
    saved,
    ([g], kept) => {
      const keptX = keepsX ? kept.at(-1)! : null;
      const keptH = h ? kept[3]! : null;
      const [dx, dUp, dDown] = call().routedLinearBackward(
        wantsChange ? keptX!.handle : null,
        kept[0]!.handle,
        weights.map((weight) => ({ weight: weight.handle, activations: 'exact' })),
        change ? kept[1]!.handle : null,
        change ? kept[2]!.handle : null,
        change?.scale ?? 1,
        g!.handle,
        keptH?.handle ?? null,
        wantX,
        wantsChange,
        wantsChange,
      );
      const ofMasters = masters.length > 0 ? weightGradients(keptX!, kept[0]!, g!) : [];
      return [
        dx ? wrap(dx, dtype, shape, device) : null,
        ...(change
          ? [
              dUp ? wrap(dUp, 'f32', kept[1]!.shape, device) : null,
              dDown ? wrap(dDown, 'f32', kept[2]!.shape, device) : null,
            ]
          : []),
        ...weights.flatMap(({ master }, e) => (master ? ofMasters[e]! : [])),
        ...biasGradients(kept[0]!, g!, biasTypes),
      ];
    },
    { release: () => weights.forEach((weight) => weight.release()) },
  );
  h?.dispose();
  return y;
}

/** dW of each expert, parts of one tensor. */
function weightGradients(x: Tensor, offsets: Tensor, g: Tensor): Tensor[] {
  const count = offsets.shape[0]! - 1;
  const size = [g.shape[1]!, x.shape[1]!];
  const handle = call().routedWeights(x.handle, offsets.handle, g.handle);
  const all = gradientMade(wrap(handle, 'f32', [count, ...size], x.device));
  return Array.from({ length: count }, (_, e) => rawView(all, e * size[0]! * size[1]!, size));
}

/** dbias of each expert, in its dtype; null: it is not trained. It is dW of an input of ones. */
function biasGradients(offsets: Tensor, g: Tensor, dtypes: readonly (DType | null)[]): (Tensor | null)[] {
  if (dtypes.every((dtype) => dtype === null)) return dtypes.map(() => null);
  const [rows, out] = g.shape as [number, number];
  const shape = [dtypes.length, out, 1];
  return moved(rawFilled([rows, 1], 1, g.dtype, g.device), (ones) =>
    moved(wrap(call().routedWeights(ones.handle, offsets.handle, g.handle), 'f32', shape, g.device), (all) =>
      dtypes.map((dtype, e) =>
        dtype ? moved(rawView(all, e * out, [out]), (one) => rawCast(one, dtype)) : null,
      ),
    ),
  );
}
