// What only shows outside jest's realm: cloning, `using`, import and require, workers.
import { rmSync } from 'node:fs';
import { childReport, runChild } from '../support/child';
import { tinyModel } from '../support/tiny_model';

test('structured clone of what holds native things throws', () => {
  const report = childReport(`
const { tensor, parameter, LoRALinear, AdamW } = lora;
const layer = new LoRALinear({ inFeatures: 2, outFeatures: 2, r: 1 });
const things = { tensor: tensor([1]), parameter: parameter([1]), layer, optimizer: new AdamW(layer.parameters()) };
const out = {};
for (const [name, thing] of Object.entries(things)) {
  try { structuredClone({ deep: [thing] }); out[name] = 'cloned'; } catch (e) { out[name] = e.name; }
}
report(out);`);
  const name = 'DataCloneError';
  expect(report).toEqual({ tensor: name, parameter: name, layer: name, optimizer: name });
});

test('so do a model, an adapter and an open file; all describe themselves in a line', async () => {
  const dir = await tinyModel();
  const report = childReport(`
const { inspect } = require('node:util');
const model = await lora.CausalLM.fromPretrained(${JSON.stringify(dir)});
const adapter = model.addAdapter({ r: 2, targetModules: ['q_proj'] });
const file = await lora.openSafetensors(${JSON.stringify(`${dir}/model.safetensors`)});
const out = [];
for (const thing of [model, adapter, file]) {
  let clone = 'cloned';
  try { structuredClone({ deep: [thing] }); } catch (e) { clone = e.name; }
  out.push([clone, inspect(thing).replace(model.directory, 'DIR'), JSON.stringify(thing).length < 300]);
}
file[Symbol.dispose]();
model[Symbol.dispose]();
await model.dispose();
await new Promise(setImmediate);
report([...out, model.disposed, adapter.disposed, file.disposed, lora.memoryUsage().bytes]);`);
  rmSync(dir, { recursive: true });
  const name = 'DataCloneError';
  expect(report).toEqual([
    [name, 'CausalLM(llama of DIR, f32 on cpu)', true],
    [name, "Adapter('default', r 2, 3 layers, trainable)", true],
    [name, expect.stringMatching(/^SafetensorsFile\('DIR\/model\.safetensors', \d+ tensors\)$/), true],
    true,
    true,
    true,
    0,
  ]);
});

test('Symbol.dispose is there, and frees', () => {
  const report = childReport(`
const { tensor, LoRALinear, AdamW, memoryUsage } = lora;
const layer = new LoRALinear({ inFeatures: 2, outFeatures: 2, r: 1 });
const things = [tensor([1]), new AdamW(layer.parameters()), layer];
for (const thing of things) thing[Symbol.dispose]();
report([typeof Symbol.dispose, ...things.map((t) => t.disposed), memoryUsage().bytes]);`);
  expect(report).toEqual(['symbol', true, true, true, 0]);
});

test('import and require give the same classes', () => {
  const report = childReport(`
const esm = await import('lora-native');
report([esm.Tensor === lora.Tensor, esm.LoRAError === lora.LoRAError, esm.tensor([1]) instanceof lora.Tensor,
  Object.keys(lora).every((name) => name in esm)]);`);
  expect(report).toEqual([true, true, true, true]);
});

test('importing loads no add-on', () => {
  const report = childReport(
    `report(Object.keys(process.report.getReport().sharedObjects).length > 0 &&
  process.report.getReport().sharedObjects.some((f) => f.includes('lora_native')));`,
  );
  expect(report).toBe(false);
});

test('an error is an instance of LoRAError, thrown or rejected', () => {
  const report = childReport(`
const out = [];
const seen = (e) => out.push([e instanceof lora.LoRAError, e instanceof Error, e.code, e.name]);
try { lora.tensor([1]).add(lora.tensor([1, 2])).add(lora.tensor([1, 2, 3])); } catch (e) { seen(e); }
await lora.tensor([[1, 2]]).crossEntropy([9]).item().catch(seen);
report(out);`);
  expect(report).toEqual([
    [true, true, 'ERR_ARGUMENT', 'LoRAError'],
    [true, true, 'ERR_DATA', 'LoRAError'],
  ]);
});

