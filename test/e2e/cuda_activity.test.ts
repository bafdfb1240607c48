/** What a step asks of the GPU, counted on the emulator: launches of kernels and of graphs, and how often the stream's worker waits for the device. */
import { rmSync } from 'node:fs';
import { CausalLM, noGrad, setThreads, tensor, type Tensor } from '../../lib/index';
import type { NativeActivity } from '../../lib/native/binding';
import { binding, call } from '../../lib/native/calls';
import { nativeDevice } from '../../lib/native/device';
import { embedding, positions } from '../../lib/ops';
import { writeBytes } from '../../lib/tensor/create';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import { recordProgram } from '../../lib/tensor/program';
import { wrap } from '../../lib/tensor/tensor';
import { gpu, onGpu } from '../support/emulated';
import { fillAdapter } from '../support/fill_adapter';
import { tinyModel } from '../support/tiny_model';

type Activity = Omit<NativeActivity, 'refusal'>;

/** What `work` asks of the device. */
async function activityOf(work: () => unknown): Promise<Activity> {
  const device = nativeDevice(gpu);
  await binding().synchronize(device);
  const before = binding().activity(device);
  await work();
  const after = binding().activity(device);
  await binding().synchronize(device);
  expect(after.refusal).toBe('');
  return {
    launches: after.launches - before.launches,
    waits: after.waits - before.waits,
    graphs: after.graphs - before.graphs,
    refused: after.refused - before.refused,
  };
}

describe('ids', () => {
  const ids = (...values: number[]): Tensor => tensor(Int32Array.from(values), { device: gpu });
  const bytes = (...values: number[]): Uint8Array => new Uint8Array(Int32Array.from(values).buffer);
  const table = (): FrozenWeight => FrozenWeight.pack(tensor([[1], [2], [3]], { device: gpu }));
  const looksUp = (list: Tensor): Promise<Float32Array> => embedding(table(), list).data<Float32Array>();
  const outside = { code: 'ERR_DATA', message: expect.stringContaining('ids from 0 to 2') as string };

  onGpu('that the host wrote are checked without a wait; those that a kernel wrote are not', async () => {
    const [written, copied] = [ids(2, 0), ids(0, 0)];
    call().copyInto(written.handle, copied.handle);
    const weight = table();
    const ran = async (list: Tensor) => {
      const y = embedding(weight, list);
      await binding().synchronize(nativeDevice(gpu));
      return y;
    };
    // One of the two is that of synchronize().
    expect((await activityOf(() => ran(written))).waits).toBe(1);
    expect((await activityOf(() => ran(copied))).waits).toBe(2);
    expect([...(await looksUp(written))]).toEqual([3, 1]);
    expect([...(await looksUp(copied))]).toEqual([3, 1]);
  });

  onGpu(
    'that are positions of lengths which the host wrote are checked without a wait, also in a graph',
    async () => {
      const lengths = tensor(Int32Array.of(1, 3), { device: gpu });
      const weight = table();
      const step = (): Tensor[] => [noGrad(() => embedding(weight, positions(lengths, 1)).mul(2))];
      const program = recordProgram(gpu, step);
      for (const [run, graphs] of [0, 1, 1].entries()) {
        writeBytes(lengths, bytes(1 + run, 3 - run));
        const activity = await activityOf(async () => {
          program.run();
          await binding().synchronize(nativeDevice(gpu));
        });
        expect([activity.waits, activity.graphs]).toEqual([1, graphs]);
        expect([...(await program.outputs[0]!.data())]).toEqual([2 * (1 + run), 2 * (3 - run)]);
      }
      writeBytes(lengths, bytes(1, 4));
      program.run();
      await expect(program.outputs[0]!.data()).rejects.toMatchObject(outside);
      program.dispose();
    },
  );

  onGpu('are refused as the host wrote them last, or a kernel did', async () => {
    await expect(looksUp(ids(0, 3))).rejects.toMatchObject(outside);
    const list = ids(0, 1);
    writeBytes(list, bytes(1, -1));
    await expect(looksUp(list)).rejects.toMatchObject(outside);
    writeBytes(list, bytes(2, 2));
    expect([...(await looksUp(list))]).toEqual([3, 3]);
    // What a kernel wrote over it is what counts.
    call().copyInto(ids(0, 7).handle, list.handle);
    await expect(looksUp(list)).rejects.toMatchObject(outside);
    writeBytes(list, bytes(0, 1));
    call().copyInto(ids(1, 1).handle, list.handle);
    expect([...(await looksUp(list))]).toEqual([2, 2]);
  });

  onGpu('of a part of a tensor are those of the part', async () => {
    const list = ids(9, 1, 2, -4);
    const partOf = (offset: number): Tensor =>
      wrap(call().view(list.handle, offset, [2]), 'i32', [2], list.device);
    const part = partOf(1);
    expect([...(await looksUp(part))]).toEqual([2, 3]);
    await expect(looksUp(partOf(2))).rejects.toMatchObject(outside);
    // A part that is written leaves the rest as it was.
    writeBytes(part, bytes(0, 0));
    expect([...(await looksUp(part))]).toEqual([1, 1]);
    writeBytes(part, bytes(0, 5));
    await expect(looksUp(part)).rejects.toMatchObject(outside);
  });
});

