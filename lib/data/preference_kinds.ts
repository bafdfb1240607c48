/** Rows of preferences in files, and the tokens that they become: those that TRL gives them. */
import type { ChatMessage } from '../text/messages';
import { describe } from '../validate';
import { ignoredLabel } from './example';
import {
  labeledRows,
  pairRows,
  rowFault,
  type AnswerRows,
  type LabeledRow,
  type PreferenceRow,
} from './preference_rows';
import { isMessages, RowError, RowKind, toolsOf, type Row, type RowKinds } from './rows';

/** A text, or messages. */
type Side = string | readonly ChatMessage[];

function sideOf(row: Row, key: string): Side {
  const value = row[key];
  if (typeof value === 'string' || isMessages(value)) return value;
  throw new RowError(
    `expected ${JSON.stringify(key)} to be a string or messages of { role, content } but received ${describe(value)}`,
  );
}

/** Where two texts begin to differ; not within a character, and before the space that belongs to the answers. */
function textsDiffer(a: string, b: string): number {
  const most = Math.min(a.length, b.length);
  let at = 0;
  while (at < most && a[at] === b[at]) at++;
  if (at > 0 && /[\ud800-\udbff]/.test(a[at - 1]!)) at--;
  return at > 0 && a[at - 1] === ' ' ? at - 1 : at;
}

function messagesDiffer(a: readonly ChatMessage[], b: readonly ChatMessage[]): number {
  const most = Math.min(a.length, b.length);
  let at = 0;
  while (at < most && JSON.stringify(a[at]) === JSON.stringify(b[at])) at++;
  return at;
}

abstract class Answers<Out> extends RowKind<Out> {
  /** The tokens of a prompt, and what a prompt with an answer has more than these. */
  protected async answered(
    prompt: Side,
    answer: Side,
    tools: readonly unknown[] | undefined,
  ): Promise<{ promptIds: number[]; answerIds: number[] }> {
    const found = await this.#tokens(prompt, answer, tools);
    if (found.promptIds.length === 0)
      throw new RowError(
        'expected a prompt of at least one token, which an answer follows, but received none',
      );
    if (found.answerIds.length === 0)
      throw new RowError('expected an answer of at least one token but received none');
    return found;
  }

  async #tokens(
    prompt: Side,
    answer: Side,
    tools: readonly unknown[] | undefined,
  ): Promise<{ promptIds: number[]; answerIds: number[] }> {
    if (typeof prompt !== 'string' && typeof answer !== 'string')
      return this.#conversed(prompt, answer, tools);
    if (typeof prompt !== 'string' || typeof answer !== 'string')
      throw new RowError('expected prompt and answers to be all texts, or all messages');
    const promptIds = await this.encode(prompt);
    const whole = await this.encode(prompt + answer);
    const answerIds = whole.slice(promptIds.length);
    const { eosTokenId } = this.tokenizer;
    // The end follows an empty answer too.
    if (typeof eosTokenId === 'number') answerIds.push(eosTokenId);
    return { promptIds, answerIds };
  }

  async #conversed(
    prompt: readonly ChatMessage[],
    answer: readonly ChatMessage[],
    tools: readonly unknown[] | undefined,
  ): Promise<{ promptIds: number[]; answerIds: number[] }> {
    if (!this.hasTemplate)
      throw new RowError(
        'conversations need a chat template, and the model has none: pass chatTemplate',
        'ERR_UNSUPPORTED',
      );
    // Of what the assistant says in the prompt nothing counts, so the answer begins at the first token that does.
    const asked = prompt.map((message) =>
      message.role === 'assistant' ? { ...message, weight: 0 } : message,
    );
    const { inputIds, labels } = await this.conversation([...asked, ...answer], tools);
    const begin = labels.findIndex((label) => label !== ignoredLabel);
    if (begin < 0) throw new RowError('expected an answer of the assistant');
    return { promptIds: inputIds.slice(0, begin), answerIds: inputIds.slice(begin) };
  }
}

class Pairs extends Answers<PreferenceRow> {
  async read(row: Row): Promise<PreferenceRow> {
    const [prompt, chosen, rejected] = this.#sides(row);
    const tools = toolsOf(row);
    const better = await this.answered(prompt, chosen, tools);
    const worse = await this.answered(prompt, rejected, tools);
    return { promptIds: better.promptIds, chosenIds: better.answerIds, rejectedIds: worse.answerIds };
  }

  /** Without a prompt of its own, it is what both answers begin with. */
  #sides(row: Row): [prompt: Side, chosen: Side, rejected: Side] {
    const [chosen, rejected] = [sideOf(row, 'chosen'), sideOf(row, 'rejected')];
    if (row['prompt'] !== undefined && row['prompt'] !== null)
      return [sideOf(row, 'prompt'), chosen, rejected];
    if (typeof chosen === 'string' && typeof rejected === 'string') {
      const at = textsDiffer(chosen, rejected);
      return [chosen.slice(0, at), chosen.slice(at), rejected.slice(at)];
    }
    if (typeof chosen === 'string' || typeof rejected === 'string')
      throw new RowError('expected "chosen" and "rejected" to be both texts, or both messages');
    const at = messagesDiffer(chosen, rejected);
    return [chosen.slice(0, at), chosen.slice(at), rejected.slice(at)];
  }
}

class Labeled extends Answers<LabeledRow> {
  async read(row: Row): Promise<LabeledRow> {
    const { label } = row;
    if (typeof label !== 'boolean')
      throw new RowError(`expected "label" to be true or false but received ${describe(label)}`);
    const { promptIds, answerIds } = await this.answered(
      sideOf(row, 'prompt'),
      sideOf(row, 'completion'),
      toolsOf(row),
    );
    return { promptIds, completionIds: answerIds, label };
  }
}

/** Rows of ids, as they are. */
const ofIds = <Out extends object>(rows: AnswerRows<Out>): new () => RowKind<Out> =>
  class extends RowKind<Out> {
    read(row: Row): Promise<Out> {
      const fault = rowFault(rows, row);
      if (fault !== undefined) throw new RowError(fault);
      const label = rows.labeled && { label: row['label'] };
      const ids = ['promptIds', ...rows.answers].map((key) => [key, [...(row[key] as number[])]]);
      return Promise.resolve({ ...Object.fromEntries(ids), ...label } as Out);
    }
  } as never;

export const pairKinds: RowKinds<PreferenceRow> = {
  kinds: [
    [['promptIds', 'chosenIds', 'rejectedIds'], pairRows.form, ofIds(pairRows)],
    [['chosen', 'rejected'], '{ prompt?, chosen, rejected }', Pairs],
  ],
  furtherKeys: ['prompt', 'tools'],
};
export const labeledKinds: RowKinds<LabeledRow> = {
  kinds: [
    [['promptIds', 'completionIds', 'label'], labeledRows.form, ofIds(labeledRows)],
    [['prompt', 'completion', 'label'], '{ prompt, completion, label }', Labeled],
  ],
  furtherKeys: ['tools'],
};
