/**
 * Files with a change for each matrix of each expert, as PEFT wrote them where experts were modules: the same as changes of the parameters of all experts.
 * The parts of a parameter, as gate over up, had a pair each: with the ranks of all side by side, up has their factors on its diagonal,
 *
 *     [ΔW_gate; ΔW_up] = s·[[up_gate, 0], [0, up_up]]·[down_gate; down_up]
 *
 * which is what PEFT makes of such files for transformers 5.
 */
import { loraError } from '../errors';
import { floatsOf } from '../formats/floats';
import type { SafetensorsTensor } from '../formats/safetensors';
import { parameterName, type ExpertModule } from '../linear/expert_module';
import { inSlices } from '../tensor/pace';
import { isRecord, listed } from '../validate';
import type { AdapterFiles } from './adapter_files';
import { f32Tensor, parameterTargets, tensorKey } from './adapter_layers';
import { checkAdapterTensors } from './adapter_tensors';
import { completeLoRAConfig, fromPeftJson } from './config';
import { wrappedPath } from './expert_targets';
import { resolveTargets, type Target } from './matching';
import { keyInTextModel, peftPrefix } from './method';
import type { ModulePath } from './roles';

/** The matrices of one part of the rows of a parameter, of all experts. */
interface Part {
  /** Expert after expert. */
  readonly paths: readonly string[];
  readonly target: Target | undefined;
}

/** What the matrix of an expert was called as a module. */
const moduleOf = (module: ExpertModule, expert: number, part: string): string =>
  `${module.path.slice(0, module.path.lastIndexOf('.'))}.${expert}.${part}`;

const isOfExpert = (key: string): boolean => /\.experts\.\d+\./.test(key);

function fail(name: string, why: string): never {
  throw loraError('adapter', 'ERR_ADAPTER', `adapter '${name}' does not fit the model: ${why}`);
}

/** @throws ERR_ADAPTER for keys of experts that the model does not have */
function checkModules(name: string, keys: readonly string[], experts: readonly ExpertModule[]): void {
  const paths = new Set(
    experts.flatMap((module) =>
      module.partNames.flatMap((part) =>
        Array.from({ length: module.count }, (_, e) => peftPrefix(moduleOf(module, e, part))),
      ),
    ),
  );
  const strangers = keys.filter((key) => !paths.has(key.replace(/\.lora_[^.]*(\.weight)?$/, '')));
  if (strangers.length === 0) return;
  const names = [...new Set(experts.flatMap(({ partNames }) => partNames))];
  const first = experts[0]!;
  fail(
    name,
    `it holds unexpected ${listed(strangers)}; ${first.count} experts are there, such as ${moduleOf(first, 0, names[0]!)}, with ${names.join(', ')} each`,
  );
}

/** The rank and scale that all experts have of a part. @throws ERR_ADAPTER where they differ */
function partOf(
  name: string,
  module: ExpertModule,
  part: string,
  targets: ReadonlyMap<string, Target>,
): Part {
  const paths = Array.from({ length: module.count }, (_, e) => moduleOf(module, e, part));
  const own = paths.map((path) => targets.get(path));
  const [target] = own;
  const odd = own.findIndex((one) => one?.r !== target?.r || one?.scale !== target?.scale);
  if (odd >= 0)
    fail(name, `expected one rank and scale of all experts, but ${paths[odd]} has others than ${paths[0]}`);
  return { paths, target };
}

/** The flat tensors of a parameter, of those of its parts: see linear/expert_lora.ts. Steps, for inSlices. */
function* flatFactors(
  module: ExpertModule,
  parts: readonly Part[],
  r: number,
  tensors: ReadonlyMap<string, SafetensorsTensor>,
): Generator<void, { up: SafetensorsTensor; down: SafetensorsTensor }, void> {
  const { count, inFeatures, outFeatures, order } = module;
  const up = new Float32Array(outFeatures * r * count);
  const down = new Float32Array(count * r * inFeatures);
  const rows = outFeatures / parts.length;
  let rank = 0;
  for (const [p, { paths, target }] of parts.entries()) {
    if (!target) continue;
    for (const [e, path] of paths.entries()) {
      down.set(floatsOf(tensors.get(tensorKey(path, 'down'))!), (e * r + rank) * inFeatures);
      const own = floatsOf(tensors.get(tensorKey(path, 'up'))!);
      for (let row = 0; row < rows; row++) {
        const to = order === 'below' ? p * rows + row : row * parts.length + p;
        for (let k = 0; k < target.r; k++) up[(to * r + rank + k) * count + e] = own[row * target.r + k]!;
      }
      yield;
    }
    rank += target.r;
  }
  return { up: f32Tensor(up, [outFeatures, r * count]), down: f32Tensor(down, [count * r, inFeatures]) };
}

