/** Saving a model as a Hugging Face directory. */
import { existsSync } from 'node:fs';
import { mkdir, readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { loraError } from '../errors';
import { targetOf, writeNewFile } from '../formats/atomic';
import { storedDType, torchNames } from '../formats/dtypes';
import { SavedFolder, saveTogether } from '../formats/file_group';
import { InputFile, sliceBytes } from '../formats/input';
import type { Limits } from '../formats/limits';
import { configFile, modelFiles, sentenceFilesOf, sideFiles, weightsFile } from '../formats/model_files';
import { serializeLate, type LateTensor } from '../formats/safetensors';
import { toPath } from '../formats/paths';
import { systemReason } from '../formats/system_reason';
import type { Linear } from '../linear/linear';
import { roomInQueue, type Device } from '../native/device';
import type { Adapter } from '../peft/adapter';
import type { DType, FloatDType } from '../native/dtype';
import { isPacked, type FrozenWeight, type QuantizedFormat } from '../tensor/frozen_weight';
import { inSlices } from '../tensor/pace';
import { moved, runDetached } from '../tensor/scope';
import { slicedBytes } from '../tensor/slices';
import { rawCast } from '../tensor/raw';
import { Parameter, type Tensor } from '../tensor/tensor';
import { check, describe, listed } from '../validate';
import type { ModelConfig } from './config/model_config';
import { familyOf } from './families';
import { stacked } from './files/expert_stacks';
import { GgufModel } from './files/gguf_model';
import { poolingFiles } from './embedding/sentence_files';
import type { ModelCore } from './core/model_core';
import { planesOf, quantizationConfig } from './quantized/quantized_planes';
import {
  quantizedModules,
  quantizePlan,
  type QuantizeOptions,
  type QuantizePlan,
  refuseTransposed,
} from './quantized/quantize_options';
import { Requantizer } from './quantized/requantizer';
import { expertModulesOf, namedWeights } from './files/tensor_table';

/** The options of `CausalLM.save`, and what a training run saves beside. */
interface SaveOptions {
  merge?: string | undefined;
  quantize?: QuantizedFormat | QuantizeOptions | undefined;
}

/** The folder of a training run has other files too; `more` puts files beside those of the model. */
interface RunFolder {
  readonly more: ((folder: string) => Promise<void>) | undefined;
}

/** What is written. */
interface SavePlan {
  /** Its sum with the base is written; the model in memory stays as it is. */
  readonly merge: Adapter | null;
  /** What is written is quantized; of a base that is, the matrices that are. */
  readonly quantize: QuantizePlan | undefined;
  /** Absent: the directory is the model's alone. */
  readonly run: RunFolder | undefined;
}

/** What `CausalLM.save` wrote. */
export interface SavedModel {
  /** ‖Q(W) − W‖ / ‖W‖ over all matrices that were quantized, in the Frobenius norm. */
  readonly quantizationError?: number;
}

function fail(message: string, op = 'save'): never {
  throw loraError(op, 'ERR_FILE', message);
}

/** @throws ERR_FILE where both are one folder. */
export async function checkNotSource(dir: string, source: string, op: string): Promise<void> {
  const [target, base] = await Promise.all([dir, source].map(targetOf));
  if (target === base) fail(`${dir} holds the base model itself: save to another directory`, op);
}

/** @throws ERR_FILE where the directory holds something: what is written there replaces nothing. */
export async function checkUnused(op: string, dir: string): Promise<void> {
  const names = await readdir(dir).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return [];
    throw loraError(op, 'ERR_FILE', `cannot write to ${dir}: ${systemReason(cause)}`, cause);
  });
  const first = names.find((name) => !name.startsWith('.')); // hidden ones are of a save that was killed
  if (first !== undefined)
    fail(`${dir} holds files already (${first}): choose another directory, or remove it`, op);
}

/** The folder is new or empty, or holds an earlier save and perhaps folders of the user's. */
async function checkTarget(dir: string, source: string): Promise<void> {
  await checkNotSource(dir, source, 'save');
  if (!existsSync(dir)) return;
  if (!(await stat(dir)).isDirectory()) fail(`${dir} is not a directory`);
  const { names } = await SavedFolder.open(dir);
  const present = await readdir(dir, { withFileTypes: true });
  const isModel = names.has(weightsFile);
  // Hidden ones are of a save that was killed.
  const others = present.filter(
    (entry) =>
      !modelFiles.includes(entry.name) && !entry.name.startsWith('.') && !(isModel && entry.isDirectory()),
  );
  if (others.length > 0)
    fail(
      `${dir} holds other files (${listed(others.map(({ name }) => name))}): save to a new or empty directory`,
    );
  if (names.size > 0 && !isModel) fail(`${dir} holds files but no model: save to a new or empty directory`);
}

/** A tensor that is there while it is written. `make` gives one that is disposed afterwards. */
const late = (
  device: Device,
  dtype: DType,
  shape: readonly number[],
  make: () => Tensor,
  owned: boolean,
): LateTensor => ({
  dtype: storedDType[dtype],
  shape: [...shape],
  async *parts() {
    await roomInQueue(device);
    const x = runDetached(null, make);
    try {
      yield* slicedBytes(x);
    } finally {
      if (owned) x.dispose();
    }
  },
});

