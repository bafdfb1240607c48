/** A model in GGUF files, seen as a Hugging Face directory: every reader of a model takes both. */
import { LoRAError } from '../../errors';
import { bytesOfFloats, floatsOf } from '../../formats/floats';
import type { GgufTensor } from '../../formats/gguf';
import { GgufSet } from '../../formats/gguf_set';
import { GgufValues } from '../../formats/gguf_values';
import type { Reading } from '../../formats/json';
import type { Source } from '../../formats/links';
import { configFile } from '../../formats/model_files';
import type { ModelFiles } from '../../formats/model_folder';
import type { ModelTensors } from '../../formats/sharded';
import type { StoredTensor } from '../../formats/stored_tensors';
import { isBlockFormat, type BlockFormat } from '../../native/block_formats';
import { FrozenWeight } from '../../tensor/frozen_weight';
import { ggufTokenizerFiles, hasGgufTokenizer, type TokenizerFiles } from '../../text/gguf_tokenizer';
import { attentionLayers, type ModelConfig } from '../config/model_config';
import { familyOf, parseModelConfig } from '../families';
import {
  architectureOf,
  ggufPacked,
  ggufConfigJson,
  ggufGenerationJson,
  type GgufTensors,
} from './gguf_config';
import { factorTensors, poolingKey, type FrequencyFactors } from '../families/gguf_layout';
import {
  convertedValues,
  ggufTensors,
  movesWhole,
  reordered,
  reorderedColumns,
  type GgufPlace,
} from './gguf_names';

/** Twice the longest head that is known. */
const maxFactors = 512;

/** Tensors of a file by the names and with the rows of Hugging Face's. */
class GgufModelTensors implements ModelTensors {
  readonly #tensors = new Map<string, StoredTensor>();
  /** By Hugging Face's name. */
  readonly #own = new Map<string, string>();

  constructor(
    private readonly set: GgufSet,
    config: ModelConfig,
  ) {
    const { gguf } = familyOf(config);
    const places = new Map<string, (GgufPlace & { readonly own: string })[]>();
    for (const [own, place] of ggufTensors(config)) {
      const sharing = places.get(place.name) ?? [];
      places.set(place.name, sharing);
      sharing.push({ own, ...place });
      this.#own.set(own, place.name);
    }
    const longrope = attentionLayers(config)[0]?.rope.scaling.type === 'longrope';
    const read = new Set<string>(longrope ? factorTensors : factorTensors.slice(0, 1));
    for (const [name, tensor] of set.tensors) {
      if (read.has(name) || gguf.skips?.(name, config)) continue;
      const sharing = places.get(name) ?? [];
      if (sharing.length === 0) this.#tensors.set(name, stored(tensor, { name }));
      // Of fewer experts than the configuration says, the others are missing; of more, one is misshapen.
      const count = tensor.shape[0] ?? 0;
      for (const place of sharing) {
        const { expert, part, own } = place;
        if (expert === undefined) this.#tensors.set(own, stored(tensor, place));
        else if (expert < count) {
          const isStack = count * (part?.count ?? 1) === sharing.length;
          this.#tensors.set(own, stored(isStack ? partOf(tensor.part(expert), part) : tensor, place));
        }
      }
    }
  }

  get names(): string[] {
    return [...this.#tensors.keys()];
  }

  nameInFile(name: string): string {
    return this.#own.get(name) ?? name;
  }

  get(name: string): StoredTensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined)
      throw new LoRAError('ERR_FILE', `${this.set.path} has no tensor ${this.nameInFile(name)}`);
    return tensor;
  }

  checkUnchanged(): Promise<void> {
    return this.set.checkUnchanged();
  }

  close(): Promise<void> {
    return this.set.close();
  }
}

/** The rows of a part, of a matrix that has those of several; a matrix that cannot be divided so stays whole, which is misshapen. */
function partOf(matrix: GgufTensor, part: GgufPlace['part']): GgufTensor {
  const rows = matrix.shape[0]! / (part?.count ?? 1);
  return part && Number.isInteger(rows) ? matrix.rows(part.index * rows, rows) : matrix;
}

/** A tensor as Hugging Face's files have it. */
function stored(tensor: GgufTensor, { name, rows, columns, squeezed, values }: GgufPlace): StoredTensor {
  const { block, byteLength } = tensor;
  const [first, ...others] = tensor.shape;
  const shape = squeezed && first !== undefined ? [first, 1, ...others] : tensor.shape;
  const described = { dtype: block.type, shape, byteLength };
  const readAs = (read: () => Promise<Uint8Array>): Pick<StoredTensor, 'read' | 'slices'> => ({
    read,
    async *slices() {
      yield await read();
    },
  });
  const read = async (): Promise<Uint8Array> => {
    const bytes = await tensor.read();
    return rows ? reordered(bytes, rows, true) : bytes;
  };
  const format = block.type.toLowerCase();
  if (columns && shape.length === 2) {
    const [out, inside] = shape as [number, number];
    const inOrder = (bytes: Uint8Array): Uint8Array => reorderedColumns(bytes, out, columns, true);
    if (isBlockFormat(format) && !movesWhole(columns, block)) {
      const floats = async (): Promise<Uint8Array> =>
        inOrder(await floatsOfBlocks(format, await tensor.read(), [out, inside]));
      return { dtype: 'F32', shape, byteLength: 4 * out * inside, ...readAs(floats) };
    }
    return { ...described, ...readAs(async () => inOrder(await tensor.read())) };
  }
  const { type } = block;
  if (values && (type === 'F32' || type === 'BF16' || type === 'F16')) {
    const count = shape.reduce((product, size) => product * size, 1);
    return {
      ...{ dtype: 'F32', shape, byteLength: 4 * count },
      ...readAs(async () => convertedValues(name, await read(), values.read, type)),
    };
  }
  if (rows) return { ...described, ...readAs(read) };
  return { ...described, read: () => tensor.read(), slices: () => tensor.slices() };
}

