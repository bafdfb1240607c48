/** Loading the frozen weights of a model: every tensor is checked, converted, and every matrix packed once. */
import { loraError } from '../../errors';
import { floatOfStored, storedFloats } from '../../formats/dtypes';
import { isStoredInBlocks, storedBlocks } from '../../formats/gguf_types';
import type { ModelFiles } from '../../formats/model_folder';
import type { ModelTensors } from '../../formats/sharded';
import type { WeightsProgress } from '../../hub/progress';
import { ExpertModule } from '../../linear/expert_module';
import type { PartOrder } from '../../linear/expert_parts';
import { Linear } from '../../linear/linear';
import { randomNormal } from '../../ops/random';
import type { Activations } from '../../native/binding';
import { binding } from '../../native/calls';
import { nativeDevice, type Device } from '../../native/device';
import { SlicedUpload } from '../../tensor/slices';
import type { DType, FloatDType } from '../../native/dtype';
import { FrozenWeight, hasWholeCodes } from '../../tensor/frozen_weight';
import { rawCast, rawView } from '../../tensor/raw';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { check, listed, shapeText } from '../../validate';
import { modelTensors } from '../files/model_tensors';
import { scoreModule } from '../../peft/head';
import type { ModelConfig } from '../config/model_config';
import type { HeadWeights, LinearRow, StemWeights, Weights } from '../config/rows';
import { quantizedWeight } from '../quantized/codes';
import { quantizedModules, type QuantizePlan } from '../quantized/quantize_options';
import { storedMatrix, type StoredMatrix } from '../quantized/stored_matrix';
import {
  embeddingPath,
  expectedTensors,
  headPath,
  isTied,
  rowsOf,
  type ModelWeights,
  type PlacedRow,
} from '../files/tensor_table';

/** Element types of a model's activations; f16 is for inference on GPUs. */
export type ModelDType = 'f32' | 'bf16' | 'f16';

/** The path of a head that the files do not hold and a program has asked for: its first values are drawn. */
function freshHead({ head }: ModelConfig, names: ReadonlySet<string>): string | undefined {
  if (!head?.initial) return undefined;
  return names.has(`${scoreModule}.weight`) ? undefined : scoreModule;
}

/** Reports all missing, unexpected and misshapen tensors in one sentence. Gives the shape of each tensor, and how quantized matrices are kept. */
export async function checkNames(
  stored: ModelTensors,
  config: ModelConfig,
  dir: string,
): Promise<{ shapes: Map<string, readonly number[]>; quantized: Map<string, StoredMatrix> }> {
  const shapes = expectedTensors(config);
  const names = new Set(stored.names);
  const quantized = new Map<string, StoredMatrix>();
  for (const [name, shape] of [...shapes]) {
    if (shape.length !== 2) continue;
    const kept = await storedMatrix(stored, names, name, shape as [number, number]);
    if (kept === undefined) continue;
    quantized.set(name, kept);
    for (const [plane, planeShape] of kept.tensors) shapes.set(plane, planeShape);
  }
  const own = (name: string): string => stored.nameInFile(name);
  const fresh = freshHead(config, names);
  if (fresh !== undefined) shapes.delete(`${fresh}.weight`);
  const missing = [...new Set([...shapes.keys()].filter((name) => !names.has(name)).map(own))];
  const ignored = (name: string): boolean =>
    name.endsWith('.rotary_emb.inv_freq') ||
    ((config.tieWordEmbeddings || config.head !== undefined) && name === `${headPath(config)}.weight`);
  const unexpected = [...names].filter((name) => !shapes.has(name) && !ignored(name)).map(own);
  const wrong: string[] = [];
  for (const [name, shape] of shapes) {
    const have = names.has(name) ? stored.get(name).shape : undefined;
    if (have && (have.length !== shape.length || have.some((n, i) => n !== shape[i])))
      wrong.push(`${own(name)} of shape ${shapeText(shape)} but received ${shapeText(have)}`);
  }
  const problems: string[] = [];
  if (missing.length) problems.push(`the weights lack ${listed(missing)}`);
  if (unexpected.length) problems.push(`the weights hold unexpected ${listed(unexpected)}`);
  if (wrong.length) problems.push(`the configuration asks for ${listed(wrong)}`);
  if (problems.length) throw loraError('from_pretrained', 'ERR_FILE', `${dir}: ${problems.join('; ')}`);
  return { shapes, quantized };
}

