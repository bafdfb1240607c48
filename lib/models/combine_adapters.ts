/** Reads the adapters of a model, and makes one of them. */
import { loraError } from '../errors';
import { addedOperands, type Linear } from '../linear/linear';
import type { Adapter } from '../peft/adapter';
import type { AdapterFiles } from '../peft/adapter_files';
import { filesOf } from '../peft/adapter_layers';
import { combineLayers, type CombinedPart, type CombinePlan, type LayerParts } from '../peft/combine';
import { inSlices } from '../tensor/pace';

function checkPlain(op: string, { name, method, config }: Adapter): void {
  const plain = method === 'lora' && 'useDora' in config && !config.useDora && config.modulesToSave === null;
  if (!plain)
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `adapter '${name}' is no plain LoRA, whose changes alone can be added up`,
    );
}

/** What a PEFT directory of the combination holds. */
export async function combineAdapters(
  op: string,
  adapters: readonly Adapter[],
  linears: readonly Linear[],
  plan: CombinePlan,
): Promise<AdapterFiles> {
  for (const adapter of adapters) checkPlain(op, adapter);
  // Every read is queued before the first await: training that goes on does not tear what is read.
  const layers = await Promise.all(
    linears.map(async (linear): Promise<LayerParts> => {
      const found = adapters.map(async (adapter, i): Promise<CombinedPart[]> => {
        const applied = adapter.applied(linear.path);
        const added = applied && addedOperands(linear, applied);
        if (!added?.up || !added.down) return [];
        const { up, down, scale = 1 } = added;
        const r = up.shape[1]!;
        const values = await Promise.all([up.data(), down.data()]);
        const [a, b] = values;
        return [{ up: a, down: b, r, factor: plan.weights[i]! * scale }];
      });
      const { path, outFeatures, inFeatures } = linear;
      return { path, out: outFeatures, in: inFeatures, parts: (await Promise.all(found)).flat() };
    }),
  );
  const changed = layers.filter(({ parts }) => parts.length > 0);
  const combined = await inSlices(combineLayers(changed, plan, op));
  return filesOf(combined, { base: null, dropout: 0 }, linears);
}