/** The copy of a file beside the weights, read in slices. */
async function copySide(source: SavedFolder, name: string, to: string): Promise<void> {
  const file = await InputFile.open(source.file(name));
  try {
    async function* parts(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < file.size; at += sliceBytes)
        yield await file.bytes(at, Math.min(sliceBytes, file.size - at));
    }
    await writeNewFile(to, [{ length: file.size, parts }]);
    await file.checkUnchanged();
  } finally {
    await file.close();
  }
}

/** What lies beside the weights of a directory, or what the values of a GGUF file stand for. */
async function writeSides(source: string, limits: Limits, to: string): Promise<void> {
  const found = await stat(source).catch(() => undefined);
  if (found?.isFile()) {
    const model = await GgufModel.open(source, { limits });
    for (const name of sideFiles)
      if (model.has(name))
        await writeNewFile(join(to, name), `${JSON.stringify(await model.json(name), null, 1)}\n`);
    for (const [name, json] of model.pooling === undefined ? [] : poolingFiles(model.pooling)) {
      await mkdir(dirname(join(to, name)), { recursive: true });
      await writeNewFile(join(to, name), `${JSON.stringify(json, null, 2)}\n`);
    }
    return;
  }
  const beside = await SavedFolder.find(source);
  for (const name of sideFiles) if (beside?.has(name)) await copySide(beside, name, join(to, name));
  await copySentenceFiles(source, to);
}

/** What makes an embedding model of a directory, which lies in folders of its own. */
async function sentenceFilesIn(source: string): Promise<string[]> {
  const found = await stat(source).catch(() => undefined);
  return found?.isDirectory() ? sentenceFilesOf(await readdir(source, { recursive: true })) : [];
}

/** Copies them into a folder that a save fills. */
export async function copySentenceFiles(source: string, to: string): Promise<void> {
  const names = await sentenceFilesIn(source);
  if (names.length === 0) return;
  const beside = await SavedFolder.open(source);
  for (const name of names) {
    await mkdir(dirname(join(to, name)), { recursive: true });
    await copySide(beside, name, join(to, name));
  }
}

/** A tensor of the model in memory. */
interface NamedTensor {
  readonly name: string;
  readonly device: Device;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly make: () => Tensor;
  /** Whether what `make` gives is disposed of after it was written. */
  readonly owned: boolean;
  /** How it is kept in memory. */
  readonly format: FrozenWeight['format'] | undefined;
}

/** All that is written, and whether the head is the embedding. */
function tensorsOf(
  { config, decoder: { weights }, dtype: activations }: ModelCore,
  merge: Adapter | null,
): { tensors: NamedTensor[]; tied: boolean } {
  const ofLinear = (name: string, linear: Linear): NamedTensor => {
    const { dtype, rows, cols } = linear.weight;
    const change = merge?.applied(linear.path);
    const { device, format } = linear.base;
    const rowMajor = (): Tensor => linear.rowMajor(change);
    return {
      name,
      device,
      dtype,
      shape: linear.fanInFanOut ? [cols, rows] : [rows, cols],
      make: linear.fanInFanOut ? () => moved(rowMajor(), (w) => w.transpose()) : rowMajor,
      owned: true,
      format,
    };
  };
  const ofExperts = new Map(
    expertModulesOf(weights).flatMap((module) => [...module.rowMajors(merge?.applied(module.path))]),
  );
  const tensors = [...namedWeights(config, weights)].map((entry): NamedTensor => {
    const { name } = entry;
    if ('tensor' in entry) {
      const { tensor, biasOf } = entry;
      const { device, dtype, shape } = tensor;
      const change = biasOf && merge?.applied(biasOf.path);
      if (tensor instanceof Parameter) {
        const round = (): Tensor => rawCast(tensor, activations);
        return { name, device, dtype: activations, shape, make: round, owned: true, format: undefined };
      }
      const owned = change?.delta.mergedBias !== undefined;
      const make = (): Tensor => (owned ? biasOf!.changedBias(change)! : tensor);
      return { name, device, dtype, shape, make, owned, format: undefined };
    }
    if ('linear' in entry) return ofLinear(name, entry.linear);
    const { device, dtype, format } = entry.matrix;
    return {
      name,
      device,
      dtype,
      shape: entry.shape,
      make: ofExperts.get(entry.matrix) ?? (() => entry.matrix.unpack()),
      owned: true,
      format,
    };
  });
  if (config.head) return { tensors, tied: config.tieWordEmbeddings };
  // A tied head whose change is merged, now or before, is no longer the embedding.
  const { output: head } = weights.head;
  const shared = head.base === weights.stem.embedding;
  const tied = shared && !head.merged && merge?.applied(head.path) === undefined;
  if (shared && !tied) tensors.push(ofLinear(`${head.path}.weight`, head));
  return { tensors, tied };
}

