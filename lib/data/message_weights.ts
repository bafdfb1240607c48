/** Which messages of a conversation count: what data say of it in each message. */
import type { ChatMessage } from '../text/messages';
import { describe } from '../validate';

/** The words for it: OpenAI's `weight`, and axolotl's `train`; and what they are with a value. */
const words = {
  weight: { values: [0, 1], expected: '0 or 1' },
  train: { values: [false, true], expected: 'true or false' },
} as const;

/** What a message says of itself, where it does; null says nothing, as tables have it. */
const said = (message: ChatMessage, word: keyof typeof words): unknown => message[word] ?? undefined;

/** What is wrong with the weights of a conversation; undefined where nothing is. `trainsAll`: every message counts that says nothing. */
export function wrongWeight(messages: readonly ChatMessage[], trainsAll: boolean): string | undefined {
  for (const [i, message] of messages.entries()) {
    const place = `message ${i + 1} (${describe(message.role)})`;
    for (const word of ['weight', 'train'] as const) {
      const value = said(message, word);
      if (value === undefined) continue;
      const { values, expected } = words[word];
      if (!values.some((known) => known === value))
        return `expected ${JSON.stringify(word)} of ${place} to be ${expected} but received ${describe(value)}`;
      if (message.role === 'assistant') continue;
      // Of other messages no template tells which tokens are theirs.
      if (Boolean(value) !== trainsAll)
        return trainsAll
          ? `expected ${JSON.stringify(word)} of ${place} to be ${values[1]} beside trainOn 'all', which counts it, but received ${describe(value)}`
          : `expected ${JSON.stringify(word)} of ${place} to be ${values[0]}, since only messages of the assistant count, but received ${describe(value)}`;
    }
    const [weight, train] = [said(message, 'weight'), said(message, 'train')];
    if (weight !== undefined && train !== undefined && Boolean(weight) !== train)
      return `expected "weight" and "train" of ${place} to say the same but received ${describe(weight)} and ${describe(train)}`;
  }
  return undefined;
}

/** Whether each message of the assistant counts, in their order. */
export const countedAnswers = (messages: readonly ChatMessage[]): boolean[] =>
  messages
    .filter(({ role }) => role === 'assistant')
    .map((message) => said(message, 'weight') !== 0 && said(message, 'train') !== false);
