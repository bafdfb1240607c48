/** What the adapter of a PEFT directory adds to each weight, computed in double from its files alone. */
import { floatsOf } from '../../lib/formats/floats';
import type { AdapterFiles } from '../../lib/peft/adapter_files';
import { completeLoRAConfig, fromPeftJson } from '../../lib/peft/config';
import { resolveTargets } from '../../lib/peft/matching';

const suffix = '.lora_A.weight';
const prefix = 'base_model.model.';

/** s·up·down of each layer [out, in], by its path. */
export function changeOf({ config: json, tensors }: AdapterFiles): Map<string, Float64Array> {
  const paths = [...tensors.keys()].filter((key) => key.endsWith(suffix));
  const modules = paths.map((key) => key.slice(prefix.length, -suffix.length));
  const linears = modules.map((path) => ({ path, role: null }));
  const targets = resolveTargets(completeLoRAConfig(fromPeftJson(json).config, linears), linears);
  return new Map(
    modules.map((path) => {
      const down = tensors.get(`${prefix}${path}${suffix}`)!;
      const up = tensors.get(`${prefix}${path}.lora_B.weight`)!;
      const [r, inside] = down.shape as [number, number];
      const [a, b] = [floatsOf(down), floatsOf(up)];
      const change = new Float64Array(up.shape[0]! * inside);
      const { scale } = targets.get(path)!;
      for (let i = 0; i < up.shape[0]!; i++)
        for (let k = 0; k < r; k++)
          for (let j = 0; j < inside; j++)
            change[i * inside + j]! += scale * b[i * r + k]! * a[k * inside + j]!;
      return [path, change];
    }),
  );
}

/** ‖x − y‖ / ‖y‖ of the layers that differ most; infinite where one has a layer that the other has not. */
export function distance(x: ReadonlyMap<string, Float64Array>, y: ReadonlyMap<string, Float64Array>): number {
  if ([...x.keys()].sort().join() !== [...y.keys()].sort().join()) return Infinity;
  const norm = (values: Float64Array): number => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0));
  return Math.max(
    ...[...y].map(([path, values]) => {
      const own = x.get(path)!;
      return norm(own.map((v, i) => v - values[i]!)) / norm(values);
    }),
  );
}
