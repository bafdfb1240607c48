/**
 * How long timers wait while large files are read and written, and while a model trains. On Linux the time in which the thread is ready to run, and another process
 * has the core, does not count. The longest gap is the least of several tries.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { childReport } from '../support/child';

/** Statements: `gap(work)` gives the longest gap between two turns of the event loop, in ms, and what the work gives. */
const measure = `
  const queue = '/proc/self/task/' + process.pid + '/schedstat';
  const queued = () => (fs.existsSync(queue) ? Number(fs.readFileSync(queue, 'utf8').split(' ')[1]) / 1e6 : 0);
  const clock = () => performance.now() - queued();
  const gap = async (work) => {
    let [longest, last] = [0, clock()];
    const tick = () => {
      const now = clock();
      [longest, last] = [Math.max(longest, now - last), now];
    };
    const timer = setInterval(tick, 1);
    const result = await work();
    tick();
    clearInterval(timer);
    return [longest, result];
  };
`;

const dir = mkdtempSync(join(tmpdir(), 'event-loop-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

test('loading, merging, saving and quantizing a model of 170 MB and a head of 130 MB hold the event loop for 50 ms at most', () => {
  const program = `
    const fs = require('node:fs');
    const dir = ${JSON.stringify(dir)};
    const [hidden, inner, vocab, layers] = [1024, 2816, 32000, 4];
    fs.writeFileSync(dir + '/config.json', JSON.stringify({
      model_type: 'llama', hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers, num_attention_heads: 16,
      num_key_value_heads: 16, head_dim: 64, vocab_size: vocab, max_position_embeddings: 128, rms_norm_eps: 1e-5,
      rope_theta: 10000, hidden_act: 'silu', tie_word_embeddings: true, bos_token_id: 1, eos_token_id: 2,
    }));
    const tensors = new Map();
    const add = (name, ...shape) =>
      tensors.set(name, { dtype: 'BF16', shape, bytes: new Uint8Array(shape.reduce((a, b) => a * b, 2)) });
    add('model.embed_tokens.weight', vocab, hidden);
    add('model.norm.weight', hidden);
    for (let i = 0; i < layers; i++) {
      const path = 'model.layers.' + i + '.';
      add(path + 'input_layernorm.weight', hidden);
      add(path + 'post_attention_layernorm.weight', hidden);
      for (const name of ['q', 'k', 'v', 'o']) add(path + 'self_attn.' + name + '_proj.weight', hidden, hidden);
      for (const name of ['gate', 'up']) add(path + 'mlp.' + name + '_proj.weight', inner, hidden);
      add(path + 'mlp.down_proj.weight', hidden, inner);
    }
    await lora.writeSafetensors(dir + '/model.safetensors', tensors);
    tensors.clear();
    gc();
    ${measure}
    const longest = Object.fromEntries(
      ['load', 'merge', 'save', 'saveQuantized', 'quantizeModel', 'loadAdapter', 'loadCheckpoint'].map((name) => [name, Infinity]),
    );
    for (let i = 0; i < 4 && Math.max(...Object.values(longest)) > 50; i++) {
      const [load, model] = await gap(() => lora.CausalLM.fromPretrained(dir));
      const adapter = model.addAdapter({ r: 8, modulesToSave: ['lm_head'] }, { name: 'a' });
      await adapter.save(dir + '/adapter');
      await lora.saveCheckpoint(dir, { adapter });
      const [loadCheckpoint] = await gap(() => lora.loadCheckpoint(dir, { adapter }));
      const [loadAdapter] = await gap(() => model.loadAdapter(dir + '/adapter', { name: 'b' }));
      await model.removeAdapter('b');
      const [merge] = await gap(() => model.merge('a'));
      const [save] = await gap(() => model.save(dir + '/saved'));
      const [saveQuantized] = await gap(() => model.save(dir + '/saved', { quantize: 'nf4' }));
      fs.rmSync(dir + '/few-bits', { recursive: true, force: true });
      const quantize = { format: 'nf4', doubleQuant: true };
      const [quantizeModel] = await gap(() => lora.quantizeModel(dir, dir + '/few-bits', quantize));
      gc();
      await model.dispose();
      const gaps = { load, merge, save, saveQuantized, quantizeModel, loadAdapter, loadCheckpoint };
      for (const [name, value] of Object.entries(gaps)) longest[name] = Math.min(longest[name], value);
    }
    report(longest);
  `;
  const longest = childReport(program, { timeout: 280_000 }) as Record<string, number>;
  for (const [name, ms] of Object.entries(longest)) expect([name, ms <= 50 || ms]).toEqual([name, true]);
}, 300_000); // some seconds, but of a machine that may do other work

test('a training run of a deep model, with its evaluation, holds the event loop for 50 ms at most', () => {
  const program = `
    const fs = require('node:fs');
    const dir = ${JSON.stringify(join(dir, 'deep'))};
    fs.mkdirSync(dir);
    const [hidden, inner, vocab, layers] = [128, 352, 256, 60];
    fs.writeFileSync(dir + '/config.json', JSON.stringify({
      model_type: 'llama', hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers, num_attention_heads: 4,
      num_key_value_heads: 4, head_dim: 32, vocab_size: vocab, max_position_embeddings: 128, rms_norm_eps: 1e-5,
      rope_theta: 10000, hidden_act: 'silu', tie_word_embeddings: true, bos_token_id: 1, eos_token_id: 2,
    }));
    const tensors = new Map();
    const add = (name, ...shape) =>
      tensors.set(name, { dtype: 'BF16', shape, bytes: new Uint8Array(shape.reduce((a, b) => a * b, 2)).fill(60) });
    add('model.embed_tokens.weight', vocab, hidden);
    add('model.norm.weight', hidden);
    for (let i = 0; i < layers; i++) {
      const path = 'model.layers.' + i + '.';
      add(path + 'input_layernorm.weight', hidden);
      add(path + 'post_attention_layernorm.weight', hidden);
      for (const name of ['q', 'k', 'v', 'o']) add(path + 'self_attn.' + name + '_proj.weight', hidden, hidden);
      for (const name of ['gate', 'up']) add(path + 'mlp.' + name + '_proj.weight', inner, hidden);
      add(path + 'mlp.down_proj.weight', hidden, inner);
    }
    await lora.writeSafetensors(dir + '/model.safetensors', tensors);
    ${measure}
    const model = await lora.CausalLM.fromPretrained(dir);
    model.addAdapter({ r: 4, targetModules: 'all-linear' });
    const data = Array.from({ length: 8 }, (_, i) => ({ inputIds: Array.from({ length: 128 }, (_, k) => (i * 37 + k * 11) % vocab) }));
    const options = { model, data, evalData: data.slice(0, 4), evalEvery: 2, batchSize: 4, maxSteps: 2 };
    let longest = Infinity;
    for (let i = 0; i < 4 && longest > 50; i++)
      longest = Math.min(longest, (await gap(() => new lora.Trainer(options).run()))[0]);
    report(longest);
  `;
  expect(childReport(program, { timeout: 280_000 })).toBeLessThanOrEqual(50);
}, 300_000);
