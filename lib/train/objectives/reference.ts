/** What answers are compared with: the model without its adapter, or with one that is not trained. */
import { createHash } from 'node:crypto';
import type { Batch } from '../../data/batches';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import { labelLogProbsInSlices } from '../../models/running/log_probs';
import type { Device } from '../../native/device';
import type { Adapter } from '../../peft/adapter';
import { tensor } from '../../tensor/create';
import { noGrad } from '../../tensor/scope';
import type { StateValue } from '../../tensor/state';
import { isRecord } from '../../validate';
import type { Ranks } from '../reducer';
import { answerLengthsOf, answerScores, type AnswerScores } from './answer_scores';

/** Prompts with answers. */
export type AnswerTexts = Pick<Batch, 'inputIds' | 'labels' | 'groups'>;

/** Bytes of a key. */
const keySize = 32;

/** What tells two lists of numbers from others, a character for each byte. */
export function keyOf(...rows: readonly (readonly number[])[]): string {
  const hash = createHash('sha256');
  for (const row of rows) hash.update(Int32Array.from([row.length, ...row]));
  return hash.digest('binary');
}

export class Reference {
  /** log p of the answers of the data, by text, where they are computed before the first step. */
  readonly #known: Map<string, number> | undefined;
  #digest: string | undefined;

  /** `adapter`: null is the base. `precompute`: before the first step, for the base may be trained. */
  constructor(
    readonly adapter: Adapter | null,
    readonly precompute: boolean,
  ) {
    this.#known = precompute ? new Map<string, number>() : undefined;
  }

  /** What checkpoints are compared with; the base is known by its weights. */
  get settings(): Readonly<Record<string, unknown>> {
    return {
      ...(this.#digest !== undefined && { referenceValues: this.#digest }),
      ...(this.precompute && { precomputeReference: true }),
    };
  }

  /** Reads what its settings depend on. */
  async identify(): Promise<void> {
    if (this.adapter !== null) this.#digest = await digestOf(this.adapter);
  }

  /** What it has computed, for checkpoints. */
  get state(): StateValue | undefined {
    const known = this.#known;
    if (!known) return undefined;
    return {
      keys: new Uint8Array(Buffer.from([...known.keys()].join(''), 'latin1')),
      values: Float32Array.from(known.values()),
    };
  }

  /** Takes it from a checkpoint, whose settings are those of this run. @throws ERR_FILE */
  restore(state: unknown): void {
    const { keys, values } = isRecord(state) ? state : {};
    if (
      !(keys instanceof Uint8Array && values instanceof Float32Array) ||
      keys.length !== keySize * values.length
    )
      throw loraError('Trainer', 'ERR_FILE', 'the checkpoint has no values of its reference');
    const text = Buffer.from(keys).toString('latin1');
    for (const [i, value] of values.entries())
      this.#known?.set(text.slice(keySize * i, keySize * (i + 1)), value);
  }

  /** Computes the values of texts that have none. */
  async add(model: CausalLM, texts: AnswerTexts): Promise<void> {
    const known = this.#known!;
    const { inputIds, labels } = texts;
    const keys = inputIds.map((ids, i) => keyOf(ids, labels[i]!));
    const missing = [...keys.keys()].filter((i) => !known.has(keys[i]!));
    if (missing.length === 0) return;
    const missed = <Value>(of: readonly Value[]): Value[] => missing.map((i) => of[i]!);
    const { sums } = await noGrad(async () => {
      const options = { adapter: this.adapter, train: false };
      const found = await labelLogProbsInSlices(model.core, missed(inputIds), missed(labels), options);
      return answerScores(found, missed(answerLengthsOf(texts)));
    });
    const values = await sums.data();
    sums.dispose();
    for (const [i, key] of missed(keys).entries()) known.set(key, values[i]!);
  }

  /** Takes what the other ranks have computed, and gives them its own. */
  async share(ranks: Ranks): Promise<void> {
    const known = this.#known!;
    for (const own of await ranks.gather([...known])) for (const [key, value] of own) known.set(key, value);
  }

  /** What was computed before; undefined: it is computed when it is asked for. */
  known(texts: AnswerTexts, device: Device): AnswerScores | undefined {
    const known = this.#known;
    if (!known) return undefined;
    const { inputIds, labels } = texts;
    const values = inputIds.map((ids, i) => known.get(keyOf(ids, labels[i]!)) ?? otherData());
    const lengths = answerLengthsOf(texts);
    return { sums: tensor(values, { device }), lengths, before: null, beforeCounts: lengths.map(() => 0) };
  }
}

/** @throws ERR_DATA */
export function otherData(): never {
  throw loraError('Trainer', 'ERR_DATA', 'the data has other rows than when the reference was computed');
}

/** A digest of the values of an adapter. */
async function digestOf(adapter: Adapter): Promise<string> {
  const hash = createHash('sha256');
  for (const parameter of adapter.parameters()) hash.update(await parameter.bytes());
  return hash.digest('hex');
}
