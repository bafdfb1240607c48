/** A model as a GGUF file of llama.cpp. */
import { basename, dirname } from 'node:path';
import { loraError } from '../errors';
import { stageFile } from '../formats/atomic';
import { bytesOfFloats, floatsOf, roundedTo } from '../formats/floats';
import { quantizedBlocks } from '../formats/gguf_blocks';
import { serializeGguf, type GgufField, type LateGgufTensor } from '../formats/gguf_write';
import { readLimits, type ReadLimits } from '../formats/limits';
import { modulesFile } from '../formats/model_files';
import type { ModelFiles } from '../formats/model_folder';
import { toPath } from '../formats/paths';
import { storedDType } from '../formats/dtypes';
import type { StoredTensor } from '../formats/stored_tensors';
import { sourceFolder, sourceOptionNames, type SourceOptions } from '../hub/source';
import { modelTensors } from '../models/files/model_tensors';
import type { ModelConfig } from '../models/config/model_config';
import { readSentenceSettings } from '../models/embedding/sentence_files';
import { familyOf } from '../models/families';
import { poolingKey } from '../models/families/gguf_layout';
import {
  convertedValues,
  ggufTensors,
  reordered,
  reorderedColumns,
  type GgufPlace,
} from '../models/files/gguf_names';
import { modelConfigOf, openModelFiles } from '../models/files/model_source';
import { embeddingPath, headPath, packableModules } from '../models/files/tensor_table';
import { checkNames, dtypeOf } from '../models/core/weights';
import { blockFormats, isWrittenBlocks, type WrittenBlocks } from '../native/block_formats';
import { writtenBlocks } from '../native/constants';
import type { FloatDType } from '../native/dtype';
import { breathe } from '../tensor/pace';
import { Tokenizer } from '../text/tokenizer';
import { check, checkBoolean, checkOneOf, checkOptions, isRecord } from '../validate';
import { ggufTokenizer } from './gguf_tokenizer';
import { modelfilePath, modelfileText, namedFrom, writeModelfile, type WrittenModelfile } from './modelfile';

const op = 'convertModel';

/** What the matrices of a GGUF file are kept in. */
export const ggufFormats = ['f32', 'bf16', 'f16', ...writtenBlocks] as const;

/** A type of the matrices of a GGUF file. */
export type GgufFormat = (typeof ggufFormats)[number];

/** The options of {@link convertModel}. */
export interface ConvertModelOptions extends SourceOptions {
  /**
   * What matrices are kept in; vectors and learned positions are f32, as llama.cpp wants them. Below 8 bits the embedding and the head are 'q8_0'. Rows that are
   * no multiple of 256 are 'q5_0' in the place of 'q4_k', and those that are no multiple of 32 'f16' in the place of all blocks.
   */
  format: GgufFormat;
  /**
   * Writes a Modelfile of Ollama beside the file, too: the chat template in Go, the texts that end an answer, and what generation_config.json says of sampling. It never
   * replaces one. Default false.
   */
  modelfile?: boolean | undefined;
  /** Bounds on what the files may ask for. */
  limits?: ReadLimits | undefined;
}

const typeOf = <F extends GgufFormat>(format: F): Uppercase<F> => format.toUpperCase() as Uppercase<F>;
/** general.file_type: what most matrices are kept in. */
const fileTypes = { f32: 0, f16: 1, q4_0: 2, q8_0: 7, q5_0: 8, q4_k: 14, bf16: 32 } as const;

function unsupported(message: string): never {
  throw loraError(op, 'ERR_UNSUPPORTED', message);
}

/** Ids of special tokens, what is put around texts, and the template. */
async function tokenizerFields(folder: ModelFiles, config: ModelConfig): Promise<Map<string, GgufField>> {
  const json = await folder.json('tokenizer.json', 'tokenizerBytes');
  // llama.cpp's word for a model that takes ids. Such a file has no ids of special tokens, for there are no tokens.
  if (json === undefined) return new Map([['tokenizer.ggml.model', { text: 'no_vocab' }]]);
  if (!isRecord(json))
    throw loraError(op, 'ERR_FILE', `expected tokenizer.json in ${folder.dir} to hold an object`);
  const tokenizer = (await Tokenizer.fromFiles(folder))!;
  const fields = ggufTokenizer(json, config.vocabSize);
  const around = tokenizer.encode('');
  const { bosTokenId: bos, eosTokenIds } = config;
  const [eos, eot] = eosTokenIds;
  const id = (key: string, value: unknown): void => {
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value < config.vocabSize)
      fields.set(`tokenizer.ggml.${key}_token_id`, { u32: value });
  };
  id('bos', bos);
  id('eos', eos);
  id('eot', eot);
  id('padding', config.raw['pad_token_id']);
  fields.set('tokenizer.ggml.add_bos_token', { flag: bos !== null && around[0] === bos });
  fields.set('tokenizer.ggml.add_eos_token', {
    flag: around.at(-1) === eos && (around.length > 1 || eos !== bos),
  });
  const settings = await folder.json('tokenizer_config.json');
  const template =
    (await folder.text('chat_template.jinja')) ??
    (isRecord(settings) ? settings['chat_template'] : undefined);
  if (typeof template === 'string') fields.set('tokenizer.chat_template', { text: template });
  return fields;
}

