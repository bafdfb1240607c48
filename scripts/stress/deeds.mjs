// What the workers of scripts/stress.mjs do. Each deed gives a text that depends on its variant alone: the calm run writes
// it down, and every later one must give the same, or fail for a reason that is allowed.
import { createHash } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

export const variants = 3;

export const digest = (...parts) => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(typeof part === 'string' ? part : Buffer.from(part.buffer ?? part));
  return hash.digest('hex').slice(0, 16);
};
const numbers = (n, step) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * step));
const ids = (n, v) => Array.from({ length: n }, (_, i) => 3 + ((i * 37 + v * 101) % 500));
const rows = (v) => Array.from({ length: 4 }, (_, i) => ({ inputIds: ids(5 + i + v, v + 7 * i) }));
const config = (v) => ({
  r: 2 + v,
  loraDropout: 0.1,
  targetModules: v === 2 ? ['q_proj', 'down_proj'] : 'all-linear',
});
const training = (v, more) => ({ data: rows(v), batchSize: 2, maxSteps: 3, lr: 0.02, seed: v, ...more });

async function parametersOf(adapter) {
  const parts = [];
  for (const p of adapter.parameters()) parts.push(p.name, await p.data());
  return digest(...parts);
}

async function filesOf(lora, dir) {
  const { tensors } = await lora.readAdapter(dir);
  return digest(...[...tensors].flatMap(([name, { bytes }]) => [name, new Uint8Array(bytes)]));
}

/** A model of the deed's own. */
async function withModel(ctx, dir, use) {
  const model = await ctx.lora.CausalLM.fromPretrained(dir);
  try {
    return await use(model);
  } finally {
    await model.dispose();
  }
}

/** An adapter on the shared model that is taken away afterwards. */
async function withAdapter(model, make, use) {
  const adapter = await make();
  try {
    return await use(adapter);
  } finally {
    await model.removeAdapter(adapter.name).catch((error) => {
      if (error.code !== 'ERR_DISPOSED') throw error; // the model is gone, and its adapters with it
    });
  }
}

/** Steps and losses of a run, and what it trained. */
async function trained(lora, model, adapter, options) {
  const seen = [];
  const run = new lora.Trainer({ model, ...options }).run();
  for await (const event of run) if (event.type === 'step') seen.push(event.step, event.loss, event.gradNorm);
  await run.result;
  return digest(JSON.stringify(seen), await parametersOf(adapter));
}

let names = 0;
const fresh = (what) => `${what}-${names++}`;

