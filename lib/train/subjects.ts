/** Which subject a run has, and whether the data fit it. */
import { checkLengths } from '../data/batches';
import type { DataSource } from '../data/example';
import { SequencePlan } from '../data/sequence_plan';
import { loraError } from '../errors';
import type { CausalLM } from '../models/causal_lm';
import type { Adapter } from '../peft/adapter';
import { AdapterSubject } from './adapter_subject';
import { ModelSubject } from './model_subject';
import type { TrainingSubject } from './subject';

/**
 * The active adapter, or the weights of the model. Without a word: what there is.
 * @throws ERR_ARGUMENT without one that is trainable.
 */
export function subjectOf(model: CausalLM, train: 'adapter' | 'all' | undefined): TrainingSubject {
  const refuse = (sentence: string): never => {
    throw loraError('Trainer', 'ERR_ARGUMENT', sentence);
  };
  const whole = model.core.trainedParameters.length > 0;
  if (train === 'all' && !whole)
    refuse("expected trainable weights, since train is 'all': call model.trainAll() first");
  if (train === 'adapter' && whole)
    refuse("expected train: 'all', since the weights of the model are trained: call freeze() for an adapter");
  if (whole) return new ModelSubject(model);
  const adapter = model.activeAdapter;
  if (adapter?.trainable) return new AdapterSubject(model, adapter);
  return refuse(
    adapter
      ? `expected a trainable active adapter but ${adapter.name} was loaded with trainable: false`
      : 'expected an active adapter but the model has none: call model.addAdapter({ r: 16 }) first',
  );
}

/** @throws ERR_ARGUMENT for examples that the context does not hold behind the vectors of an adapter. */
export function checkRoom(
  model: CausalLM,
  adapter: Adapter | null,
  sources: Readonly<Record<string, DataSource<unknown> | undefined>>,
): void {
  const plan = new SequencePlan(adapter, model.config.maxPositionEmbeddings);
  for (const [name, data] of Object.entries(sources))
    if (data !== undefined) checkLengths('Trainer', name, data, plan);
}
