/** The linear layers of a model as adapters see them: their paths, and what they do, from which names for lists of targets follow. */
import type { LinearRole } from '../linear/linear';

/** A linear module of the model, named as transformers names it: model.layers.0.self_attn.q_proj. */
export interface ModulePath {
  readonly path: string;
  /** null where it is not known. 'all-linear' leaves out the output embedding and routers. */
  readonly role: LinearRole | null;
}

/** The last part of a path: what layers are called in the lists of a configuration. */
export const lastPart = (path: string): string => path.slice(path.lastIndexOf('.') + 1);

/** A path and its ends after a dot: what a name may equal. */
export function* endsOf(path: string): Generator<string, void, void> {
  yield path;
  for (let dot = path.indexOf('.'); dot >= 0; dot = path.indexOf('.', dot + 1)) yield path.slice(dot + 1);
}

/**
 * Names for the modules of some roles, in the order of `modules`: the shortest ends of their paths that no other module has.
 *
 * @example
 * namesOfRoles(modules, ['mlpOutput']) // ['down_proj'], and of GPT-2, whose attention has a c_proj too, ['mlp.c_proj']
 */
export function namesOfRoles(modules: readonly ModulePath[], roles: readonly LinearRole[]): string[] {
  const wanted = ({ role }: ModulePath): boolean => role !== null && roles.includes(role);
  const others = new Set(modules.filter((one) => !wanted(one)).flatMap(({ path }) => [...endsOf(path)]));
  const names = modules
    .filter(wanted)
    .map(({ path }) => [...endsOf(path)].findLast((end) => !others.has(end))!);
  return [...new Set(names)];
}

/** The number of the block that a layer is in, and its path there; null outside of the blocks. */
export function placeInBlocks(path: string): { block: number; module: string } | null {
  const [, block, module] = /\.(\d+)\.(.+)$/.exec(path) ?? [];
  return module === undefined ? null : { block: Number(block), module };
}
