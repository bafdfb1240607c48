/** Texts as vectors for the AI SDK. */
import type { CausalLM } from '../models/causal_lm';
import { ownOptionsOf } from './own_options';
import type { EmbedCallOptions, EmbedResult, LoraNativeEmbeddingModel } from './types';

/** What `providerOptions: { 'lora-native': … }` may hold. */
const ownOptions = ['instruction', 'dimensions', 'pool', 'normalize'] as const;

/** Embeds with one adapter of a model, or with its base. */
export class InProcessEmbeddingModel implements LoraNativeEmbeddingModel {
  readonly specificationVersion = 'v3';
  readonly provider = 'lora-native';
  /** None: texts of any number share batches. */
  readonly maxEmbeddingsPerCall = Infinity;
  readonly supportsParallelCalls = true;
  readonly #model: CausalLM;
  readonly #adapter: string | null;

  constructor(
    model: CausalLM,
    readonly modelId: string,
    baseName: string,
  ) {
    this.#model = model;
    this.#adapter = modelId === baseName ? null : modelId;
  }

  async doEmbed({ values, abortSignal, providerOptions }: EmbedCallOptions): Promise<EmbedResult> {
    const { vectors, tokens } = await this.#model.embedCounted(values, {
      ...ownOptionsOf(providerOptions, ownOptions),
      adapter: this.#adapter,
      signal: abortSignal,
    });
    return { embeddings: vectors.map((vector) => [...vector]), usage: { tokens }, warnings: [] };
  }
}
