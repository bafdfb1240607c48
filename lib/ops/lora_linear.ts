/**
 * The fused LoRA layer, with W frozen and without a gradient:
 *   y = factor ⊙ (W·x + scale·up·h) + bias,  h = down·drop(x)
 * Per branch, with g the gradient of y times the factor, and u = upᵀ·g:
 *   dx = Wᵀ·g + drop(scale·downᵀ·u),  dUp = scale·gᵀ·h,  dDown = scale·uᵀ·drop(x)
 */
import { loraError } from '../errors';
import { type BackwardFunction, type InputGradients, needsGrad, record } from '../tensor/autograd';
import type {
  Activations,
  LinearPhase,
  NativeBranch,
  NativeDropout,
  NativeTable,
  NativeTensor,
} from '../native/binding';
import { call } from '../native/calls';
import type { DType } from '../native/dtype';
import type { FrozenWeight } from '../tensor/frozen_weight';
import { handleOf, type Tensor, wrap } from '../tensor/tensor';
import { check, numelOf } from '../validate';
import { rawBinary, reduceTo } from '../tensor/raw';

const op = 'lora_linear';

/** One linear layer: W [out, in] and, when it is adapted, up [out, r] and down [r, in] in f32. */
export interface LoraBranch {
  weight: FrozenWeight;
  /** [out] */
  bias?: Tensor | undefined;
  /** [out, r]; up and down come together. */
  up?: Tensor;
  /** [r, in] */
  down?: Tensor;
  /** Default 1. */
  scale?: number;
  dropout?: NativeDropout;
  /** The column of this layer in `LoraLinearOptions.rows.table`, whose entries take the place of up and down. */
  site?: number | undefined;
  /** [out] in f32, a constant for the gradient; absent: 1. */
  factor?: Tensor;
}

/** The changes of several adapters: see linear/delta_table.ts. */
interface RowTable {
  readonly handle: NativeTable;
}

/** How a call is computed. */
export interface LoraLinearOptions {
  /**
   * A chunk of one sequence (prefill), or one row of each sequence (decode): on the CPU the bits of a row then depend on that row alone.
   * Default: by the number of rows. A call with a phase is part of generation: it takes the activations that its weights name.
   */
  phase?: LinearPhase | undefined;
  /**
   * Row i of x, its leading dimensions taken as one, has the changes of slot slots[i] of a table; −1: none. Without gradients for them.
   * A slot outside of the table is ERR_DATA when the result is read.
   */
  rows?: { readonly table: RowTable; readonly slots: Tensor };
}

/** x [..., in] → y [..., out]. */
export function loraLinear(x: Tensor, branch: LoraBranch): Tensor {
  return loraLinearGroup(x, [branch])[0]!;
}

/** Several layers fed by one x [..., in] (query, key and value; gate and up), which is read once. */
export function loraLinearGroup(
  x: Tensor,
  branches: readonly LoraBranch[],
  { phase = 'auto', rows: own }: LoraLinearOptions = {},
): Tensor[] {
  for (const { weight, factor } of branches) {
    weight.check(op);
    check(
      !factor || !needsGrad([factor]),
      op,
      'expected factor to be a constant, but it requires a gradient',
    );
  }
  if (own && needsGrad([x]))
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      'rows with their own adapters of a table have no gradient: run the call in noGrad()',
    );
  const [y, kept] = call().loraLinearForward(
    handleOf(x, op, 'x'),
    branches.map((branch) => nativeBranch(branch, phase === 'auto' ? 'exact' : branch.weight.activations)),
    phase,
    own?.slots.handle ?? null,
    own?.table.handle ?? null,
    branches.some(adapterNeedsGrad),
  );
  const lead = x.shape.slice(0, -1);
  const outputs = branches.map((b, i) => wrap(y[i]!, x.dtype, [...lead, b.weight.rows], x.device));
  const h = branches.map((b, i) => {
    const handle = kept[i] ?? null;
    return handle === null ? null : wrap(handle, 'f32', [numelOf(lead), b.down!.shape[0]!], x.device);
  });
  recordGroup(x, branches, outputs, h);
  for (const t of h) t?.dispose();
  return outputs;
}

function adapterNeedsGrad({ up, down }: LoraBranch): boolean {
  return needsGrad([up, down]);
}

function nativeBranch(
  { weight, bias, up, down, scale = 1, dropout, site = -1, factor }: LoraBranch,
  activations: Activations = 'exact',
): NativeBranch {
  return {
    weight: weight.handle,
    bias: bias ? handleOf(bias, op, 'bias') : null,
    up: up ? handleOf(up, op, 'up') : null,
    down: down ? handleOf(down, op, 'down') : null,
    scale,
    dropout: dropout && dropout.p > 0 ? dropout : null,
    site,
    factor: factor ? handleOf(factor, op, 'factor') : null,
    activations,
  };
}

/** What the gradients of a group are computed from; the tensors are there while a gradient is computed. */
interface KeptBranch {
  readonly weight: FrozenWeight;
  readonly up: (() => Tensor) | null;
  readonly down: (() => Tensor) | null;
  readonly h: (() => Tensor) | null;
  readonly scale: number;
  readonly dropout: LoraBranch['dropout'];
  readonly factor: (() => Tensor) | null;
  readonly bias: { readonly wanted: boolean; readonly dtype: DType } | null;
  readonly wantUp: boolean;
  readonly wantDown: boolean;
}