describe('a model of two layers and one of three', () => {
  const directories: string[] = [];
  afterAll(() => {
    for (const dir of directories.splice(0)) rmSync(dir, { recursive: true });
  });
  async function load(layers: number): Promise<CausalLM> {
    const dir = await tinyModel({ config: { num_hidden_layers: layers, tie_word_embeddings: false } });
    directories.push(dir);
    setThreads(1);
    const model = await CausalLM.fromPretrained(dir, { device: gpu, dtype: 'bf16' });
    const adapter = model.addAdapter({ r: 4, targetModules: 'all-linear' }, { name: 'a', seed: 1 });
    fillAdapter(adapter, 1, 0.1);
    return model;
  }
  const prompt = [1, 2, 3, 4, 5];

  /** Of one token of a text: the mean of ten, after the first. */
  async function ofToken(model: CausalLM, adapter: string | null): Promise<Activity> {
    const ofTokens = (maxNewTokens: number) =>
      activityOf(() => model.generate(prompt, { maxNewTokens, temperature: 0, ignoreEos: true, adapter }));
    await ofTokens(3); // records the step, and captures it
    const [few, many] = [await ofTokens(5), await ofTokens(15)];
    const each = (count: keyof Activity): number => (many[count] - few[count]) / 10;
    return {
      launches: each('launches'),
      waits: each('waits'),
      graphs: each('graphs'),
      refused: many.refused,
    };
  }

  /** Of a prompt of more rows than a decode step takes, in one chunk, with the draw of one token. */
  function ofPrompt(model: CausalLM, adapter: string | null): Promise<Activity> {
    const ids = Array.from({ length: 40 }, (_, i) => (i * 7) % 250);
    return activityOf(() =>
      model.generate(ids, { maxNewTokens: 1, temperature: 0, ignoreEos: true, adapter }),
    );
  }

  /** Of a training step of more rows than a decode step takes, without the optimizer's. */
  async function ofStep(model: CausalLM, segmentIds?: number[][]): Promise<Activity> {
    const rows = [0, 1].map((row) => Array.from({ length: 24 }, (_, i) => (row * 100 + i * 7) % 250));
    const step = async () => {
      const { loss } = model.forward(rows, { labels: rows, ...(segmentIds && { segmentIds }) });
      loss.backward();
      const value = await loss.item();
      // As a step of an optimizer leaves them: the next gradients take their place.
      for (const parameter of model.adapters.get('a')!.parameters()) parameter.grad = null;
      return value;
    };
    await step();
    return activityOf(step);
  }

  onGpu('wait as often: for a token once, for the loss of a step once', async () => {
    const [two, three] = [await load(2), await load(3)];
    try {
      // A token: what the draw says of its rows, with the ids.
      const tokens = { base: [await ofToken(two, null), await ofToken(three, null)] };
      const adapted = [await ofToken(two, 'a'), await ofToken(three, 'a')];
      expect([...tokens.base, ...adapted].map(({ waits }) => waits)).toEqual([1, 1, 1, 1]);
      const steps = [await ofStep(two), await ofStep(three)];
      const segments = [9, 14].map((first) => Array.from({ length: 24 }, (_, i) => (i < first ? 1 : 2)));
      const packed = [await ofStep(two, segments), await ofStep(three, segments)];
      expect([...steps, ...packed].map(({ waits }) => waits)).toEqual([1, 1, 1, 1]);
      // All that a token launches before its draw is one graph.
      expect([...tokens.base, ...adapted].map(({ graphs }) => graphs)).toEqual([1, 1, 1, 1]);
      expect([...steps, ...packed].map(({ graphs }) => graphs)).toEqual([0, 0, 0, 0]);
      const prompts = [await ofPrompt(two, null), await ofPrompt(three, null)];
      const adaptedPrompts = [await ofPrompt(two, 'a'), await ofPrompt(three, 'a')];
      // Launches of a layer, and those outside of the layers. docs/internals/cuda.md has these numbers.
      const ofLayer = ([a, b]: Activity[]): number => b!.launches - a!.launches;
      const others = ([a, b]: Activity[]): number => 3 * a!.launches - 2 * b!.launches;
      const all = [tokens.base, adapted, prompts, adaptedPrompts, steps, packed];
      expect([...prompts, ...adaptedPrompts].map(({ waits }) => waits)).toEqual([1, 1, 1, 1]);
      expect(all.map(ofLayer)).toEqual([9, 13, 9, 13, 31, 31]);
      expect(all.map(others)).toEqual([8, 9, 8, 8, 18, 18]);
    } finally {
      await two.dispose();
      await three.dispose();
    }
  });
});
