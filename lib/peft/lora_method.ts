/** LoRA and DoRA, with modules that are trained whole beside them. */
import { LoRAError } from '../errors';
import type { DeltaKind } from '../linear/delta';
import { deltaKinds } from '../linear/kinds';
import type { Linear } from '../linear/linear';
import { isAllLinear } from './config_values';
import { loraFile, normalizeLoRAConfig, type LoRAConfig } from './config';
import { resolveTargets, unmatchedTargets } from './matching';
import { lastPart, modulePaths, peftPrefix, type AdapterMethod, type PlannedDelta } from './method';

const op = 'adapter';

/** Some writers put `.weight` behind DoRA's magnitude, as PEFT has it in memory. */
const magnitude = `.${deltaKinds.dora.names['magnitude']!}.weight`;

function refuseStrangers(config: LoRAConfig, linears: readonly Linear[]): void {
  const strangers = unmatchedTargets(config, modulePaths(linears));
  if (strangers.length === 0) return;
  const names = [...new Set(linears.map(({ path }) => lastPart(path)))].join(', ');
  throw new LoRAError(
    'ERR_ADAPTER',
    `[${op}] targetModules ${strangers.join(', ')} match no linear layer of the model; its layers are ${names}`,
    { op },
  );
}

export const lora: AdapterMethod<LoRAConfig> = {
  title: 'LoRA',
  file: loraFile,
  normalize: normalizeLoRAConfig,

  /** The number of a layer within the model names its random streams and its masks. */
  plan(config, linears, typed): PlannedDelta[] {
    if (typed) refuseStrangers(config, linears);
    const targets = resolveTargets(config, modulePaths(linears));
    return linears.flatMap((linear, layer) => {
      const target = targets.get(linear.path);
      if (!target) return [];
      const { r, scale } = target;
      const kind: DeltaKind = deltaKinds[target.kind];
      const why = kind.refuses?.(linear);
      if (why !== undefined)
        throw new LoRAError('ERR_UNSUPPORTED', `[${op}] ${linear.path} cannot be trained: ${why}`, { op });
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
  },

  /** PEFT stores the names that a shorthand stood for. */
  written: (config, changed) =>
    isAllLinear(config.targetModules)
      ? { ...config, targetModules: [...new Set(changed.map(lastPart))].sort() }
      : config,
  dropout: ({ loraDropout }) => loraDropout,
  size: ({ r }) => ({ r }),
  canonicalKey: (key) => (key.endsWith(magnitude) ? key.slice(0, -'.weight'.length) : key),

  facts({ r, loraAlpha, loraDropout, useDora, useRslora, modulesToSave }) {
    const kinds = [...(useDora ? ['DoRA'] : []), ...(useRslora ? ['rank-stabilised'] : [])];
    return [
      ['Rank', String(r)],
      ['Alpha', String(loraAlpha)],
      ...(kinds.length > 0 ? [['Kind of LoRA', kinds.join(', ')] as const] : []),
      ...(loraDropout > 0 ? [['Dropout', String(loraDropout)] as const] : []),
      ...(modulesToSave?.length ? [['Trained whole', modulesToSave.join(', ')] as const] : []),
    ];
  },
};
