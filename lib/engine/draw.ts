/** Draws the next token of each sequence of a step. */
import { adjustLogits, drawnId, logProbs, sample, sampleRows, writeSampleRow } from '../ops';
import { entry } from '../native/calls';
import { fromBytes } from '../tensor/create';
import { rawCast } from '../tensor/raw';
import { noGrad, runUntracked, tidy } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { gatherEntries } from './logit_adjuster';
import type { Drawn, Request } from './request';

/** The draws of the rows of a step, when they have been made. */
export interface Draws {
  /** Of each row, in order: the token, or why none could be drawn. */
  tokens(): Promise<(Drawn | Error)[]>;
}

/**
 * Enqueues the draw of the next token of each request from its row of logits [m, vocab], which penalties and biases change in place.
 * Log-probabilities are those before the change.
 */
export function drawTokens(logits: Tensor, requests: readonly Request[]): Draws {
  const { device } = logits;
  const m = requests.length;
  const counts = requests.map(({ plan }) => plan.generation.logprobs ?? -1);
  const most = Math.max(...counts);
  const rows = sampleRows(m);
  for (const [i, { plan, generated }] of requests.entries())
    writeSampleRow(rows, i, { ...plan.generation, step: generated });
  const operand = (values: Float32Array | Int32Array, dtype: 'f32' | 'i32'): Tensor =>
    fromBytes(
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
      dtype,
      [m, values.length / m],
      device,
    );
  const made = runUntracked(() =>
    noGrad(() =>
      tidy(() =>
        entry(() => {
          const entries = gatherEntries(requests.map(({ adjuster }) => adjuster));
          const raw = most >= 0 && entries ? rawCast(logits, logits.dtype) : logits;
          if (entries) adjustLogits(logits, entries);
          const ids = sample(logits, operand(rows.reals, 'f32'), operand(rows.wholes, 'i32'));
          return { ids, report: most >= 0 ? logProbs(raw, ids, most) : [] };
        }),
      ),
    ),
  );
  // The reads are enqueued now, before the work of other steps.
  const reads = Promise.all([made.ids, ...made.report].map((tensor) => tensor.data()));
  reads.catch(() => undefined); // tokens() tells of it
  for (const tensor of [made.ids, ...made.report]) tensor.dispose();
  return {
    async tokens() {
      const [ids, values, tops] = await reads;
      return counts.map((count, i) => {
        let id: number;
        try {
          id = drawnId(ids![i]!);
        } catch (error) {
          return error as Error;
        }
        if (count < 0) return { id };
        const at = i * (1 + most);
        const likeliest = Array.from({ length: count }, (_, j) => ({
          id: tops![at + 1 + j]!,
          logprob: values![at + 1 + j]!,
        }));
        return { id, logprob: values![at]!, ...(count > 0 && { topLogprobs: likeliest }) };
      });
    },
  };
}

/** Draws nothing; tokens() waits for what a step computed, and throws what failed in it. */
export function noDraws(computed: Tensor): Draws {
  const read = computed.data();
  read.catch(() => undefined); // tokens() tells of it
  return {
    async tokens() {
      await read;
      return [];
    },
  };
}
