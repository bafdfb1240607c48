/** Draws the token after each row of a step. */
import {
  adjustLogits,
  drawnId,
  logProbs,
  maskLogits,
  sample,
  sampleRows,
  writeSampleRow,
  type SampleRows,
} from '../ops';
import { entry } from '../native/calls';
import { fromBytes, writeBytes } from '../tensor/create';
import { recordProgram, type Program } from '../tensor/program';
import { rawCast, rawEmpty, rawView } from '../tensor/raw';
import { temporaries } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { gatherEntries, type AdjustedRow } from './logit_adjuster';
import type { Drawn } from './delivery';
import { engineStack } from './model';
import type { Row } from './request';

/** The draws of the rows of a step, when they have been made. */
export interface Draws {
  /** Of each row, in order: the token, or why none could be drawn. */
  tokens(): Promise<(Drawn | Error)[]>;
}

/** Draws an id from each row of logits [m, vocab], by fixed operands. */
export interface Sampler {
  /** Enqueues the draw; returns ids [m] i32. */
  run(): Tensor;
}

function writeRows(to: SampleRows, rows: readonly Row[]): void {
  for (const [i, { request, offset }] of rows.entries())
    writeSampleRow(to, i, request.plan.generation, request.generated + offset);
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>) =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** The draw from logits that stay at their place, as a recorded program. */
export class RecordedSampler implements Sampler {
  readonly #rows: SampleRows;
  readonly #reals: Tensor;
  readonly #wholes: Tensor;
  readonly #program: Program;

  constructor(logits: Tensor) {
    const { device } = logits;
    const m = logits.shape[0]!;
    this.#rows = sampleRows(m);
    this.#reals = rawEmpty([m, 3], 'f32', device);
    this.#wholes = rawEmpty([m, 4], 'i32', device);
    try {
      this.#program = recordProgram(device, () => [sample(logits, this.#reals, this.#wholes)]);
    } catch (error) {
      this.#reals.dispose();
      this.#wholes.dispose();
      throw error;
    }
  }

  /** Writes how the token after each row is drawn; it costs least while the device waits. */
  prepare(rows: readonly Row[]): void {
    writeRows(this.#rows, rows);
    writeBytes(this.#reals, bytesOf(this.#rows.reals));
    writeBytes(this.#wholes, bytesOf(this.#rows.wholes));
  }

  /** The ids are good until the next run. */
  run(): Tensor {
    this.#program.run();
    return this.#program.outputs[0]!;
  }

  dispose(): void {
    this.#program.dispose();
    this.#reals.dispose();
    this.#wholes.dispose();
  }
}

/** The sampler of logits that are drawn from once. */
function plainSampler(logits: Tensor, rows: readonly Row[]): Sampler {
  const m = rows.length;
  const operands = sampleRows(m);
  writeRows(operands, rows);
  const { device } = logits;
  return {
    run: () =>
      sample(
        logits,
        fromBytes(bytesOf(operands.reals), 'f32', [m, 3], device),
        fromBytes(bytesOf(operands.wholes), 'i32', [m, 4], device),
      ),
  };
}

/**
 * Enqueues the draw of the token after each row from its logits, a row of [m, vocab], which grammars, penalties and biases change in
 * place.
 * Log-probabilities are those before the change. `sampler` draws from these logits.
 */
export function drawTokens(
  logits: Tensor,
  rows: readonly Row[],
  sampler: Sampler = plainSampler(logits, rows),
): Draws {
  const counts = rows.map(({ request }) => request.plan.generation.logprobs ?? -1);
  const most = Math.max(...counts);
  const reads = temporaries(() =>
    entry(() => {
      const entries = gatherEntries(rows.map(adjustedRow));
      const constrained = rows.some(({ request }) => request.plan.constraint);
      const raw = most >= 0 && (entries || constrained) ? rawCast(logits, logits.dtype) : logits;
      if (entries) adjustLogits(logits, entries);
      if (constrained) maskRows(logits, rows);
      const ids = sampler.run();
      const report = most >= 0 ? logProbs(raw, ids, most) : [];
      // The reads are enqueued now, before the work of other steps.
      return Promise.all([ids, ...report].map((tensor) => tensor.data()));
    }, engineStack),
  );
  reads.catch(() => undefined); // tokens() tells of it
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

const adjustedRow = ({ request, offset }: Row): AdjustedRow => ({
  adjuster: request.adjuster,
  ahead: request.proposed.slice(0, offset),
});

/** What the grammar of a row allows. */
function maskOf({ request, offset }: Row): Int32Array<ArrayBuffer> | undefined {
  const { constraint } = request.plan;
  return offset === 0 ? constraint?.bits : constraint?.ahead[offset - 1];
}

/** Leaves each row of logits what its grammar allows; neighbors that have one are one op, and rows without are left alone. */
function maskRows(logits: Tensor, rows: readonly Row[]): void {
  const vocab = logits.shape[1]!;
  const words = Math.ceil(vocab / 32);
  for (let row = 0; row < rows.length;) {
    const masks: Int32Array[] = [];
    for (let at = row; at < rows.length; at++) {
      const bits = maskOf(rows[at]!);
      if (!bits) break;
      masks.push(bits);
    }
    if (masks.length > 0) {
      const all = new Int32Array(masks.length * words);
      for (const [i, mask] of masks.entries()) all.set(mask, i * words);
      const bits = fromBytes(new Uint8Array(all.buffer), 'i32', [masks.length, words], logits.device);
      maskLogits(rawView(logits, row * vocab, [masks.length, vocab]), bits);
    }
    row += masks.length + 1;
  }
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
