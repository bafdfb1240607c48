/** The types of the AI SDK that a model in this process has to do with. */
import type { EmbeddingModel, LanguageModel } from 'ai';

/** A model as generateText and streamText take it. */
export type LoraNativeLanguageModel = Extract<LanguageModel, { specificationVersion: 'v3' }>;

/** A model as embed and embedMany take it. */
export type LoraNativeEmbeddingModel = Extract<EmbeddingModel, { specificationVersion: 'v3' }>;

/** What generateText asks a model for. */
export type CallOptions = Parameters<LoraNativeLanguageModel['doGenerate']>[0];

export type GenerateResult = Awaited<ReturnType<LoraNativeLanguageModel['doGenerate']>>;
export type StreamResult = Awaited<ReturnType<LoraNativeLanguageModel['doStream']>>;
export type StreamPart = StreamResult['stream'] extends ReadableStream<infer Part> ? Part : never;

/** What embed asks a model for. */
export type EmbedCallOptions = Parameters<LoraNativeEmbeddingModel['doEmbed']>[0];
export type EmbedResult = Awaited<ReturnType<LoraNativeEmbeddingModel['doEmbed']>>;
