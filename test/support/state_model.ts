/** A model for the engine with a layer that keeps a state, a short convolution, and one of attention behind it. */
import type { EngineModel } from '../../lib/engine/model';
import { attentionPaged, convStateShape, embedding, pageAppend, shortConvAppend } from '../../lib/ops';
import { pagesOf, statesOf } from '../../lib/ops/attention_paged';
import { tensor } from '../../lib/tensor/create';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { rawFilled } from '../../lib/tensor/raw';
import { keep, noGrad, tidy } from '../../lib/tensor/scope';
import type { Tensor } from '../../lib/tensor/tensor';

export const vocabSize = 32;
const [width, taps] = [4, 4];

export function stateModel(): EngineModel {
  const device = 'cpu';
  const constant = (seed: number, rows: number, columns: number): Tensor => {
    const values = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(1 + seed + i * i * 0.7));
    return noGrad(() => keep(tensor(values, { shape: [rows, columns], device })));
  };
  const embeddings = FrozenWeight.pack(constant(1, vocabSize, width));
  const head = constant(2, vocabSize, width);
  const convolution = constant(3, width, taps);
  const still = (positions: number): { cos: Tensor; sin: Tensor } => ({
    cos: rawFilled([positions, width / 2], 1, 'f32', device),
    sin: rawFilled([positions, width / 2], 0, 'f32', device),
  });

  return {
    device,
    dtype: 'f32',
    layers: [
      // So large that slots are as scarce as pages: as large as four of them.
      {
        kind: 'state',
        states: { conv: convStateShape(taps, width), unread: [4 * 512 - taps * width + width] },
      },
      { kind: 'attention', kvHeads: 1, headDim: width },
    ],
    linears: [],
    experts: [],
    revision: () => 0,
    prepare: () => undefined,
    *hiddenStates(ids, _, past) {
      yield;
      return tidy(() => {
        const [b, s] = ids.shape as [number, number];
        const { pageTable, lengths, maxPositions, phase } = past;
        const { states, slots } = statesOf(past, 0);
        const x = embedding(embeddings, ids, 'f32');
        const y = shortConvAppend(x, convolution, states['conv']!, slots, lengths, { kind: 'silu' });
        const pages = pagesOf(past, 1);
        const q = y.reshape([b, s, 1, width]);
        pageAppend(q, q, q, still(maxPositions), pages, pageTable, lengths);
        const seen = attentionPaged(q, pages.k, pages.v, pageTable, lengths, { scale: 1, phase });
        return y.add(seen.reshape([b, s, width]));
      });
    },
    logits: (hidden) =>
      tidy(() => {
        const m = hidden.shape[0]!;
        // A sum for each logit, so that no row depends on another.
        const products = hidden.reshape([m, 1, width]).mul(head.reshape([1, vocabSize, width]));
        return products.sum({ dim: 2 });
      }),
  };
}
