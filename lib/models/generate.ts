/** Text generation: prefill once, then one token at a time against a KV cache of the call's own. */
import { randomBytes } from 'node:crypto';
import { entry } from '../native/calls';
import { fromBytes } from '../tensor/create';
import type { Device } from '../native/device';
import { drawnId, sample, sampleRows, writeSampleRow } from '../ops';
import { noGrad, runUntracked, tidy } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import {
  check,
  checkBoolean,
  checkInteger,
  checkNumber,
  checkOptions,
  checkSignal,
  describe,
} from '../validate';
import { KVCache } from './kv_cache';
import { finalNorm, headLogits, hiddenStates, lastRow, type AdapterUse, type Decoder } from './decoder';
import { StopStrings } from '../text/stop_strings';
import type { ChatMessage } from '../text/chat';
import type { ModelConfig } from './config';
import { tokenIds } from './config';
import type { Tokenizer, TokenStream } from '../text/tokenizer';
import type { ModelDType } from './weights';

/** A text (special tokens are added), ids, or a conversation (through the chat template). */
export type Prompt = string | readonly number[] | Int32Array | readonly ChatMessage[];

/** Says how many tokens are drawn, and how. */
export interface SamplingOptions {
  /** Most tokens to generate. Default: max_new_tokens of generation_config.json, else 128. */
  maxNewTokens?: number | undefined;
  /** Divides the logits before a token is drawn; 0 takes the likeliest. Default: that of generation_config.json where it samples, else 0. */
  temperature?: number | undefined;
  /** Draws from the k likeliest tokens; 0: from all. Default as for `temperature`. */
  topK?: number | undefined;
  /** Draws from the smallest set of this probability (Holtzman et al., 2020); 1: from all. Default as for `temperature`. */
  topP?: number | undefined;
  /** Decides the random draws. Default: a fresh one for every call. */
  seed?: number | undefined;
  /** Texts that end the generation; they are not part of its text. */
  stop?: string | readonly string[] | undefined;
  /** Generates past the end-of-text token. Default false. */
  ignoreEos?: boolean | undefined;
  /** Checked at every token; an abort rejects with its reason. */
  signal?: AbortSignal | undefined;
}

/** One token. `text` is what became readable with it: whole characters, '' while one is unfinished. */
export interface GeneratedToken {
  /** The id of the token. */
  id: number;
  /** What became readable with it. */
  text: string;
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

/** What generation_config.json says. */
export interface GenerationDefaults {
  eosTokenIds: readonly number[];
  maxNewTokens: number;
  temperature: number;
  topK: number;
  topP: number;
}

/**
 * Reads a parsed generation_config.json: eos_token_id (overrides that of config.json), max_new_tokens, do_sample,
 * temperature, top_k, top_p. Penalties and other keys are not applied.
 */
export function parseGenerationDefaults(
  json: unknown,
  config: ModelConfig,
  tokenizer?: Tokenizer,
): GenerationDefaults {
  const raw = (typeof json === 'object' && json !== null ? json : {}) as Record<string, unknown>;
  const number = (key: string, fallback: number): number =>
    typeof raw[key] === 'number' ? raw[key] : fallback;
  const eosToken = tokenizer?.specialTokens['eos_token'];
  const fallback = eosToken === undefined ? undefined : tokenizer?.tokenId(eosToken);
  const eos = [tokenIds(raw['eos_token_id']), config.eosTokenIds, tokenIds(fallback)].find(
    (ids) => ids.length > 0,
  );
  const sampled = raw['do_sample'] === true;
  return {
    eosTokenIds: eos ?? [],
    maxNewTokens: number('max_new_tokens', 128),
    temperature: sampled ? number('temperature', 1) : 0,
    topK: sampled ? number('top_k', 50) : 0, // 50 is transformers' own default
    topP: sampled ? number('top_p', 1) : 1,
  };
}

const TAG = 'generate';
const names = [
  'maxNewTokens',
  'temperature',
  'topK',
  'topP',
  'seed',
  'stop',
  'ignoreEos',
  'adapter',
  'signal',
];

export interface Plan {
  maxNewTokens: number;
  temperature: number;
  topK: number;
  topP: number;
  seed: number;
  stop: readonly string[];
  eosTokenIds: readonly number[];
  signal?: AbortSignal;
}

/** Checks the options of a call and fills in the defaults. */
export function planGeneration(options: SamplingOptions, defaults: GenerationDefaults): Plan {
  checkOptions(TAG, options, names);
  const maxNewTokens = options.maxNewTokens ?? defaults.maxNewTokens;
  const temperature = options.temperature ?? defaults.temperature;
  const topK = options.topK ?? defaults.topK;
  const topP = options.topP ?? defaults.topP;
  const seed = options.seed ?? randomBytes(4).readUInt32LE();
  const ignoreEos = options.ignoreEos ?? false;
  const stop: unknown = options.stop ?? [];
  checkInteger(TAG, 'maxNewTokens', maxNewTokens);
  checkNumber(TAG, 'temperature', temperature, 0);
  checkInteger(TAG, 'topK', topK);
  checkInteger(TAG, 'seed', seed);
  checkBoolean(TAG, 'ignoreEos', ignoreEos);
  checkSignal(TAG, options.signal);
  check(
    typeof topP === 'number' && topP > 0 && topP <= 1,
    TAG,
    `expected topP to be above 0 and at most 1 but received ${describe(topP)}`,
  );
  const stops: unknown[] = Array.isArray(stop) ? stop : [stop];
  check(
    stops.every((s): s is string => typeof s === 'string' && s !== ''),
    TAG,
    `expected stop to be a non-empty string or an array of them but received ${describe(stop)}`,
  );
  return {
    maxNewTokens,
    temperature,
    topK,
    topP,
    seed,
    stop: stops,
    eosTokenIds: ignoreEos ? [] : defaults.eosTokenIds,
    signal: options.signal,
  };
}

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

export interface Generation {
  decoder: Decoder;
  use: AdapterUse;
  prompt: readonly number[];
  plan: Plan;
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
  /** Runs the model on ids and draws the token after them. */
  const next = async (input: readonly number[]): Promise<number> => {
    const drawn = runUntracked(() =>
      noGrad(() =>
        tidy(() =>
          entry(() => {
            const last = lastRow(hiddenStates(decoder, idsTensor(input, device), use, { cache }));
            const logits = headLogits(decoder, finalNorm(decoder, last), use);
            const { temperature, topK, topP, seed } = plan;
            const rows = sampleRows(1);
            writeSampleRow(rows, 0, { temperature, topK, topP, minP: 0, seed, step: ids.length });
            const reals = f32Tensor(rows.reals, [1, 3], device);
            return sample(logits, reals, i32Tensor(rows.wholes, [1, 4], device));
          }),
        ),
      ),
    );
    try {
      return drawnId((await drawn.data())[0]!);
    } finally {
      drawn.dispose();
    }
  };
  try {
    let input = prompt;
    while (ids.length < plan.maxNewTokens && finishReason !== 'stop') {
      plan.signal?.throwIfAborted();
      const id = await next(input);
      plan.signal?.throwIfAborted();
      ids.push(id);
      input = [id];
      let piece = stops.push(stream?.push(id) ?? '');
      if (stops.found || plan.eosTokenIds.includes(id)) finishReason = 'stop';
      if (finishReason === 'stop' || ids.length === plan.maxNewTokens) piece += stops.flush();
      text += piece;
      yield { id, text: piece };
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