export const deeds = {
  async generate(ctx, v) {
    const model = await ctx.shared();
    const settings = { maxNewTokens: 10, temperature: 0.8, seed: v, ignoreEos: true, adapter: null };
    const handle = model.generate(ids(6, v), settings);
    if (ctx.random(2))
      for await (const { id } of handle) if ((id + ctx.random(4)) % 4 === 0) await ctx.pause();
    return digest(JSON.stringify((await handle).ids));
  },

  // Leaves generations half-way, by every door.
  async leave(ctx, v) {
    const model = await ctx.shared();
    const stop = new AbortController();
    const settings = { maxNewTokens: 30, ignoreEos: true, adapter: null, signal: stop.signal };
    const handle = model.generate(ids(6, v), settings);
    const events = handle[Symbol.asyncIterator]();
    for (let i = ctx.random(3); i >= 0; i--) await events.next();
    const way = ctx.random(3);
    if (way === 0) await events.return();
    if (way === 1) {
      stop.abort(new Error('enough'));
      const end = await events.next().catch((error) => error.message);
      if (end !== 'enough' && !(end.done && model.disposed))
        throw new Error(`an abort gave ${JSON.stringify(end)}`);
    }
    return 'left';
  },

  async forward(ctx, v) {
    const model = await ctx.shared();
    const { logits } = model.forward([ids(7, v), ids(3, v + 1)], { adapter: null, logits: true });
    const values = await logits.data();
    if (ctx.random(2)) logits.dispose();
    return digest(values);
  },

  async evaluate(ctx, v) {
    const model = await ctx.shared();
    return JSON.stringify(await model.evaluate(rows(v), { adapter: null, batchSize: 1 + v }));
  },

  async train(ctx, v) {
    const model = await ctx.shared();
    const make = () => model.addAdapter(config(v), { name: fresh('trained'), seed: v });
    return withAdapter(model, make, (adapter) => {
      model.setAdapter(adapter);
      return trained(ctx.lora, model, adapter, training(v));
    });
  },

  async trainAlone(ctx, v) {
    const outDir = join(ctx.scratch, fresh('run'));
    const result = await withModel(ctx, ctx.base, (model) => {
      const adapter = model.addAdapter(config(v), { seed: v });
      return trained(
        ctx.lora,
        model,
        adapter,
        training(v, { outDir, saveEvery: 1, evalData: rows(v), evalEvery: 2 }),
      );
    });
    const [final, last] = await Promise.all(
      [outDir, join(outDir, 'checkpoint-3')].map((dir) => filesOf(ctx.lora, dir)),
    );
    await rm(outDir, { recursive: true });
    return `${result} ${final} ${last}`;
  },

  async abortTraining(ctx, v) {
    const outDir = join(ctx.scratch, fresh('aborted'));
    const stop = new AbortController();
    const reason = new Error('stop');
    const step = await withModel(ctx, ctx.base, async (model) => {
      model.addAdapter(config(v), { seed: v });
      const options = training(v, { outDir, maxSteps: 1000, schedule: 'constant' });
      let last = 0;
      try {
        for await (const event of new ctx.lora.Trainer({ model, ...options }).run({ signal: stop.signal })) {
          if (event.type === 'step') last = event.step;
          if (last === 2) stop.abort(reason);
        }
      } catch (error) {
        if (error !== reason) throw error;
      }
      return last;
    });
    const files = await filesOf(ctx.lora, join(outDir, `checkpoint-${step}`));
    await rm(outDir, { recursive: true });
    return `${step} ${files}`;
  },

  async adapterFiles(ctx, v) {
    const { lora } = ctx;
    const model = await ctx.shared();
    const make = () => model.loadAdapter(join(ctx.adapters, String(v)), { name: fresh('loaded') });
    return withAdapter(model, make, async (adapter) => {
      const logits = await model.forward([ids(6, v)], { adapter, logits: true }).logits.data();
      const dir = join(ctx.scratch, fresh('adapter'));
      await adapter.save(dir);
      // Everybody saves here: what is read is one of the adapters, whole.
      await adapter.save(ctx.meeting);
      const met = await filesOf(lora, ctx.meeting);
      if (!ctx.known.includes(met)) throw new Error(`an adapter that nobody saved: ${met}`);
      const saved = await filesOf(lora, dir);
      await rm(dir, { recursive: true });
      return `${digest(logits)} ${saved}`;
    });
  },

  async mergeAndSave(ctx, v) {
    const dir = join(ctx.scratch, fresh('merged'));
    const before = await withModel(ctx, ctx.base, async (model) => {
      const greedy = { maxNewTokens: 8, temperature: 0, ignoreEos: true };
      await model.loadAdapter(join(ctx.adapters, String(v)), { name: 'a' });
      const text = async () => JSON.stringify((await model.generate(ids(5, v), greedy)).ids);
      const plain = async () =>
        digest(await model.forward([ids(5, v)], { adapter: null, logits: true }).logits.data());
      const base = await plain();
      await model.merge('a');
      const merged = await text();
      await model.unmerge();
      if ((await plain()) !== base) throw new Error('unmerge() left a trace');
      await model.save(dir, { merge: 'a' });
      return merged;
    });
    const after = await withModel(ctx, dir, async (model) => {
      const greedy = { maxNewTokens: 8, temperature: 0, ignoreEos: true };
      return JSON.stringify((await model.generate(ids(5, v), greedy)).ids);
    });
    await rm(dir, { recursive: true });
    return `${before} ${after}`;
  },

  async layer(ctx, v) {
    const { LoRALinear, AdamW, tensor, saveCheckpoint, loadCheckpoint } = ctx.lora;
    const shape = { inFeatures: 17 + v, outFeatures: 9, r: 3, loraDropout: 0.2, seed: v };
    const [layer, copy] = [new LoRALinear(shape), new LoRALinear(shape)];
    const optimizer = new AdamW(layer.parameters(), { lr: 0.01 });
    const x = tensor(numbers(5 * (17 + v), 0.3 + v), { shape: [5, 17 + v] });
    for (let step = 0; step < 3; step++) {
      layer.forward(x).square().mean().backward();
      optimizer.step();
      optimizer.zeroGrad();
    }
    const dir = join(ctx.scratch, fresh('checkpoint'));
    await saveCheckpoint(dir, { layer, optimizer, step: 3 });
    await loadCheckpoint(dir, { layer: copy });
    await rm(dir, { recursive: true });
    const [a, b] = await Promise.all([layer, copy].map((one) => one.forward(x, { train: false }).data()));
    if (digest(a) !== digest(b)) throw new Error('a checkpoint gave another layer');
    if (ctx.random(2)) for (const thing of [layer, copy, optimizer, x]) thing.dispose();
    return digest(a);
  },

  async tape(ctx, v) {
    const { tensor, tidy } = ctx.lora;
    const x = tensor(numbers(12, 0.4 + v), { shape: [3, 4], requiresGrad: true });
    const w = tensor(numbers(8, 0.9 + v), { shape: [4, 2], requiresGrad: true });
    const value = await tidy(async () => {
      const loss = x.matmul(w).gelu().square().mean();
      if (ctx.random(3) === 0) x.square().sum(); // a graph that nobody walks
      loss.backward();
      await ctx.pause();
      return loss.item();
    });
    return digest(String(value), await x.grad.data(), await w.grad.data());
  },

  async file(ctx) {
    const file = await ctx.lora.openSafetensors(join(ctx.base, 'model.safetensors'));
    const hash = createHash('sha256');
    for (const { bytes } of file.tensors.values()) hash.update(bytes);
    const copy = join(ctx.scratch, fresh('copy'));
    const writing = ctx.lora.writeSafetensors(copy, file.tensors).then(
      () => 'written',
      (error) => error.code,
    );
    for (let i = ctx.random(4); i > 0; i--) await ctx.pause();
    const way = ctx.random(3);
    if (way === 0) file.close();
    const written = await writing;
    if (written !== 'written' && !(way === 0 && written === 'ERR_DISPOSED'))
      throw new Error(`a write gave ${written}`);
    if (way === 1) file.close();
    await rm(copy, { force: true });
    return hash.digest('hex').slice(0, 16);
  },

  // Mistakes, which must be errors and leave nothing.
  async mistakes(ctx) {
    const model = await ctx.shared();
    const { lora } = ctx;
    const code = async (call) => {
      try {
        await call();
        return 'none';
      } catch (error) {
        if (error.code === 'ERR_OUT_OF_MEMORY' || error.code === 'ERR_DISPOSED') throw error;
        return error.code;
      }
    };
    const codes = [
      await code(() => model.generate([])),
      await code(() => model.generate([1e9], { adapter: null })),
      await code(() => model.forward([[1, -3]], { adapter: null })),
      await code(() => model.loadAdapter(ctx.base)),
      await code(() => lora.CausalLM.fromPretrained(ctx.scratch)),
      await code(() => lora.tensor([1, 2]).add(lora.tensor([1, 2, 3]))),
      await code(() => lora.readAdapter(join(ctx.scratch, 'nowhere'))),
    ];
    return codes.join();
  },
};

/** The adapters that deeds load, by number; gives the digests of their files. */
export async function makeAdapters(ctx) {
  const known = [];
  for (let v = 0; v < variants; v++) {
    const dir = join(ctx.adapters, String(v));
    await withModel(ctx, ctx.base, async (model) => {
      const adapter = model.addAdapter({ r: 4 }, { seed: v });
      await trained(ctx.lora, model, adapter, training(v));
      await adapter.save(dir);
    });
    known.push(await filesOf(ctx.lora, dir));
  }
  return known;
}

/** What a finished worker should have left of its folder. */
export const leftovers = async (ctx) => (await readdir(ctx.scratch)).filter((name) => /\.tmp$/.test(name));
