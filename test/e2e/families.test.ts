/** Every family on the tiny model of its reference data: what transformers computes, and what each part of this package makes of it. */
import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  CausalLM,
  convertModel,
  estimateMemory,
  memoryUsage,
  noGrad,
  openSafetensors,
  setThreads,
  SGD,
  type AdapterConfigInput,
  type Device,
  type Parameter,
  type Tensor,
} from '../../lib/index';
import { floatsOf } from '../../lib/formats/floats';
import { parseModelConfig } from '../../lib/models/families';
import { attentionLayers } from '../../lib/models/config/model_config';
import { oneByOne, together, wishes } from '../support/engine_requests';
import { fillAdapter } from '../support/fill_adapter';
import { collectGarbage } from '../support/garbage';
import { supportedFamilies } from '../support/golden';
import { bits, relativeError } from '../support/numbers';
import { slope } from '../support/slope';
import { describeWithData, sharedData } from '../support/shared_data';
import { temporaryFolder } from '../support/temporary';

const scratch = temporaryFolder();
const folder = (name: string): string => join(sharedData, 'golden-families', name);
const modelFolder = (name: string): string => join(folder(name), 'model');

/** What has to be changed in config.json of a model that llama.cpp does not compute as it stands. */
const forLlamaCpp: Readonly<Record<string, object>> = {
  'tiny-gemma3': { layer_types: Array(3).fill('sliding_attention'), query_pre_attn_scalar: 16 },
  'tiny-gemma3-window': { query_pre_attn_scalar: 12 },
  'tiny-gptoss-experts': {
    rope_parameters: {
      ...{ rope_type: 'yarn', rope_theta: 150000, factor: 8, original_max_position_embeddings: 16 },
      truncate: false,
    },
  },
  'tiny-smollm3': { no_rope_layer_interval: 4, no_rope_layers: [1, 1, 1, 0, 1] },
};

/** The steps of slopes, of models whose losses bend more than others, and of those whose routers choose other experts after longer ones. */
const steps: Readonly<Record<string, number>> = {
  'tiny-gemma4': 0.0003,
  'tiny-gemma4-moe': 0.0001,
  'tiny-gptoss': 0.0001,
  'tiny-gptoss-experts': 0.0001,
  'tiny-qwen35': 0.0003,
  'tiny-qwen3moe': 0.0001,
  'tiny-qwen3moe-experts': 0.0001,
};

/** Why some are not written as GGUF. */
const notWritten: Readonly<Record<string, string>> = {
  'tiny-qwen3moe': 'some layers have no experts, which GGUF files of qwen3moe do not say',
  'tiny-ministral': 'the model has sliding windows of 9, which GGUF files of llama do not have',
  'tiny-qwen35': 'heads of 8 and 12 numbers in a delta rule, of which llama.cpp reads one width',
};

/** Whether a text reaches later ones through more than keys and values. */
const keepsStates = (name: string): boolean =>
  parseModelConfig(JSON.parse(readFileSync(join(modelFolder(name), 'config.json'), 'utf8'))).layers.some(
    ({ kind }) => kind === 'state',
  );

const methods: Readonly<Record<string, AdapterConfigInput>> = {
  lora: { r: 3, targetModules: 'all-linear' },
  ia3: { method: 'ia3' },
  houlsby: { method: 'bottleneck', placement: 'houlsby', bottleneckSize: 5, activation: 'gelu' },
  prompt: { method: 'prompt', numVirtualTokens: 3 },
};

const models = new Map<string, CausalLM>();

/** The model of a folder in f32; each is loaded once. */
async function modelOf(name: string): Promise<CausalLM> {
  const known = models.get(name);
  if (known) return known;
  const model = await CausalLM.fromPretrained(modelFolder(name));
  models.set(name, model);
  return model;
}

interface Batch {
  ids: number[][];
  labels: number[][];
}
function batchesOf(name: string): Batch[] {
  const { ids, labels } = JSON.parse(readFileSync(join(folder(name), 'batches.json'), 'utf8')) as {
    ids: number[][][];
    labels: number[][][];
  };
  return ids.map((rows, i) => ({ ids: rows, labels: labels[i]! }));
}

async function floats(path: string): Promise<Map<string, Float32Array>> {
  const file = await openSafetensors(path);
  const read = new Map([...file.tensors].map(([name, tensor]) => [name, floatsOf(tensor).slice()]));
  file.close();
  return read;
}

async function logitsOf(model: CausalLM, ids: number[][]): Promise<Float32Array> {
  const { logits } = noGrad(() => model.forward(ids));
  const values = await logits.data<Float32Array>();
  logits.dispose();
  return values;
}

