/** Every allocation of a piece of work fails once: an error at the call, nothing lost, nothing left. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { childReport } from '../support/child';
import { temporaryFolder } from '../support/temporary';
import { tinyModel } from '../support/tiny_model';

const scratch = temporaryFolder();
let dir: string;
beforeAll(async () => {
  dir = await tinyModel({ tokenizer: false });
});
afterAll(() => rmSync(dir, { recursive: true }));

/** Statements that give a value that is always the same. */
const deeds: Record<string, string> = {
  'a training run': `
    const adapter = model.addAdapter({ r: 2, loraDropout: 0.1 }, { name: 'a', activate: true });
    try {
      await new lora.Trainer({ model, data, batchSize: 1, maxSteps: 2, lr: 0.1 }).run();
      return Buffer.concat(await Promise.all(adapter.parameters().map(async (p) => await p.bytes()))).toString('hex');
    } finally {
      await model.removeAdapter('a');
    }`,
  'a generation': `
    const { ids } = await model.generate([1, 2, 3], { maxNewTokens: 3, temperature: 0.8, seed: 1, ignoreEos: true });
    return ids;`,
  'loading a model': `
    const other = await lora.CausalLM.fromPretrained(model.directory);
    try {
      return [...(await other.forward([[1, 2, 3]]).logits.data())];
    } finally {
      await other.dispose();
    }`,
  'a merge and its undoing': `
    const adapter = await model.loadAdapter(scratch + '/adapter', { name: 'a' });
    const logits = async () => [...(await model.forward([[1, 2, 3]]).logits.data())];
    try {
      model.setAdapter(null);
      const before = await logits();
      await model.merge('a');
      try {
        return [before, await logits()];
      } finally {
        await model.unmerge();
      }
    } finally {
      await model.removeAdapter('a');
    }`,
  'a layer and its checkpoint': `
    const layer = new lora.LoRALinear({ inFeatures: 4, outFeatures: 4, r: 2, seed: 1 });
    const optimizer = new lora.AdamW(layer.parameters(), { lr: 0.1 });
    layer.forward(lora.tensor([[1, 2, 3, 4]])).square().sum().backward();
    optimizer.step();
    optimizer.zeroGrad();
    await lora.saveCheckpoint(scratch, { layer, optimizer });
    await lora.loadCheckpoint(scratch, { layer, optimizer });
    return [...(await layer.forward(lora.tensor([[1, 2, 3, 4]])).data())];`,
};

/** The engine gives memory back and tries again: for one failure it fails no request. */
const survives = (name: string): boolean => name === 'a generation';

test.each(Object.entries(deeds))('%s', (name, deed) => {
  const folder = join(scratch, name.replace(/\W+/g, '-'));
  const report = childReport(`
    const native = require('node-gyp-build')(process.cwd());
    const { isDeepStrictEqual } = require('node:util');
    const scratch = ${JSON.stringify(folder)};
    require('node:fs').mkdirSync(scratch);
    const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)});
    const data = [{ inputIds: [1, 2, 3, 4] }, { inputIds: [5, 6, 7] }];
    await model.addAdapter({ r: 2 }, { name: 'a' }).save(scratch + '/adapter');
    await model.removeAdapter('a');
    const deed = async () => {${deed}};
    const live = async () => {
      for (let n = 0; n < 4; n++) { gc(); await new Promise((done) => setTimeout(done, 5)); }
      return native.liveObjects();
    };
    const expected = await deed();
    const before = await live();
    const codes = new Set();
    const wrong = [];
    let nth = 0;
    for (let failed = true; failed || nth < ${survives(name) ? 400 : 0}; ) {
      nth += nth < 30 ? 1 : 1 + (nth >> 3); // the first ones one by one
      native.injectOutOfMemory(nth);
      failed = await deed().then(
        (value) => { if (!isDeepStrictEqual(value, expected)) wrong.push(['meanwhile', nth]); return false; },
        (error) => { codes.add(error.code); return true; },
      );
      native.injectOutOfMemory(0);
      if (!isDeepStrictEqual(await deed(), expected)) wrong.push(['afterwards', nth]);
    }
    report({ codes: [...codes], wrong, allocations: nth, before, after: await live() });
  `) as Record<string, unknown>;
  const { codes, wrong, allocations, before, after } = report;
  expect({ codes, wrong }).toEqual({ codes: survives(name) ? [] : ['ERR_OUT_OF_MEMORY'], wrong: [] });
  expect(allocations).toBeGreaterThan(10);
  expect(after).toEqual(before);
});