const worker = `
const { Worker } = require('node:worker_threads');
const source = \`
const lora = require(\${JSON.stringify(require.resolve('lora-native'))});
const { parentPort, workerData } = require('node:worker_threads');
(async () => {
  const layer = new lora.LoRALinear({ inFeatures: 16, outFeatures: 16, r: 2, seed: workerData.seed });
  const optimizer = new lora.AdamW(layer.parameters(), { lr: 0.01 });
  const x = lora.tensor(Float32Array.from({ length: 64 }, (_, i) => Math.sin(i)), { shape: [4, 16] });
  for (let i = 0; i < workerData.steps; i++) {
    lora.tidy(() => layer.forward(x).square().mean().backward());
    optimizer.step();
    optimizer.zeroGrad();
    if (workerData.leave && i === 20) parentPort.postMessage('busy');
  }
  parentPort.postMessage(await layer.forward(x).square().mean().item());
})();
\`;
const start = (workerData) => new Worker(source, { eval: true, workerData });
const answer = (w) => new Promise((ok, no) => { w.once('message', ok); w.once('error', no); });
`;

test('workers have their own everything, and give what the main thread gives', () => {
  const report = childReport(`${worker}
const [a, b, c] = await Promise.all([start({ seed: 1, steps: 50 }), start({ seed: 1, steps: 50 }), start({ seed: 2, steps: 50 })].map(answer));
report([a === b, a !== c, Number.isFinite(a)]);`);
  expect(report).toEqual([true, true, true]);
});

test('a worker that is ended in mid-flight takes nothing with it', () => {
  const { status, signal, report, stderr } = runChild(`${worker}
const w = start({ seed: 1, steps: 100000, leave: true });
await answer(w);
await w.terminate();
const again = await answer(start({ seed: 1, steps: 5 }));
report([Number.isFinite(again), await lora.tensor([1, 2]).sum().item()]);`);
  expect([status, signal, stderr]).toEqual([0, null, '']);
  expect(report).toEqual([true, 3]);
});

test('without an add-on, importing works, use is ERR_BINARY with the remedies, and doctor still answers', () => {
  const report = childReport(`
const fs = require('node:fs'), os = require('node:os'), path = require('node:path');
const root = fs.mkdtempSync(path.join(os.tmpdir(), 'no-binary-'));
fs.mkdirSync(path.join(root, 'dist'));
for (const file of ['index.js', 'cli.js']) fs.copyFileSync('dist/' + file, path.join(root, 'dist', file));
fs.copyFileSync('package.json', path.join(root, 'package.json'));
fs.symlinkSync(path.resolve('node_modules'), path.join(root, 'node_modules'));
const bare = require(path.join(root, 'dist/index.js'));
const { spawnSync } = require('node:child_process');
const { status, stdout } = spawnSync(process.execPath, [path.join(root, 'dist/cli.js'), 'doctor', '--json'], { encoding: 'utf8' });
try { bare.tensor([1]); report('made'); } catch (e) { report([e instanceof bare.LoRAError, e.code, e.message, status, JSON.parse(stdout)]); }
fs.rmSync(root, { recursive: true });`) as [boolean, string, string, number, Record<string, string>];
  expect(report.slice(0, 2)).toEqual([true, 'ERR_BINARY']);
  expect(report[2]).toMatch(/expected a binary for .* but .*npx lora-native build/);
  expect(report[3]).toBe(1);
  expect(report[4]).toMatchObject({ binary: `none: ${report[2]}`, node: process.version });
  expect(report[4]).not.toHaveProperty('threads');
});
