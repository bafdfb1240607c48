/** Text generation: prefill once, then one token at a time against a KV cache of the call's own. */
import { entry } from '../native/calls';
import { fromBytes } from '../tensor/create';
import type { Device } from '../native/device';
import { adjustLogits, drawnId, logProbs, sample, sampleRows, writeSampleRow } from '../ops';
import { noGrad, runUntracked, tidy } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { rawCast } from '../tensor/raw';
import { check, describe } from '../validate';
import { gatherEntries, LogitAdjuster } from '../engine/logit_adjuster';
import { tokenLimit, type GenerationPlan } from '../engine/sampling';
import { KVCache } from './kv_cache';
import { finalNorm, headLogits, hiddenStates, lastRow, type AdapterUse, type Decoder } from './decoder';
import { StopStrings } from '../text/stop_strings';
import type { ChatMessage } from '../text/chat';
import type { Tokenizer, TokenStream } from '../text/tokenizer';
import type { ModelDType } from './weights';

/** A text (special tokens are added), ids, or a conversation (through the chat template). */
export type Prompt = string | readonly number[] | Int32Array | readonly ChatMessage[];

/** One token. `text` is what became readable with it: whole characters, '' while one is unfinished. */
export interface GeneratedToken {
  /** The id of the token. */
  id: number;
  /** What became readable with it. */
  text: string;
  /** The log-probability of the token, in nats, before temperature, penalties and limits; where `logprobs` asks for it. */
  logprob?: number;
  /** The likeliest tokens in its place, the likeliest first; where `logprobs` asks for any. */
  topLogprobs?: readonly TokenLogprob[];
}

/** A token and its log-probability. */
export interface TokenLogprob {
  /** The id of the token. */
  id: number;
  /** Its log-probability, in nats. */
  logprob: number;
}

/** What a generation gives when it is awaited. */
export interface GenerationResult {
  /** The text, without the prompt, stop strings and special tokens. */
  text: string;
  /** All ids that were generated, the end-of-text token included. */
  ids: number[];
  /** 'stop': an end-of-text token or a stop string; 'length': maxNewTokens. */
  finishReason: 'stop' | 'length';
  /** How many tokens were read and made. */
  usage: { promptTokens: number; completionTokens: number };
}

const TAG = 'generate';

/** Ids of a prompt. Long ones are encoded in slices, between which timers and I/O run. */
export async function promptIds(
  prompt: Prompt,
  vocabSize: number,
  tokenizer: () => Tokenizer,
  signal?: AbortSignal,
): Promise<number[]> {
  let ids: number[];
  if (typeof prompt === 'string') ids = await tokenizer().encodeAsync(prompt, { signal });
  else {
    check(
      Array.isArray(prompt) || ArrayBuffer.isView(prompt),
      TAG,
      `expected the prompt to be a text, ids or messages but received ${describe(prompt)}`,
    );
    const list = Array.from(prompt as readonly unknown[]);
    ids =
      list.length > 0 && list.every((item) => typeof item === 'object' && item !== null)
        ? await chatIds(tokenizer(), list as ChatMessage[], signal)
        : (list as number[]);
  }
  check(ids.length > 0, TAG, 'expected a prompt of at least one token but received none');
  const bad = ids.find((id) => !Number.isSafeInteger(id) || id < 0 || id >= vocabSize);
  check(bad === undefined, TAG, `expected ids from 0 to ${vocabSize - 1} but received ${describe(bad)}`);
  return ids;
}

function chatIds(tokenizer: Tokenizer, messages: ChatMessage[], signal?: AbortSignal): Promise<number[]> {
  const text = tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true, tokenize: false });
  return tokenizer.encodeAsync(text, { addSpecialTokens: false, signal });
}

function idsTensor(ids: readonly number[], device: Device): Tensor {
  return i32Tensor(Int32Array.from(ids), [1, ids.length], device);
}

function i32Tensor(values: Int32Array<ArrayBuffer>, shape: number[], device: Device): Tensor {
  return fromBytes(new Uint8Array(values.buffer), 'i32', shape, device);
}

