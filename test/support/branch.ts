import type { Adapter } from '../../lib/index';
import type { LoraBranch } from '../../lib/ops';

/** The operands that an adapter adds to the call of a layer. */
export function branchOf(
  adapter: Adapter,
  path: string,
  forward?: number,
): Required<Pick<LoraBranch, 'up' | 'down' | 'scale'>> & LoraBranch {
  const { delta, use } = adapter.applied(path, forward)!;
  if (!('branch' in delta)) throw new Error(`${path} is not computed by the fused op`);
  return delta.branch(use) as ReturnType<typeof branchOf>;
}