describeWithData('families', 'golden-families', () => {
  beforeAll(() => setThreads(1)); // tiny matrices
  afterAll(async () => {
    for (const model of models.values()) await model.dispose();
  });

  describe.each(supportedFamilies)('%s', (name) => {
    const states = join(folder(name), 'hidden_states.safetensors');
    // Folders that PEFT alone made have logits only.
    const recorded = existsSync(states) ? test : () => undefined;
    recorded('hidden states are those of transformers', async () => {
      const model = await modelOf(name);
      const wanted = await floats(states);
      const seen: Promise<Float32Array>[] = [];
      const watch = (_: string, x: Tensor): void => void seen.push(x.data<Float32Array>());
      noGrad(() => model.forward([batchesOf(name)[0]!.ids[0]!], { watch })).logits.dispose();
      // What stands behind the last norm is seen in the logits.
      const found = (await Promise.all(seen)).slice(0, -1);
      expect(found).toHaveLength(wanted.size - 1);
      for (const [i, x] of found.entries())
        expect(relativeError(x, wanted.get(String(i))!)).toBeLessThan(1e-5);
    });

    test('logits are those of the reference data', async () => {
      const wanted = (await floats(join(folder(name), 'base_logits.safetensors'))).get('logits')!;
      const { ids } = batchesOf(name)[0]!;
      expect(relativeError(await logitsOf(await modelOf(name), ids), wanted)).toBeLessThan(1e-5);
    });

    test.each(['f32', 'bf16'] as const)(
      'blocks that are computed twice give the same bits in %s, packed and not',
      async (dtype) => {
        const model = await CausalLM.fromPretrained(modelFolder(name), { dtype });
        fillAdapter(model.addAdapter({ r: 3, targetModules: 'all-linear', loraDropout: 0.2 }), 3, 0.3);
        const { ids, labels } = batchesOf(name)[0]!;
        const segments = ids.map((row) => row.map((_, i) => 1 + Math.floor(i / 15)));
        for (const segmentIds of [undefined, segments]) {
          const observed = [];
          for (const gradientCheckpointing of [false, true]) {
            const adapter = model.activeAdapter!;
            adapter.loadStateDict({ ...adapter.stateDict(), forwards: 3 });
            const { loss } = model.forward(ids, { labels, segmentIds, train: true, gradientCheckpointing });
            loss.backward();
            observed.push([await loss.item(), bits(...adapter.parameters().map((p) => p.grad!))]);
            for (const p of adapter.parameters()) p.grad = null;
          }
          expect(observed[1]).toEqual(observed[0]);
        }
        await model.dispose();
      },
    );

    test.each(['f32', 'bf16'] as const)('nothing is left of a graph in %s', async (dtype) => {
      const model = await CausalLM.fromPretrained(modelFolder(name), { dtype });
      const adapter = model.addAdapter({ r: 3, targetModules: 'all-linear' });
      const { ids, labels } = batchesOf(name)[0]!;
      await logitsOf(model, ids); // makes the tables of positions
      await collectGarbage(); // of other tests
      const before = memoryUsage().tensors;
      for (const gradientCheckpointing of [false, true]) {
        model.forward(ids, { labels, gradientCheckpointing }).loss.dispose();
        expect(memoryUsage().tensors).toBe(before);
        const { loss } = model.forward(ids, { labels, gradientCheckpointing });
        loss.backward();
        loss.dispose();
        for (const p of adapter.parameters()) {
          p.grad!.dispose();
          p.grad = null;
        }
        expect(memoryUsage().tensors).toBe(before);
      }
      await model.dispose();
    });

    test.each(['f32', 'bf16'] as const)(
      'without gradients a block of %s leaves nothing but its output',
      async (dtype) => {
        const model = await CausalLM.fromPretrained(modelFolder(name), { dtype });
        const held: number[] = [];
        const watch = (): void => void held.push(memoryUsage().tensors);
        noGrad(() => model.forward(batchesOf(name)[0]!.ids, { watch })).logits.dispose();
        // And what later blocks read of it.
        const read = new Set(attentionLayers(model.config).map(({ keysOf }) => keysOf));
        const others = held.map(
          (count, i) => count - 2 * [...read].filter((of) => of !== undefined && of < i).length,
        );
        expect(new Set(others)).toEqual(new Set([held[0]]));
        await model.dispose();
      },
    );

    test('eight texts at once are what each is alone', async () => {
      const model = await modelOf(name);
      const all = wishes(8, (i) => ({ maxNewTokens: 10 + 2 * i })); // of at most 62 positions
      const alone = await oneByOne(model, all);
      expect(new Set(alone.map(String)).size).toBe(8);
      expect(await together(model, all)).toEqual(alone);
    });

    const withStates = keepsStates(name) ? test : () => undefined;
    withStates(
      'a text has its loss and its gradients beside others of a packed row, and padded',
      async () => {
        const model = await CausalLM.fromPretrained(modelFolder(name));
        const parameters = model.trainAll();
        const [row] = batchesOf(name)[0]!.ids;
        const texts = [row!.slice(0, 17), row!.slice(17, 19), row!.slice(19, 31), row!.slice(31)];
        const segmentIds = [texts.flatMap((text, i) => text.map(() => i + 1))];
        const results = [];
        for (const calls of [texts.map((text) => [text]), [texts], [[texts.flat()]]]) {
          let sum = 0;
          for (const ids of calls) {
            const packed = ids[0]!.length === row!.length ? { segmentIds } : {};
            const { loss } = model.forward(ids, { labels: ids, reduction: 'sum', ...packed });
            loss.backward();
            sum += await loss.item();
          }
          results.push({
            sum,
            gradients: await Promise.all(parameters.map((p) => p.grad!.data<Float32Array>())),
          });
          for (const p of parameters) p.grad = null;
        }
        const [alone, ...others] = results;
        for (const { sum, gradients } of others) {
          expect(Math.abs(sum / alone!.sum - 1)).toBeLessThan(1e-6);
          for (const [i, gradient] of gradients.entries())
            expect(relativeError(gradient, alone!.gradients[i]!)).toBeLessThan(1e-5);
        }
        await model.dispose();
      },
    );

    test.each([...Object.keys(methods), 'full'])(
      'the gradients of %s are the slope of the loss',
      async (method) => {
        const model = await CausalLM.fromPretrained(modelFolder(name));
        let parameters: Parameter[];
        if (method === 'full') parameters = model.trainAll();
        else {
          const add = () => model.addAdapter(methods[method]!, { seed: 2 });
          if (method === 'prompt' && model.config.readsIds) {
            expect(add).toThrow('the blocks of this model read the ids of their tokens');
            return model.dispose();
          }
          const adapter = add();
          fillAdapter(adapter, 3, 0.3);
          parameters = adapter.parameters();
        }
        const { told, found } = await slope(model, batchesOf(name)[1]!, parameters, steps[name]);
        expect(found / told).toBeGreaterThan(0.995);
        expect(found / told).toBeLessThan(1.005);
        await model.dispose();
      },
    );

    test('quantized to NF4 it computes what the reference does, and an adapter of it learns', async () => {
      const load = (device: Device): Promise<CausalLM> =>
        CausalLM.fromPretrained(modelFolder(name), { quantize: 'nf4', device });
      const [model, reference] = [await load('cpu'), await load('reference')];
      const { ids, labels } = batchesOf(name)[0]!;
      const logits = await logitsOf(model, ids);
      expect(relativeError(logits, await logitsOf(reference, ids))).toBeLessThan(1e-5);
      expect(relativeError(logits, await logitsOf(await modelOf(name), ids))).toBeGreaterThan(1e-3);
      await reference.dispose();
      const parameters = model.addAdapter({ r: 3, targetModules: 'all-linear' }).parameters();
      const step = new SGD(parameters, { lr: 0.5 });
      const losses: number[] = [];
      for (let i = 0; i < 8; i++) {
        const { loss } = model.forward(ids, { labels });
        loss.backward();
        step.step();
        step.zeroGrad();
        losses.push(await loss.item());
      }
      expect(losses.at(-1)).toBeLessThan(losses[0]! - 0.02);
      await model.dispose();
    });

    test('as a GGUF file without a vocabulary it computes the same', async () => {
      const source = join(scratch, name);
      cpSync(modelFolder(name), source, { recursive: true });
      const config = JSON.parse(readFileSync(join(source, 'config.json'), 'utf8')) as object;
      writeFileSync(join(source, 'config.json'), JSON.stringify({ ...config, ...forLlamaCpp[name] }));
      const file = join(scratch, `${name}.gguf`);
      const written = convertModel(source, file, { format: 'f32' });
      if (notWritten[name]) return expect(written).rejects.toThrow(notWritten[name]);
      await written;
      const [own, read] = [await CausalLM.fromPretrained(source), await CausalLM.fromPretrained(file)];
      const { ids } = batchesOf(name)[1]!;
      expect(await logitsOf(read, ids)).toEqual(await logitsOf(own, ids));
      expect(read.config).toMatchObject({ modelType: own.config.modelType, layers: own.config.layers });
      await own.dispose();
      await read.dispose();
    });

    test.each(['f32', 'bf16'] as const)('what a block keeps in %s is what is estimated', async (dtype) => {
      const model = await CausalLM.fromPretrained(modelFolder(name), { dtype });
      model.addAdapter({ r: 1, targetModules: 'all-linear' });
      const rows = Array.from({ length: 8 }, () => batchesOf(name)[0]!.ids[0]!);
      const hold = (): Tensor => model.forward(rows, { labels: rows }).loss;
      hold().dispose(); // makes the tables of positions
      await collectGarbage();
      const before = memoryUsage().bytes;
      const loss = hold();
      const held = memoryUsage().bytes - before;
      loss.dispose();
      const { activations } = estimateMemory(model.config, {
        ...{ r: 1, targetModules: 'all-linear', dtype, batchSize: 8, length: rows[0]!.length },
      });
      expect(held / activations).toBeGreaterThan(0.9);
      expect(held / activations).toBeLessThan(1.15);
      await model.dispose();
    });
  });
});
