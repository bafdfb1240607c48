/** Tokenizers as GGUF files have them: llama.cpp knows how texts are divided by a word, which stands for the parts of a tokenizer.json. */

/** Of tokens, in tokenizer.ggml.token_type. */
export const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** A word of tokenizer.ggml.pre, and what it stands for. */
export interface PreTokenizerKind {
  readonly name: string;
  /** Other words for the same. */
  readonly aliases?: readonly string[];
  /** The steps of the pre_tokenizer. */
  readonly parts: readonly object[];
  /** Whether texts are normalized before. */
  readonly nfc: boolean;
  /** Whether a word that is a token is not divided, whatever the merges say; and whether texts begin with BOS where a file does not say. */
  readonly wholeWords?: true;
}

/** `marks`: whether combining marks are letters. */
const words = (digits: string, marks = false): string => {
  const [letter, letters] = marks ? ['[\\p{L}\\p{M}]', '\\p{L}\\p{M}'] : ['\\p{L}', '\\p{L}'];
  return `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?${letter}+|${digits}| ?[^\\s${letters}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
};
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
/** Words that begin where capitals do: o200k's and tekken's. */
const cased = (digits: string, endings: string): string =>
  `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+${endings}|[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*${endings}|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const split = (Regex: string) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false });
const bytes = (useRegex: boolean) => ({ type: 'ByteLevel', add_prefix_space: false, use_regex: useRegex });

export const preTokenizers: readonly PreTokenizerKind[] = [
  {
    name: 'llama-bpe',
    aliases: ['llama3', 'llama-v3', 'lfm2'],
    parts: [split(words('\\p{N}{1,3}')), bytes(false)],
    nfc: false,
    wholeWords: true,
  },
  // SmolLM3's; OLMo 2's and Granite 4's.
  { name: 'smaug-bpe', aliases: ['dbrx'], parts: [split(words('\\p{N}{1,3}')), bytes(false)], nfc: false },
  {
    name: 'qwen2',
    aliases: ['deepseek-r1-qwen'],
    parts: [split(words('\\p{N}')), bytes(false)],
    nfc: true,
  },
  { name: 'qwen35', parts: [split(words('\\p{N}', true)), bytes(false)], nfc: true },
  {
    name: 'smollm',
    aliases: ['refact'], // Granite 3's
    parts: [{ type: 'Digits', individual_digits: true }, bytes(true)],
    nfc: false,
  },
  {
    name: 'gpt-4o', // Phi-4-mini's
    aliases: ['llama4'],
    parts: [split(cased('\\p{N}{1,3}', "(?i:'s|'t|'re|'ve|'m|'ll|'d)?")), bytes(false)],
    nfc: false,
  },
  { name: 'tekken', parts: [split(cased('\\p{N}', '')), bytes(false)], nfc: false, wholeWords: true }, // Ministral's
  { name: 'gpt-2', parts: [bytes(true)], nfc: false },
];
