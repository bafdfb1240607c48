// Training steps of a whole model, as the rival takes them (../shared/baselines/train_step.py): r = 16 on all linear
// layers, alpha = 2r, AdamW with lr 2e-4, gradients clipped to 1, every token counts.
import { CausalLM, Trainer } from 'lora-native';

/** Rows of ids, the same for every run; the cost does not depend on the words. */
export function rows(count, length, vocabulary) {
  const id = (n) => ((n & 255) * 167) % vocabulary;
  return Array.from({ length: count }, (_, row) => Array.from({ length }, (_, i) => id(row * length + i)));
}

/** Loads the model and gives it the adapter that a step trains. */
export async function trainable(directory, { dtype, r = 16, device = 'cpu' }) {
  const model = await CausalLM.fromPretrained(directory, { dtype, device });
  model.addAdapter({ r, loraAlpha: 2 * r, targetModules: 'all-linear' }, { seed: 0 });
  return model;
}

/** Takes steps of `batch` rows of `length` tokens without end; each yields its loss when it is done. */
export async function* steps(model, { batch, length }) {
  const data = {
    async *[Symbol.asyncIterator]() {
      for (;;) for (const inputIds of rows(batch, length, model.config.vocabSize)) yield { inputIds };
    },
  };
  const maxSteps = Number.MAX_SAFE_INTEGER;
  const run = new Trainer({ model, data, batchSize: batch, maxSteps, lr: 2e-4, maxGradNorm: 1 }).run();
  for await (const event of run) if (event.type === 'step') yield event.loss;
}