interface KeptGroup {
  readonly x: Pick<Tensor, 'shape' | 'dtype' | 'device' | 'requiresGrad'>;
  readonly keptX: (() => Tensor) | null;
  readonly branches: readonly KeptBranch[];
}

/** A branch whose output has a gradient g; gz is that of the product before the factor. */
interface LiveBranch {
  readonly b: KeptBranch;
  readonly i: number;
  readonly g: Tensor;
  readonly gz: Tensor;
}

const liveOf = ({ branches }: KeptGroup, grads: (Tensor | null)[]): LiveBranch[] =>
  branches.flatMap((b, i) => {
    const g = grads[i];
    return g ? [{ b, i, g, gz: b.factor ? rawBinary('mul', g, b.factor(), g.dtype, g.shape) : g }] : [];
  });

/**
 * The gradients of all inputs, in their order; or those of x and the biases, and u of each branch; or those of up and down, which take that u.
 */
function gradientsOf(
  { x, keptX, branches }: KeptGroup,
  live: readonly LiveBranch[],
  part: 'all' | 'input' | 'weights',
  givenU: (Tensor | null)[] = [],
): { gradients: (Tensor | null)[]; u: (Tensor | null)[] } {
  const [input, weights] = [part !== 'weights', part !== 'input'];
  const f32 = (handle: NativeTensor | null | undefined, dims: number[]): Tensor | null =>
    handle ? wrap(handle, 'f32', dims, x.device) : null;
  const [dx, dUp, dDown, u] = call().loraLinearBackward(
    weights ? (keptX?.().handle ?? null) : null,
    live.map(({ b: { weight, up, down, scale, dropout } }) =>
      nativeBranch({ weight, up: up?.(), down: down?.(), scale, dropout }),
    ),
    live.map(({ gz }) => gz.handle),
    live.map(({ b }) => (weights ? (b.h?.().handle ?? null) : null)),
    givenU.map((t) => t?.handle ?? null),
    input && x.requiresGrad,
    live.map(({ b }) => weights && b.wantUp),
    live.map(({ b }) => weights && b.wantDown),
    !weights,
  );
  const gradients = [dx === null ? null : wrap(dx, x.dtype, x.shape, x.device)];
  branches.forEach((b, i) => {
    const at = live.findIndex((entry) => entry.i === i);
    if (b.up && b.down) {
      const r = b.up().shape[1]!;
      gradients.push(f32(dUp[at], [b.weight.rows, r]), f32(dDown[at], [r, b.weight.cols]));
    }
    if (b.bias) {
      const g = at < 0 || !input || !b.bias.wanted ? null : live[at]!.g;
      gradients.push(g === null ? null : reduceTo(g, [b.weight.rows], b.bias.dtype));
    }
  });
  const rows = numelOf(x.shape.slice(0, -1));
  return { gradients, u: live.map(({ b }, at) => f32(u[at], [rows, b.up?.().shape[1] ?? 0])) };
}

function recordGroup(
  x: Tensor,
  branches: readonly LoraBranch[],
  outputs: readonly Tensor[],
  h: readonly (Tensor | null)[],
): void {
  const inputs = [x, ...branches.flatMap((b) => [b.up, b.down, b.bias].filter((t) => t !== undefined))];
  if (!needsGrad(inputs)) return;
  const saved: Tensor[] = [];
  const save = (t: Tensor | null | undefined): (() => Tensor) | null => {
    if (!t) return null;
    const index = saved.push(t) - 1;
    return () => current[index]!;
  };
  let current: readonly Tensor[] = [];

  const kept = branches.map((b, i) => ({
    weight: b.weight.retain(),
    up: save(b.up),
    down: save(b.down),
    h: adapterNeedsGrad(b) ? save(h[i]) : null,
    scale: b.scale ?? 1,
    dropout: b.dropout,
    factor: save(b.factor),
    bias: b.bias ? { wanted: b.bias.requiresGrad, dtype: b.bias.dtype } : null,
    wantUp: b.up?.requiresGrad ?? false,
    wantDown: b.down?.requiresGrad ?? false,
  }));
  const { shape, dtype, device, requiresGrad } = x;
  const keptX = branches.some(adapterNeedsGrad) ? save(x) : null; // the last one, as `inputGradients` wants it
  const group: KeptGroup = { x: { shape, dtype, device, requiresGrad }, keptX, branches: kept };

  const backward: BackwardFunction = (grads, tensors) => {
    current = tensors;
    return gradientsOf(group, liveOf(group, grads), 'all').gradients;
  };
  const inputGradients: InputGradients = (grads, tensors) => {
    current = tensors;
    const live = liveOf(group, grads);
    const { gradients, u } = gradientsOf(group, live, 'input');
    const weightGradients: BackwardFunction = (keptOfInput, all) => {
      current = all;
      const left = live.map((entry, at) => ({ ...entry, gz: keptOfInput[at]! }));
      return gradientsOf(group, left, 'weights', keptOfInput.slice(live.length)).gradients;
    };
    return { gradients, kept: [...live.map(({ gz }) => gz), ...u], weightGradients };
  };
  // On the CPU the second half would make the masks of dropout once more, which takes longer than computing x does.
  const masksCost =
    device === 'cpu' && branches.some(({ dropout }) => dropout !== undefined && dropout.p > 0);
  record(inputs, outputs, saved, backward, {
    release: () => kept.forEach((b) => b.weight.release()),
    inputGradients: keptX && !masksCost ? inputGradients : undefined,
  });
}
