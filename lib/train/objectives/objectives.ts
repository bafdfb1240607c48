/** Which objective a run has. */
import type { DataSource } from '../../data/example';
import { loraError } from '../../errors';
import type { CausalLM } from '../../models/causal_lm';
import { check } from '../../validate';
import type { TrainingSubject } from '../subject';
import { ClassifyObjective, type ClassifySettings } from './classify';
import { ContrastiveObjective } from './contrastive';
import { GRPOObjective } from './grpo';
import type { GRPOSettings } from './grpo_settings';
import type { Objective } from './objective';
import { answersOf, PreferenceObjective } from './preference';
import { Reference } from './reference';
import { RankObjective } from './rank';
import type { PreferenceSettings, RetrievalSettings } from './settings';
import { supervised } from './supervised';

const op = 'Trainer';

/** What the options of a run say of its objective. */
export interface ObjectiveChoice {
  /** Absent: supervised fine-tuning. */
  readonly preference: PreferenceSettings | undefined;
  readonly grpo: GRPOSettings | undefined;
  readonly classify: ClassifySettings | undefined;
  readonly retrieval: RetrievalSettings | undefined;
  readonly seed: number;
  readonly precomputeReference: boolean;
  readonly disableDropout: boolean;
}

/** How many texts a step computes of a row of the data. */
export function textsOf({
  preference,
  grpo,
  retrieval,
}: Pick<ObjectiveChoice, 'preference' | 'grpo' | 'retrieval'>): number {
  if (grpo) return grpo.advantages.numGenerations;
  if (retrieval) return 2; // a third one in rows with a negative
  return preference ? answersOf(preference) : 1;
}

/** @throws ERR_UNSUPPORTED where there is no reference to compare with. */
function rewardsObjective(
  grpo: GRPOSettings,
  { seed, disableDropout }: ObjectiveChoice,
  model: CausalLM,
  { adapter }: TrainingSubject,
): Objective {
  if (adapter === null && grpo.policy.beta > 0)
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      'beta above 0 compares with the base, and all weights are trained: train an adapter, or leave beta at 0',
    );
  return new GRPOObjective(grpo, model, seed, !disableDropout);
}

/** @throws ERR_ARGUMENT for a reference that there is not, or that is trained itself. */
export function objectiveOf(
  choice: ObjectiveChoice,
  model: CausalLM,
  subject: TrainingSubject,
  data: DataSource<unknown>,
): Objective {
  const { preference, grpo, classify, retrieval, precomputeReference, disableDropout } = choice;
  const { core } = model;
  const { adapter } = subject;
  if (classify) return new ClassifyObjective(model, classify);
  if (model.config.head && retrieval?.objective !== 'rank')
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      "expected objective: 'classify', since the model ends in a head of classes",
    );
  if (grpo) return rewardsObjective(grpo, choice, model, subject);
  if (retrieval)
    return retrieval.objective === 'rank'
      ? new RankObjective({ ...retrieval }, model)
      : new ContrastiveObjective(retrieval, model);
  if (preference === undefined) return supervised;
  const { maxLength } = data as { maxLength?: number };
  const make = (reference?: Reference): Objective =>
    new PreferenceObjective(preference, reference, !disableDropout, maxLength);
  if (!('reference' in preference)) return make();
  const { reference: name } = preference;
  if (adapter === null && !precomputeReference)
    throw loraError(
      op,
      'ERR_ARGUMENT',
      'expected precomputeReference: true, since all weights are trained and the reference is what they were',
    );
  const reference = name === null ? null : core.adapters.resolve(op, name);
  check(
    reference === null || reference !== adapter,
    op,
    'expected a reference other than the adapter that is trained',
  );
  return make(new Reference(reference, precomputeReference));
}