/** The floats that a tensor of a file is of. @throws ERR_UNSUPPORTED for other elements. */
export function dtypeOf(stored: ModelTensors, name: string): FloatDType {
  const { dtype: found, shape } = stored.get(name);
  const dtype = floatOfStored(found);
  if (dtype) return dtype;
  const blocks = shape.length === 2 && isStoredInBlocks(found) ? `, ${storedBlocks}` : '';
  throw loraError(
    'from_pretrained',
    'ERR_UNSUPPORTED',
    `${stored.nameInFile(name)} is stored as ${found}; supported are ${storedFloats}${blocks}`,
  );
}

/** What is not read is said before anything is read. @throws ERR_UNSUPPORTED */
function checkElements(
  stored: ModelTensors,
  shapes: ReadonlyMap<string, readonly number[]>,
  quantized: ReadonlyMap<string, StoredMatrix>,
): void {
  const planes = new Set([...quantized.values()].flatMap(({ tensors }) => [...tensors.keys()]));
  for (const name of shapes.keys()) if (!planes.has(name)) dtypeOf(stored, name);
}

export interface LoadOptions {
  dtype: 'auto' | ModelDType;
  device: Device;
  quantize?: QuantizePlan | undefined;
  activations?: Activations | undefined;
  signal?: AbortSignal | undefined;
  /** Bytes of weights loaded so far, and in all. */
  onProgress?: (progress: WeightsProgress) => void;
}

/** The matrices of all experts of a block, by the name of their parameter. */
function stacksOf(rows: readonly PlacedRow[], weights: Weights): Map<string, ExpertModule> {
  const found = new Map<
    string,
    { path: string; order: PartOrder | undefined; parts: Map<string, FrozenWeight[]> }
  >();
  for (const { key, row, path } of rows) {
    if (row.kind !== 'expert') continue;
    const prefix = path.slice(0, path.length - row.module.length);
    const stack = found.get(row.stack) ?? {
      path: `${prefix}${row.stack}`,
      order: row.stacked?.layout,
      parts: new Map<string, FrozenWeight[]>(),
    };
    found.set(row.stack, stack);
    const name = row.module.slice(row.module.lastIndexOf('.') + 1);
    const part = stack.parts.get(name) ?? [];
    stack.parts.set(name, part);
    part.push(weights[key] as FrozenWeight);
  }
  return new Map(
    [...found].map(([stack, { path, parts, order }]) => [
      stack,
      new ExpertModule(path, [...parts.keys()], [...parts.values()], order),
    ]),
  );
}

/** The random stream of a head: those of adapters of the same seed are far below. */
const headStream = 2 ** 30;

/** Loads the tensors of one directory, one after the other. */
class WeightLoader {
  readonly #made: { dispose(): void }[] = [];
  readonly #total: number;
  #loaded = 0;
  /** The tensor before is packed while the next one is read, and not more than that is queued. */
  #packed = Promise.resolve();

  constructor(
    private readonly stored: ModelTensors,
    private readonly shapes: ReadonlyMap<string, readonly number[]>,
    private readonly kept: ReadonlyMap<string, StoredMatrix>,
    /** Names of the matrices that are quantized here. */
    private readonly quantized: ReadonlySet<string>,
    private readonly dtype: ModelDType,
    private readonly options: LoadOptions,
  ) {
    let total = 0;
    for (const name of shapes.keys()) total += stored.get(name).byteLength;
    this.#total = total;
  }

