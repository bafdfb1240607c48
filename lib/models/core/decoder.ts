/** The forward pass of any family: its embeddings, its blocks one after the other, its last norm and its logits. */
import type { EngineModel } from '../../engine/model';
import type { Delta } from '../../linear/delta';
import type { Linear } from '../../linear/linear';
import type { Device } from '../../native/device';
import type { DType } from '../../native/dtype';
import type { Past } from '../../ops/attention_paged';
import { softcap } from '../../ops';
import { recomputedAll } from '../../ops/recompute';
import type { AdapterUse } from '../../peft/adapter_use';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import type { ModelConfig } from '../config/model_config';
import { familyOf } from '../families';
import {
  linears,
  summed,
  type KeysAndValues,
  type Residual,
  type Run,
  type Segments,
} from '../families/parts';
import { addNoise, type NoiseFactors } from '../inputs/noise';
import type { RopeTables } from './rope_tables';
import {
  blockPath,
  embeddingPath,
  expertModulesOf,
  expertModulesOfBlock,
  linearsOfBlock,
  trainedOfBlock,
  type ModelWeights,
} from '../files/tensor_table';
import type { TrainedBase } from './trained_base';

/** The parts of a model that a forward pass reads. */
export interface Decoder {
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  readonly ropes: RopeTables;
  /** What of the weights is trained. */
  readonly trained: TrainedBase;
  /** Of the operands and results of products. The residual stream is f32. */
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
  /** The rows of longrope's tables, of the texts that a row holds. */
  readonly tableRows?: Tensor | undefined;
  /** Whether blocks keep their input alone for backward(). */
  readonly recompute?: boolean | undefined;
  /** Sees the activations between the blocks, by the module that made them; they live no longer than the call. */
  readonly watch?: ((module: string, x: Tensor) => void) | undefined;
  /** What is added to the embeddings. */
  readonly noise?: NoiseFactors | undefined;
  /** Puts the vectors of adapters among the embeddings of the tokens, in f32, which it consumes. */
  readonly input?: ((x: Tensor) => Tensor) | undefined;
}

/** What the parts before and behind the blocks compute with. */
const runAround = (
  { config, dtype }: Decoder,
  use: AdapterUse,
  { past, segments, tableRows }: Context = {},
): Run => ({
  ...{ config, dtype, use, past, segments, tableRows },
  angles() {
    throw new Error('expected nothing to be rotated before and behind the blocks');
  },
});

/** The embeddings of ids [...] as the vectors of prompts stand among them: [..., hidden] in f32. */
export const embeddingsOf = (decoder: Decoder, ids: Tensor): Tensor =>
  familyOf(decoder.config).embed(runAround(decoder, { adapter: null }), decoder.weights.stem, ids);

/** A block of which only what it reads is kept: see recompute.ts. Its dropout masks follow from numbers, so the second run has the same bits. */
function recomputedBlock({ config, weights }: Decoder, run: Run, index: number, x: Tensor): Tensor {
  const layer = weights.layers[index]!;
  const changed = [...linearsOfBlock(layer), ...expertModulesOfBlock(layer)];
  const ofAdapter = changed.flatMap(({ path }) =>
    deltasOf(run.use, path).flatMap((delta) => [...delta.parameters.values()]),
  );
  const parameters = [...ofAdapter, ...trainedOfBlock(layer)];
  const shape = config.layers[index]!;
  const attention = shape.kind === 'attention' ? shape : undefined;
  const angles = attention && run.angles(index);
  const { segments, tableRows, queryScale } = run;
  const optional = [
    ...[segments?.keyBegin, segments?.positions, segments?.keyEnd, tableRows, queryScale],
    ...[angles?.cos, angles?.sin],
  ];
  const others = optional.filter((one) => one !== undefined);
  const keysOf = attention?.keysOf;
  const shared = keysOf === undefined ? undefined : run.keys?.get(keysOf);
  const more = [run.layerInput?.(index), shared?.k, shared?.v];
  const inputs = [x, ...more.filter((one) => one !== undefined)] as [Tensor, ...Tensor[]];
  const [y, k, v] = recomputedAll(inputs, others, parameters, ([input, ...own], ...rest) => {
    const [keyBegin, positions, keyEnd, tableRows, queryScale, cos, sin] = optional.map(
      (one) => one && rest.shift(),
    );
    const [layerInput, sharedK, sharedV] = more.map((one) => one && own.shift());
    const keys = new Map<number, KeysAndValues>();
    if (sharedK && sharedV) keys.set(keysOf!, { k: sharedK, v: sharedV });
    const again = {
      ...run,
      keys,
      layerInput: layerInput && (() => layerInput),
      ...(cos && sin && { angles: () => ({ cos, sin }) }),
      segments: keyBegin && positions && { keyBegin, positions, keyEnd },
      ...{ tableRows, queryScale },
    };
    const sum = summed(familyOf(config).block(again, layer, index, { x: input, addend: null }));
    const made = keys.get(index);
    return made ? [sum, made.k, made.v] : [sum];
  });
  if (k && v) run.keys!.set(index, { k, v });
  return y!;
}

