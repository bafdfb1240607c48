/** Writing a model whose matrices are quantized, as bitsandbytes does. */
import { modelTensors } from './files/model_tensors';
import { storedDType } from '../formats/dtypes';
import { readLimits, type ReadLimits } from '../formats/limits';
import { toPath } from '../formats/paths';
import type { LateTensor } from '../formats/safetensors';
import type { ModelTensors } from '../formats/sharded';
import { sourceFolder, sourceOptionNames, type SourceOptions } from '../hub/source';
import { binding } from '../native/calls';
import { runUntracked } from '../tensor/scope';
import { SlicedUpload } from '../tensor/slices';
import { check, checkOptions } from '../validate';
import { nest } from './quantized/double_quant';
import { modelConfigOf, openModelFiles } from './files/model_source';
import {
  quantizedModules,
  quantizePlan,
  type QuantizeOptions,
  type QuantizePlan,
  refuseTransposed,
} from './quantized/quantize_options';
import { planesOf, quantizationConfig, type Codes, type CodeSource } from './quantized/quantized_planes';
import { checkNotSource, checkUnused, writeModel } from './save';
import { embeddingPath } from './files/tensor_table';
import { checkNames, dtypeOf } from './core/weights';
import { codesOf } from './quantized/codes';

const op = 'quantizeModel';

/** The options of {@link quantizeModel}. */
export interface QuantizeModelOptions extends QuantizeOptions, SourceOptions {
  /** Bounds on what the files may ask for, where the defaults refuse a model that you trust. */
  limits?: ReadLimits | undefined;
}

/** Gives the codes of matrices of a directory: never of more than one at once. */
class Quantizer implements CodeSource {
  #last: Codes | undefined;
  #read = 0;

  constructor(
    private readonly stored: ModelTensors,
    private readonly plan: QuantizePlan,
    /** Bytes that are read in all. */
    private readonly total: number,
    private readonly options: SourceOptions,
  ) {}

  /** Says that so many bytes of the source are done. */
  advance(bytes: number): void {
    this.options.signal?.throwIfAborted();
    this.#read += bytes;
    this.options.onProgress?.({ type: 'weights', loaded: this.#read, total: this.total });
  }

  /** Says that all is done: where a matrix was kept from the one time to the next, it was read once. */
  finish(): void {
    if (this.#read < this.total) this.advance(this.total - this.#read);
    this.options.signal?.throwIfAborted();
  }

  /** Valid until the next call. */
  async codes(name: string, shape: readonly number[]): Promise<Codes> {
    if (this.#last?.name === name) return this.#last;
    this.dispose();
    this.options.signal?.throwIfAborted();
    const found = this.stored.get(name);
    const dtype = dtypeOf(this.stored, name);
    const upload = new SlicedUpload(dtype, dtype, shape, 'cpu');
    try {
      for await (const slice of found.slices()) {
        await upload.add(slice);
        this.options.signal?.throwIfAborted();
      }
      const { values, magnitudes } = await codesOf(op, name, upload.tensor, this.plan.format);
      const nested = this.plan.doubleQuant ? await nest(magnitudes) : undefined;
      this.#last = { name, values, magnitudes, nested };
    } finally {
      upload.tensor.dispose();
    }
    this.advance(found.byteLength);
    return this.#last;
  }

  dispose(): void {
    if (this.#last) binding().release(this.#last.values);
    this.#last = undefined;
  }
}

/**
 * Writes a model with its matrices quantized, in the layout of bitsandbytes, which transformers loads:
 *
 *     W ≈ table[code] · absmax of its block of 64 values     (nf4, fp4)
 *     W ≈ q · absmax of its row / 127                        (int8)
 *
 * `CausalLM.fromPretrained(out)` gives the bits of `fromPretrained(dir, { quantize })`. Other tensors, the tokenizer and what lies beside them are copied. Besides
 * one matrix and its codes nothing is held in memory; matrices are read twice. The event loop is not blocked, and `out` appears whole or not at all.
 * transformers does not read a quantized embedding (`embedding: true`).
 *
 * Dettmers, Pagnoni, Holtzman, Zettlemoyer, "QLoRA: Efficient Finetuning of Quantized LLMs" (2023).
 *
 * @param source a Hugging Face directory, a GGUF file of floats, or a name of the hub
 * @param out a new or empty directory
 * @throws ERR_ARGUMENT for options, a name in `skip` that no module has, and a model that is quantized already; ERR_FILE for weights that
 * are not finite, and an `out` that holds something; the reason of the signal
 * @example
 * await quantizeModel('model', 'model-nf4', { format: 'nf4', doubleQuant: true });
 * const model = await CausalLM.fromPretrained('model-nf4');
 */
export async function quantizeModel(
  source: string | URL,
  out: string | URL,
  options: QuantizeModelOptions,
): Promise<void> {
  checkOptions(op, options, ['format', 'skip', 'doubleQuant', 'embedding', 'limits', ...sourceOptionNames]);
  const { format, skip, doubleQuant, embedding, signal } = options;
  const plan = quantizePlan(op, { format, skip, doubleQuant, embedding }, '')!;
  const limits = readLimits(op, options.limits);
  const target = toPath(out, op);
  await checkUnused(op, target);
  const dir = await sourceFolder(source, op, 'model', options);
  await checkNotSource(target, dir, op);
  signal?.throwIfAborted();
  const files = await openModelFiles(op, dir, { limits, signal });
  const config = await modelConfigOf(files);
  const already = (): string => `${dir} is quantized already: expected a model of f32, bf16 or f16`;
  check(config.raw['quantization_config'] === undefined, op, already);
  refuseTransposed(op, config);
  const quantized = quantizedModules(op, config, plan, '');
  const stored = await modelTensors(files, config);
  try {
    const { shapes, quantized: kept } = await checkNames(stored, config, dir);
    check(kept.size === 0, op, already);
    const isQuantized = (name: string): boolean =>
      name.endsWith('.weight') && quantized.has(name.slice(0, -'.weight'.length));
    let total = 0;
    for (const name of shapes.keys()) {
      dtypeOf(stored, name);
      total += (isQuantized(name) ? 2 : 1) * stored.get(name).byteLength;
    }
    const quantizer = new Quantizer(stored, plan, total, options);
    try {
      const tensors = new Map<string, LateTensor>();
      for (const [name, shape] of shapes) {
        if (isQuantized(name)) {
          const matrix = shape as [number, number];
          const dtype = dtypeOf(stored, name);
          const planes = await runUntracked(() => planesOf(quantizer, name, matrix, plan, dtype));
          for (const [plane, tensor] of planes) tensors.set(plane, tensor);
        } else tensors.set(name, copyOf(name, stored, quantizer));
      }
      const dtype = dtypeOf(stored, `${embeddingPath(config)}.weight`);
      const json = { ...config.raw, quantization_config: quantizationConfig(config, plan, quantized, dtype) };
      const finish = async (): Promise<void> => {
        quantizer.finish();
        await stored.checkUnchanged();
        await files.checkUnchanged();
      };
      await runUntracked(() =>
        writeModel(target, { source: files.dir, limits, config, json, tensors, op, check: finish }),
      );
    } finally {
      quantizer.dispose();
    }
  } finally {
    await stored.close();
  }
}

/** A tensor as it stands in the source. */
function copyOf(name: string, stored: ModelTensors, quantizer: Quantizer): LateTensor {
  return {
    dtype: storedDType[dtypeOf(stored, name)],
    shape: stored.get(name).shape,
    async *parts() {
      for await (const slice of stored.get(name).slices()) {
        yield slice;
        quantizer.advance(slice.length);
      }
    },
  };
}