/** What a matrix [.., cols] of a linear layer or of the token embedding is kept in: rows are whole blocks, and the embedding and the head have 8 bits or more. As llama.cpp chooses, 'q5_0' replaces 'q4_k'. */
function formatOf(isEmbedding: boolean, cols: number, format: GgufFormat): GgufFormat {
  if (!isWrittenBlocks(format)) return format;
  const wholeBlocks = (of: WrittenBlocks): boolean => cols % blockFormats[of].values === 0;
  if (!wholeBlocks('q8_0')) return 'f16';
  if (isEmbedding) return 'q8_0';
  return wholeBlocks(format) ? format : 'q5_0';
}

/** Bytes of one conversion, whole blocks. Blocks are made on other threads, floats in some milliseconds on this one. */
const stepBytes = (format: GgufFormat): number => (isWrittenBlocks(format) ? 2 ** 20 : 2 ** 18);

/** Floats of a file in another type. @throws ERR_UNSUPPORTED for what f16 does not reach. */
async function converted(
  name: string,
  from: FloatDType,
  bytes: Uint8Array,
  to: GgufFormat,
): Promise<Uint8Array> {
  if (to === from) return bytes;
  const floats = (): Float32Array => floatsOf({ dtype: storedDType[from], bytes });
  if (to === 'f32') return bytesOfFloats(floats());
  const rounded = isWrittenBlocks(to) ? await quantizedBlocks(bytes, from, to) : roundedTo(floats(), to);
  return (
    rounded ?? unsupported(`${name} has values that ${to} does not hold${to === 'f16' ? ': take bf16' : ''}`)
  );
}

interface Conversion extends Omit<GgufPlace, 'name'> {
  readonly from: FloatDType;
  readonly format: GgufFormat;
}

function late(
  name: string,
  stored: StoredTensor,
  { from, format, rows, columns, squeezed, values }: Conversion,
): LateGgufTensor {
  const shape = squeezed ? stored.shape.filter((_, i) => i !== 1) : stored.shape;
  const step = stepBytes(format);
  async function* source(): AsyncIterable<Uint8Array> {
    if (rows) yield reordered(await stored.read(), rows, false);
    else if (columns) yield reorderedColumns(await stored.read(), shape[0]!, columns, false);
    else yield* stored.slices();
  }
  return {
    type: typeOf(format),
    shape,
    async *parts() {
      for await (const slice of source())
        for (let at = 0; at < slice.length; at += step) {
          const bytes = await converted(name, from, slice.subarray(at, at + step), format);
          yield values ? convertedValues(name, bytes, values.written) : bytes;
          await breathe();
        }
    },
  };
}

/** The matrices of experts as one tensor, of which `parts` of an expert stand below one another. */
function stackOf(matrices: readonly LateGgufTensor[], parts: number): LateGgufTensor {
  const { type, shape } = matrices[0]!;
  const [rows, ...columns] = shape;
  return {
    type,
    shape: [matrices.length / parts, parts * rows!, ...columns],
    async *parts() {
      for (const matrix of matrices) yield* matrix.parts();
    },
  };
}

/** What the frequencies of the rotation are divided by. */
function factorsTensor(factors: Float32Array): LateGgufTensor {
  return {
    type: 'F32',
    shape: [factors.length],
    async *parts() {
      yield await Promise.resolve(bytesOfFloats(factors));
    },
  };
}

/**
 * How vectors of texts are pooled, where files of sentence-transformers say it.
 * @throws ERR_UNSUPPORTED for what a GGUF file has no place for, and would be computed without
 */
async function poolingFields(folder: ModelFiles, config: ModelConfig): Promise<Map<string, GgufField>> {
  const { head, bothDirections } = config;
  if (head) unsupported(`${folder.dir} ends in a head of classes, for which GGUF files have no place`);
  if (bothDirections)
    unsupported(`the tokens of ${folder.dir} see those behind them, for which a GGUF file has no word`);
  if (!folder.has(modulesFile) && folder.pooling === undefined) return new Map();
  const { pool, dense } = await readSentenceSettings(folder, config, 'cpu');
  for (const layer of dense) layer.dispose();
  if (dense.length > 0)
    unsupported(`${folder.dir} has dense layers behind its pooling, for which a GGUF file has no place`);
  return new Map([[poolingKey(familyOf(config).gguf.architecture), { u32: pool === 'mean' ? 1 : 3 }]]);
}

