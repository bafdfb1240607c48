/** Gives every factor of an adapter seeded numbers, so that it changes what the model computes. */
import { tensor, type Adapter, type Tensor } from '../../lib/index';
import { generator } from './tiny_model';

export function fillAdapter(adapter: Adapter, seed = 3, size = 1): void {
  const random = generator(seed);
  const state = adapter.stateDict() as { tensors: Record<string, Tensor> };
  for (const [name, old] of Object.entries(state.tensors)) {
    const values = Float32Array.from({ length: old.numel }, () => size * random());
    state.tensors[name] = tensor(values, { shape: old.shape, device: old.device });
    old.dispose();
  }
  adapter.loadStateDict(state);
  for (const t of Object.values(state.tensors)) t.dispose();
}
