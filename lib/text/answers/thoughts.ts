/** What a model thinks before it answers, apart from the answer. */
import { heldLength } from './call_parser';

/** What stands around a model's thoughts. */
export interface ThoughtMarks {
  readonly open: string;
  readonly close: string;
  /** The tokens in both, which may have no text. */
  readonly tokens: readonly string[];
}

/** Those of Qwen, SmolLM3, DeepSeek and LFM2.5; of Mistral; of Gemma 4. */
export const thoughtMarks: readonly ThoughtMarks[] = [
  { open: '<think>', close: '</think>', tokens: ['<think>', '</think>'] },
  { open: '[THINK]', close: '[/THINK]', tokens: ['[THINK]', '[/THINK]'] },
  { open: '<|channel>thought\n', close: '<channel|>', tokens: ['<|channel>', '<channel|>'] },
];

/** Whether a prompt ends within the thoughts of the answer, as templates open them for models that always think. */
export const opensThought = (prompt: string, { open }: ThoughtMarks): boolean =>
  prompt.trimEnd().endsWith(open.trimEnd());

/** A piece of a text, apart. */
export interface SplitPiece {
  readonly reasoning: string;
  readonly answer: string;
}

/** Splits a text that comes in pieces. White space around thoughts belongs to neither. */
export class ThoughtSplitter {
  readonly #marks: ThoughtMarks;
  #state: 'before' | 'inside' | 'behind' | 'answer';
  #held = '';
  #begun = false;

  /** `open`: the text begins within thoughts. */
  constructor(marks: ThoughtMarks, open: boolean) {
    this.#marks = marks;
    this.#state = open ? 'inside' : 'before';
  }

  /** Whether the last text was of thoughts. */
  get thinking(): boolean {
    return this.#state === 'inside';
  }

  push(text: string): SplitPiece {
    this.#held += text;
    let reasoning = '';
    if (this.#state === 'before') this.#open();
    if (this.#state === 'inside') reasoning = this.#thought();
    if (this.#state === 'behind') {
      this.#held = this.#held.trimStart();
      if (this.#held !== '') this.#state = 'answer';
    }
    if (this.#state !== 'answer') return { reasoning, answer: '' };
    const answer = this.#held;
    this.#held = '';
    return { reasoning, answer };
  }

  /** Only thoughts at the beginning of an answer are such: what a model writes of these marks later is text. */
  #open(): void {
    const { open } = this.#marks;
    const text = this.#held.trimStart();
    if (text.startsWith(open)) {
      this.#held = text.slice(open.length);
      this.#state = 'inside';
    } else if (!open.startsWith(text)) this.#state = 'answer';
  }

  #thought(): string {
    const { close } = this.#marks;
    if (!this.#begun) this.#held = this.#held.trimStart();
    const at = this.#held.indexOf(close);
    const end = at < 0 ? this.#held.length - heldLength(this.#held, close) : at;
    const thought = at < 0 ? this.#held.slice(0, end) : this.#held.slice(0, end).trimEnd();
    this.#held = this.#held.slice(at < 0 ? end : end + close.length);
    this.#begun ||= thought !== '';
    if (at >= 0) this.#state = 'behind';
    return thought;
  }

  /** What was held back, when no more text will come. */
  flush(): SplitPiece {
    const held = this.#held;
    this.#held = '';
    return this.thinking ? { reasoning: held.trimEnd(), answer: '' } : { reasoning: '', answer: held };
  }
}
