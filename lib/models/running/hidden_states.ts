/** model.hiddenStates: what a model holds of texts, of each token or of each text. */
import type { Adapter } from '../../peft/adapter';
import { joinRows, splitRows } from '../../ops/rows';
import { enqueueInSlices } from '../../tensor/op_slices';
import { moved, noGrad, tidy } from '../../tensor/scope';
import { alias, Tensor } from '../../tensor/tensor';
import { check, checkOneOf, checkOptions, describe } from '../../validate';
import type { ModelCore } from '../core/model_core';
import { blockPath, embeddingPath } from '../files/tensor_table';
import type { TokenRows } from '../inputs/batch';
import { plannedNormed } from './forward';

/** The options of {@link CausalLM.hiddenStates}. */
export interface HiddenStatesOptions {
  /** 0: the embeddings; n: after block n; from the end: −1 is after the last norm, −2 after the block before the last. Default −1. */
  layer?: number | undefined;
  /** One vector for each text: the mean of its tokens, or its last token. Default: all tokens. */
  pool?: 'mean' | 'last' | undefined;
  /** A name, an Adapter, or null for the base alone; ERR_BUSY while one is merged. Default: the active adapter, or what is merged. */
  adapter?: string | Adapter | null | undefined;
}

/** What {@link CausalLM.hiddenStates} gives, in f32. */
export type HiddenStates<O extends HiddenStatesOptions> = O extends { pool: 'mean' | 'last' }
  ? Tensor // [texts, hiddenSize]
  : Tensor[]; // of each text [tokens, hiddenSize]

const op = 'hiddenStates';

/** The module after which a layer is read; undefined: the last norm. */
function moduleOf({ config }: ModelCore, layer: number): string | undefined {
  const last = config.layers.length;
  const at = layer < 0 ? last + 1 + layer : layer;
  check(
    Number.isInteger(layer) && at >= 0 && at <= last,
    op,
    () => `expected layer to be an integer from ${-last - 1} to ${last} but received ${describe(layer)}`,
  );
  if (at === last) return undefined;
  return at === 0 ? embeddingPath(config) : blockPath(config, at - 1);
}

/** x [batch, width, hidden] → of each row its tokens [tokens, hidden]. */
function tokensOf(x: Tensor, lengths: readonly number[]): Tensor[] {
  const [batch, width, size] = x.shape as [number, number, number];
  const flat = x.reshape([batch * width, size]);
  const parts = splitRows(
    flat,
    lengths.flatMap((length) => [length, width - length]),
  );
  return parts.filter((_, i) => i % 2 === 0).map((part) => joinRows([part]));
}

function pooled(tokens: readonly Tensor[], pool: 'mean' | 'last'): Tensor {
  const one = (x: Tensor): Tensor =>
    pool === 'mean' ? x.mean({ dim: 0, keepDim: true }) : splitRows(x, [x.shape[0]! - 1, 1])[1]!;
  return joinRows(tokens.map(one));
}

/** CausalLM.hiddenStates, where it is documented. */
export async function hiddenStates(
  model: ModelCore,
  ids: TokenRows,
  options: HiddenStatesOptions,
): Promise<Tensor | Tensor[]> {
  model.checkAlive(op);
  checkOptions(op, options, ['layer', 'pool', 'adapter']);
  const { layer = -1, pool } = options;
  if (pool !== undefined) checkOneOf(op, 'pool', pool, ['mean', 'last']);
  const wanted = moduleOf(model, layer);
  const adapter = model.adapters.resolve(op, options.adapter);
  const release = model.adapters.acquire(op, adapter);
  try {
    return await noGrad(() =>
      tidy(async () => {
        let seen: Tensor | undefined;
        const watch = (module: string, x: Tensor): void => {
          if (module === wanted) seen = alias(x);
        };
        const choice = model.adapters.choiceOf(adapter);
        const steps = plannedNormed(model, ids, { adapter: choice, train: false, watch });
        const { hidden, layout } = await enqueueInSlices(model.device, steps());
        const wide = moved(seen ?? hidden, (x) => x.to({ dtype: 'f32' }));
        const lengths =
          ids instanceof Tensor
            ? Array<number>(ids.shape[0]!).fill(ids.shape[1]!)
            : ids.map((row) => row.length);
        const tokens = tokensOf(layout.tokens(wide), lengths);
        return pool ? pooled(tokens, pool) : tokens;
      }),
    );
  } finally {
    release();
  }
}
