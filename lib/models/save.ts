/** Saving a model as a Hugging Face directory. */
import { existsSync } from 'node:fs';
import { copyFile, readdir, realpath, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { LoRAError } from '../errors';
import { replaceDirectory } from '../formats/atomic';
import { storedDType } from '../formats/dtypes';
import { writeSafetensors, type SafetensorsTensor } from '../formats/safetensors';
import type { Adapter } from '../peft/adapter';
import { runDetached } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { listed } from '../validate';
import type { ModelConfig } from './config';
import { HEAD, namedWeights, type ModelWeights } from './tensor_table';
import type { ModelDType } from './weights';

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
  const tensors = new Map<string, SafetensorsTensor>();
  const add = async (name: string, x: Tensor): Promise<void> => {
    tensors.set(name, { dtype: storedDType[x.dtype], shape: [...x.shape], bytes: await x.bytes() });
  };
  const addMade = async (name: string, make: () => Tensor): Promise<void> => {
    const x = runDetached(null, make);
    await add(name, x);
    x.dispose();
  };
  for (const entry of namedWeights(config, weights)) {
    if ('tensor' in entry) await add(entry.name, entry.tensor);
    else if ('matrix' in entry) await addMade(entry.name, () => entry.matrix.unpack());
    else await addMade(entry.name, () => entry.linear.rowMajor(merge?.applied(entry.linear.path)));
  }
  // A change of a tied head, merged now or before, parts it from the embedding.
  const { head } = weights;
  const change = merge?.applied(head.path);
  const shared = head.base === weights.embedding;
  const tied = shared && !head.merged && change === undefined;
  if (shared && !tied) await addMade(`${HEAD}.weight`, () => head.rowMajor(change));
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
