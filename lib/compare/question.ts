/** What the figures of a comparison depend on: a stopped one goes on only where it is the same. */
import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { batches } from '../data/batches';
import type { DataSource } from '../data/example';
import { fingerprintOf } from '../linear/fingerprint';
import type { CausalLM } from '../models/causal_lm';
import { baseModelName } from '../train/facts';
import type { ResolvedCompare } from './options';

/** Data may be larger than memory, or endless: of so many examples it is asked whether they are the same. */
const maxExamples = 10_000;

async function dataAsked(
  source: DataSource,
  signal: AbortSignal | undefined,
): Promise<Record<string, unknown>> {
  const hash = createHash('sha256');
  let examples = 0;
  for await (const { inputIds, labels } of batches(source, { signal })) {
    for (const row of [...inputIds, ...labels]) hash.update(Int32Array.from([row.length, ...row]));
    if (++examples === maxExamples) break;
  }
  const { path } = source as { path?: unknown };
  return {
    ...(typeof path === 'string' ? { file: basename(path) } : {}),
    examples,
    digest: hash.digest('hex').slice(0, 32),
  };
}

export async function questionAsked(
  options: ResolvedCompare,
  { model, data, evalData }: { model: CausalLM; data: DataSource; evalData: DataSource },
): Promise<Record<string, unknown>> {
  const { methods, ranks, alphas, targets, seeds, budget, rates, swept, signal } = options;
  const { batchSize, gradientAccumulationSteps, gradientCheckpointing } = options;
  const { evalLimit = null, maxNewTokens = null, stop = null, quantize = null, activations } = options;
  return {
    base: baseModelName(model.directory),
    ...{ device: model.device, dtype: model.dtype, quantize },
    ...(activations === 'int8' && { activations }),
    ...{ methods, ranks, alphas, targets, seeds, budget, rates },
    ...(swept && { swept }),
    ...{ batchSize, gradientAccumulationSteps, gradientCheckpointing },
    data: await dataAsked(data, signal),
    evalData: await dataAsked(evalData, signal),
    ...{ evalLimit, maxNewTokens, stop },
    model: model.config.raw,
    weights: await fingerprintOf(model.core.linears()[0]!.base),
  };
}
