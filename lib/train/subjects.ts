/** Which subject a run has. */
import { LoRAError } from '../errors';
import type { CausalLM } from '../models/causal_lm';
import { AdapterSubject } from './adapter_subject';
import { ModelSubject } from './model_subject';
import type { TrainingSubject } from './subject';

/**
 * The active adapter, or the weights of the model. Without a word: what there is.
 * @throws ERR_ARGUMENT without one that is trainable.
 */
export function subjectOf(model: CausalLM, train: 'adapter' | 'all' | undefined): TrainingSubject {
  const refuse = (sentence: string): never => {
    throw new LoRAError('ERR_ARGUMENT', `[Trainer] ${sentence}`, { op: 'Trainer' });
  };
  const whole = model.trainedParameters.length > 0;
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
