// An intent router: which team answers a message? A head of classes and a LoRA adapter learn it from made messages; one forward pass
// classifies a text. Prints the accuracy of the base and of the adapter on messages of other customers, and writes a report.
//
//   node examples/intents.mjs [MODEL_DIR] [STEPS] [OUT_DIR]
import { CausalLM, Trainer } from 'lora-native';

const [dir = new URL('base-model', import.meta.url), steps = '120', outDir = 'intent-router'] =
  process.argv.slice(2);

const things = ['jacket', 'lamp', 'kettle', 'rug', 'watch', 'tent', 'radio', 'mirror'];
const openings = ['', 'Hello, ', 'Good day, ', 'Please help: ', 'Sorry, '];
const endings = ['', ' Thanks.', ' I wait for your answer.', ' Can you help?'];
const intents = {
  refund: [
    (x) => `I want my money back for the ${x}.`,
    (x) => `the ${x} is broken, give me a refund.`,
    (x) => `I sent the ${x} back and nobody paid me.`,
  ],
  delivery: [
    (x) => `where is my ${x}?`,
    (x) => `the ${x} has not arrived yet.`,
    (x) => `when do you deliver the ${x}?`,
  ],
  account: [
    (x) => `I cannot log in to order the ${x}.`,
    (x) => `my password is wrong since I bought the ${x}.`,
    (x) => `please change my address before the ${x} is billed.`,
  ],
};
const labels = Object.keys(intents);

/** Messages about some of the things, in all wordings: { text, label }. */
const messages = (about) =>
  about.flatMap((thing) =>
    labels.flatMap((label) =>
      intents[label].flatMap((say) =>
        openings.flatMap((opening) =>
          endings.map((ending) => ({ text: `${opening}${say(thing)}${ending}`, label })),
        ),
      ),
    ),
  );
const data = messages(things.slice(0, 6));
const evalData = messages(things.slice(6)); // nobody asked about these before

const model = await CausalLM.fromPretrained(dir, { head: { type: 'classify', labels } });
model.addAdapter({ r: 8, loraAlpha: 16, targetModules: 'all-linear' }, { name: 'router' });
const run = { maxSteps: Number(steps), batchSize: 16, lr: 2e-3, warmupSteps: 10, groupByLength: true };
const evalEvery = Math.ceil(Number(steps) / 4);
const trainer = new Trainer({
  model,
  data,
  evalData,
  evalEvery,
  ...run,
  objective: 'classify',
  outDir,
  report: true,
});
for await (const e of trainer.run()) {
  if (e.type === 'eval')
    console.log(
      `step ${e.step}  loss ${e.loss.toFixed(3)}  accuracy ${(100 * e.metrics.accuracy).toFixed(1)} %`,
    );
  if (e.type === 'end') console.log(`report: ${e.report}`);
}

const { results } = await model.evaluateTask(evalData, { adapters: [null, 'router'] });
for (const { adapter, accuracy, macroF1 } of results)
  console.log(
    `${adapter ?? 'base'}: accuracy ${(100 * accuracy).toFixed(1)} %, macro F1 ${(100 * macroF1).toFixed(1)} %`,
  );
console.table(
  Object.fromEntries(
    results[1].confusion.counts.map((row, i) => [
      labels[i],
      Object.fromEntries(row.map((n, j) => [labels[j], n])),
    ]),
  ),
);

const texts = ['Good day, the mirror has not arrived yet.', 'Hello, I want my money back for the radio.'];
for (const [i, { label, scores }] of (await model.classify(texts)).entries())
  console.log(`${texts[i]} -> ${label} (${Math.max(...scores).toFixed(2)})`);
await model.dispose();
