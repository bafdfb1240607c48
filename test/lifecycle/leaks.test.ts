/** Native objects by kind: whatever a program does, as many are there afterwards as before. */
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

/** What is done five times: statements with `lora`, `model`, `rows`, `data` and `scratch`. */
const deeds: Record<string, string> = {
  'tensors and the tape': `
    const x = lora.tensor([[1, 2], [3, 4]], { requiresGrad: true });
    const loss = x.matmul(x).square().mean();
    loss.backward();
    await loss.item();
    await x.data();`,
  'a tape that nobody walks': `
    const x = lora.tensor([1, 2], { requiresGrad: true });
    x.square().sum();`,
  'a layer of its own, merged and unmerged': `
    const layer = new lora.LoRALinear({ inFeatures: 4, outFeatures: 4, r: 2 });
    const optimizer = new lora.AdamW(layer.parameters());
    layer.forward(lora.tensor([[1, 2, 3, 4]])).sum().backward();
    optimizer.step();
    layer.merge();
    layer.unmerge();
    await lora.saveCheckpoint(scratch, { layer, optimizer, step: 1 });
    await lora.loadCheckpoint(scratch, { layer, optimizer });`,
  'a model: loaded, adapted, trained, saved, merged': `
    const other = await lora.CausalLM.fromPretrained(model.directory);
    const adapter = other.addAdapter({ r: 2, loraDropout: 0.1 });
    await new lora.Trainer({ model: other, data, evalData: data, evalEvery: 1, batchSize: 1, maxSteps: 2, outDir: scratch + '/run' + i }).run();
    await adapter.save(scratch + '/adapter');
    await other.loadAdapter(scratch + '/adapter', { name: 'again' });
    await other.merge('again');
    await other.unmerge();
    await other.save(scratch + '/merged', { merge: 'default' });
    await other.dispose();`,
  'a model that nobody disposes of': `
    const other = await lora.CausalLM.fromPretrained(model.directory);
    other.addAdapter({ r: 2 });
    await other.generate([1, 2], { maxNewTokens: 2, ignoreEos: true });`,
  'generations: awaited, iterated, left, dropped, aborted': `
    const options = { maxNewTokens: 6, ignoreEos: true };
    await model.generate([1, 2], options);
    for await (const _ of model.generate([1, 2], options));
    for await (const _ of model.generate([1, 2], options)) break;
    await model.generate([1, 2], options)[Symbol.asyncIterator]().next();
    const stop = new AbortController();
    await (async () => {
      for await (const _ of model.generate([1, 2], { ...options, signal: stop.signal })) stop.abort();
    })().catch(() => {});
    await model.evaluate(data);`,
  'a training run that is left, and one that is dropped': `
    for (const dropped of [false, true]) {
      const other = await lora.CausalLM.fromPretrained(model.directory);
      other.addAdapter({ r: 2 });
      const events = new lora.Trainer({ model: other, data, batchSize: 1 }).run()[Symbol.asyncIterator]();
      for (let step = 0; step < 2; step++) await events.next();
      if (dropped) continue;
      await events.return();
      await other.dispose();
    }`,
  'training that is aborted, fails, and goes on': `
    const other = await lora.CausalLM.fromPretrained(model.directory);
    const broken = { now: true };
    const rows = () => (function* () { for (let n = 0; n < 6; n++) { if (n === 3 && broken.now) throw new Error('broken'); yield { inputIds: [n, 2, 3] }; } })();
    const outDir = scratch + '/cut' + i;
    const run = async (changes, signal) => {
      for (const name of [...other.adapters.keys()]) await other.removeAdapter(name);
      other.addAdapter({ r: 2, loraDropout: 0.1 });
      const options = { model: other, data: rows, shuffleWindow: 1, batchSize: 1, maxSteps: 6, outDir, optimizer: 'lion', gradientCheckpointing: true, report: true };
      for await (const e of new lora.Trainer({ ...options, ...changes }).run({ signal })) if (e.step === 2) stop.abort(new Error('broken'));
    };
    const stop = new AbortController();
    const fails = (e) => { if (e.message !== 'broken') throw e; };
    await run({}, stop.signal).then(() => fails(new Error('no abort')), fails);
    await run({ resume: true }).then(() => fails(new Error('no failure')), fails);
    broken.now = false;
    await run({ resume: true });
    await other.dispose();`,
  'adapters that come and go': `
    model.addAdapter({ r: 2 }, { name: 'a' });
    const { loss } = model.forward(rows, { labels: rows });
    loss.backward();
    await model.removeAdapter('a');
    await model.forward(rows).logits.data();`,
  'files: closed, dropped, with views that outlive them': `
    const path = model.directory + '/model.safetensors';
    const file = await lora.openSafetensors(path);
    const { bytes } = file.tensors.values().next().value;
    file.close();
    (await lora.openSafetensors(path)).tensors.values().next().value.bytes;
    await lora.writeSafetensors(scratch + '/copy', (await lora.openSafetensors(path)).tensors);
    await lora.readAdapter(scratch + '/adapter').catch(() => {});`,
  'calls that fail': `
    const fails = async (call) => { try { await call(); throw new Error('no failure'); } catch (e) { if (!e.code) throw e; } };
    const x = lora.tensor([1, 2]);
    await fails(() => x.add(lora.tensor([1, 2, 3])));
    await fails(() => x.reshape([3]));
    await fails(() => lora.openSafetensors(scratch));
    await fails(() => lora.CausalLM.fromPretrained(scratch));
    await fails(() => model.generate([]));
    await fails(() => model.loadAdapter(scratch));
    native.injectFailure('binary', 'on purpose');
    await fails(() => x.add(x).square().data());
    native.injectFailure('lora_linear_forward', 'on purpose');
    await fails(() => model.forward(rows).logits.data());
    native.injectFailure('lora_linear_forward', 'on purpose');
    await fails(() => model.generate([1, 2], { maxNewTokens: 3 }));
    await fails(() => lora.tidy(async () => { x.square(); throw Object.assign(new Error(), { code: 'mine' }); }));`,
  'reads that nobody awaits, of tensors that are gone': `
    const x = lora.tensor(new Float32Array(1000));
    for (let n = 0; n < 20; n++) x.square().data();
    x.dispose();`,
};

test.each(Object.entries(deeds))('%s', (name, deed) => {
  const report = childReport(`
    const native = require('node-gyp-build')(process.cwd());
    const scratch = ${JSON.stringify(join(scratch, name.replace(/\W+/g, '-')))};
    require('node:fs').mkdirSync(scratch);
    const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)});
    const rows = [[1, 2, 3, 4]];
    const data = [{ inputIds: rows[0] }, { inputIds: [5, 6, 7] }];
    const deed = async (i) => {${deed}};
    const live = async () => {
      for (let n = 0; n < 5; n++) { gc(); await new Promise((done) => setTimeout(done, 5)); }
      return native.liveObjects();
    };
    await deed(0); // what is made once: layouts for gradients, cached tables
    const before = await live();
    for (let i = 1; i <= 5; i++) await deed(i);
    report([before, await live()]);
  `) as [Record<string, number>, Record<string, number>];
  const [before, after] = report;
  expect(after).toEqual(before);
  expect(before).toMatchObject({ files: 0, views: 0, mappings: 0, requests: 0 });
  expect(before['weights']).toBeGreaterThan(10); // of the model
});
