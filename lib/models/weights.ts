/** Loading the frozen weights of a model: every tensor is checked, converted, and every matrix packed once. */
import { LoRAError } from '../errors';
import { floatOfStored, storedFloats } from '../formats/dtypes';
import type { Limits } from '../formats/limits';
import { openModelTensors, type ModelTensors } from '../formats/sharded';
import type { StoredTensor } from '../formats/stored_tensors';
import type { WeightsProgress } from '../hub/progress';
import { Linear } from '../linear/linear';
import { binding } from '../native/calls';
import { nativeDevice, type Device } from '../native/device';
import { SlicedUpload } from '../tensor/slices';
import type { DType } from '../tensor/dtype';
import { FrozenWeight } from '../tensor/frozen_weight';
import { rawView } from '../tensor/raw';
import type { Tensor } from '../tensor/tensor';
import { listed, shapeText } from '../validate';
import type { ModelConfig } from './config';
import {
  blockPath,
  blockTable,
  EMBEDDING,
  expectedTensors,
  HEAD,
  NORM,
  type BlockWeights,
  type ModelWeights,
} from './tensor_table';

/** Element types of a model's activations; f16 is for inference on GPUs. */
export type ModelDType = 'f32' | 'bf16' | 'f16';

/** The scales [out, 1] of an int8 matrix, as compressed-tensors names them. */
const scalesOf = (name: string): string => `${name}_scale`;

/** Reports all missing, unexpected and misshapen tensors in one sentence. */
function checkNames(stored: ModelTensors, config: ModelConfig, dir: string): Map<string, readonly number[]> {
  const expected = expectedTensors(config);
  const names = new Set(stored.names);
  for (const [name, shape] of [...expected])
    if (shape.length === 2 && names.has(name) && stored.get(name).dtype === 'I8')
      expected.set(scalesOf(name), [shape[0]!, 1]);
  const missing = [...expected.keys()].filter((name) => !names.has(name));
  const ignored = (name: string): boolean =>
    name.endsWith('.rotary_emb.inv_freq') || (config.tieWordEmbeddings && name === `${HEAD}.weight`);
  const unexpected = [...names].filter((name) => !expected.has(name) && !ignored(name));
  const wrong: string[] = [];
  for (const [name, shape] of expected) {
    const have = names.has(name) ? stored.get(name).shape : undefined;
    if (have && (have.length !== shape.length || have.some((n, i) => n !== shape[i])))
      wrong.push(`${name} of shape ${shapeText(shape)} but received ${shapeText(have)}`);
  }
  const problems: string[] = [];
  if (missing.length) problems.push(`the weights lack ${listed(missing)}`);
  if (unexpected.length) problems.push(`the weights hold unexpected ${listed(unexpected)}`);
  if (wrong.length) problems.push(`config.json asks for ${listed(wrong)}`);
  if (problems.length)
    throw new LoRAError('ERR_FILE', `[from_pretrained] ${dir}: ${problems.join('; ')}`, {
      op: 'from_pretrained',
    });
  return expected;
}

function dtypeOf(name: string, stored: StoredTensor): DType {
  const dtype = floatOfStored(stored.dtype);
  if (!dtype)
    throw new LoRAError(
      'ERR_UNSUPPORTED',
      `[from_pretrained] ${name} is stored as ${stored.dtype}; supported are ${storedFloats}`,
      { op: 'from_pretrained' },
    );
  return dtype;
}

export interface LoadOptions {
  dtype: 'auto' | ModelDType;
  device: Device;
  signal?: AbortSignal | undefined;
  limits?: Limits | undefined;
  /** Bytes of weights loaded so far, and in all. */
  onProgress?: (progress: WeightsProgress) => void;
}

/**
 * Reads the weight files of a directory in slices, converts them on the way, and packs the matrices once:
 * besides the weights there is never more than one tensor and a slice in memory. The largest come first, while little else
 * is there. 'auto' keeps the dtype of the files, f16 becoming bf16. A file that is written, or replaced, meanwhile is ERR_FILE.
 */
