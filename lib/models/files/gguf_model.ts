/** A model in GGUF files, seen as a Hugging Face directory: every reader of a model takes both. */
import { LoRAError } from '../../errors';
import { floatsOf } from '../../formats/floats';
import type { GgufTensor } from '../../formats/gguf';
import { GgufSet } from '../../formats/gguf_set';
import { GgufValues } from '../../formats/gguf_values';
import type { Reading } from '../../formats/json';
import type { Source } from '../../formats/links';
import { configFile } from '../../formats/model_files';
import type { ModelFiles } from '../../formats/model_folder';
import type { ModelTensors } from '../../formats/sharded';
import type { StoredTensor } from '../../formats/stored_tensors';
import { ggufTokenizerFiles, hasGgufTokenizer, type TokenizerFiles } from '../../text/gguf_tokenizer';
import type { ModelConfig } from '../config/model_config';
import { parseModelConfig } from '../families';
import { ggufPacked, ggufConfigJson, ggufGenerationJson, type GgufTensors } from './gguf_config';
import { factorTensors, type FrequencyFactors } from '../families/gguf_layout';
import { ggufModules, reordered, shifted, type GgufModule } from './gguf_names';

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
    const modules = new Map(
      [...ggufModules(config)].map(([path, module]) => [module.name, { path, ...module }]),
    );
    for (const { name, path } of modules.values())
      for (const end of ['weight', 'bias']) this.#own.set(`${path}.${end}`, `${name}.${end}`);
    const longrope = config.layers[0]?.rope.scaling.type === 'longrope';
    const read = new Set<string>(longrope ? factorTensors : factorTensors.slice(0, 1));
    for (const [name, tensor] of set.tensors) {
      if (read.has(name)) continue;
      const dot = name.lastIndexOf('.');
      const module = modules.get(name.slice(0, dot));
      this.#tensors.set(module ? `${module.path}${name.slice(dot)}` : name, stored(tensor, module));
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

/** A tensor as Hugging Face's files have it. */
function stored(tensor: GgufTensor, { rows, offset }: Omit<GgufModule, 'name'> = {}): StoredTensor {
  const { block, shape, byteLength } = tensor;
  const described = { dtype: block.type, shape, byteLength };
  const readAs = (read: () => Promise<Uint8Array>): Pick<StoredTensor, 'read' | 'slices'> => ({
    read,
    async *slices() {
      yield await read();
    },
  });
  if (rows) return { ...described, ...readAs(async () => reordered(await tensor.read(), rows, true)) };
  const { type } = block;
  if (offset !== undefined && (type === 'F32' || type === 'BF16' || type === 'F16'))
    return {
      ...{ dtype: 'F32', shape, byteLength: 4 * shape[0]! },
      ...readAs(async () => shifted(await tensor.read(), -offset, type)),
    };
  return { ...described, read: () => tensor.read(), slices: () => tensor.slices() };
}

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
