/** POST /v1/embeddings, as OpenAI has it: texts as vectors. */
import { embedTexts, type EmbedInput } from '../models/embedding/embed';
import { describe, isListOf } from '../validate';
import { invalid } from './api_error';
import { integerField, needed, stringField, type Fields } from './fields';
import { checkModel, inTurn } from './held_adapter';
import { checkCharacters } from './prompt_ids';
import type { Call } from './service';

/** Most texts of one request, as with OpenAI. */
const maxTexts = 2048;

const isId = (one: unknown): one is number => typeof one === 'number';

/** A text, ids, or a list of either. */
function inputField(fields: Fields): readonly EmbedInput[] {
  const given = needed(fields['input'] ?? undefined, 'input');
  if (typeof given === 'string') return [given];
  if (isListOf(given, isId) && given.length > 0) return [given];
  if (
    isListOf(given, (one): one is string | number[] => typeof one === 'string' || isListOf(one, isId)) &&
    given.length > 0 &&
    given.length <= maxTexts
  )
    return given;
  throw invalid(
    `expected input to be a text, a list of ids, or a list of at most ${maxTexts} of these but received ${Array.isArray(given) && given.length > maxTexts ? `${given.length}` : describe(given)}`,
    'input',
  );
}

/** What each vector is written as. */
const encodings = {
  float: (vector: Float32Array): unknown => [...vector],
  /** Little-endian floats of 32 bits. */
  base64: (vector: Float32Array): unknown => {
    const bytes = Buffer.alloc(4 * vector.length);
    for (const [i, x] of vector.entries()) bytes.writeFloatLE(x, 4 * i);
    return bytes.toString('base64');
  },
};

export async function embeddings(call: Call, fields: Fields): Promise<void> {
  const { service, exchange } = call;
  const { settings, adapters, model } = service;
  const texts = inputField(fields);
  const name = stringField(fields, 'model') ?? adapters.base;
  const encoding = stringField(fields, 'encoding_format') ?? 'float';
  if (!Object.hasOwn(encodings, encoding))
    throw invalid(
      `expected encoding_format to be float or base64 but received ${describe(encoding)}`,
      'encoding_format',
    );
  const dimensions = integerField(fields, 'dimensions', { least: 1 });
  const instruction = stringField(fields, 'instruction');
  if (settings.logPrompts) exchange.facts.prompt = texts;
  await checkModel(call, name);
  for (const text of texts) if (typeof text === 'string') checkCharacters(service, text, 'input');
  await inTurn(call, name, 1, async ({ adapter }) => {
    const { vectors, tokens } = await embedTexts(model.core, texts, {
      ...{ dimensions, instruction, signal: exchange.signal },
      adapter: adapter ?? model.core.noAdapter,
    });
    exchange.facts.promptTokens = tokens;
    const write = encodings[encoding as keyof typeof encodings];
    exchange.json({
      object: 'list',
      data: vectors.map((vector, index) => ({ object: 'embedding', index, embedding: write(vector) })),
      model: name,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    });
  });
}
