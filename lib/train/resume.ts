/** Going on with a run: what a run depends on, and the state from which it continues as if it had never stopped. */
import { createHash, type Hash } from 'node:crypto';
import { join } from 'node:path';
import type { Batch } from '../data/batches';
import { LoRAError } from '../errors';
import { loadCheckpoint } from '../formats/checkpoint';
import { SavedFolder } from '../formats/file_group';
import { isRecord, parseJson } from '../formats/json';
import { fingerprintOf, sameNumbers } from '../linear/fingerprint';
import type { CausalLM } from '../models/causal_lm';
import type { Optimizer } from '../optim/optimizer';
import type { Adapter } from '../peft/adapter';
import { describe } from '../validate';
import type { BestState } from './best';
import type { ResolvedOptions } from './options';

const op = 'Trainer';

/** What the steps of a run depend on, beside its data. */
export type RunSettings = Readonly<Record<string, unknown>>;

export async function settingsOf(
  options: ResolvedOptions,
  model: CausalLM,
  adapter: Adapter,
): Promise<RunSettings> {
  const { batchSize, gradientAccumulationSteps, lr, weightDecay, maxGradNorm, seed, shuffleWindow } = options;
  const { schedule, warmupSteps, totalSteps, packing, packLength, neftuneNoiseAlpha } = options;
  const { optimizer, loraPlusRatio, decaySteps, groupByLength } = options;
  return {
    batchSize,
    gradientAccumulationSteps,
    optimizer,
    ...(loraPlusRatio === undefined ? {} : { loraPlusRatio }),
    lr,
    weightDecay,
    maxGradNorm,
    seed,
    shuffleWindow,
    ...(neftuneNoiseAlpha > 0 ? { neftuneNoiseAlpha } : {}),
    ...(packing ? { packing, packLength: packLength ?? null } : {}),
    ...(groupByLength ? { groupByLength } : {}),
    schedule,
    warmupSteps,
    ...(decaySteps === undefined ? {} : { decaySteps }),
    // A constant rate does not depend on the end.
    ...(schedule === 'constant' ? {} : { totalSteps: totalSteps ?? null }),
    dtype: model.dtype,
    model: model.config.raw,
    weights: await fingerprintOf(model.linears()[0]!.base),
    adapter: { ...adapter.config, targets: adapter.targets },
  };
}

/** The first setting that differs, with both values; undefined: none. */
function difference(saved: RunSettings, own: RunSettings): string | undefined {
  const text = (value: unknown): string => JSON.stringify(value) ?? 'nothing';
  for (const key of new Set([...Object.keys(own), ...Object.keys(saved)])) {
    const [was, is] = [saved[key], own[key]];
    if (text(was) === text(is)) continue;
    if (key === 'weights') {
      if (Array.isArray(was) && sameNumbers(was as number[], is as number[])) continue;
      return 'the model has other weights';
    }
    if (!isRecord(was) || !isRecord(is)) return `${key} was ${text(was)} and is ${text(is)}`;
    const inner = difference(was, is);
    if (inner !== undefined) return `${key}: ${inner}`;
  }
  return undefined;
}

/** A running digest of the batches that were taken, in order: it tells another data set, or another order, from the same. */
export class DataDigest {
  readonly #hash: Hash = createHash('sha256');

  add(batches: readonly Batch[]): void {
    for (const { inputIds, labels } of batches)
      for (const row of [...inputIds, ...labels]) this.#hash.update(Int32Array.of(row.length, ...row));
  }

  get value(): string {
    return this.#hash.copy().digest('hex');
  }
}

/** What a checkpoint holds beside the adapter and the optimizer. */
export interface RunState {
  readonly step: number;
  readonly settings: RunSettings;
  /** Of the batches of all steps so far. */
  readonly data: string;
  readonly evaluations: BestState;
}

/** The checkpoints in the folder of a run, oldest first; none where there is no such folder. */
export async function checkpointsOf(outDir: string): Promise<{ step: number; path: string }[]> {
  const folder = await SavedFolder.open(outDir).catch(() => undefined);
  return [...(folder?.names ?? [])]
    .flatMap((name) => {
      const step = /^checkpoint-(\d+)$/.exec(name)?.[1];
      return step === undefined ? [] : [{ step: Number(step), path: join(outDir, name) }];
    })
    .sort((a, b) => a.step - b.step);
}

/**
 * Puts a checkpoint into the adapter and the optimizer, and gives the place in the run.
 * @throws ERR_FILE for a folder that holds no such checkpoint, ERR_ARGUMENT for that of a run with other settings, before anything has changed.
 */
export async function resumeFrom(
  dir: string,
  own: RunSettings,
  state: { readonly adapter: Adapter; readonly optimizer: Optimizer },
): Promise<RunState> {
  const values = await loadCheckpoint(dir);
  const { step, settings, data, evaluations } = values;
  if (!Number.isSafeInteger(step) || typeof data !== 'string' || typeof settings !== 'string')
    throw new LoRAError(
      'ERR_FILE',
      `[${op}] ${dir} cannot be continued: it holds no place in a run (step ${describe(step)})`,
      { op },
    );
  const saved = parseJson(settings, `the settings of the run in ${dir}`) as RunSettings;
  const differs = difference(saved, own);
  if (differs !== undefined)
    throw new LoRAError(
      'ERR_ARGUMENT',
      `[${op}] ${dir} is of a run with other settings: ${differs}; start with a new outDir, or with those of that run`,
      { op },
    );
  await loadCheckpoint(dir, { adapter: state.adapter, optimizer: state.optimizer });
  return { step: step as number, settings: saved, data, evaluations: evaluations as BestState };
}
