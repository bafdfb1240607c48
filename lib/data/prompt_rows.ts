/** Rows of prompts: what a run on rewards asks the model. */
import { loraError } from '../errors';
import type { ChatVariables } from '../text/chat';
import type { ChatMessage } from '../text/messages';
import type { Tokenizer } from '../text/tokenizer';
import { describe, isListOf, isRecord } from '../validate';
import { ignoredLabel } from './example';
import type { RowKind } from './row_groups';

/**
 * A prompt, as a text, messages or tokens; further fields are for the functions that reward its completions.
 *
 * @example
 * const row: PromptRow = { prompt: 'What is 6 times 7?', answer: '42' };
 */
export interface PromptRow {
  /** A text, as it is, or messages, which go through the chat template. */
  readonly prompt?: string | readonly ChatMessage[] | undefined;
  /** Its tokens, where they are known; they are taken in place of `prompt`. */
  readonly promptIds?: readonly number[] | undefined;
  /** Fields of your own. */
  readonly [field: string]: unknown;
}

/** What is told with a conversation. */
export type PromptTurns = Pick<ChatVariables, 'tools' | 'variables'>;

const form = '{ prompt } or { promptIds }';

function idsOf(row: PromptRow, tokenizer: () => Tokenizer, turns: PromptTurns): unknown {
  const { prompt, promptIds } = row;
  if (promptIds !== undefined) return promptIds;
  if (typeof prompt === 'string') return tokenizer().encode(prompt);
  if (isListOf(prompt, isRecord) && prompt.length > 0)
    return tokenizer().applyChatTemplate(prompt, {
      ...turns,
      addGenerationPrompt: true,
    });
  return undefined;
}

/** Rows of which each has the tokens of its prompt as its text. `tokenizer`: of the model; asked for where a row is no ids. */
export const promptRows = (tokenizer: () => Tokenizer, turns: PromptTurns = {}): RowKind => ({
  form,
  grouped: true,
  read(op, row, place) {
    const ids = isRecord(row) ? idsOf(row, tokenizer, turns) : undefined;
    if (!isListOf(ids, Number.isInteger) || ids.length === 0)
      throw loraError(
        op,
        'ERR_DATA',
        `${place}: expected a row ${form} with at least one token but received ${describe(row)}`,
      );
    const inputIds = ids as number[];
    return {
      row,
      marks: [inputIds.length],
      examples: [{ inputIds, labels: inputIds.map(() => ignoredLabel) }],
    };
  },
});
