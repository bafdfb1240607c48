/** Which subject a run has. */
import { LoRAError } from '../errors';
import type { CausalLM } from '../models/causal_lm';
import { AdapterSubject } from './adapter_subject';
import type { TrainingSubject } from './subject';

/** The active adapter. @throws ERR_ARGUMENT without one that is trainable. */
export function subjectOf(model: CausalLM): TrainingSubject {
  const adapter = model.activeAdapter;
  if (adapter?.trainable) return new AdapterSubject(model, adapter);
  throw new LoRAError(
    'ERR_ARGUMENT',
    adapter
      ? `[Trainer] expected a trainable active adapter but ${adapter.name} was loaded with trainable: false`
      : '[Trainer] expected an active adapter but the model has none: call model.addAdapter({ r: 16 }) first',
    { op: 'Trainer' },
  );
}
