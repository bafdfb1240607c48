// A GGUF file as the base: an adapter trained on it, and the sum of both as a Hugging Face directory and as a GGUF file again, with a Modelfile for Ollama.
//
//   node examples/gguf.mjs MODEL.gguf [OUT_DIR]       MODEL.gguf of the hub: hf:org/name/FILE.gguf
import { join } from 'node:path';
import { CausalLM, convertModel, loadDataset, Trainer } from 'lora-native';

const [file, out = 'from-gguf'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(file);
console.log(`model    ${model.config.modelType}, ${model.parameterCount} parameters, ${model.dtype}`);

const load = (name) =>
  loadDataset(new URL(`data/${name}.jsonl`, import.meta.url), { tokenizer: model.tokenizer, maxLength: 256 });
const [data, heldOut] = [await load('train'), await load('heldout')];
console.log(`before   ${(await model.evaluate(heldOut)).loss.toFixed(3)}`);
model.addAdapter({ r: 8, targetModules: 'all-linear' });
await new Trainer({ model, data, maxSteps: 20, lr: 5e-3 }).run();
console.log(`trained  ${(await model.evaluate(heldOut)).loss.toFixed(3)}`);

const [directory, merged] = [join(out, 'directory'), join(out, 'merged.gguf')];
await model.save(directory, { merge: 'default' }); // config.json, model.safetensors, tokenizer.json …
await convertModel(directory, merged, { format: 'f16', modelfile: true }); // ollama create NAME -f Modelfile
await model.dispose();

for (const source of [directory, merged]) {
  const again = await CausalLM.fromPretrained(source, { dtype: 'f32' });
  console.log(`again    ${(await again.evaluate(heldOut)).loss.toFixed(3)}`);
  await again.dispose();
}
