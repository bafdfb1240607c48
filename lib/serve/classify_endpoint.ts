/** POST /v1/classify, with the fields of vLLM's /classify: the labels of texts and their scores. */
import type { TextOrIds } from '../models/running/log_probs';
import { describe, isListOf } from '../validate';
import { invalid, unsupported } from './api_error';
import { needed, stringField, type Fields } from './fields';
import { checkModel, inTurn } from './held_adapter';
import { textIds } from './prompt_ids';
import type { Call } from './service';

/** Most texts of one request. */
const maxTexts = 2048;

const isId = (one: unknown): one is number => Number.isSafeInteger(one) && (one as number) >= 0;
const isText = (one: unknown): one is string | number[] =>
  typeof one === 'string' || (isListOf(one, isId) && one.length > 0);

/** A text, ids, or a list of either. */
function inputField(fields: Fields): (string | number[])[] {
  const given = needed(fields['input'] ?? undefined, 'input');
  if (isText(given)) return [given];
  if (isListOf(given, isText) && given.length > 0 && given.length <= maxTexts) return given;
  const received = Array.isArray(given) && given.length > maxTexts ? `${given.length}` : describe(given);
  throw invalid(
    `expected input to be a text, a list of ids, or a list of 1 to ${maxTexts} of these but received ${received}`,
    'input',
  );
}

async function idsOf(call: Call, text: TextOrIds): Promise<readonly number[]> {
  const { exchange, service } = call;
  const { vocabSize, maxPositionEmbeddings: context } = service.model.config;
  const ids =
    typeof text === 'string'
      ? await textIds(call, text, { field: 'input', signal: exchange.signal })
      : [...text];
  const stranger = ids.find((id) => id >= vocabSize);
  if (stranger !== undefined)
    throw invalid(`expected ids from 0 to ${vocabSize - 1} but received ${stranger}`, 'input');
  if (ids.length === 0) throw invalid('expected texts of at least one token but received none', 'input');
  if (ids.length <= context) return ids;
  throw invalid(
    `this model's maximum context length is ${context} tokens, but a text of input has ${ids.length}`,
    'input',
    'context_length_exceeded',
  );
}

export async function classify(call: Call, fields: Fields): Promise<void> {
  const { service, exchange } = call;
  const { settings, adapters, model } = service;
  if (model.config.head?.type !== 'classify')
    throw unsupported('/v1/classify', 'the model has no head of classes');
  const texts = inputField(fields);
  const name = stringField(fields, 'model') ?? adapters.base;
  if (settings.logPrompts) exchange.facts.prompt = texts;
  await checkModel(call, name);
  await inTurn(call, name, 1, async ({ adapter }) => {
    const rows: (readonly number[])[] = [];
    for (const text of texts) rows.push(await idsOf(call, text));
    const found = await model.classify(rows, {
      adapter: adapter ?? model.core.noAdapter,
      signal: exchange.signal,
    });
    const tokens = rows.reduce((sum, { length }) => sum + length, 0);
    exchange.facts.promptTokens = tokens;
    exchange.json({
      id: exchange.id,
      object: 'list',
      created: Math.floor(Date.now() / 1000),
      model: name,
      data: found.map(({ label, labels, scores }, index) => ({
        ...{ index, label, ...(labels && { labels }), probs: scores },
        num_classes: scores.length,
      })),
      usage: { prompt_tokens: tokens, completion_tokens: 0, total_tokens: tokens },
    });
  });
}
