/** How well a document answers a query: the logits of "yes" and "no" behind the question whether it does. */
import { loraError } from '../../errors';
import { tensor } from '../../tensor/create';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { headLogits } from '../core/decoder';
import type { ModelCore } from '../core/model_core';
import { plannedPooled, type TextTokens, type VectorOptions } from './text_vectors';

/** What logits are multiplied by for the score of a document, [logits]: "yes" less "no", or the one logit of a head of classes. */
function signsOf(op: string, model: ModelCore): Float32Array {
  const { head, vocabSize } = model.config;
  if (head) {
    const { labels } = model.classifyHead(op);
    if (labels.length === 1) return Float32Array.of(1);
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `expected a head of one label, whose logit tells how relevant a document is, but the model has ${labels.length}`,
    );
  }
  model.checkLanguageHead(op);
  const [yes, no] = ['yes', 'no'].map((word) => model.tokenizer.encode(word, { addSpecialTokens: false }));
  if (yes!.length !== 1 || no!.length !== 1)
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `expected "yes" and "no" to be tokens of the model, whose logits tell how relevant a document is, but they have ${yes!.length} and ${no!.length} tokens`,
    );
  const signs = new Float32Array(vocabSize);
  [signs[yes![0]!], signs[no![0]!]] = [1, -1];
  return signs;
}

/** What makes the score of the document of each prompt before the sigmoid, [prompts] in f32. @throws ERR_UNSUPPORTED for a model that gives none. */
export function plannedRelevance(
  op: string,
  model: ModelCore,
  prompts: readonly TextTokens[],
  options: Omit<VectorOptions, 'pool'>,
): () => Generator<void, Tensor, void> {
  const signs = signsOf(op, model);
  const run = plannedPooled(model, prompts, { ...options, pool: 'last' });
  return function* () {
    const { pooled, use } = yield* run();
    const narrow = moved(pooled, (t) => t.to({ dtype: model.decoder.dtype }));
    const logits = moved(narrow, (t) => headLogits(model.decoder, t, use));
    const wide = moved(logits, (t) => t.to({ dtype: 'f32' }));
    const difference = tensor(signs, { shape: [signs.length, 1], device: model.device });
    const scores = moved(wide, (t) => t.matmul(difference));
    difference.dispose();
    return moved(scores, (t) => t.reshape([prompts.length]));
  };
}
