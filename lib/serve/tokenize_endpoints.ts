/** POST /tokenize and /detokenize, as vLLM has them. */
import { describe, isListOf } from '../validate';
import { invalid } from './api_error';
import { messagesField } from './chat_endpoint';
import { booleanField, needed, stringField, type Fields } from './fields';
import { conversationIds, textIds } from './prompt_ids';
import type { Call } from './service';

export async function tokenize(call: Call, fields: Fields): Promise<void> {
  const { service, exchange } = call;
  const { signal } = exchange;
  let tokens: number[];
  if (fields['messages'] != null) {
    tokens = await conversationIds(call, messagesField(fields, service.settings.maxMessages), { signal });
  } else {
    const prompt = needed(stringField(fields, 'prompt'), 'prompt or messages');
    const addSpecialTokens = booleanField(fields, 'add_special_tokens') ?? true;
    tokens = await textIds(call, prompt, { field: 'prompt', addSpecialTokens, signal });
  }
  const { maxPositionEmbeddings } = service.model.config;
  exchange.json({ count: tokens.length, max_model_len: maxPositionEmbeddings, tokens });
}

export async function detokenize({ service, exchange, client }: Call, fields: Fields): Promise<void> {
  const { tokenizer, config } = service.model;
  const tokens = needed(fields['tokens'] ?? undefined, 'tokens');
  const isId = (one: unknown): one is number => Number.isSafeInteger(one) && (one as number) >= 0;
  if (!isListOf(tokens, isId))
    throw invalid(`expected tokens to be a list of ids but received ${describe(tokens)}`, 'tokens');
  const context = config.maxPositionEmbeddings;
  if (tokens.length > context)
    throw invalid(
      `this model's maximum context length is ${context} tokens, but tokens has ${tokens.length}`,
      'tokens',
      'context_length_exceeded',
    );
  // The decoder takes a list in one piece.
  const prompt = await service.inTurn(client, exchange.signal, () => tokenizer.decode(tokens));
  exchange.json({ prompt });
}