/** The values of blocks, as F32. */
async function floatsOfBlocks(
  format: BlockFormat,
  blocks: Uint8Array,
  shape: readonly [number, number],
): Promise<Uint8Array> {
  const weight = FrozenWeight.packQuantized(format, blocks, null, shape, 'f32', 'cpu');
  const values = weight.unpack();
  weight.dispose();
  try {
    return bytesOfFloats(await values.data<Float32Array>());
  } finally {
    values.dispose();
  }
}

/** llama.cpp's numbers of poolings, in the words of sentence-transformers; 0 is none. */
const poolings = [undefined, 'mean', 'cls', 'lasttoken', 'rank'];

const generationFile = 'generation_config.json';
/** The files that the values of a GGUF file stand for. */
const texts = [configFile, generationFile];
const tokenizerTexts = ['tokenizer.json', 'tokenizer_config.json'];

export class GgufModel implements ModelFiles {
  readonly #tokenizer: TokenizerFiles;

  private constructor(
    readonly dir: string,
    readonly reading: Reading,
    private readonly set: GgufSet,
    private readonly values: GgufValues,
    private readonly described: GgufTensors,
    private readonly factors: FrequencyFactors,
  ) {
    this.#tokenizer = ggufTokenizerFiles(values, reading);
  }

  /** @throws ERR_FILE for what is no GGUF file, or a part of one whose other parts are not there */
  static async open(source: Source, reading: Reading): Promise<GgufModel> {
    const set = await GgufSet.open(source, reading);
    try {
      const { path, metadata, tensors } = set;
      const values = new GgufValues(path, metadata);
      const read: Record<string, Float32Array> = {};
      for (const name of factorTensors) {
        const factors = tensors.get(name);
        if (factors) read[name] = await factorsOf(values, name, factors);
      }
      const described = new Map([...tensors].map(([name, { block }]) => [name, { block }]));
      await set.checkUnchanged();
      return new GgufModel(path, reading, set, values, described, read);
    } finally {
      await set.close();
    }
  }

  /** @throws ERR_UNSUPPORTED for a number that stands for none */
  get pooling(): string | undefined {
    const key = poolingKey(architectureOf(this.values));
    const type = this.values.number(key) ?? 0;
    return type in poolings ? poolings[type] : this.values.fail(`has ${key} = ${type}`, 'ERR_UNSUPPORTED');
  }

  where(name: string): string {
    return this.#tokenizer.where(name);
  }

  has(name: string): boolean {
    return texts.includes(name) || (tokenizerTexts.includes(name) && hasGgufTokenizer(this.values));
  }

  /** @throws ERR_UNSUPPORTED, ERR_FILE for values that do not give such a file */
  async json(name: string): Promise<unknown> {
    if (name === configFile) return ggufConfigJson(this.values, this.described, this.factors);
    return name === generationFile ? ggufGenerationJson(this.values) : this.#tokenizer.json(name);
  }

  text(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  /** What the values mean, with the bounds of all configurations. */
  async config(): Promise<ModelConfig> {
    const json = await this.json('config.json');
    try {
      const config = parseModelConfig(json, this.reading.limits);
      const packed = ggufPacked(this.described, config);
      return packed ? { ...config, packed } : config;
    } catch (cause) {
      if (!(cause instanceof LoRAError)) throw cause;
      const { code, op, message } = cause;
      const own = message.replace('[from_pretrained] ', '');
      throw new LoRAError(code, `[from_pretrained] ${this.dir}, as a config.json: ${own}`, {
        ...(op && { op }),
        cause,
      });
    }
  }

  async tensors(): Promise<ModelTensors> {
    const config = await this.config();
    return new GgufModelTensors(await this.set.reopen(), config);
  }

  async checkUnchanged(): Promise<void> {
    await (await this.set.reopen()).close();
  }
}

async function factorsOf(values: GgufValues, name: string, tensor: GgufTensor): Promise<Float32Array> {
  const { block, shape } = tensor;
  if (block.type !== 'F32' || shape.length !== 1 || shape[0]! > maxFactors)
    values.fail(
      `has ${name} as ${block.type} of shape [${shape.join(', ')}]: expected at most ${maxFactors} of F32`,
    );
  return floatsOf({ dtype: 'F32', bytes: await tensor.read() });
}
