/** Which matrices of a model become 4-bit codes or int8 rows while it is loaded. */
import { loraError } from '../../errors';
import { quantizedFormats, type PackedFormat, type QuantizedFormat } from '../../tensor/frozen_weight';
import {
  check,
  checkBoolean,
  checkOneOf,
  checkOptions,
  describe,
  isListOf,
  isRecord,
  listed,
} from '../../validate';
import type { ModelConfig } from '../config/model_config';
import {
  embeddingPath,
  expertPaths,
  headPath,
  packableModules,
  tokenTables,
  transposedTensors,
} from '../files/tensor_table';

/** The option `quantize`. */
export interface QuantizeOptions {
  /** 'nf4' and 'fp4' take 4.5 bits for each weight, 'int8' 8. */
  format: QuantizedFormat;
  /** Modules that stay as they are: a path, or its end, as 'lm_head', 'o_proj', 'layers.0.mlp.down_proj'. */
  skip?: readonly string[] | undefined;
  /** The magnitudes of nf4's and fp4's blocks are rounded to 8 bits, as QLoRA does: files of 4.13 bits. In memory they are f32. Default false. */
  doubleQuant?: boolean | undefined;
  /** The embeddings of tokens too, and with them a tied output embedding. Default false. */
  embedding?: boolean | undefined;
}

/** What is asked for, with the defaults. */
export type QuantizePlan = { readonly [K in keyof QuantizeOptions]-?: NonNullable<QuantizeOptions[K]> };

/** Checks the option; a format alone stands for the defaults with it. `where`: what comes before the names of its fields. */
export function quantizePlan(op: string, value: unknown, where = 'quantize.'): QuantizePlan | undefined {
  if (value === undefined) return undefined;
  const options = (typeof value === 'string' ? { format: value } : value) as QuantizeOptions;
  check(
    typeof options === 'object' && options !== null && !Array.isArray(options),
    op,
    () => `expected quantize to be a format or an object with one but received ${describe(value)}`,
  );
  checkOptions(op, options, ['format', 'skip', 'doubleQuant', 'embedding']);
  const { format, skip = [], doubleQuant = false, embedding = false } = options;
  checkOneOf(op, `${where}format`, format, quantizedFormats);
  check(
    isListOf(skip, (name): name is string => typeof name === 'string' && name !== ''),
    op,
    () => `expected ${where}skip to be a list of module names but received ${describe(skip)}`,
  );
  checkBoolean(op, `${where}doubleQuant`, doubleQuant);
  checkBoolean(op, `${where}embedding`, embedding);
  check(
    !doubleQuant || format !== 'int8',
    op,
    () => `expected ${where}doubleQuant with nf4 or fp4 but received int8, whose scales are one for a row`,
  );
  return { format, skip: [...skip], doubleQuant, embedding };
}

const endsWith = (path: string, name: string): boolean => path === name || path.endsWith(`.${name}`);

/** The paths of the modules whose matrices are quantized. @throws ERR_ARGUMENT for a name in `skip` that fits none. */
export function quantizedModules(
  op: string,
  config: ModelConfig,
  plan: QuantizePlan,
  where = 'quantize.',
): Set<string> {
  const modules = packableModules(config);
  const known = config.tieWordEmbeddings ? [...modules, headPath(config)] : modules;
  const unknown = plan.skip.filter((name) => !known.some((path) => endsWith(path, name)));
  check(unknown.length === 0, op, () => {
    const ends = [...new Set(known.map((path) => path.slice(path.lastIndexOf('.') + 1)))];
    return `${where}skip names ${listed(unknown)}, which no module is called: there are ${listed(ends)}`;
  });
  const tables = tokenTables(config);
  const skipped = (path: string): boolean =>
    (tables.has(path) && !plan.embedding) || plan.skip.some((name) => endsWith(path, name));
  return new Set(modules.filter((path) => !skipped(path)));
}

/** @throws ERR_UNSUPPORTED for a model of which bitsandbytes would hold matrices the other way. */
export function refuseTransposed(op: string, config: ModelConfig): void {
  const [first] = transposedTensors(config);
  if (first === undefined) return;
  throw loraError(
    op,
    'ERR_UNSUPPORTED',
    `${first} stands as [in, out] in files of ${config.modelType} models, whose quantized matrices are not written: load the model with quantize`,
  );
}

/** The formats of the matrices of a model that are quantized, by the path of their module. */
export type QuantizedMatrices = ReadonlyMap<string, PackedFormat>;

export const allIn = (format: PackedFormat, modules: Iterable<string>): QuantizedMatrices =>
  new Map([...modules].map((path) => [path, format]));

/** Those of the files, as a GGUF file or `quantization_config` of config.json has them; undefined for a model of whole weights. */
export function quantizedByConfig(config: ModelConfig): QuantizedMatrices | undefined {
  if (config.packed) return config.packed;
  const stated = config.raw['quantization_config'];
  if (!isRecord(stated)) return undefined;
  const [embedding, head] = [embeddingPath(config), headPath(config)];
  const tables = tokenTables(config);
  const linears = packableModules(config).filter((path) => !tables.has(path));
  if (stated['quant_method'] === 'mxfp4') return allIn('mxfp4', expertPaths(config));
  if (stated['quant_method'] !== 'bitsandbytes')
    return allIn(
      'int8',
      linears.filter((path) => path !== head),
    );
  const eight = stated['load_in_8bit'] === true || stated['_load_in_8bit'] === true;
  const format = eight ? 'int8' : stated['bnb_4bit_quant_type'] === 'nf4' ? 'nf4' : 'fp4';
  const stored: unknown = stated['llm_int8_skip_modules'];
  const skipped = Array.isArray(stored) ? stored.map(String) : [head];
  const whole = (path: string): boolean => skipped.some((name) => `.${path}.`.includes(`.${name}.`));
  const modules = new Set(linears.filter((path) => !whole(path)));
  // A tied head is the embedding.
  if (config.tieWordEmbeddings && !whole(head)) modules.add(embedding);
  return allIn(format, modules);
}
