/** What an adapter trains of a model, from its configuration alone. */
import { normalizeLoRAConfig, type LoRAConfigInput } from '../peft/config';
import { scoreModule } from '../peft/head';
import { resolveTargets, type Target } from '../peft/matching';
import type { ModelConfig } from './config/model_config';
import { expertStacks, linearModules } from './files/tensor_table';

/** The trained values of an adapter. */
export interface AdapterSizes {
  /** How many they are. */
  readonly parameters: number;
  /** Of all layers. */
  readonly ranks: number;
  /** The layers that it changes, by their paths. */
  readonly targets: ReadonlyMap<string, Target>;
}

function trained({ kind, r }: Target, { out, in: inside }: { out: number; in: number }): number {
  if (kind === 'whole') return out * inside;
  return r * (out + inside) + (kind === 'dora' ? out : 0);
}

/** The sizes of a LoRA, and of a head of classes, which is trained beside. */
export function adapterTrained(config: ModelConfig, input: LoRAConfigInput): AdapterSizes {
  const named = input.modulesToSave ?? [];
  const whole = config.head && !named.includes(scoreModule) ? [...named, scoreModule] : named;
  const adapter = normalizeLoRAConfig({ ...input, ...(whole.length > 0 && { modulesToSave: whole }) });
  const linears = linearModules(config);
  const targets = resolveTargets(adapter, linears);
  let parameters = 0;
  let ranks = 0;
  for (const linear of linears) {
    const target = targets.get(linear.path);
    if (target === undefined) continue;
    parameters += trained(target, linear);
    ranks += target.r;
  }
  for (const { path, count, out, in: inside } of expertStacks(config)) {
    if (!adapter.targetParameters?.some((name) => path === name || path.endsWith(`.${name}`))) continue;
    parameters += count * adapter.r * (out + inside);
    ranks += adapter.r;
  }
  return { parameters, ranks, targets };
}
