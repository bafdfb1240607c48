import type { Adapter } from '../../lib/index';
import type { LoraBranch } from '../../lib/ops';

/** The operands that an adapter adds to the call of a layer. */
export function branchOf(
  adapter: Adapter,
  path: string,
  forward?: number,
): Required<Pick<LoraBranch, 'up' | 'down' | 'scale'>> & LoraBranch {
  const { delta, use } = adapter.applied(path, forward)!;
  return delta.branch!(use) as ReturnType<typeof branchOf>;
}