/**
 * Writes a model as one GGUF file, for llama.cpp, LM Studio and ollama: the weights in llama.cpp's names and order of rows, the
 * configuration, the tokenizer and the chat template; without a tokenizer.json, for ids alone. Tensors are read, converted and written one by one, and the file appears whole or not at all. An
 * adapter is merged first, with `model.save(dir, { merge })`.
 *
 * @param source a Hugging Face directory, a GGUF file of floats, or a name of the hub
 * @param out the file, which is replaced
 * @returns the Modelfile, where one was asked for
 * @throws ERR_ARGUMENT for options and a model in few bits; ERR_UNSUPPORTED for a tokenizer that llama.cpp has no kind for, sliding windows, yarn,
 * heads of classes, dense layers behind a pooling, attention in both directions, and values that f16 does not reach; ERR_FILE, ERR_SAFETENSORS, ERR_HUB; the reason of the signal
 * @example
 * await convertModel('merged-model', 'model.gguf', { format: 'bf16' });
 */
export async function convertModel(
  source: string | URL,
  out: string | URL,
  options: ConvertModelOptions,
): Promise<WrittenModelfile | undefined> {
  checkOptions(op, options, ['format', 'modelfile', 'limits', ...sourceOptionNames]);
  const { format, modelfile = false, signal } = options;
  checkBoolean(op, 'modelfile', modelfile);
  checkOneOf(op, 'format', format, ggufFormats);
  const limits = readLimits(op, options.limits);
  const target = toPath(out, op);
  if (modelfile) await modelfilePath(op, target);
  const dir = await sourceFolder(source, op, 'model', options);
  const folder = await openModelFiles(op, dir, { limits, signal });
  const config = await modelConfigOf(folder);
  const { gguf } = familyOf(config);
  const metadata = new Map<string, GgufField>([
    ['general.architecture', { text: gguf.architecture }],
    ['general.type', { text: 'model' }],
    ['general.name', { text: basename(target).replace(/\.gguf$/, '') }],
    ['general.file_type', { u32: fileTypes[format] }],
    ...gguf.fields(config),
    ...(await poolingFields(folder, config)),
    ...(await tokenizerFields(folder, config)),
  ]);
  const from = namedFrom(dirname(target), target);
  const told = modelfile ? await modelfileText({ folder, config, from }) : undefined;
  const stored = await modelTensors(folder, config);
  try {
    const { shapes, quantized } = await checkNames(stored, config, dir);
    check(quantized.size === 0, op, () => `expected a model of f32, bf16 or f16 but ${dir} is quantized`);
    const places = ggufTensors(config);
    const embeddings = new Set([embeddingPath(config), headPath(config)]);
    const packable = new Set(packableModules(config));
    const tensors = new Map<string, LateGgufTensor>();
    const stacks = new Map<string, LateGgufTensor[]>();
    for (const [name, shape] of shapes) {
      const path = name.slice(0, name.lastIndexOf('.'));
      const { name: target, ...place } = places.get(name)!;
      const isMatrix = shape.length === 2 && packable.has(path);
      const tensor = late(name, stored.get(name), {
        from: dtypeOf(stored, name),
        format: isMatrix ? formatOf(embeddings.has(path), shape[1]!, format) : 'f32',
        ...place,
      });
      if (place.expert === undefined) tensors.set(target, tensor);
      else {
        const matrices = stacks.get(target) ?? [];
        stacks.set(target, matrices);
        matrices.push(tensor);
        tensors.set(target, stackOf(matrices, place.part?.count ?? 1));
      }
    }
    if (gguf.ownHead && config.tieWordEmbeddings)
      tensors.set(
        places.get(`${headPath(config)}.weight`)!.name,
        tensors.get(places.get(`${embeddingPath(config)}.weight`)!.name)!,
      );
    for (const [name, factors] of Object.entries(gguf.frequencyFactors(config)))
      tensors.set(name, factorsTensor(factors));
    const staged = await stageFile(target, serializeGguf(metadata, tensors, op)).catch((error: unknown) => {
      signal?.throwIfAborted(); // each read of a file asks it too, and its reason is no failure to write
      throw error;
    });
    try {
      await stored.checkUnchanged();
      await folder.checkUnchanged();
    } catch (error) {
      await staged.discard();
      throw error;
    }
    await staged.commit();
    return told && (await writeModelfile(op, target, told));
  } finally {
    await stored.close();
  }
}
