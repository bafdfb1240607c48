/** Every family on the tiny model of its reference data: what transformers computes, and what each part of this package makes of it. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM, noGrad, openSafetensors } from '../../lib/index';
import { floatsOf } from '../../lib/formats/floats';
import type { Tensor } from '../../lib/tensor/tensor';
import { supportedFamilies } from '../support/golden';
import { relativeError } from '../support/numbers';
import { describeWithData, sharedData } from '../support/shared_data';

const models = new Map<string, CausalLM>();
const folder = (name: string): string => join(sharedData, 'golden-families', name);

/** The model of a folder; each is loaded once. */
async function modelOf(name: string): Promise<CausalLM> {
  const known = models.get(name);
  if (known) return known;
  const model = await CausalLM.fromPretrained(join(folder(name), 'model'));
  models.set(name, model);
  return model;
}

interface Batches {
  ids: number[][][];
  labels: number[][][];
}
const batchesOf = (name: string): Batches =>
  JSON.parse(readFileSync(join(folder(name), 'batches.json'), 'utf8')) as Batches;

async function floats(path: string): Promise<Map<string, Float32Array>> {
  const file = await openSafetensors(path);
  const read = new Map([...file.tensors].map(([name, tensor]) => [name, floatsOf(tensor).slice()]));
  file.close();
  return read;
}

describeWithData('families', 'golden-families', () => {
  afterAll(async () => {
    for (const model of models.values()) await model.dispose();
  });

  describe.each(supportedFamilies)('%s', (name) => {
    const states = join(folder(name), 'hidden_states.safetensors');
    (existsSync(states) ? test : test.skip)('hidden states are those of transformers', async () => {
      const model = await modelOf(name);
      const wanted = await floats(states);
      const [row] = batchesOf(name).ids[0]!;
      const seen: Promise<Float32Array>[] = [];
      const watch = (_: string, x: Tensor): void => void seen.push(x.data<Float32Array>());
      noGrad(() => model.forward([row!], { watch })).logits.dispose();
      // What stands behind the last norm is seen in the logits.
      const found = (await Promise.all(seen)).slice(0, -1);
      expect(found).toHaveLength(wanted.size - 1);
      for (const [i, x] of found.entries())
        expect(relativeError(x, wanted.get(String(i))!)).toBeLessThan(1e-5);
    });
  });
});
