/** POST /v1/rerank and /v2/rerank, as Jina and Cohere have it: documents in the order in which they answer a query. */
import { rankDocuments } from '../models/embedding/rank';
import { describe, isListOf, isRecord } from '../validate';
import { invalid, unsupported } from './api_error';
import { booleanField, integerField, needed, stringField, type Fields } from './fields';
import { checkModel, inTurn } from './held_adapter';
import { checkCharacters } from './prompt_ids';
import type { Call } from './service';

/** Most documents of one request, as with Cohere. */
const maxDocuments = 1000;

/** Texts, or objects with a text. */
function documentsField(fields: Fields): string[] {
  const given = needed(fields['documents'] ?? undefined, 'documents');
  const textOf = (one: unknown): unknown => (isRecord(one) ? one['text'] : one);
  const texts = Array.isArray(given) ? given.map(textOf) : given;
  if (!isListOf(texts, (text): text is string => typeof text === 'string') || texts.length === 0)
    throw invalid(
      `expected documents to be a list of texts, or of objects { text }, but received ${describe(given)}`,
      'documents',
    );
  if (texts.length > maxDocuments)
    throw invalid(`expected at most ${maxDocuments} documents but received ${texts.length}`, 'documents');
  return texts;
}

export async function rerank(call: Call, fields: Fields): Promise<void> {
  const { service, exchange } = call;
  const { settings, adapters, model } = service;
  if (fields['rank_fields'] != null) throw unsupported('rank_fields', 'documents are ranked by their text');
  const query = needed(stringField(fields, 'query'), 'query');
  const documents = documentsField(fields);
  const name = stringField(fields, 'model') ?? adapters.base;
  const topN = integerField(fields, 'top_n', { least: 1 });
  const returnDocuments = booleanField(fields, 'return_documents') ?? false;
  const instruction = stringField(fields, 'instruction');
  if (settings.logPrompts) exchange.facts.prompt = { query, documents };
  await checkModel(call, name);
  for (const [field, texts] of Object.entries({ query: [query], documents }))
    for (const text of texts) checkCharacters(service, text, field);
  await inTurn(call, name, 1, async ({ adapter }) => {
    const { ranked, tokens } = await rankDocuments(model.core, query, documents, {
      ...{ topN, instruction, signal: exchange.signal },
      adapter: adapter ?? model.core.noAdapter,
    });
    exchange.facts.promptTokens = tokens;
    exchange.json({
      id: exchange.id,
      object: 'list',
      model: name,
      results: ranked.map(({ index, score }) => ({
        index,
        relevance_score: score,
        ...(returnDocuments && { document: { text: documents[index] } }),
      })),
      usage: { prompt_tokens: tokens, total_tokens: tokens },
      meta: { billed_units: { search_units: 1 } },
    });
  });
}
