/** preferenceLoss: the loss of one batch, for a training loop of one's own. */
import { batchOf } from '../../data/batches';
import type { LabeledRow, PreferenceRow } from '../../data/preference_rows';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import { objectiveOptions, type PreferenceObjectiveName } from '../../options/objectives';
import type { Adapter } from '../../peft/adapter';
import { tidy } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { check, checkBoolean, checkOneOf, checkOptions, describe } from '../../validate';
import { lossNow, rowsOf } from './preference';
import { preferenceSettings, type PreferenceOptions } from './settings';

/** What {@link preferenceLoss} compares. */
export interface PreferenceLossOptions extends PreferenceOptions {
  /** The model. */
  model: CausalLM;
  /** The rows of the batch: { promptIds, chosenIds, rejectedIds }, of 'kto' { promptIds, completionIds, label }. */
  rows: readonly PreferenceRow[] | readonly LabeledRow[];
  /** Whose loss it is. */
  objective: PreferenceObjectiveName;
  /** The adapter that is trained: a name, or an Adapter. Default: the active one. */
  adapter?: string | Adapter | undefined;
  /** Keeps only the input of each block for backward(). Default false. */
  gradientCheckpointing?: boolean | undefined;
}

/** What {@link preferenceLoss} gives. */
export interface PreferenceLoss {
  /** The mean loss of the rows, a scalar with its graph. */
  loss: Tensor;
  /** The figures that TRL logs, under its names; the first call reads them from the device. */
  readonly metrics: () => Promise<Record<string, number>>;
}

const op = 'preferenceLoss';

/**
 * The loss of one batch of preferences, recorded for backward(), without dropout. The base without the adapter, or the `reference`, is what answers are
 * compared with.
 *
 * @throws ERR_ARGUMENT for a bad option, ERR_DATA for rows that are none, and as model.forward.
 * @example
 * const rows = [{ promptIds: [1, 306], chosenIds: [29, 2], rejectedIds: [31, 2] }];
 * const { loss, metrics } = preferenceLoss({ model, rows, objective: 'dpo', beta: 0.1 });
 * loss.backward();
 * console.log(await loss.item(), (await metrics())['rewards/margins']);
 */
export function preferenceLoss(options: PreferenceLossOptions): PreferenceLoss {
  const { precomputeReference: _, disableDropout: __, ...own } = objectiveOptions;
  checkOptions(op, options, ['model', 'rows', 'adapter', 'gradientCheckpointing', ...Object.keys(own)]);
  const { model, rows, objective, gradientCheckpointing = false } = options;
  check(
    typeof (model as Partial<CausalLM> | undefined)?.forwardInSlices === 'function',
    op,
    `expected model to be a CausalLM but received ${describe(model)}`,
  );
  checkOneOf(op, 'objective', objective, ['dpo', 'orpo', 'kto', 'cpo']);
  checkBoolean(op, 'gradientCheckpointing', gradientCheckpointing);
  const settings = preferenceSettings(op, objective, options);
  const { adapters } = model.core;
  const adapter = adapters.resolve(op, options.adapter);
  check(adapter?.trainable, op, 'expected a trainable adapter, active or named');
  const named = 'reference' in settings ? settings.reference : null;
  const reference = named === null ? null : adapters.resolve(op, named);
  check(reference !== adapter, op, 'expected a reference other than the adapter that is trained');
  const kind = rowsOf(settings);
  if (!Array.isArray(rows) || rows.length === 0)
    throw loraError(
      op,
      'ERR_DATA',
      `expected rows to be a list of ${kind.form} but received ${describe(rows)}`,
    );
  const batch = batchOf(
    kind,
    rows.map((row, i) => kind.read(op, row, `row ${i}`)),
  );
  const { sum, values, read } = tidy(() => {
    const scorers = { adapter, reference, train: false, gradientCheckpointing };
    const { sum, measured } = lossNow(model, settings, batch, scorers);
    return { sum, ...measured! };
  });
  let metrics: Promise<Record<string, number>> | undefined;
  const readOnce = async (): Promise<Record<string, number>> => {
    const found = read(await values.data());
    values.dispose();
    return found;
  };
  return { loss: sum, metrics: () => (metrics ??= readOnce()) };
}
