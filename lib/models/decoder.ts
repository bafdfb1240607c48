/** The forward pass that Llama, Mistral, Qwen2 and Qwen3 share; what differs between them is configuration. */
import type { Delta } from '../linear/delta';
import { forwardGroup, type Linear } from '../linear/linear';
import { addRmsNorm, attention, attentionPaged, embedding, pageAppend, rmsNorm, rope, swiglu } from '../ops';
import type { EngineModel } from '../engine/model';
import type { Past } from '../ops/attention_paged';
import type { RopeAngles } from '../ops/rope';
import type { AdapterUse } from '../peft/adapter_use';
import { recomputed } from '../ops/recompute';
import { rawView } from '../tensor/raw';
import { moved } from '../tensor/scope';
import type { Device } from '../native/device';
import type { DType } from '../native/dtype';
import type { Tensor } from '../tensor/tensor';
import type { ModelConfig } from './config';
import { addNoise, type NoiseFactors } from './noise';
import type { TrainedBase } from './trained_base';
import type { RopeTable } from './rope';
import type { Segments } from './segments';
import {
  blockPath,
  EMBEDDING,
  linearsOfBlock,
  trainedOfBlock,
  type BlockWeights,
  type ModelWeights,
} from './tensor_table';

/** The parts of a model that a forward pass reads. */
export interface Decoder {
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  readonly rope: RopeTable;
  /** What of the weights is trained. */
  readonly trained: TrainedBase;
  /** Of the operands and results of products. The sums that all blocks add to are f32. */
  readonly dtype: DType;
}

/** The changes that a call may make to a layer. */
export function deltasOf({ adapter, rows }: AdapterUse, path: string): Delta[] {
  const adapters = rows ? rows.distinct : adapter ? [adapter] : [];
  return adapters.flatMap((each) => each.delta(path) ?? []);
}

/** What attention sees beside the tokens of the call; one of them, or nothing. */
interface Context {
  /** The tokens before; there is no gradient then. */
  readonly past?: Past | undefined;
  /** The texts that a row holds. */
  readonly segments?: Segments | undefined;
  /** Whether blocks keep their input alone for backward(). */
  readonly recompute?: boolean | undefined;
  /** Sees the activations between the blocks, by the module that made them; they live no longer than the call. */
  readonly watch?: ((module: string, x: Tensor) => void) | undefined;
  /** What is added to the embeddings. */
  readonly noise?: NoiseFactors | undefined;
  /** Puts the vectors of adapters among the embeddings of the tokens, in f32, which it consumes. */
  readonly input?: ((x: Tensor) => Tensor) | undefined;
}

function linearGroup(
  x: Tensor,
  linears: readonly Linear[],
  { adapter, dropoutForward, rows, phase }: AdapterUse,
): Tensor[] {
  if (rows) return rows.forward(x, linears);
  return forwardGroup(
    x,
    linears.map((linear) => [linear, adapter?.applied(linear.path, dropoutForward)]),
    phase,
  );
}

function linearOf(x: Tensor, linear: Linear, use: AdapterUse): Tensor {
  return linearGroup(x, [linear], use)[0]!;
}

/** The sums that all blocks add to: x, in f32, and what the last part of a block adds to it, which the norm behind that adds up. */
interface Residual {
  readonly x: Tensor;
  readonly addend: Tensor | null;
}

/** x + addend. Consumes both. */
function summed({ x, addend }: Residual): Tensor {
  if (!addend) return x;
  const sum = x.add(addend);
  x.dispose();
  addend.dispose();
  return sum;
}

/** [x + addend, its norm]. Consumes x and the addend. */
function normOf(
  { x, addend }: Residual,
  weight: Tensor,
  { config, dtype }: Decoder,
): [sum: Tensor, normed: Tensor] {
  if (!addend) return [x, rmsNorm(x, weight, config.rmsNormEps, dtype)];
  const both = addRmsNorm(x, addend, weight, config.rmsNormEps, dtype);
  x.dispose();
  addend.dispose();
  return both;
}

/** Rotates q [b, s, heads, d] and k [b, s, kvHeads, d] and attends to them and to the tokens before. Consumes q, k and v. */
function attend(
  { config }: Decoder,
  index: number,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  table: RopeAngles,
  { past, segments }: Context,
): Tensor {
  const options = { scale: 1 / Math.sqrt(config.headDim), window: config.windows[index] };
  if (past) {
    const { pageTable, lengths, phase } = past;
    const pools = past.layers[index]!;
    const rotated = pageAppend(q, k, v, table, pools, pageTable, lengths);
    for (const t of [q, k, v]) t.dispose();
    return moved(rotated, (t) =>
      attentionPaged(t, pools.k, pools.v, pageTable, lengths, { ...options, phase }),
    );
  }
  const [rotatedQ, rotatedK] = rope(q, k, table, segments ? { positions: segments.positions } : {});
  for (const t of [q, k]) t.dispose();
  const mixed = attention(
    rotatedQ,
    rotatedK,
    v,
    segments ? { ...options, keyBegin: segments.keyBegin } : options,
  );
  for (const t of [rotatedQ, rotatedK, v]) t.dispose();
  return mixed;
}

/**
 * One block: x + o(attention(norm(x))), then x + down(swiglu(norm(x))). Consumes its input. Handles are dropped
 * as soon as the next op has been queued; what backward needs is held by the graph.
 */
