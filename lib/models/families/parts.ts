/** The parts that blocks are made of. Handles are dropped as soon as the next op has been queued; what backward needs is held by the graph. */
import { forwardGroup, type Linear } from '../../linear/linear';
import type { GatedKind } from '../../native/binding';
import type { DType } from '../../native/dtype';
import {
  addRmsNorm,
  attention,
  attentionPaged,
  cast,
  gated,
  pageAppend,
  positions,
  rmsNorm,
  rope,
  rotatedQueries,
  splitColumns,
} from '../../ops';
import { pagesOf, type Past } from '../../ops/attention_paged';
import type { RopeAngles } from '../../ops/rope';
import type { AdapterUse } from '../../peft/adapter_use';
import { fromBytes } from '../../tensor/create';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { attentionAt, type ModelConfig } from '../config/model_config';

/** The texts of rows: all i32 [batch, seq]. */
export interface Segments {
  /** The first position that a query may see: that of its segment. */
  readonly keyBegin: Tensor;
  /** Behind the last position that it may see, of a model that reads in both directions. */
  readonly keyEnd?: Tensor | undefined;
  /** Counted from the begin of the segment. */
  readonly positions: Tensor;
}

/** Keys, rotated, and values of a layer: [b, s, kvHeads, d]. */
export interface KeysAndValues {
  readonly k: Tensor;
  readonly v: Tensor;
}

/** What a call of a model computes with. */
export interface Run<C extends ModelConfig = ModelConfig> {
  readonly config: C;
  /** Of the operands and results of products. The residual stream is f32. */
  readonly dtype: DType;
  readonly use: AdapterUse;
  /** The tokens before; there is no gradient then. */
  readonly past?: Past | undefined;
  /** The texts that a row holds. Never beside `past`. */
  readonly segments?: Segments | undefined;
  /** The rows of longrope's tables that each token has, i32 [batch, seq]; absent: those of its positions. */
  readonly tableRows?: Tensor | undefined;
  /** Factors on the rotated queries of layers whose rope has them, [batch or 1, seq, 1, 1] in the dtype of the activations. */
  readonly queryScale?: Tensor | undefined;
  /** What a block reads beside the residual stream, in the families whose blocks do: [b, s, n]. */
  readonly layerInput?: ((block: number) => Tensor) | undefined;
  /** Keys and values that later layers read once more, by the layer that makes them; with `past` these are in its pages. */
  readonly keys?: Map<number, KeysAndValues> | undefined;
  /** cos and sin of a layer. */
  angles(layer: number): RopeAngles;
}

/** The residual stream: x in f32, and what the last part of a block adds to it, which the norm behind that adds up. */
export interface Residual {
  readonly x: Tensor;
  readonly addend: Tensor | null;
}

/** x + addend. Consumes both. */
export function summed({ x, addend }: Residual): Tensor {
  if (!addend) return x;
  const sum = x.add(addend);
  x.dispose();
  addend.dispose();
  return sum;
}

/** [x + addend, its norm in the activation dtype], of which the weights are offset + weight. Consumes x and the addend. */
export function normOf(
  { x, addend }: Residual,
  weight: Tensor,
  eps: number,
  { dtype }: Run,
  offset = 0,
): [sum: Tensor, normed: Tensor] {
  if (!addend) return [x, rmsNorm(x, weight, eps, dtype, offset)];
  const both = addRmsNorm(x, addend, weight, eps, dtype, offset);
  x.dispose();
  addend.dispose();
  return both;
}

/** Layers that read the same x, each with its adapters. */
export function linears<const L extends readonly Linear[]>(
  { use: { adapter, dropoutForward, rows, phase } }: Run,
  x: Tensor,
  layers: L,
): { [K in keyof L]: Tensor } {
  const outputs = rows
    ? rows.forward(x, layers)
    : forwardGroup(
        x,
        layers.map((linear) => [linear, adapter?.applied(linear.path, dropoutForward)]),
        phase,
      );
  return outputs as { [K in keyof L]: Tensor };
}

/** A layer with its adapter. Consumes x. */
export const linearOf = (run: Run, x: Tensor, layer: Linear): Tensor =>
  moved(x, (t) => linears(run, t, [layer])[0]);

/** The outputs of layers that are one layer in the file, side by side → each. Consumes its input. */
export function columnsOf<const S extends readonly number[]>(
  x: Tensor,
  sizes: S,
): { -readonly [K in keyof S]: Tensor } {
  const parts = splitColumns(x, sizes);
  x.dispose();
  return parts as { -readonly [K in keyof S]: Tensor };
}

/** The positions of the tokens of a call, [b, s] or for all rows [1, s]. */
export function positionsOf({ past, segments }: Pick<Run, 'past' | 'segments'>, x: Tensor): Tensor {
  const length = x.shape[1]!;
  if (past) return positions(past.lengths, length);
  if (segments) return cast(segments.positions, 'i32');
  const counted = Int32Array.from({ length }, (_, i) => i);
  return fromBytes(new Uint8Array(counted.buffer), 'i32', [1, length], x.device);
}

