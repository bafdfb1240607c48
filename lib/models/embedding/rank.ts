/** model.rank: documents in the order in which they answer a query. */
import type { Adapter } from '../../peft/adapter';
import { enqueueInSlices } from '../../tensor/op_slices';
import { Pace } from '../../tensor/pace';
import { noGrad, tidy } from '../../tensor/scope';
import { check, checkInteger, checkOptions, checkSignal, describe, isListOf } from '../../validate';
import type { ModelCore } from '../core/model_core';
import { passesOf } from '../inputs/passes';
import { rankInstruction, relevanceIds } from '../../text/relevance';
import { checkLength, textRoom } from './embed';
import { plannedRelevance } from './relevance';

/** The options of {@link CausalLM.rank}. */
export interface RankOptions {
  /** What documents are judged by. Default: 'Given a web search query, retrieve relevant passages that answer the query'. */
  instruction?: string | undefined;
  /** Only the best so many documents. Default: all. */
  topN?: number | undefined;
  /** A name, an Adapter, or null for the base alone; ERR_BUSY while one is merged. Default: the active adapter, or what is merged. */
  adapter?: string | Adapter | null | undefined;
  /** An abort rejects with its reason. */
  signal?: AbortSignal | undefined;
}

/** A document in the answer of {@link CausalLM.rank}. */
export interface RankedDocument {
  /** Its place in the list of documents. */
  index: number;
  /** How likely it answers the query, from 0 to 1. */
  score: number;
}

/** The best first; of equal ones the first. */
export const byScore = (a: RankedDocument, b: RankedDocument): number =>
  b.score - a.score || a.index - b.index;

/** CausalLM.rank, where it is documented. */
export async function rankDocuments(
  model: ModelCore,
  query: string,
  documents: readonly string[],
  options: RankOptions,
): Promise<{ ranked: RankedDocument[]; tokens: number }> {
  const op = 'rank';
  model.checkAlive(op);
  checkOptions(op, options, ['instruction', 'topN', 'adapter', 'signal']);
  const { instruction = rankInstruction, topN = Infinity, signal } = options;
  check(
    typeof instruction === 'string',
    op,
    `expected instruction to be a text but received ${describe(instruction)}`,
  );
  if (topN !== Infinity) checkInteger(op, 'topN', topN, 1);
  checkSignal(op, signal);
  check(typeof query === 'string', op, () => `expected query to be a text but received ${describe(query)}`);
  check(
    isListOf(documents, (text) => typeof text === 'string'),
    op,
    () => `expected documents to be a list of texts but received ${describe(documents)}`,
  );
  const adapter = model.adapters.resolve(op, options.adapter);
  const room = textRoom(model, [adapter]);
  const prompts: { ids: number[] }[] = [];
  const pace = new Pace();
  for (const [i, document] of documents.entries()) {
    if (pace.due) await pace.rest(signal);
    const ids = relevanceIds(model.tokenizer, query, document, instruction);
    checkLength(op, `document ${i} with its query`, ids.length, room);
    prompts.push({ ids });
  }
  const release = model.adapters.acquire(op, adapter);
  try {
    const ranked: RankedDocument[] = [];
    const how = { adapter: model.adapters.choiceOf(adapter), train: false };
    for (const pass of passesOf(prompts.map(({ ids }) => ids.length))) {
      signal?.throwIfAborted();
      const own = pass.map((i) => prompts[i]!);
      const steps = plannedRelevance(op, model, own, how);
      const made = await noGrad(() => tidy(() => enqueueInSlices(model.device, steps())));
      const values = await made.data();
      made.dispose();
      for (const [j, index] of pass.entries()) ranked.push({ index, score: 1 / (1 + Math.exp(-values[j]!)) });
    }
    const tokens = prompts.reduce((sum, { ids }) => sum + ids.length, 0);
    return { ranked: ranked.sort(byScore).slice(0, topN), tokens };
  } finally {
    release();
  }
}
