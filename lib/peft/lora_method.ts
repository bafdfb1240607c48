/** LoRA and DoRA, with modules that are trained whole beside them. */
import type { DeltaKind } from '../linear/delta';
import { deltaKinds } from '../linear/kinds';
import { isAllLinear } from './config_values';
import { completeLoRAConfig, loraFile, normalizeLoRAConfig, type LoRAConfig } from './config';
import { expertDeltas } from './expert_targets';
import { namesOfAdapted, resolveTargets } from './matching';
import {
  peftPrefix,
  refuseStrangers,
  refuseUnchangeable,
  type AdapterMethod,
  type PlannedDelta,
} from './method';

/** Some writers put `.weight` behind DoRA's magnitude, as PEFT has it in memory. */
const magnitude = `.${deltaKinds.dora.names['magnitude']!}.weight`;

export const lora: AdapterMethod<LoRAConfig> = {
  title: 'LoRA',
  loadedByPeft: true,
  file: loraFile,
  normalize: (input) => normalizeLoRAConfig(input),
  complete: completeLoRAConfig,

  /** The number of a layer within the model names its random streams and its masks. */
  plan(config, { linears, experts }, typed): PlannedDelta[] {
    if (typed) refuseStrangers(config, linears, experts);
    const ofExperts = expertDeltas(config, experts, linears.length);
    const targets = resolveTargets(config, linears);
    const ofLayers = linears.flatMap((linear, layer) => {
      const target = targets.get(linear.path);
      if (!target) return [];
      const { r, scale } = target;
      const kind: DeltaKind = deltaKinds[target.kind];
      refuseUnchangeable(linear, kind);
      return [
        {
          linear,
          kind,
          spec: { r, scale, stream: 2 * layer, layer },
          initWeights: config.initLoraWeights,
          prefix: peftPrefix(linear.path),
        },
      ];
    });
    return [...ofLayers, ...ofExperts];
  },

  /** PEFT stores the names that a shorthand stood for. */
  written: (config, changed) =>
    isAllLinear(config.targetModules)
      ? { ...config, targetModules: namesOfAdapted(config, changed) }
      : config,
  dropout: ({ loraDropout }) => loraDropout,
  size: ({ r }) => ({ r }),
  sizeAsLora: (config) => config,
  canonicalKey: (key) => (key.endsWith(magnitude) ? key.slice(0, -'.weight'.length) : key),

  facts({ r, loraAlpha, loraDropout, useDora, useRslora, modulesToSave, targetParameters }) {
    const kinds = [...(useDora ? ['DoRA'] : []), ...(useRslora ? ['rank-stabilized'] : [])];
    return [
      ['Rank', String(r)],
      ['Alpha', String(loraAlpha)],
      ...(kinds.length > 0 ? [['Kind of LoRA', kinds.join(', ')] as const] : []),
      ...(loraDropout > 0 ? [['Dropout', String(loraDropout)] as const] : []),
      ...(targetParameters ? [['Experts', targetParameters.join(', ')] as const] : []),
      ...(modulesToSave?.length ? [['Trained whole', modulesToSave.join(', ')] as const] : []),
    ];
  },
};