/** [b, s, heads·d] → [b, s, heads, d]. Consumes its input. */
export const splitHeads = (flat: Tensor, heads: number): Tensor =>
  moved(flat, (t) => t.reshape([t.shape[0]!, t.shape[1]!, heads, t.shape[2]! / heads]));

/** [b, s, heads, d] → [b, s, heads·d]. Consumes its input. */
export const joinHeads = (split: Tensor): Tensor =>
  moved(split, (t) => t.reshape([t.shape[0]!, t.shape[1]!, t.shape[2]! * t.shape[3]!]));

/** Rotates q [b, s, heads, d] and k [b, s, kvHeads, d] and attends to them and to the tokens before → [b, s, heads·d]. Consumes q, k and v. `sinks`: see `attention`. */
export function attend(
  run: Run,
  index: number,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  {
    scale = 1 / Math.sqrt(q.shape[3]!),
    sinks,
  }: { readonly scale?: number | undefined; readonly sinks?: Tensor | undefined } = {},
): Tensor {
  const { past, segments } = run;
  const { window, rope: rotation } = attentionAt(run.config, index);
  const long = rotation.scaling.type === 'longrope';
  const options = { scale, window, sinks };
  const grown = (rotated: Tensor): Tensor =>
    run.queryScale && rotation.queryScale ? moved(rotated, (t) => t.mul(run.queryScale!)) : rotated;
  if (past) {
    const { pageTable, lengths, tableStart = null, phase } = past;
    const pools = pagesOf(past, index);
    const start = long ? tableStart : null;
    const rotated = pageAppend(q, k, v, run.angles(index), pools, pageTable, lengths, start);
    for (const t of [q, k, v]) t.dispose();
    const mixed = moved(grown(rotated), (t) =>
      attentionPaged(t, pools.k, pools.v, pageTable, lengths, { ...options, phase }),
    );
    return joinHeads(mixed);
  }
  let [rotatedQ, rotatedK] = [q, k];
  if (rotation.scaling.type !== 'none') {
    const positions = (long ? run.tableRows : undefined) ?? segments?.positions;
    [rotatedQ, rotatedK] = rope(q, k, run.angles(index), positions ? { positions } : {});
    for (const t of [q, k]) t.dispose();
    rotatedQ = grown(rotatedQ);
  }
  const mixed = attention(
    rotatedQ,
    rotatedK,
    v,
    segments ? { ...options, keyBegin: segments.keyBegin, keyEnd: segments.keyEnd } : options,
  );
  rotatedQ.dispose();
  const isRead = run.config.layers.some((layer) => layer.kind === 'attention' && layer.keysOf === index);
  if (isRead) run.keys!.set(index, { k: rotatedK, v });
  else for (const t of [rotatedK, v]) t.dispose();
  return joinHeads(mixed);
}

/** Rotates q [b, s, heads, d] and attends to the keys and values of an earlier layer → [b, s, heads·d]. Consumes q. */
export function attendToShared(
  run: Run,
  index: number,
  q: Tensor,
  { scale }: { readonly scale: number },
): Tensor {
  const { past, segments } = run;
  const { window, keysOf } = attentionAt(run.config, index);
  const options = { scale, window };
  const positions = past ? positionsOf(run, q) : segments?.positions;
  const rotated = moved(q, (t) => rotatedQueries(t, run.angles(index), positions ? { positions } : {}));
  if (past) {
    positions!.dispose();
    const { pageTable, lengths, phase } = past;
    const pools = pagesOf(past, index);
    const mixed = moved(rotated, (t) =>
      attentionPaged(t, pools.k, pools.v, pageTable, lengths, { ...options, phase }),
    );
    return joinHeads(mixed);
  }
  const { k, v } = run.keys!.get(keysOf!)!;
  const mixed = moved(rotated, (t) =>
    attention(t, k, v, segments ? { ...options, keyBegin: segments.keyBegin } : options),
  );
  return joinHeads(mixed);
}

/** down(f(gate(x)) · up(x)). Consumes x. */
export function gatedMlp(
  run: Run,
  x: Tensor,
  layers: { readonly gate: Linear; readonly up: Linear; readonly down: Linear },
  kind: GatedKind = 'silu',
): Tensor {
  const [gate, up] = linears(run, x, [layers.gate, layers.up]);
  x.dispose();
  const activated = gated(gate, up, kind);
  gate.dispose();
  up.dispose();
  return linearOf(run, activated, layers.down);
}

/** down(silu(gate(x)) · up(x)) where gate and up are one layer of 2·width. */
export function fusedMlp(
  run: Run,
  x: Tensor,
  layers: { readonly gateUp: Linear; readonly down: Linear },
  width: number,
): Tensor {
  const [gate, up] = columnsOf(linearOf(run, x, layers.gateUp), [width, width]);
  const activated = gated(gate, up, 'silu');
  gate.dispose();
  up.dispose();
  return linearOf(run, activated, layers.down);
}

/** x·factor. Consumes x. */
export const scaled = (x: Tensor, factor: number): Tensor =>
  factor === 1 ? x : moved(x, (t) => t.mul(factor));