  dispose(): void {
    for (const item of this.#made) item.dispose();
  }

  /** Waits for what was packed. */
  async finish(): Promise<void> {
    await this.#packed;
  }

  #progress(): void {
    this.options.onProgress?.({ type: 'weights', loaded: this.#loaded, total: this.#total });
  }

  async #load(name: string, to: DType): Promise<Tensor> {
    this.options.signal?.throwIfAborted();
    const found = this.stored.get(name);
    const upload = new SlicedUpload(
      dtypeOf(this.stored, name),
      to,
      this.shapes.get(name)!,
      this.options.device,
    );
    try {
      for await (const slice of found.slices()) await upload.add(slice);
      await this.#packed;
    } catch (error) {
      upload.tensor.dispose();
      throw error;
    }
    this.#loaded += found.byteLength;
    return upload.tensor;
  }

  /** The weights of some rows, by their names; `matrix` in the place of one of the files. */
  async part(rows: readonly (PlacedRow & { readonly matrix?: FrozenWeight })[]): Promise<Weights> {
    const weights: Record<string, Tensor | FrozenWeight | Linear | ExpertModule> = {};
    for (const { key, row, path, matrix } of rows)
      if (row.kind === 'vector') weights[key] = await this.#vector(`${path}.${row.tensor}`);
      else {
        const tensor = row.kind === 'table' ? row.tensor : 'weight';
        const weight = matrix ?? (await this.#matrix(`${path}.${tensor}`));
        if (row.kind === 'table' || row.kind === 'expert') weights[key] = weight;
        else {
          const bias = row.bias ? await this.#vector(`${path}.bias`) : undefined;
          weights[key] = new Linear(path, weight, bias, row.role, row.fanInFanOut);
        }
      }
    for (const [stack, module] of stacksOf(rows, weights)) weights[stack] = module;
    return weights;
  }

  /** The matrix of a head that the files do not hold: normal numbers. */
  fresh({ head }: ModelConfig, { row }: PlacedRow): FrozenWeight {
    const { out, in: inside } = row as LinearRow;
    const { std, seed } = head!.initial!;
    const { device } = this.options;
    const drawn = randomNormal([out, inside], { seed, stream: headStream, std, device });
    const values = moved(drawn, (x) => rawCast(x, FrozenWeight.keptDType('f32', this.dtype, device)));
    const weight = moved(values, (x) => FrozenWeight.pack(x, this.dtype));
    this.#made.push(weight);
    return weight;
  }

  async #vector(name: string): Promise<Tensor> {
    const x = await this.#load(name, this.dtype);
    this.#made.push(x);
    this.#progress();
    return x;
  }

  async #matrix(name: string): Promise<FrozenWeight> {
    const kept = this.kept.get(name);
    const weight = await (kept === undefined ? this.#ofFloats(name) : this.#ofQuantized(name, kept));
    if (this.options.activations === 'int8' && hasWholeCodes(weight.format)) weight.activations = 'int8';
    this.#made.push(weight);
    this.#packed = binding().synchronize(nativeDevice(this.options.device));
    this.#packed.catch(() => undefined); // it is awaited later
    this.#progress();
    return weight;
  }

  async #ofFloats(name: string): Promise<FrozenWeight> {
    const { device, quantize } = this.options;
    const stored = dtypeOf(this.stored, name);
    const quantized = quantize !== undefined && this.quantized.has(name);
    if (quantized) return quantizedWeight(name, await this.#load(name, stored), quantize, this.dtype);
    const loaded = await this.#load(name, FrozenWeight.keptDType(stored, this.dtype, device));
    const x = loaded.shape.length === 1 ? moved(loaded, (t) => rawView(t, 0, [...t.shape, 1])) : loaded;
    try {
      return FrozenWeight.pack(x, this.dtype);
    } finally {
      x.dispose();
    }
  }

  async #ofQuantized(name: string, kept: StoredMatrix): Promise<FrozenWeight> {
    const { format, values, scales } = await kept.read();
    await this.#packed;
    this.options.signal?.throwIfAborted();
    for (const plane of kept.tensors.keys()) this.#loaded += this.stored.get(plane).byteLength;
    const { shape } = kept;
    return FrozenWeight.packQuantized(format, values, scales, shape, this.dtype, this.options.device);
  }
}

/**
 * Reads the weights of a model in slices, converts or quantizes them on the way, and packs the matrices once:
 * besides the weights there is never more than one tensor and a slice in memory. The largest come first, while little else
 * is there. 'auto' keeps the dtype of the files, f16 becoming bf16. A file that is written, or replaced, meanwhile is ERR_FILE.
 */
