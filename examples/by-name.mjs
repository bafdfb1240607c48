// A model by its name on the hub: its license before the download, the bytes as they come, and a text.
//
//   node examples/by-name.mjs [NAME] [PROMPT]
import { CausalLM } from 'lora-native';

const [name = 'HuggingFaceTB/SmolLM2-135M-Instruct', prompt = 'The capital of France is'] =
  process.argv.slice(2);

const model = await CausalLM.fromPretrained(name, {
  onProgress(progress) {
    if (progress.type === 'repository') console.log(`${progress.repository}: license ${progress.license}`);
    else if (progress.type === 'download') console.log(`${progress.loaded} of ${progress.total} bytes`);
    else if (progress.type === 'notice') console.log(progress.message);
  },
});
console.log(`in ${model.directory}`);
console.log((await model.generate(prompt, { maxNewTokens: 16, temperature: 0 })).text);
await model.dispose();
