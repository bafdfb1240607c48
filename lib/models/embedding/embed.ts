/** model.embed: texts as vectors, whose angles tell how alike the texts are. */
import { SequencePlan } from '../../data/sequence_plan';
import { loraError } from '../../errors';
import type { Adapter } from '../../peft/adapter';
import { enqueueInSlices } from '../../tensor/op_slices';
import { noGrad, tidy } from '../../tensor/scope';
import {
  check,
  checkBoolean,
  checkInteger,
  checkOneOf,
  checkOptions,
  checkSignal,
  describe,
  isListOf,
} from '../../validate';
import type { ModelCore } from '../core/model_core';
import { passesOf } from '../inputs/passes';
import type { Pool } from './sentence_files';
import { plannedVectors, vectorSize, type TextTokens, type VectorOptions } from './text_vectors';

/** The options of {@link CausalLM.embed}. */
export interface EmbedOptions {
  /** What of a text becomes its vector: its last token, or the mean of all. Default: what the files of the model say, else 'last', or 'mean' where a token sees those behind it. */
  pool?: Pool | undefined;
  /** Whether vectors have the length 1, so that their dot product is the cosine of their angle. Default true. */
  normalize?: boolean | undefined;
  /** What stands before each text: the name of a prompt of the model (`query`, `document`, …), or the words themselves; '' for none. Default: the default prompt of the model, where it has one. */
  instruction?: string | undefined;
  /** The first numbers alone, of a model that was trained so (Matryoshka); normalized afterwards. Default: all. */
  dimensions?: number | undefined;
  /** A name, an Adapter, or null for the base alone; or a list with one of these for each text. ERR_BUSY while one is merged. Default: the active adapter, or what is merged. */
  adapter?: string | Adapter | null | readonly (string | Adapter | null)[] | undefined;
  /** An abort rejects with its reason. */
  signal?: AbortSignal | undefined;
}

/** A text, or its ids. */
export type EmbedInput = string | readonly number[] | Int32Array;

const isIds = (value: unknown): value is readonly number[] | Int32Array =>
  value instanceof Int32Array || isListOf(value, (id) => typeof id === 'number');

/** The prompt that an instruction stands for. */
export function promptOf({ sentence }: ModelCore, instruction: string | undefined): string {
  const name = instruction ?? sentence.defaultPrompt;
  return name === undefined ? '' : (sentence.prompts.get(name) ?? name);
}

/** The most tokens of a text, and why. */
export function textRoom(
  { sentence, config }: ModelCore,
  adapters: readonly (Adapter | null)[],
): { most: number; reason: string } {
  const plans = adapters.map((adapter) => new SequencePlan(adapter, config.maxPositionEmbeddings));
  const least = plans.reduce((a, b) => (b.room < a.room ? b : a));
  const { maxLength = Infinity } = sentence;
  return maxLength < least.room
    ? { most: maxLength, reason: `the max_seq_length of the model is ${maxLength}` }
    : { most: least.room, reason: `the model has ${least.contextAndTaken}` };
}

/** @throws ERR_DATA for a text of no token, or of more than the model reads. */
export function checkLength(
  op: string,
  what: string,
  length: number,
  room: ReturnType<typeof textRoom>,
): void {
  if (length === 0) throw loraError(op, 'ERR_DATA', `expected ${what} to have a token but it has none`);
  if (length > room.most)
    throw loraError(
      op,
      'ERR_DATA',
      `expected ${what} to have at most ${room.most} tokens, since ${room.reason}, but it has ${length}`,
    );
}

/** The tokens of texts, each behind the prompt. */
export async function tokensOf(
  model: ModelCore,
  texts: readonly EmbedInput[],
  {
    op,
    prompt,
    room,
    signal,
  }: {
    op: string;
    prompt: string;
    room: ReturnType<typeof textRoom>;
    signal?: AbortSignal | undefined;
  },
): Promise<TextTokens[]> {
  const { includePrompt } = model.sentence;
  let skipped = 0;
  if (!includePrompt && prompt !== '') {
    // As sentence-transformers counts them: those of the prompt alone, without what ends a text.
    const own = model.tokenizer.encode(prompt);
    skipped = own.length - (model.config.eosTokenIds.includes(own.at(-1)!) ? 1 : 0);
  }
  const made: TextTokens[] = [];
  for (const [i, text] of texts.entries()) {
    const isText = typeof text === 'string';
    const ids = isText ? await model.tokenizer.encodeAsync(prompt + text, { signal }) : [...text];
    const odd = isText
      ? undefined
      : ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < model.config.vocabSize));
    if (odd !== undefined)
      throw loraError(
        op,
        'ERR_DATA',
        `expected ids from 0 to ${model.config.vocabSize - 1} but received ${describe(odd)} in text ${i}`,
      );
    checkLength(op, `text ${i}`, ids.length, room);
    made.push({ ids, skipped: isText ? Math.min(skipped, ids.length - 1) : 0 });
  }
  return made;
}

