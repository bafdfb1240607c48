/** One LoRA pair as a PEFT adapter: its configuration, and two tensors under the name of a module. */
import { loraError } from '../errors';
import type { ReadLimits } from '../formats/limits';
import type { SafetensorsTensor } from '../formats/safetensors';
import { lora } from '../linear/lora';
import type { Device } from '../native/device';
import { readAdapter, writeAdapter } from '../peft/adapter_files';
import { adapterTensor, checkAdapterTensors } from '../peft/adapter_tensors';
import { completeLoRAConfig, fromPeftJson, normalizeLoRAConfig, toPeftJson } from '../peft/config';
import { resolveTargets } from '../peft/matching';
import { peftPrefix } from '../peft/method';
import { inSlices } from '../tensor/pace';
import { runUntracked } from '../tensor/scope';
import type { Parameter, Tensor } from '../tensor/tensor';
import { check, describe } from '../validate';

/** What such a file says beside its tensors. */
export interface PairSettings {
  readonly r: number;
  readonly loraAlpha: number;
  readonly loraDropout: number;
  readonly useRslora: boolean;
}

const key = (module: string, name: 'up' | 'down'): string => `${peftPrefix(module)}.${lora.names[name]!}`;

/** A name as PEFT has it: words between dots. */
export function checkModule(op: string, module: unknown): asserts module is string {
  check(
    typeof module === 'string' && /^\w+(\.\w+)*$/.test(module),
    op,
    () => `expected module to be a name such as 'linear' but received ${describe(module)}`,
  );
}

export async function savePair(
  dir: string | URL,
  module: string,
  settings: PairSettings,
  pair: { readonly up: Parameter; readonly down: Parameter },
): Promise<void> {
  const config = normalizeLoRAConfig({ ...settings, targetModules: [module] });
  const json = { ...toPeftJson(config), task_type: null };
  // Both reads are queued before the first await: training that goes on does not tear the file.
  const tensors = await Promise.all(
    (['up', 'down'] as const).map(async (name): Promise<[string, SafetensorsTensor]> => {
      const p = pair[name];
      return [key(module, name), { dtype: 'F32', shape: [...p.shape], bytes: await p.bytes() }];
    }),
  );
  await writeAdapter(dir, { config: json, tensors: new Map(tensors) });
}

/** The modules of which a file has a pair. */
function modulesOf(tensors: ReadonlyMap<string, SafetensorsTensor>): string[] {
  const [begin, end] = [peftPrefix(''), `.${lora.names['down']!}`];
  return [...tensors.keys()]
    .filter((name) => name.startsWith(begin) && name.endsWith(end))
    .map((name) => name.slice(begin.length, -end.length));
}

/**
 * The pair of a module, or of the only one. The caller owns both tensors.
 *
 * @throws ERR_ADAPTER for a module that the file does not have, another method than plain LoRA, and tensors that do not fit.
 */
export async function loadPair(
  op: string,
  dir: string | URL,
  wanted: string | undefined,
  device: Device,
  limits: ReadLimits | undefined,
): Promise<{ settings: PairSettings; up: Tensor; down: Tensor }> {
  const { config: json, tensors } = await readAdapter(dir, { limits });
  const refuse = (sentence: string): never => {
    throw loraError(op, 'ERR_ADAPTER', sentence);
  };
  const modules = modulesOf(tensors);
  const module = wanted ?? (modules.length === 1 ? modules[0]! : undefined);
  if (module === undefined || !modules.includes(module))
    return refuse(
      `expected an adapter of ${module === undefined ? 'one module, or the option module,' : `the module '${module}'`} but received one of ${modules.join(', ') || 'none'}`,
    );
  const linear = { path: module, role: 'mlpOutput' as const };
  const config = completeLoRAConfig(fromPeftJson(json).config, [linear]);
  const target = resolveTargets(config, [linear]).get(module)!;
  if (target.kind !== 'lora')
    return refuse(`expected plain LoRA for the module '${module}' but received ${target.kind}`);
  const [up, down] = (['up', 'down'] as const).map((name) => tensors.get(key(module, name))) as [
    SafetensorsTensor | undefined,
    SafetensorsTensor,
  ];
  const { r, scale } = target;
  const expected = new Map([
    [key(module, 'down'), [r, down.shape[1] ?? 0]],
    [key(module, 'up'), [up?.shape[0] ?? 0, r]],
  ]);
  const own = new Map([...tensors].filter(([name]) => name.startsWith(`${peftPrefix(module)}.`)));
  await inSlices(checkAdapterTensors(module, json['base_model_name_or_path'], expected, own));
  const { loraDropout, useRslora } = config;
  // Where no pattern has it, as it is written: α/r·r may differ in its last digit.
  const patterned = Object.keys(config.alphaPattern).length > 0;
  const loraAlpha = patterned ? scale * (useRslora ? Math.sqrt(r) : r) : config.loraAlpha;
  // Owned by nobody: a tidy() of the caller may end meanwhile.
  return {
    settings: { r, loraAlpha, loraDropout, useRslora },
    up: await runUntracked(() => adapterTensor(up!, device)),
    down: await runUntracked(() => adapterTensor(down, device)),
  };
}
