/** The tensors of a folder of Hugging Face's as the rows of a model describe them: by their names, and matrices [out, in]. */
import { bytesPerElement } from '../../native/dtype';
import { floatOfStored } from '../../formats/dtypes';
import type { ModelFiles } from '../../formats/model_folder';
import type { ModelTensors } from '../../formats/sharded';
import type { StoredTensor } from '../../formats/stored_tensors';
import { nameInTextModel } from '../../formats/text_model_names';
import { breathe } from '../../tensor/pace';
import type { ModelConfig } from '../config/model_config';
import { familyOf } from '../families';
import { GgufModel } from './gguf_model';
import { unstacked } from './expert_stacks';
import { embeddingPath, transposedTensors } from './tensor_table';

/** What has other uses: encoders of images and sound, and what fits their outputs to the text model. */
const others =
  /^(model\.)?(vision_tower|vision_model|vision_encoder|vision_adapter|visual|audio_tower|embed_vision|embed_audio|multi_modal_projector|patch_merger)\./;

/** Bytes of a matrix that change rows into columns in one go. */
const turnBytes = 2 ** 20;

/** The bytes of a matrix [rows, cols] as [cols, rows]. */
async function turned(bytes: Uint8Array, rows: number, cols: number): Promise<Uint8Array> {
  const width = bytes.byteLength / (rows * cols);
  const result = new Uint8Array(bytes.byteLength);
  const elements = (of: Uint8Array): Uint16Array | Uint32Array =>
    new (width === 2 ? Uint16Array : Uint32Array)(of.buffer as ArrayBuffer, of.byteOffset, rows * cols);
  const [from, to] = [elements(bytes), elements(result)];
  const step = Math.max(1, Math.floor(turnBytes / (width * rows)));
  for (let first = 0; first < cols; first += step) {
    for (let col = first; col < Math.min(cols, first + step); col++)
      for (let row = 0; row < rows; row++) to[col * rows + row] = from[row * cols + col]!;
    await breathe();
  }
  return result;
}

/** A matrix that stands as [in, out] in the file. */
function turnedTensor(stored: StoredTensor): StoredTensor {
  const { dtype, shape, byteLength } = stored;
  const [rows, cols] = shape as [number, number];
  const float = floatOfStored(dtype);
  if (shape.length !== 2 || float === undefined) return stored; // what names, shapes and elements are checked for
  const width = bytesPerElement[float];
  const read = async (): Promise<Uint8Array> => {
    const bytes = await stored.read();
    return turned(bytes.byteOffset % width === 0 ? bytes : bytes.slice(), rows, cols);
  };
  return {
    ...{ dtype, byteLength, shape: [cols, rows], read },
    async *slices() {
      yield await read();
    },
  };
}

/**
 * What the names of a base model alone lack, as AutoModel writes one without its head: the module that holds it in a language model. '' where the
 * files are of the whole model.
 */
function lackingPrefix(stored: ModelTensors, config: ModelConfig): string {
  const embedding = `${embeddingPath(config)}.weight`;
  const base = embedding.slice(0, embedding.indexOf('.') + 1);
  const names = new Set(stored.names);
  const isBase = !names.has(embedding) && names.has(embedding.slice(base.length));
  return isBase ? base : '';
}

/**
 * Those of an open folder, each expert with tensors of its own. What a model has no use for is left out, by names that say what it is.
 * @throws ERR_FILE for experts in a tensor that does not fit the configuration; the folder is closed then
 */
export async function tensorsOfFolder(stored: ModelTensors, config: ModelConfig): Promise<ModelTensors> {
  const family = familyOf(config);
  const names = new Map<string, string>();
  const prefix = config.textOf === undefined ? lackingPrefix(stored, config) : '';
  for (const name of stored.names) {
    if (config.textOf !== undefined && others.test(name)) continue;
    const text = config.textOf === undefined ? `${prefix}${name}` : nameInTextModel(name);
    const own = family.nameInModel ? family.nameInModel(text, config) : text;
    if (own !== null) names.set(own, name);
  }
  const inFile = (name: string): string => names.get(name) ?? name;
  const transposed = transposedTensors(config);
  const named: ModelTensors = {
    names: [...names.keys()],
    get(name) {
      const found = stored.get(inFile(name));
      return transposed.has(name) ? turnedTensor(found) : found;
    },
    nameInFile: (name) => stored.nameInFile(inFile(name)),
    checkUnchanged: () => stored.checkUnchanged(),
    close: () => stored.close(),
  };
  try {
    return unstacked(named, config);
  } catch (error) {
    await stored.close();
    throw error;
  }
}

/** The tensors of the files of a model. */
export async function modelTensors(files: ModelFiles, config: ModelConfig): Promise<ModelTensors> {
  const stored = await files.tensors();
  return files instanceof GgufModel ? stored : tensorsOfFolder(stored, config);
}
