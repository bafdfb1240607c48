/** A chat as its endpoints have it: a conversation with tools, whose answer is read for thoughts and calls. */
import type { OpenedAnswer } from '../text/answers/answer_form';
import type { ChatMessage } from '../text/messages';
import { answerTexts, type TextsPlan } from './answer_texts';
import type { Fields } from './fields';
import { checkConversation, conversationIds } from './prompt_ids';
import type { Call } from './service';
import type { RequestedTools } from './tools_fields';

export interface ChatPlan extends Pick<
  TextsPlan,
  'model' | 'promptField' | 'sampling' | 'maxTokens' | 'logprobs' | 'stream' | 'format'
> {
  readonly messages: readonly ChatMessage[];
  readonly tools: RequestedTools | undefined;
  /** Of the chat template. */
  readonly variables: Fields | undefined;
  /** Whether the answer goes on with the last message, which is the assistant's. */
  readonly continues: boolean;
}

/** Answers a conversation. A call that must be made is opened in the prompt, so that the grammar is that of its JSON alone. */
export async function answerConversation(call: Call, plan: ChatPlan): Promise<void> {
  const { messages, tools, variables, continues, sampling: requested } = plan;
  const { service, exchange } = call;
  if (service.settings.logPrompts) exchange.facts.prompt = messages;
  const sampling = tools?.schema === undefined ? requested : { ...requested, jsonSchema: tools.schema };
  const held =
    tools?.schema !== undefined ? 'call' : sampling.jsonSchema !== undefined ? 'schema' : undefined;
  const answer = { tools: tools?.declared, maxCalls: tools?.maxCalls, held } as const;
  const template = { tools: tools?.tools, variables, continues };
  let opened: OpenedAnswer | undefined;
  await answerTexts(call, {
    ...plan,
    sampling,
    promptCount: 1,
    knownTokens: 0,
    checkLengths: (signal) => checkConversation(call, messages, { ...template, signal }),
    prompts: async (signal) => [
      await conversationIds(
        call,
        messages,
        { ...template, signal },
        (prompt) => (opened = service.answerForm.open(prompt, answer)),
      ),
    ],
    reader: () => opened!.reader(),
  });
}