/** Hidden states before the last norm, with a pause after each block: ids [b, s] → [b, s and vectors, hidden] in f32. */
export function* hiddenStatesByBlock(
  decoder: Decoder,
  ids: Tensor,
  use: AdapterUse,
  context: Context = {},
): Generator<void, Tensor, void> {
  const { config, weights } = decoder;
  const family = familyOf(config);
  const { past, watch } = context;
  const around = runAround(decoder, use, context);
  let x = family.embed(around, weights.stem, ids);
  if (context.noise) x = addNoise(x, context.noise);
  if (context.input) x = context.input(x);
  if (family.enter) x = family.enter(around, weights.stem, x);
  const ropes = decoder.ropes.views(past?.maxPositions ?? x.shape[1]!);
  const queryScale = decoder.ropes.scales?.of(around, x);
  const layerInputs = family.layerInputs?.(around, weights.stem, ids, x);
  const keys = new Map<number, KeysAndValues>();
  const run: Run = {
    ...around,
    ...{ angles: ropes.ofLayer, queryScale, keys },
    layerInput: layerInputs && ((block) => layerInputs[block]!),
  };
  watch?.(embeddingPath(config), x);
  let state: Residual = { x, addend: null };
  for (const [i, layer] of weights.layers.entries()) {
    state = context.recompute
      ? { x: recomputedBlock(decoder, run, i, state.x), addend: null }
      : family.block(run, layer, i, state);
    if (watch) {
      state = { x: summed(state), addend: null };
      watch(blockPath(config, i), state.x);
    }
    yield;
  }
  ropes.dispose();
  queryScale?.dispose();
  for (const t of layerInputs ?? []) t.dispose();
  for (const { k, v } of keys.values()) for (const t of [k, v]) t.dispose();
  return summed(state);
}

/** The last norm, [..., hidden] in f32 → the activation dtype. Consumes x. */
export const finalNorm = (decoder: Decoder, x: Tensor): Tensor =>
  familyOf(decoder.config).norm(runAround(decoder, { adapter: null }), decoder.weights.head, x);

/** What the head makes of hidden states: [..., hidden] → [..., vocab], capped where the model has a cap, or of a head of classes [..., labels]; in the activation dtype. */
export function headLogits(decoder: Decoder, normed: Tensor, use: AdapterUse): Tensor {
  const { head, logitCap } = decoder.config;
  const [logits] = linears(runAround(decoder, use), normed, [decoder.weights.head.output]);
  return head !== undefined || logitCap === undefined ? logits : moved(logits, (t) => softcap(t, logitCap));
}

/** The model as the engine runs it. */
export function engineModel(decoder: Decoder, linears: readonly Linear[], device: Device): EngineModel {
  const { config, ropes, dtype } = decoder;
  return {
    device,
    dtype,
    layers: config.layers,
    linears,
    experts: expertModulesOf(decoder.weights),
    prepare: (positions) => ropes.prepare(positions),
    tableStart: ropes.start,
    revision: () => decoder.trained.revision,
    hiddenStates: (ids, use, past, input) => hiddenStatesByBlock(decoder, ids, use, { past, input }),
    logits: (hidden, use) => headLogits(decoder, finalNorm(decoder, hidden), use),
  };
}
