// Which rank, alpha, targets and learning rate? Trains adapters on the bundled task, two per setting (their spread
// says which differences mean something), and prints a table.
//
//   node examples/sweep.mjs [MODEL_DIR] [STEPS] [FIRST_N_SETTINGS]
import { CausalLM, Trainer } from 'lora-native';
import { answers } from './data/answers.mjs';

const [dir = new URL('base-model', import.meta.url), steps = '200', limit] = process.argv.slice(2);
const attention = ['q_proj', 'k_proj', 'v_proj', 'o_proj'];
const mlp = ['gate_proj', 'up_proj', 'down_proj'];
const usual = { r: 8, loraAlpha: 16, targetModules: 'all-linear', lr: 5e-3 };
const settings = [
  usual,
  ...[1, 4, 32].map((r) => ({ ...usual, r, loraAlpha: 2 * r })),
  ...[8, 32].map((loraAlpha) => ({ ...usual, loraAlpha })),
  ...[['q_proj', 'v_proj'], attention, mlp].map((targetModules) => ({ ...usual, targetModules })),
  ...[1e-3, 2e-2].map((lr) => ({ ...usual, lr })),
];

const model = await CausalLM.fromPretrained(dir);
const data = await answers('train', model.tokenizer);
const evalData = await answers('heldout', model.tokenizer);
const { loss, tokens } = await model.evaluate(evalData);
console.log(`base: loss ${loss.toFixed(3)} over ${tokens} held-out answer tokens\n`);
console.log('| r | alpha | targets | lr | parameters | held-out loss, one per seed |');
console.log('|---|---|---|---|---|---|');
for (const { lr, ...config } of settings.slice(0, limit === undefined ? undefined : Number(limit))) {
  const losses = [];
  let parameters = 0;
  for (const seed of [0, 1]) {
    const adapter = model.addAdapter(config, { name: 'trial', seed });
    parameters = adapter.parameters().reduce((sum, p) => sum + p.numel, 0);
    await new Trainer({ model, data, maxSteps: Number(steps), lr, seed }).run();
    losses.push((await model.evaluate(evalData)).loss.toFixed(3));
    await model.removeAdapter('trial');
  }
  const targets = [config.targetModules].flat().join(', ');
  const cells = [config.r, config.loraAlpha, targets, lr, parameters, losses.join(' ')];
  console.log(`| ${cells.join(' | ')} |`);
}
await model.dispose();