export async function loadWeights(
  dir: string,
  config: ModelConfig,
  options: LoadOptions,
): Promise<{ weights: ModelWeights; dtype: ModelDType }> {
  const { signal, device } = options;
  const stored = await openModelTensors(dir, options);
  const made: { dispose(): void }[] = [];
  try {
    const expected = checkNames(stored, config, dir);
    const embedded = stored.get(`${EMBEDDING}.weight`);
    const fileDType = embedded.dtype === 'I8' ? config.fileDType : dtypeOf(`${EMBEDDING}.weight`, embedded);
    const dtype = options.dtype === 'auto' ? (fileDType === 'f32' ? 'f32' : 'bf16') : options.dtype;
    let total = 0;
    for (const name of expected.keys()) total += stored.get(name).byteLength;

    let loaded = 0;
    // The tensor before is packed while the next one is read, and not more than that is queued.
    let packed = Promise.resolve();
    const load = async (name: string, to: DType): Promise<Tensor> => {
      signal?.throwIfAborted();
      const found = stored.get(name);
      const upload = new SlicedUpload(dtypeOf(name, found), to, expected.get(name)!, device);
      try {
        for await (const slice of found.slices()) await upload.add(slice);
        await packed;
      } catch (error) {
        upload.tensor.dispose();
        throw error;
      }
      loaded += found.byteLength;
      return upload.tensor;
    };
    const progress = (): void => options.onProgress?.({ type: 'weights', loaded, total });
    const vector = async (name: string): Promise<Tensor> => {
      const x = await load(name, dtype);
      made.push(x);
      progress();
      return x;
    };
    const packFloats = async (name: string): Promise<FrozenWeight> => {
      const kept = FrozenWeight.keptDType(dtypeOf(name, stored.get(name)), dtype, device);
      const x = await load(name, kept);
      const weight = FrozenWeight.pack(x, dtype);
      x.dispose();
      return weight;
    };
    const packInt8 = async (name: string): Promise<FrozenWeight> => {
      const column = await load(scalesOf(name), 'f32');
      const scales = rawView(column, 0, [column.shape[0]!]);
      column.dispose();
      try {
        const values = await scales.data();
        const bad = values.findIndex((scale) => !Number.isFinite(scale));
        if (bad >= 0)
          throw new LoRAError(
            'ERR_FILE',
            `[from_pretrained] ${dir}: expected finite scales in ${scalesOf(name)} but received ${values[bad]} at row ${bad}`,
            { op: 'from_pretrained' },
          );
        const bytes = await stored.get(name).read();
        loaded += bytes.byteLength;
        return FrozenWeight.packInt8(bytes, scales, expected.get(name)![1]!, dtype);
      } finally {
        scales.dispose();
      }
    };
    const matrix = async (name: string): Promise<FrozenWeight> => {
      const weight = await (stored.get(name).dtype === 'I8' ? packInt8(name) : packFloats(name));
      made.push(weight);
      packed = binding().synchronize(nativeDevice(device));
      packed.catch(() => undefined); // it is awaited later
      progress();
      return weight;
    };
    const embedding = await matrix(`${EMBEDDING}.weight`);
    const head = new Linear(HEAD, config.tieWordEmbeddings ? embedding : await matrix(`${HEAD}.weight`));
    binding().trim(nativeDevice(device)); // no other tensor is as large as these were before they were packed
    const layers: BlockWeights[] = [];
    const table = blockTable(config);
    for (let i = 0; i < config.numHiddenLayers; i++) {
      const block: Partial<Record<keyof BlockWeights, Tensor | Linear>> = {};
      for (const entry of table) {
        const path = blockPath(i, entry.module);
        if (entry.kind === 'vector') block[entry.key] = await vector(`${path}.weight`);
        else {
          const weight = await matrix(`${path}.weight`);
          block[entry.key] = new Linear(path, weight, entry.bias ? await vector(`${path}.bias`) : undefined);
        }
      }
      layers.push(block as unknown as BlockWeights); // the table lists every key
    }
    const norm = await vector(`${NORM}.weight`);
    binding().trim(nativeDevice(device));
    signal?.throwIfAborted();
    await stored.checkUnchanged();
    return { weights: { embedding, layers, norm, head }, dtype };
  } catch (error) {
    for (const item of made) item.dispose();
    throw error;
  } finally {
    await stored.close();
  }
}