export async function loadWeights(
  files: ModelFiles,
  config: ModelConfig,
  options: LoadOptions,
): Promise<{ weights: ModelWeights; dtype: ModelDType }> {
  const { signal, device, quantize } = options;
  const { dir } = files;
  const stored = await modelTensors(files, config);
  let loader: WeightLoader | undefined;
  try {
    const { shapes, quantized } = await checkNames(stored, config, dir);
    checkElements(stored, shapes, quantized);
    const dtype = options.dtype === 'auto' ? activationsOf(stored, config, quantized) : options.dtype;
    for (const format of new Set([...quantized.values()].map((matrix) => matrix.format)))
      FrozenWeight.checkReads('from_pretrained', format, dtype, device);
    const chosen = quantize
      ? checkQuantize(dir, config, quantize, { quantized, dtype, device })
      : new Set<string>();
    if (options.activations === 'int8') checkWholeCodes(dir, quantize, quantized);
    loader = new WeightLoader(stored, shapes, quantized, chosen, dtype, options);
    const rows = rowsOf(config);
    const stem = (await loader.part(rows.stem)) as StemWeights;
    const tied = (row: PlacedRow): boolean => isTied(config, row.row);
    // A head that shares the matrix of the embedding is made of it.
    const drawn = ({ row, path }: PlacedRow): boolean =>
      row.kind === 'linear' && !shapes.has(`${path}.weight`);
    const output = rows.head.map((row) => {
      if (tied(row)) return { ...row, matrix: stem.embedding };
      return drawn(row) ? { ...row, matrix: loader!.fresh(config, row) } : row;
    });
    const matrices = await loader.part(output.filter(({ row }) => row.kind !== 'vector'));
    binding().trim(nativeDevice(device)); // no other tensor is as large as these were before they were packed
    const layers: Weights[] = [];
    for (const layer of rows.layers) layers.push(await loader.part(layer));
    const vectors = await loader.part(output.filter(({ row }) => row.kind === 'vector'));
    const head = { ...vectors, ...matrices } as HeadWeights;
    await loader.finish();
    binding().trim(nativeDevice(device));
    signal?.throwIfAborted();
    await stored.checkUnchanged();
    return { weights: { stem, layers, head }, dtype };
  } catch (error) {
    loader?.dispose();
    throw error;
  } finally {
    await stored.close();
  }
}

/** The dtype of activations that fits the files. */
function activationsOf(
  stored: ModelTensors,
  config: ModelConfig,
  quantized: ReadonlyMap<string, StoredMatrix>,
): ModelDType {
  const name = `${embeddingPath(config)}.weight`;
  const found = quantized.has(name) ? config.fileDType : dtypeOf(stored, name);
  return found === 'f32' ? 'f32' : 'bf16';
}

/** @throws ERR_UNSUPPORTED where no matrix has whole codes. */
function checkWholeCodes(
  dir: string,
  quantize: QuantizePlan | undefined,
  stored: ReadonlyMap<string, StoredMatrix>,
): void {
  const formats = new Set(quantize ? [quantize.format] : [...stored.values()].map(({ format }) => format));
  if ([...formats].some(hasWholeCodes)) return;
  const found = formats.size === 0 ? 'no matrix is quantized' : `they are in ${[...formats].join(', ')}`;
  throw loraError(
    'from_pretrained',
    'ERR_UNSUPPORTED',
    `expected matrices with whole codes for int8 activations (int8, or Q8_0, Q4_K and others of GGUF), but of ${dir} ${found}`,
  );
}

/** The names of the matrices that are quantized. */
function checkQuantize(
  dir: string,
  config: ModelConfig,
  plan: QuantizePlan,
  {
    quantized,
    dtype,
    device,
  }: { quantized: ReadonlyMap<string, StoredMatrix>; dtype: ModelDType; device: Device },
): Set<string> {
  const op = 'from_pretrained';
  const [first] = quantized.values();
  check(first === undefined, op, () => `${dir} is quantized already (${first!.format}): leave quantize out`);
  FrozenWeight.checkReads(op, plan.format, dtype, device);
  return new Set([...quantizedModules(op, config, plan)].map((path) => `${path}.weight`));
}
