// To PEFT and back: writes an adapter that Python reads, or takes one that Python wrote and trains it further. The Python
// side is peft_roundtrip.py.
//
//   node examples/peft.mjs [MODEL_DIR] [OUT_DIR]                 trains an adapter for Python
//   node examples/peft.mjs MODEL_DIR OUT_DIR ADAPTER_DIR         trains Python's adapter further
import { CausalLM, Trainer, loadDataset, readAdapter } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), outDir = 'adapter-from-node', from] =
  process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir, { dtype: 'f32' });
const load = (name) =>
  loadDataset(new URL(`data/${name}.jsonl`, import.meta.url), { tokenizer: model.tokenizer, maxLength: 256 });
const [data, evalData] = [await load('train'), await load('heldout')];

const adapter =
  from === undefined
    ? model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' })
    : await model.loadAdapter(from, { trainable: true });
const { r, loraAlpha } = adapter.config;
console.log(`${from ?? 'a new adapter'}: r ${r}, alpha ${loraAlpha}, on ${adapter.targets.length} layers`);
const before = await model.evaluate(evalData);
await new Trainer({ model, data, outDir, maxSteps: 20, lr: 2e-3 }).run();
const after = await model.evaluate(evalData);
console.log(`held-out loss ${before.loss.toFixed(4)} before, ${after.loss.toFixed(4)} after`);
await model.dispose();

// What Python finds there: of y = W·x + (α/r)·up·(down·x), up is PEFT's lora_B, and down its lora_A.
const { config, tensors } = await readAdapter(outDir);
console.log(`${outDir}: ${config.peft_type}, base ${config.base_model_name_or_path}`);
for (const [name, { dtype, shape }] of [...tensors].slice(0, 2))
  console.log(`  ${name}  ${dtype} [${shape}]`);
