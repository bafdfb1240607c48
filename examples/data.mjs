// Your own data: any records become examples of { inputIds, labels }. A label of −100 counts nothing, so the model is
// trained to write the answer and not the question.
//
//   node examples/data.mjs [MODEL_DIR] [STEPS]
import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { CausalLM, Trainer } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '200'] = process.argv.slice(2);
const model = await CausalLM.fromPretrained(dir);
const { tokenizer } = model;

/** Records from wherever they are: here lines of a file, as well rows of a database or pages of an API. */
async function* records(name) {
  const lines = createInterface({
    input: createReadStream(new URL(`data/${name}`, import.meta.url), 'utf8'),
  });
  for await (const line of lines) {
    const [question, answer] = JSON.parse(line).text.split('-> ');
    yield { question, answer };
  }
}

/** The blank before the answer belongs to the answer: a prompt that ends with a blank tokenizes differently. */
function example({ question, answer }) {
  const prompt = tokenizer.encode(`${question}->`);
  const completion = tokenizer.encode(` ${answer}`, { addSpecialTokens: false });
  if (tokenizer.eosTokenId !== null) completion.push(tokenizer.eosTokenId); // learns where to stop
  return { inputIds: [...prompt, ...completion], labels: [...prompt.map(() => -100), ...completion] };
}

async function* examples(name) {
  for await (const record of records(name)) yield example(record);
}

const { value: first } = await examples('heldout.jsonl').next();
console.log(`text   ${tokenizer.decode(first.inputIds)}`);
console.log(`counts ${tokenizer.decode(first.labels.filter((id) => id !== -100))}`);

// A function, since a generator can be read only once: it is called for every pass over the data.
const data = () => examples('train.jsonl');
const evalData = () => examples('heldout.jsonl');
model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' });
const before = await model.evaluate(evalData);
// Its length is not known beforehand, so the number of steps must be.
await new Trainer({ model, data, maxSteps: Number(steps), lr: 5e-3 }).run();
const after = await model.evaluate(evalData);
console.log(
  `loss of ${after.tokens} answer tokens: ${before.loss.toFixed(3)} before, ${after.loss.toFixed(3)} after`,
);
await model.dispose();
