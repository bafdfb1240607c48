/** Merging an adapter into the base weights, and saving a model directory. */
import { existsSync } from 'node:fs';
import { copyFile, readdir, realpath, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { LoRAError } from '../errors';
import { replaceDirectory } from '../formats/atomic';
import { writeSafetensors } from '../formats/safetensors';
import { FrozenWeight } from '../tensor/frozen_weight';
import { rawBinary, rawMatmul, rawUnary } from '../tensor/raw';
import { runDetached } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import type { Adapter } from '../peft/adapter';
import type { ModelConfig } from './config';
import {
  linearsOf,
  listed,
  namedWeights,
  type FrozenLinear,
  type ModelDType,
  type ModelWeights,
} from './weights';

const breathe = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** W + s·A·B of one layer, computed in f32 and rounded once to the dtype of W; row-major. */
function mergedMatrix(linear: FrozenLinear, adapter: Adapter): Tensor | undefined {
  const pair = adapter.pair(linear.path);
  if (!pair) return undefined;
  const { outFeatures, inFeatures } = linear;
  const shape = [outFeatures, inFeatures];
  return runDetached(null, () => {
    const base = linear.weight.unpack();
    const delta = rawMatmul(pair.up, pair.down, false, false, 'f32', shape);
    const change = rawUnary('scale', pair.scale, delta);
    const sum = rawBinary('add', base, change, base.dtype, shape);
    for (const t of [base, delta, change]) t.dispose();
    return sum;
  });
}

/** The weights that a merge has replaced. */
export type Displaced = Map<FrozenLinear, FrozenWeight>;

/** Replaces the weights of the adapter's layers; what it returns, `restore` puts back bit for bit. */
export async function mergeInto(weights: ModelWeights, adapter: Adapter): Promise<Displaced> {
  const fresh = new Map<FrozenLinear, FrozenWeight>();
  try {
    for (const linear of linearsOf(weights)) {
      const matrix = mergedMatrix(linear, adapter);
      if (!matrix) continue;
      fresh.set(linear, FrozenWeight.pack(matrix));
      matrix.dispose();
      await breathe();
    }
  } catch (error) {
    for (const weight of fresh.values()) weight.dispose();
    throw error;
  }
  // All or nothing, and in one turn of the event loop.
  const displaced: Displaced = new Map();
  for (const [linear, weight] of fresh) {
    displaced.set(linear, linear.weight);
    linear.weight = weight;
  }
  return displaced;
}

export function restore(displaced: Displaced): void {
  for (const [linear, weight] of displaced) {
    linear.weight.dispose();
    linear.weight = weight;
  }
}

/** Files of a save that are not copies. */
const modelFile = /^(config\.json|model\.safetensors)$/;

/** Files beside the weights that a copy of a model needs. */
const sideFile =
  /^(tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(jinja|json)|generation_config\.json)$/;

export interface SaveRequest {
  source: string;
  config: ModelConfig;
  weights: ModelWeights;
  dtype: ModelDType;
  /** Its sum with the base is written; the model in memory stays as it is. */
  merge?: Adapter;
}

const storedDType = { f32: 'F32', bf16: 'BF16', f16: 'F16', i32: 'I32' } as const;

/** Writes a Hugging Face directory, whole or not at all. */
export async function saveModel(
  dir: string,
  { source, config, weights, dtype, merge }: SaveRequest,
): Promise<void> {
  const fail = (message: string): never => {
    throw new LoRAError('ERR_FILE', `[save] ${message}`, { op: 'save' });
  };
  const [target, base] = await Promise.all(
    [dir, source].map((path) => realpath(path).catch(() => resolve(path))),
  );
  if (target === base) fail(`${dir} holds the base model itself: save to another directory`);
  if (existsSync(dir)) {
    const present = await readdir(dir).catch(() => fail(`${dir} is not a directory`));
    // Replacing a directory removes what it holds, which must be an earlier save and nothing else.
    const others = present.filter((name) => !modelFile.test(name) && !sideFile.test(name));
    if (others.length > 0)
      fail(
        `${dir} holds other files (${listed(others)}), which would be lost: save to a new or empty directory`,
      );
    if (present.length > 0 && !present.includes('model.safetensors'))
      fail(`${dir} holds files but no model: save to a new or empty directory`);
  }
  const byPath = new Map(linearsOf(weights).map((linear) => [`${linear.path}.weight`, linear]));
  const head = byPath.get('lm_head.weight')!;
  const tensors = new Map<
    string,
    { dtype: 'F32' | 'BF16' | 'F16' | 'I32'; shape: number[]; bytes: Uint8Array }
  >();
  const add = async (name: string, x: Tensor): Promise<void> => {
    tensors.set(name, { dtype: storedDType[x.dtype], shape: [...x.shape], bytes: await x.bytes() });
  };
  for (const [name, value] of namedWeights(weights)) {
    const linear = byPath.get(name);
    const row =
      (linear && merge && mergedMatrix(linear, merge)) ??
      (value instanceof FrozenWeight ? runDetached(null, () => value.unpack()) : undefined);
    await add(name, row ?? (value as Tensor));
    row?.dispose();
  }
  // A merged adapter on a tied head parts it from the embedding.
  let tied = weights.head.weight === weights.embedding;
  if (tied && merge) {
    const own = mergedMatrix(head, merge);
    if (own) {
      tied = false;
      await add('lm_head.weight', own);
      own.dispose();
    }
  }
  const json: Record<string, unknown> = { ...config.raw };
  if (config.tieWordEmbeddings !== tied) json['tie_word_embeddings'] = tied;
  const name = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' }[dtype];
  if ('torch_dtype' in json) json['torch_dtype'] = name;
  if ('dtype' in json || !('torch_dtype' in json)) json['dtype'] = name;

  await replaceDirectory(dir, async (temporary) => {
    await writeFile(join(temporary, 'config.json'), `${JSON.stringify(json, null, 2)}\n`);
    await writeSafetensors(join(temporary, 'model.safetensors'), tensors, { format: 'pt' });
    const beside = await readdir(source).catch((): string[] => []);
    for (const file of beside.filter((f) => sideFile.test(f)))
      await copyFile(join(source, file), join(temporary, file));
  });
}
