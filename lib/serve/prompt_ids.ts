/** Prompts as ids. A text becomes ids in its client's turn, and only where it may fit the model's context. */
import type { ChatMessage } from '../text/messages';
import { invalid } from './api_error';
import type { Fields } from './fields';
import type { Call, Service } from './service';

/** The field of the request that holds a text, and the reason to stop. */
interface PromptOf {
  readonly field: 'prompt' | 'messages';
  readonly signal: AbortSignal;
}

/** @throws 400 for a text that no ids within the context spell: to encode 4 MB takes seconds. */
function checkCharacters({ model }: Service, text: string, field: string): void {
  const { longestToken } = model.tokenizer;
  const context = model.config.maxPositionEmbeddings;
  if (text.length <= context * longestToken) return;
  throw invalid(
    `this model's maximum context length is ${context} tokens of at most ${longestToken} characters, but the ${field} has ${text.length} characters`,
    field,
    'context_length_exceeded',
  );
}

/** Ids of a text. */
export function textIds(
  { service, client }: Call,
  text: string,
  { field, signal, addSpecialTokens }: PromptOf & { readonly addSpecialTokens?: boolean | undefined },
): Promise<number[]> {
  checkCharacters(service, text, field);
  return service.inTurn(client, signal, () =>
    service.model.tokenizer.encodeAsync(text, { addSpecialTokens, signal }),
  );
}

/** What the chat template gets beside the messages. */
export interface TemplateFields {
  readonly tools?: readonly unknown[] | undefined;
  readonly variables?: Fields | undefined;
  /** What the answer begins with. */
  readonly opening?: string;
}

/** Ids of a conversation, up to where the assistant answers. */
export function chatIds(
  { service, client }: Call,
  messages: readonly ChatMessage[],
  { signal, opening = '', tools, variables }: TemplateFields & { readonly signal: AbortSignal },
): Promise<number[]> {
  const { tokenizer } = service.model;
  return service.inTurn(client, signal, async () => {
    const { allowSpecialTokens } = service.settings;
    const options = { tools, variables, addGenerationPrompt: true, allowSpecialTokens };
    const { text, ordinary } = await tokenizer.chatTextAsync(messages, options, signal);
    checkCharacters(service, text, 'messages');
    return tokenizer.encodeAsync(text + opening, { addSpecialTokens: false, ordinary, signal });
  });
}