function f32Tensor(values: Float32Array<ArrayBuffer>, shape: number[], device: Device): Tensor {
  return fromBytes(new Uint8Array(values.buffer), 'f32', shape, device);
}

interface Drawn {
  ids: Tensor;
  logprobs: Tensor[] | undefined;
}

/** Draws token `step` from logits [1, vocab], and changes them. */
function draw(logits: Tensor, plan: GenerationPlan, step: number, adjuster: LogitAdjuster): Drawn {
  const { device } = logits;
  const entries = gatherEntries([adjuster]);
  const raw = plan.logprobs !== undefined && entries ? rawCast(logits, logits.dtype) : logits;
  if (entries) adjustLogits(logits, entries);
  const rows = sampleRows(1);
  writeSampleRow(rows, 0, { ...plan, step });
  const ids = sample(logits, f32Tensor(rows.reals, [1, 3], device), i32Tensor(rows.wholes, [1, 4], device));
  return { ids, logprobs: plan.logprobs === undefined ? undefined : logProbs(raw, ids, plan.logprobs) };
}

export interface Generation {
  decoder: Decoder;
  use: AdapterUse;
  prompt: readonly number[];
  plan: GenerationPlan;
  dtype: ModelDType;
  device: Device;
  /** Absent: pieces have no text. */
  stream?: TokenStream;
}

/**
 * Yields one token at a time, greedy or drawn with the numbers of (seed, step).
 * @throws the reason of the signal.
 */
export async function* generateTokens({
  decoder,
  use,
  prompt,
  plan,
  dtype,
  device,
  stream,
}: Generation): AsyncGenerator<GeneratedToken, GenerationResult, void> {
  const { config } = decoder;
  const cache = new KVCache(
    { layers: config.numHiddenLayers, heads: config.numKeyValueHeads, headDim: config.headDim },
    dtype,
    device,
  );
  const stops = new StopStrings(plan.stop);
  const ids: number[] = [];
  let text = '';
  let finishReason: GenerationResult['finishReason'] = 'length';
  const adjuster = new LogitAdjuster(plan, prompt);
  const limit = tokenLimit(plan, prompt.length);
  /** Runs the model on ids and draws the token after them. */
  const next = async (input: readonly number[]): Promise<Omit<GeneratedToken, 'text'>> => {
    const drawn = runUntracked(() =>
      noGrad(() =>
        tidy(() =>
          entry(() => {
            const last = lastRow(hiddenStates(decoder, idsTensor(input, device), use, { cache }));
            return draw(headLogits(decoder, finalNorm(decoder, last), use), plan, ids.length, adjuster);
          }),
        ),
      ),
    );
    try {
      const id = drawnId((await drawn.ids.data())[0]!);
      if (drawn.logprobs === undefined) return { id };
      const [values, tops] = await Promise.all(drawn.logprobs.map((tensor) => tensor.data()));
      const reported = Array.from(tops!, (top, i) => ({ id: top, logprob: values![i]! }));
      const { logprob } = reported.shift()!;
      return reported.length > 0 ? { id, logprob, topLogprobs: reported } : { id, logprob };
    } finally {
      for (const tensor of [drawn.ids, ...(drawn.logprobs ?? [])]) tensor.dispose();
    }
  };
  try {
    let input = prompt;
    while (ids.length < limit && finishReason !== 'stop') {
      plan.signal?.throwIfAborted();
      const token = await next(input);
      const { id } = token;
      plan.signal?.throwIfAborted();
      ids.push(id);
      adjuster.push(id);
      input = [id];
      let piece = stops.push(stream?.push(id) ?? '');
      if (stops.found || plan.eosTokenIds.includes(id)) finishReason = 'stop';
      if (finishReason === 'stop' || ids.length === limit) piece += stops.flush();
      text += piece;
      yield { ...token, text: piece };
    }
  } finally {
    cache.dispose();
  }
  return {
    text,
    ids,
    finishReason,
    usage: { promptTokens: prompt.length, completionTokens: ids.length },
  };
}
