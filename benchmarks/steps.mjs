// Training steps of a model, as the rivals take them: r = 16 on all linear layers, alpha = 2r and AdamW with lr 2e-4
// (../shared/baselines/train_step.py), or all weights (providers/full_step_worker.py). Gradients are clipped to 1, every token counts.
import { CausalLM, Trainer } from 'lora-native';

/** Rows of ids, the same for every run; the cost does not depend on the words. */
export function rows(count, length, vocabulary) {
  const id = (n) => ((n & 255) * 167) % vocabulary;
  return Array.from({ length: count }, (_, row) => Array.from({ length }, (_, i) => id(row * length + i)));
}

/** Loads the model and gives it what a step trains: an adapter, or with `train: 'all'` masters of its weights. */
export async function trainable(directory, { dtype, r = 16, device = 'cpu', train, stochasticRounding }) {
  const model = await CausalLM.fromPretrained(directory, { dtype, device });
  if (train === 'all') model.trainAll({ stochasticRounding });
  else model.addAdapter({ r, loraAlpha: 2 * r, targetModules: 'all-linear' }, { seed: 0 });
  return model;
}

/**
 * Takes steps of `batch` rows of `length` tokens without end; each yields its loss when it is done. With `text` a row is packed of texts of
 * so many tokens.
 */
export async function* steps(model, { batch, length, text, optimizer = 'adamw', lr = 2e-4 }) {
  const [count, each] = text === undefined ? [batch, length] : [(batch * length) / text, text];
  const data = {
    async *[Symbol.asyncIterator]() {
      for (;;) for (const inputIds of rows(count, each, model.config.vocabSize)) yield { inputIds };
    },
  };
  const maxSteps = Number.MAX_SAFE_INTEGER;
  const packed = text !== undefined && { packing: true, packLength: length };
  const options = { batchSize: batch, maxSteps, lr, optimizer, maxGradNorm: 1, ...packed };
  const run = new Trainer({ model, data, ...options }).run();
  for await (const event of run) if (event.type === 'step') yield event.loss;
}
