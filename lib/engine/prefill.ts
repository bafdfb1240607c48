/** Computes a part of a prompt: keys and values of its positions, and after the last one the logits of the next token. */
import { vectorsAmong } from '../data/sequence_plan';
import { entry } from '../native/calls';
import type { Past } from '../ops/attention_paged';
import type { AdapterUse } from '../peft/adapter_use';
import { joinRows } from '../ops/rows';
import { fromBytes } from '../tensor/create';
import { enqueueInSlices } from '../tensor/op_slices';
import { rawView } from '../tensor/raw';
import { moved, noGrad, runUntracked, tidy } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import type { EngineModel } from './model';
import { pageLength } from './pages';
import type { Chunk } from './scheduler';
import { layersOf, type Kept } from './states';

/** What puts `count` of the vectors, from one on, before embeddings [1, s, hidden]. */
const vectorsBefore =
  (vectors: Tensor, from: number, count: number) =>
  (embeddings: Tensor): Tensor => {
    const width = vectors.shape[1]!;
    const tokens = embeddings.shape[1]!;
    const parts = [rawView(vectors, from * width, [count, width]), rawView(embeddings, 0, [tokens, width])];
    const joined = joinRows(parts);
    for (const part of [...parts, embeddings]) part.dispose();
    return moved(joined, (t) => rawView(t, 0, [1, count + tokens, width]));
  };

/**
 * Enqueues the work on positions [request.computed, end), and between the blocks of the model lets timers and I/O run. Returns logits
 * [1, vocab] where `wantsToken`, else a number that is there when the work is done; the caller owns it.
 */
export async function prefill(
  model: EngineModel,
  kept: Kept,
  { request, end }: Chunk,
  wantsToken: boolean,
): Promise<Tensor> {
  const { device } = model;
  const { computed: begin, ids, pages, slot } = request;
  const whole = (values: readonly number[], shape: readonly number[]): Tensor =>
    fromBytes(new Uint8Array(Int32Array.from(values).buffer), 'i32', shape, device);
  const length = end - begin;
  const use: AdapterUse = { adapter: request.plan.adapter, phase: 'prefill' };
  return runUntracked(() =>
    noGrad(() =>
      tidy(async () => {
        const past: Past = {
          layers: layersOf(kept),
          pageTable: whole(
            pages.map(({ number }) => number),
            [1, pages.length],
          ),
          lengths: whole([end], [1]),
          slots: slot && whole([slot.number], [1]),
          tableStart: model.tableStart && whole([model.tableStart(request.longest)], [1]),
          maxPositions: pages.length * pageLength,
          phase: 'prefill',
        };
        const positions = ids.slice(begin, end);
        const vectors = vectorsAmong(positions);
        const inputIds = whole(positions.slice(vectors), [1, length - vectors]);
        const input =
          vectors === 0 ? undefined : vectorsBefore(request.plan.adapter!.vectors!, begin, vectors);
        const hidden = await enqueueInSlices(device, model.hiddenStates(inputIds, use, past, input));
        if (!wantsToken) return rawView(hidden, 0, [1]);
        const width = hidden.shape[2]!;
        return entry(() =>
          // One row, as in a step of the batch.
          model.logits(rawView(hidden, (length - 1) * width, [1, width]), { ...use, phase: 'decode' }),
        );
      }),
    ),
  );
}
