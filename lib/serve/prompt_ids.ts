/** Prompts as ids. A text becomes ids in its client's turn, and only where it may fit the model's context. */
import { chatIds, type ChatText } from '../text/marks';
import type { ChatMessage } from '../text/messages';
import { invalid } from './api_error';
import type { Fields } from './fields';
import type { Call, Service } from './service';

/** The field of the request that holds a text, and the reason to stop. */
interface PromptOf {
  readonly field: 'prompt' | 'messages' | 'input';
  readonly signal: AbortSignal;
}

/** Most characters that ids within the context spell. */
const maxCharacters = ({ model }: Service): number =>
  model.config.maxPositionEmbeddings * model.tokenizer.longestToken;

/** @throws 400 for a text that no ids within the context spell: to encode 4 MB takes seconds. */
export function checkCharacters(service: Service, text: string, field: string): void {
  if (text.length <= maxCharacters(service)) return;
  const { tokenizer, config } = service.model;
  const { longestToken } = tokenizer;
  const context = config.maxPositionEmbeddings;
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
  /** Whether the answer goes on with the last message. */
  readonly continues?: boolean | undefined;
}

/** What is opened of a prompt: an {@link OpenedAnswer}. */
type Opener = (prompt: string) => { readonly opening: string };

async function chatText(
  service: Service,
  messages: readonly ChatMessage[],
  { signal, tools, variables, continues = false }: TemplateFields & { readonly signal: AbortSignal },
): Promise<ChatText> {
  const { allowSpecialTokens } = service.settings;
  const options = {
    ...{ tools, variables, allowSpecialTokens },
    addGenerationPrompt: !continues,
    continueAssistant: continues,
  };
  const made = await service.model.tokenizer.chatTextAsync(messages, options, signal);
  checkCharacters(service, made.text, 'messages');
  return made;
}

/**
 * The length of a conversation is known when the template has written it, which may leave messages out. That is done before the request waits only
 * where its body is so long that it may be refused.
 * @throws 400
 */
export async function checkConversation(
  { service, client, body }: Call,
  messages: readonly ChatMessage[],
  fields: TemplateFields & { readonly signal: AbortSignal },
): Promise<void> {
  if (body.bytes > maxCharacters(service))
    await service.inTurn(client, fields.signal, () => chatText(service, messages, fields));
}

/** Ids of a conversation, up to where the assistant answers, and of what its answer begins with. */
export function conversationIds(
  { service, client }: Call,
  messages: readonly ChatMessage[],
  { signal, ...fields }: TemplateFields & { readonly signal: AbortSignal },
  open: Opener = () => ({ opening: '' }),
): Promise<number[]> {
  const { tokenizer } = service.model;
  return service.inTurn(client, signal, async () => {
    const { text, ordinary } = await chatText(service, messages, { ...fields, signal });
    return chatIds(tokenizer, { text: text + open(text).opening, ordinary }, signal);
  });
}