function block(
  decoder: Decoder,
  layer: BlockWeights,
  index: number,
  input: Residual,
  table: RopeAngles,
  use: AdapterUse,
  context: Context = {},
): Residual {
  const { config } = decoder;
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim, rmsNormEps: eps } = config;
  const [batch, length] = [input.x.shape[0]!, input.x.shape[1]!];

  const [x, normed] = normOf(input, layer.inputNorm, decoder);
  const [flatQ, flatK, flatV] = linearGroup(normed, [layer.q, layer.k, layer.v], use) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  normed.dispose();

  /** [b, s, h·d] → [b, s, h, d]. */
  const heading = (flat: Tensor, count: number, norm?: Tensor): Tensor => {
    const split = moved(flat, (t) => t.reshape([batch, length, count, headDim]));
    return norm ? moved(split, (t) => rmsNorm(t, norm, eps)) : split;
  };
  const q = heading(flatQ, heads, layer.qNorm);
  const k = heading(flatK, kvHeads, layer.kNorm);
  const v = heading(flatV, kvHeads);

  const mixed = moved(attend(decoder, index, q, k, v, table, context), (t) =>
    t.reshape([batch, length, heads * headDim]),
  );
  const attended = moved(mixed, (t) => linearOf(t, layer.o, use));

  const [middle, normed2] = normOf({ x, addend: attended }, layer.postNorm, decoder);
  const [gate, up] = linearGroup(normed2, [layer.gate, layer.up], use) as [Tensor, Tensor];
  normed2.dispose();
  const activated = swiglu(gate, up);
  gate.dispose();
  up.dispose();
  return { x: middle, addend: moved(activated, (t) => linearOf(t, layer.down, use)) };
}

/** A block of which only the input is kept: see recompute.ts. Its dropout masks follow from numbers, so the second run has the same bits. */
function recomputedBlock(
  decoder: Decoder,
  layer: BlockWeights,
  index: number,
  x: Tensor,
  table: RopeAngles,
  use: AdapterUse,
  { segments }: Context,
): Tensor {
  const ofAdapter = linearsOfBlock(decoder.config, layer).flatMap(({ path }) =>
    deltasOf(use, path).flatMap((delta) => [...delta.parameters.values()]),
  );
  const parameters = [...ofAdapter, ...trainedOfBlock(decoder.config, layer)];
  const others = [table.cos, table.sin, ...(segments ? [segments.keyBegin, segments.positions] : [])];
  return recomputed(x, others, parameters, (input, cos, sin, keyBegin, positions) =>
    summed(
      block(decoder, layer, index, { x: input, addend: null }, { cos: cos, sin: sin }, use, {
        ...(keyBegin && positions && { segments: { keyBegin, positions } }),
      }),
    ),
  );
}

/** Hidden states before the last norm, with a pause after each block: ids [b, s] → [b, s and vectors, hidden] in f32. */
export function* hiddenStatesByBlock(
  decoder: Decoder,
  ids: Tensor,
  use: AdapterUse,
  context: Context = {},
): Generator<void, Tensor, void> {
  let x = embedding(decoder.weights.embedding, ids, 'f32');
  if (context.noise) x = addNoise(x, context.noise);
  if (context.input) x = context.input(x);
  const shared = decoder.rope.upTo(context.past?.maxPositions ?? x.shape[1]!);
  // Views of its own, because a longer call between two blocks replaces the table.
  const table = {
    cos: rawView(shared.cos, 0, shared.cos.shape),
    sin: rawView(shared.sin, 0, shared.sin.shape),
  };
  context.watch?.(EMBEDDING, x);
  let state: Residual = { x, addend: null };
  for (const [i, layer] of decoder.weights.layers.entries()) {
    state = context.recompute
      ? { x: recomputedBlock(decoder, layer, i, state.x, table, use, context), addend: null }
      : block(decoder, layer, i, state, table, use, context);
    if (context.watch) {
      state = { x: summed(state), addend: null };
      context.watch(blockPath(i), state.x);
    }
    yield;
  }
  table.cos.dispose();
  table.sin.dispose();
  return summed(state);
}

/** The last norm, [..., hidden] in f32 → the activation dtype. Consumes x. */
export function finalNorm(decoder: Decoder, x: Tensor): Tensor {
  return moved(x, (t) => rmsNorm(t, decoder.weights.norm, decoder.config.rmsNormEps, decoder.dtype));
}

/** Output projection [..., hidden] → [..., vocab], in the activation dtype. */
export function headLogits(decoder: Decoder, normed: Tensor, use: AdapterUse): Tensor {
  return linearOf(normed, decoder.weights.head, use);
}

/** The model as the engine runs it. */
export function engineModel(decoder: Decoder, linears: readonly Linear[], device: Device): EngineModel {
  const { config, rope: rotations, dtype } = decoder;
  return {
    device,
    dtype,
    layers: config.numHiddenLayers,
    kvHeads: config.numKeyValueHeads,
    headDim: config.headDim,
    linears,
    prepare: (positions) => void rotations.upTo(positions),
    revision: () => decoder.trained.revision,
    hiddenStates: (ids, use, past, input) => hiddenStatesByBlock(decoder, ids, use, { past, input }),
    logits: (hidden, use) => headLogits(decoder, finalNorm(decoder, hidden), use),
  };
}
