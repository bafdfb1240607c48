/** Parameters of experts that an adapter changes: PEFT's target_parameters. */
import { loraError } from '../errors';
import { expertLora } from '../linear/expert_lora';
import { parameterNames, type ExpertModule } from '../linear/expert_module';
import { describe, listed } from '../validate';
import type { LoRAConfig } from './config';
import { resolveTargets } from './matching';
import { peftPrefix, type PlannedDelta } from './method';
import { endsOf } from './roles';

/** @throws ERR_ADAPTER for a name that no parameter has. */
export function expertDeltas(
  config: LoRAConfig,
  experts: readonly ExpertModule[],
  /** The numbers of layers that are taken. */
  taken: number,
): PlannedDelta[] {
  const { targetParameters } = config;
  if (targetParameters === null) return [];
  const ends = experts.map(({ path }) => new Set(endsOf(path)));
  const strangers = targetParameters.filter((name) => !ends.some((all) => all.has(name)));
  if (strangers.length > 0) {
    const names = parameterNames(experts);
    const known = names.length > 0 ? `it has ${names.join(', ')}` : 'it has no experts';
    throw loraError(
      'adapter',
      'ERR_ADAPTER',
      `targetParameters ${listed(strangers.map(describe))} match no parameter of the model: ${known}`,
    );
  }
  const chosen = experts.filter((_, i) => targetParameters.some((name) => ends[i]!.has(name)));
  // Ranks and alphas are chosen by the same patterns as those of layers.
  const targets = resolveTargets(
    { ...config, targetModules: targetParameters, modulesToSave: null },
    chosen.map(({ path }) => ({ path, role: null })),
  );
  const inLayers = chosen.filter(({ path }) => targets.has(path));
  const paths = inLayers.map(({ path }) => path);
  return inLayers.map((module, i) => {
    const { r, scale } = targets.get(module.path)!;
    const layer = taken + i;
    return {
      linear: module,
      kind: expertLora(module.count),
      spec: { r, scale, stream: 2 * layer, layer },
      initWeights: config.initLoraWeights,
      prefix: peftPrefix(wrappedPath(module.path, paths)),
    };
  });
}

/** Each changed parameter of a module wraps the one before: PEFT names the last `experts`, and those within it `experts.base_layer`. */
export function wrappedPath(path: string, changed: readonly string[]): string {
  const moduleOf = (of: string): string => of.slice(0, of.lastIndexOf('.'));
  const siblings = changed.filter((one) => moduleOf(one) === moduleOf(path));
  const around = siblings.length - 1 - siblings.indexOf(path);
  return `${moduleOf(path)}${'.base_layer'.repeat(around)}`;
}
