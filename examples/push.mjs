// An adapter into a repository of the hub, private, with a model card. The token is that of `hf auth login` or HF_TOKEN.
//
//   node examples/push.mjs BASE ADAPTER ORG/NAME
import { CausalLM } from 'lora-native';

const [base, adapter, name] = process.argv.slice(2);
if (!name) throw new Error('usage: node examples/push.mjs BASE ADAPTER ORG/NAME');

const model = await CausalLM.fromPretrained(base);
await model.loadAdapter(adapter);
const { url, commit, files } = await model.push(name, {
  private: true,
  message: 'First version',
  onProgress(progress) {
    if (progress.type === 'upload') console.log(`${progress.loaded} of ${progress.total} bytes`);
    else if (progress.type === 'notice') console.log(progress.message);
  },
});
console.log(`${files.join(', ')} in ${commit} of ${url}`);
await model.dispose();
