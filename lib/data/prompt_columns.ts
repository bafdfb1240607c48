/** Rows of prompts in files: each keeps its fields, for the functions that reward completions. */
import type { ChatMessage } from '../text/messages';
import { describe, isListOf } from '../validate';
import type { RowColumns } from './memory_dataset';
import type { PromptRow } from './prompt_rows';
import type { RowShape } from './row_shapes';
import { isMessages, RowError, RowKind, toolsOf, type Row } from './rows';

/** A row whose tokens are known. */
export type KnownPrompt = PromptRow & { readonly promptIds: readonly number[] };

class Prompts extends RowKind<KnownPrompt> {
  async read(row: Row): Promise<KnownPrompt> {
    return { ...row, promptIds: await this.#ids(row) };
  }

  async #ids(row: Row): Promise<readonly number[]> {
    const { prompt } = row;
    if (typeof prompt === 'string') return this.encode(prompt);
    if (isMessages(prompt)) return this.#asked(prompt, toolsOf(row));
    throw new RowError(
      `expected "prompt" to be a string or messages of { role, content } but received ${describe(prompt)}`,
    );
  }

  #asked(messages: readonly ChatMessage[], tools: readonly unknown[] | undefined): readonly number[] {
    const { chatTemplate } = this.options;
    if (chatTemplate !== undefined && chatTemplate !== null)
      throw new RowError(
        'prompts of messages go through the template of the model, without chatTemplate',
        'ERR_UNSUPPORTED',
      );
    if (!this.hasTemplate || !this.tokenizer.applyChatTemplate)
      throw new RowError('conversations need a chat template, and the model has none', 'ERR_UNSUPPORTED');
    return this.tokenizer.applyChatTemplate(messages, {
      addGenerationPrompt: true,
      ...(tools && { tools }),
    });
  }
}

class PromptsOfIds extends RowKind<KnownPrompt> {
  read(row: Row): Promise<KnownPrompt> {
    const { promptIds } = row;
    if (!isListOf(promptIds, Number.isInteger) || promptIds.length === 0)
      throw new RowError(`expected "promptIds" to be token ids but received ${describe(promptIds)}`);
    return Promise.resolve(row as unknown as KnownPrompt);
  }
}

/** Rows as they are: their fields may be anything. */
class ListedPrompts implements RowColumns<KnownPrompt> {
  readonly #rows: KnownPrompt[] = [];

  get length(): number {
    return this.#rows.length;
  }

  get lengths(): number[] {
    return this.#rows.map(({ promptIds }) => promptIds.length);
  }

  add(row: KnownPrompt): void {
    this.#rows.push(row);
  }

  at(index: number): KnownPrompt {
    return this.#rows[index]!;
  }
}

export const promptShape: RowShape<KnownPrompt> = {
  kinds: {
    kinds: [
      [['promptIds'], '{ promptIds }', PromptsOfIds],
      [['prompt'], '{ prompt }', Prompts],
    ],
    furtherKeys: ['tools'],
  },
  ofText: false,
  keepsFields: true,
  dropped: (maxLength) => `whose prompt fills ${maxLength} tokens`,
  columns: () => new ListedPrompts(),
  misfit: ({ promptIds }) => promptIds.find((id) => id !== (id | 0)),
  lengthOf: ({ promptIds }) => promptIds.length,
  fit(row, maxLength) {
    const { length } = row.promptIds;
    return { row: length < maxLength ? row : undefined, truncated: false, tokens: length };
  },
  numbers: ({ promptIds }) => [promptIds],
};