/** The paths of the modules that are quantized, of these tensors. */
function quantizedOf(config: ModelConfig, plan: QuantizePlan, tensors: readonly NamedTensor[]): Set<string> {
  const pathOf = ({ name }: NamedTensor): string => name.replace(/\.weight$/, '');
  const isKept = ({ format }: NamedTensor): boolean => format !== undefined && isPacked(format);
  const kept = tensors.filter(isKept).map(pathOf);
  const chosen = quantizedModules('save', config, plan);
  return kept.length === 0 ? chosen : new Set(kept.filter((path) => chosen.has(path)));
}

/** config.json of the model with these tensors. */
function savedConfig(
  { config, dtype }: ModelCore,
  tied: boolean,
  plan: QuantizePlan | undefined,
  quantized: Set<string>,
): Record<string, unknown> {
  const json: Record<string, unknown> = { ...config.raw };
  delete json['quantization_config']; // of the base: what is written has its own
  if (config.tieWordEmbeddings !== tied) json['tie_word_embeddings'] = tied;
  const name = torchNames[dtype];
  if ('torch_dtype' in json) json['torch_dtype'] = name;
  if ('dtype' in json || !('torch_dtype' in json)) json['dtype'] = name;
  if (plan) {
    const saved = { ...config, tieWordEmbeddings: tied };
    json['quantization_config'] = quantizationConfig(saved, plan, quantized, dtype);
  }
  return json;
}

/** Saves a model, as CausalLM.save says. `run`: into the folder of a training run. */
export async function saveModel(
  model: ModelCore,
  dir: string,
  options: SaveOptions,
  run?: RunFolder,
): Promise<SavedModel> {
  const op = 'save';
  model.checkAlive(op);
  const quantize = quantizePlan(op, options.quantize);
  if (quantize) refuseTransposed(op, model.config);
  check(typeof dir === 'string' && dir !== '', op, `expected a directory but received ${describe(dir)}`);
  const merge = model.adapters.chooseToMerge(op, options.merge);
  const release = model.adapters.acquire(op, merge);
  try {
    return await write(model, dir, { merge, quantize, run });
  } finally {
    release();
  }
}

/**
 * Writes a Hugging Face directory, which then holds the old model or the new one, whenever the process ends. Tensors are made, merged,
 * quantized and written one by one.
 */
async function write(
  model: ModelCore,
  dir: string,
  { merge, quantize: plan, run }: SavePlan,
): Promise<SavedModel> {
  const { directory: source, limits, config } = model;
  const { trained } = model.decoder;
  const begun = trained.revision;
  if (!run && existsSync(toPath(dir, 'save')) && (await sentenceFilesIn(source)).length > 0)
    fail(
      `${dir} is there already: save an embedding model, whose files are in several folders, to a new directory`,
    );
  if (run) await checkNotSource(dir, source, 'save');
  else await checkTarget(toPath(dir, 'save'), source);
  const { tensors: all, tied } = tensorsOf(model, merge);
  const quantized = plan ? quantizedOf(config, plan, all) : new Set<string>();
  const json = savedConfig(model, tied, plan, quantized);
  const requantizer = plan && new Requantizer(plan);
  try {
    const tensors = new Map<string, LateTensor>();
    for (const { name, device, dtype, shape, make, owned } of all) {
      if (requantizer && quantized.has(name.replace(/\.weight$/, ''))) {
        requantizer.add(name, make);
        const matrix = shape as [number, number];
        const planes = await planesOf(requantizer, name, matrix, plan, dtype as FloatDType);
        for (const [plane, tensor] of planes) tensors.set(plane, tensor);
      } else tensors.set(name, late(device, dtype, shape, make, owned));
    }
    const finish = async (folder: string): Promise<void> => {
      if (trained.revision !== begun)
        throw loraError('save', 'ERR_BUSY', 'the weights were trained while they were written: await save()');
      await run?.more?.(folder);
    };
    await writeModel(dir, { source, limits, config, json, tensors, op: 'save', check: finish });
    return requantizer ? { quantizationError: requantizer.error } : {};
  } finally {
    requantizer?.dispose();
  }
}

/**
 * Writes config.json, the weights and copies of what lies beside those of the source: all of it or nothing. `check` throws where the source
 * was changed meanwhile; it may add files.
 */
export async function writeModel(
  dir: string,
  {
    source,
    limits,
    config,
    json,
    tensors,
    op,
    check,
  }: {
    source: string;
    limits: Limits;
    config: ModelConfig;
    json: Readonly<Record<string, unknown>>;
    tensors: ReadonlyMap<string, LateTensor>;
    op: string;
    check?: (folder: string) => Promise<void>;
  },
): Promise<void> {
  const { nameInFile = (name: string) => name } = familyOf(config);
  const named = new Map([...stacked(config, tensors)].map(([name, tensor]) => [nameInFile(name), tensor]));
  await saveTogether(
    dir,
    async (folder) => {
      await writeNewFile(join(folder, configFile), `${JSON.stringify(json, null, 2)}\n`);
      await writeNewFile(
        join(folder, weightsFile),
        await inSlices(serializeLate(named, { format: 'pt' }, op)),
      );
      await writeSides(source, limits, folder);
      await check?.(folder);
    },
    modelFiles,
  );
}