/** The vectors of texts, before they are cut and normalized. */
async function rawVectors(
  model: ModelCore,
  texts: readonly TextTokens[],
  options: VectorOptions,
  signal: AbortSignal | undefined,
): Promise<Float32Array[]> {
  const vectors = Array<Float32Array>(texts.length);
  const { adapter } = options;
  for (const pass of passesOf(texts.map(({ ids }) => ids.length))) {
    signal?.throwIfAborted();
    // Neighbors with one adapter are computed together.
    if (Array.isArray(adapter))
      pass.sort((a, b) => adapter.indexOf(adapter[a]) - adapter.indexOf(adapter[b]));
    const own = Array.isArray(adapter) ? pass.map((i) => adapter[i] as string | Adapter | null) : adapter;
    const rows = pass.map((i) => texts[i]!);
    const steps = plannedVectors(model, rows, { ...options, adapter: own });
    const made = await noGrad(() => tidy(() => enqueueInSlices(model.device, steps())));
    const values = await made.data();
    const size = made.shape[1]!;
    made.dispose();
    for (const [j, i] of pass.entries()) vectors[i] = values.slice(j * size, (j + 1) * size);
  }
  return vectors;
}

/** v / ‖v‖; a vector of zeros stays one. */
export function normalized(v: Float32Array): Float32Array {
  let sum = 0;
  for (const x of v) sum += x * x;
  const length = Math.sqrt(sum);
  return length === 0 ? v : v.map((x) => x / length);
}

/** CausalLM.embed, where it is documented. */
export async function embedTexts(
  model: ModelCore,
  texts: readonly EmbedInput[],
  options: EmbedOptions,
): Promise<{ vectors: Float32Array[]; tokens: number }> {
  const op = 'embed';
  model.checkAlive(op);
  checkOptions(op, options, ['pool', 'normalize', 'instruction', 'dimensions', 'adapter', 'signal']);
  const { pool = model.sentence.pool, normalize = true, instruction, signal } = options;
  checkOneOf(op, 'pool', pool, ['last', 'mean']);
  checkBoolean(op, 'normalize', normalize);
  checkSignal(op, signal);
  check(
    instruction === undefined || typeof instruction === 'string',
    op,
    () => `expected instruction to be a text but received ${describe(instruction)}`,
  );
  const size = vectorSize(model);
  const { dimensions = size } = options;
  checkInteger(op, 'dimensions', dimensions, 1);
  check(
    dimensions <= size,
    op,
    `expected dimensions of at most ${size}, which the vectors have, but received ${dimensions}`,
  );
  check(
    Array.isArray(texts) && texts.every((text) => typeof text === 'string' || isIds(text)),
    op,
    () => `expected a list of texts, or of rows of ids, but received ${describe(texts)}`,
  );
  check(
    instruction === undefined || instruction === '' || texts.every((text) => typeof text === 'string'),
    op,
    'expected texts with an instruction but received ids, which are taken as they are',
  );
  const { adapter: asked } = options;
  const isEach = (given: typeof asked): given is readonly (string | Adapter | null)[] => Array.isArray(given);
  const several = isEach(asked);
  const chosen: readonly (string | Adapter | null | undefined)[] = several ? asked : [asked];
  check(
    !several || chosen.length === texts.length,
    op,
    () => `expected one adapter for each of ${texts.length} texts but received ${chosen.length}`,
  );
  if (texts.length === 0) return { vectors: [], tokens: 0 };
  const adapters = chosen.map((one) => model.adapters.resolve(op, one));
  const room = textRoom(model, adapters);
  const releases: (() => void)[] = [];
  try {
    for (const adapter of new Set(adapters)) releases.push(model.adapters.acquire(op, adapter));
    const tokens = await tokensOf(model, texts, { op, prompt: promptOf(model, instruction), room, signal });
    const choices = adapters.map((adapter) => model.adapters.choiceOf(adapter));
    const adapter = several ? (choices as (Adapter | null)[]) : choices[0];
    const vectors = await rawVectors(model, tokens, { pool, adapter, train: false }, signal);
    const cut = dimensions === size ? vectors : vectors.map((v) => v.slice(0, dimensions));
    return {
      vectors: normalize ? cut.map(normalized) : cut,
      tokens: tokens.reduce((sum, { ids }) => sum + ids.length, 0),
    };
  } finally {
    for (const release of releases) release();
  }
}