/** The keys of patterns for parameters: their name where all that have it share the value, else their path. */
function patternsOf(values: ReadonlyMap<string, number>): Record<string, number> {
  const byName = new Map<string, Set<number>>();
  for (const [path, value] of values) {
    const own = byName.get(parameterName(path)) ?? new Set<number>();
    byName.set(parameterName(path), own.add(value));
  }
  return Object.fromEntries(
    [...values].map(([path, value]) => [
      byName.get(parameterName(path))!.size === 1 ? parameterName(path) : path,
      value,
    ]),
  );
}

/**
 * The files of an adapter for a model with these experts: those that are given, where they have no changes of single experts. Dropout, which has no form for
 * parameters of all experts, is left out unless the adapter is trained.
 * @throws ERR_ADAPTER for tensors that are missing or that the model has no experts for, and for experts of several ranks; ERR_UNSUPPORTED for DoRA
 */
export async function withStackedExperts(
  name: string,
  files: AdapterFiles,
  {
    linears,
    experts,
  }: { readonly linears: readonly ModulePath[]; readonly experts: readonly ExpertModule[] },
  trainable: boolean,
): Promise<AdapterFiles> {
  const { config: raw } = files;
  const tensors = new Map([...files.tensors].map(([key, tensor]) => [keyInTextModel(key), tensor]));
  const single = new Map([...tensors].filter(([key]) => isOfExpert(key)));
  if (single.size === 0 || experts.length === 0 || raw['peft_type'] !== 'LORA') return files;
  const config = completeLoRAConfig(fromPeftJson(raw).config, linears);
  if (config.useDora)
    throw loraError('adapter', 'ERR_UNSUPPORTED', `adapter '${name}' has DoRA of experts (use_dora)`);
  checkModules(name, [...single.keys()], experts);
  const modules = experts.flatMap((module) =>
    module.partNames.flatMap((part) =>
      Array.from({ length: module.count }, (_, e) => ({
        ...{ path: moduleOf(module, e, part), role: null },
        ...{ out: module.base.rows, in: module.inFeatures },
      })),
    ),
  );
  const targets = resolveTargets(config, modules);
  const expected = new Map<string, readonly number[]>();
  for (const { path, out, in: inside } of modules) {
    const r = targets.get(path)?.r;
    if (r !== undefined)
      expected.set(tensorKey(path, 'down'), [r, inside]).set(tensorKey(path, 'up'), [out, r]);
  }
  await inSlices(checkAdapterTensors(name, raw['base_model_name_or_path'], expected, single));

  const stacked = experts.flatMap((module) => {
    const parts = module.partNames.map((part) => partOf(name, module, part, targets));
    const own = parts.flatMap(({ target }) => target ?? []);
    const [first] = own;
    if (!first) return [];
    if (own.some(({ scale }) => scale !== first.scale))
      fail(
        name,
        `expected one scale of ${module.partNames.join(' and ')} but received ${own.map(({ scale }) => scale).join(', ')} in ${module.path}`,
      );
    return [{ module, parts, scale: first.scale, r: own.reduce((sum, { r }) => sum + r, 0) }];
  });
  const paths = stacked.map(({ module }) => module.path);
  const all = new Map([...tensors].filter(([key]) => !isOfExpert(key)));
  for (const { module, parts, r } of stacked) {
    const { up, down } = await inSlices(flatFactors(module, parts, r, single));
    const place = wrappedPath(module.path, paths);
    all.set(tensorKey(place, 'down'), down).set(tensorKey(place, 'up'), up);
  }
  const ranks = new Map(stacked.map(({ module, r }) => [module.path, r]));
  // α/r · r is not always α in floating point, so its last digit is left out.
  const alphas = new Map(
    stacked.map(({ module, r, scale }) => [
      module.path,
      Number((scale * (config.useRslora ? Math.sqrt(r) : r)).toPrecision(15)),
    ]),
  );
  const more = (key: string): object => (isRecord(raw[key]) ? raw[key] : {});
  return {
    ...files,
    config: {
      ...raw,
      target_parameters: parameterTargets(
        paths,
        experts.map(({ path }) => path),
      ),
      rank_pattern: { ...patternsOf(ranks), ...more('rank_pattern') },
      alpha_pattern: { ...patternsOf(alphas), ...more('alpha_pattern') },
      ...(!trainable && { lora_dropout: 0 }),
    },
    tensors: all,
  };
}
