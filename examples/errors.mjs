// Every failure is a LoRAError with a code: programs branch on the code, people read the message.
//
//   node examples/errors.mjs [MODEL_DIR]
import { CausalLM, LoRAError, tensor } from 'lora-native';

const [dir = new URL('base-model', import.meta.url)] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);

async function attempt(what, action) {
  try {
    await action();
    console.log(`${what}: no error`);
  } catch (error) {
    if (!(error instanceof LoRAError)) throw error; // a bug of the program, or the reason of an AbortSignal
    console.log(`${what}\n  ${error.code} ${error.message}`);
  }
}

await attempt('a folder that is no model', () => CausalLM.fromPretrained('/no/such/model'));
await attempt('an option that does not exist', () => model.addAdapter({ rank: 8 }));
await attempt('a layer that does not exist', () => model.addAdapter({ targetModules: ['c_attn'] }));
await attempt('a token that is not in the vocabulary', () => model.forward([[1, 10 ** 6]]));
await attempt('shapes that do not fit', () => tensor([1, 2, 3]).add(tensor([1, 2])));
await attempt('a tensor that is gone', () => {
  const x = tensor([1]);
  x.dispose();
  return x.data();
});
await attempt('nothing is wrong', () => model.generate('On Monday', { maxNewTokens: 4 }));
await model.dispose();
