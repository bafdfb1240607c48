/** POST /tokenize and /detokenize, as vLLM has them. */
import { promptIds } from '../models/generate';
import { describe, isListOf } from '../validate';
import { invalid } from './api_error';
import { messagesField } from './chat_endpoint';
import { booleanField, needed, stringField, type Fields } from './fields';
import type { Call } from './service';

export async function tokenize({ service, exchange }: Call, fields: Fields): Promise<void> {
  const { model, settings } = service;
  const { tokenizer, config } = model;
  const { signal } = exchange;
  let tokens: number[];
  if (fields['messages'] != null) {
    const messages = messagesField(fields, settings.maxMessages);
    tokens = await promptIds(messages, config.vocabSize, () => tokenizer, { signal });
  } else {
    const prompt = needed(stringField(fields, 'prompt'), 'prompt or messages');
    const addSpecialTokens = booleanField(fields, 'add_special_tokens') ?? true;
    tokens = await tokenizer.encodeAsync(prompt, { addSpecialTokens, signal });
  }
  exchange.json({ count: tokens.length, max_model_len: config.maxPositionEmbeddings, tokens });
}

export async function detokenize({ service, exchange }: Call, fields: Fields): Promise<void> {
  const tokens = needed(fields['tokens'] ?? undefined, 'tokens');
  const isId = (one: unknown): one is number => Number.isSafeInteger(one) && (one as number) >= 0;
  if (!isListOf(tokens, isId))
    throw invalid(`expected tokens to be a list of ids but received ${describe(tokens)}`, 'tokens');
  exchange.json({ prompt: service.model.tokenizer.decode(tokens) });
}
