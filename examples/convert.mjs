// One adapter in everybody's formats: trained here, as a GGUF file for llama.cpp, LM Studio and ollama, as a directory of
// mlx_lm, and back as PEFT, where it is the same adapter.
//
//   node examples/convert.mjs [MODEL_DIR] [OUT_DIR]
import { join } from 'node:path';
import { CausalLM, convertAdapter, loadDataset, readAdapter, Trainer } from 'lora-native';

const [base = new URL('base-model', import.meta.url).pathname, out = 'adapters'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(base, { dtype: 'f32' });
const data = await loadDataset(new URL('data/train.jsonl', import.meta.url), {
  tokenizer: model.tokenizer,
  maxLength: 256,
});
model.addAdapter({ r: 8, loraAlpha: 16, targetModules: ['q_proj', 'v_proj', 'down_proj'] });
await new Trainer({ model, data, maxSteps: 20, lr: 5e-3 }).run();
const [peft, gguf, mlx, back] = ['peft', 'adapter.gguf', 'mlx', 'peft-again'].map((name) => join(out, name));
await model.adapters.get('default').save(peft);

await convertAdapter(peft, gguf, { format: 'gguf', base }); // llama-cli -m base.gguf --lora adapter.gguf
await convertAdapter(peft, mlx, { format: 'mlx', base }); // mlx_lm.generate --model base --adapter-path mlx
await convertAdapter(gguf, back, { format: 'peft', base });

const [before, after] = [await readAdapter(peft), await readAdapter(back)];
const equal = [...before.tensors].every(
  ([name, { bytes }]) => Buffer.compare(bytes, after.tensors.get(name).bytes) === 0,
);
console.log(`tensors  ${before.tensors.size}, ${equal ? 'the same' : 'others'} after PEFT → GGUF → PEFT`);
await model.loadAdapter(back, { name: 'back' });
const prompt = 'On Monday Danor sells three black eggs at the park.';
for (const adapter of ['default', 'back'])
  console.log(
    `${adapter.padEnd(8)} ${(await model.generate(prompt, { adapter, maxNewTokens: 24, temperature: 0 })).text.trim()}`,
  );
await model.dispose();
