/** Reads the adapters of a model, and makes one of them. */
import { loraError } from '../errors';
import type { ExpertModule } from '../linear/expert_module';
import { addedOperands, type Linear } from '../linear/linear';
import type { Adapter } from '../peft/adapter';
import type { AdapterFiles } from '../peft/adapter_files';
import { filesOf } from '../peft/adapter_layers';
import {
  combineLayers,
  methodsOfExperts,
  type CombinedPart,
  type CombinePlan,
  type LayerParts,
} from '../peft/combine';
import { inSlices } from '../tensor/pace';
import type { Tensor } from '../tensor/tensor';

function checkPlain(op: string, { name, method, config, changesExperts }: Adapter, plan: CombinePlan): void {
  const fail = (why: string): never => {
    throw loraError(op, 'ERR_UNSUPPORTED', `adapter '${name}' ${why}`);
  };
  const isPair = method === 'lora' && 'useDora' in config && !config.useDora;
  if (!isPair || config.modulesToSave !== null) fail('is no plain LoRA, whose changes alone can be added up');
  if (changesExperts && !methodsOfExperts.includes(plan.method))
    fail(
      `changes experts: expected ${methodsOfExperts.map((one) => `'${one}'`).join(' or ')} but received '${plan.method}'`,
    );
}

/** What an adapter adds to a layer, or to all experts of a block; undefined: nothing. */
function addedBy(
  adapter: Adapter,
  module: Linear | ExpertModule,
): { up: Tensor; down: Tensor; r: number; scale: number } | undefined {
  const applied = adapter.applied(module.path);
  if (!applied) return undefined;
  const { delta, use } = applied;
  if ('changes' in delta) {
    const { spec, parameters } = delta;
    const [up, down] = [parameters.get('up')!, parameters.get('down')!];
    return { up, down, r: spec.r, scale: spec.scale * use.scale };
  }
  const { up, down, scale = 1 } = addedOperands(module as Linear, applied)!;
  return { up: up!, down: down!, r: up!.shape[1]!, scale };
}

/** What a PEFT directory of the combination holds. */
export async function combineAdapters(
  op: string,
  adapters: readonly Adapter[],
  linears: readonly Linear[],
  experts: readonly ExpertModule[],
  plan: CombinePlan,
): Promise<AdapterFiles> {
  for (const adapter of adapters) checkPlain(op, adapter, plan);
  // Every read is queued before the first await: training that goes on does not tear what is read.
  const layers = await Promise.all(
    [...linears, ...experts].map(async (module): Promise<LayerParts> => {
      const found = adapters.map(async (adapter, i): Promise<CombinedPart[]> => {
        const added = addedBy(adapter, module);
        if (!added) return [];
        const [up, down] = await Promise.all([added.up.data(), added.down.data()]);
        return [{ up, down, r: added.r, factor: plan.weights[i]! * added.scale }];
      });
      const { path, outFeatures, inFeatures } = module;
      return {
        ...{ path, out: outFeatures, in: inFeatures, parts: (await Promise.all(found)).flat() },
        ...('count' in module && { experts: module.count }),
      };
    }),
  );
  const changed = layers.filter(({ parts }) => parts.length > 0);
  const combined = await inSlices(combineLayers(changed, plan, op));
  const parameters = experts.map(({ path }) => path);
  return filesOf(combined, { base: null, dropout: 0 }, linears, parameters);
}
