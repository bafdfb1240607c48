/** What a file holds of quantized matrices, and config.json of them, as bitsandbytes and transformers have it. */
import { torchNames } from '../../formats/dtypes';
import type { LateTensor } from '../../formats/safetensors';
import type { NativeTensor } from '../../native/binding';
import type { FloatDType } from '../../native/dtype';
import { blockValues } from '../../native/constants';
import { slicesOf } from '../../tensor/slices';
import type { ModelConfig } from '../config/model_config';
import { nestedBlock, nestedMap, type NestedMagnitudes } from './double_quant';
import type { QuantizePlan } from './quantize_options';
import { codePlanes, codeTables, rowPlanes, stateOfCodes, type Plane } from './stored_matrix';
import { embeddingPath, headPath, linearModules, packableModules, tokenTables } from '../files/tensor_table';

/** A matrix in its format. */
export interface Codes {
  readonly name: string;
  readonly values: NativeTensor;
  readonly magnitudes: Float32Array;
  readonly nested: NestedMagnitudes | undefined;
}

/** Gives the codes of matrices by name. */
export interface CodeSource {
  /** Valid until the next call. */
  codes(name: string, shape: readonly [number, number]): Promise<Codes>;
}

const bytesOf = (array: Float32Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** The tensors of a file that stand for one matrix. */
export async function planesOf(
  source: CodeSource,
  name: string,
  shape: readonly [number, number],
  { format, doubleQuant }: QuantizePlan,
  /** The dtype of the matrix that was quantized. */
  stored: FloatDType,
): Promise<[string, LateTensor][]> {
  type Bytes = (codes: Codes) => Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
  const late = (plane: Plane, bytes: Bytes): [string, LateTensor] => [
    plane.name,
    {
      ...plane,
      async *parts() {
        yield* bytes(await source.codes(name, shape));
      },
    },
  ];
  const fixed = (plane: Plane, bytes: Uint8Array): [string, LateTensor] => [
    plane.name,
    {
      ...plane,
      async *parts() {
        yield await Promise.resolve(bytes);
      },
    },
  ];
  if (format === 'int8') {
    const planes = rowPlanes(name, shape);
    return [
      late(planes.values, ({ values }) => slicesOf(values, shape[0] * shape[1], 1)),
      late(planes.magnitudes, ({ magnitudes }) => [bytesOf(magnitudes)]),
      fixed(planes.layout, Uint8Array.of(0)),
    ];
  }
  // The description holds the mean of the magnitudes, whose digits decide where the other tensors of the file begin: it is needed first.
  const nested = doubleQuant ? (await source.codes(name, shape)).nested! : undefined;
  const state = stateOfCodes(format, stored, shape, nested?.offset);
  const planes = codePlanes(name, shape, {
    format,
    blocksize: blockValues,
    nestedBlocksize: nested && nestedBlock,
    stateBytes: state.length,
  });
  return [
    late(planes.values, ({ values }) => slicesOf(values, planes.values.shape[0]!, 1)),
    late(planes.magnitudes, (codes) => [codes.nested?.codes ?? bytesOf(codes.magnitudes)]),
    fixed(planes.map, bytesOf(codeTables[format])),
    fixed(planes.state, state),
    ...(nested
      ? [
          fixed(planes.nestedMagnitudes!, bytesOf(nested.magnitudes)),
          fixed(planes.nestedMap!, bytesOf(nestedMap)),
        ]
      : []),
  ];
}

/** `quantization_config` of config.json, with the fields that transformers writes. */
export function quantizationConfig(
  config: ModelConfig,
  { format, doubleQuant }: QuantizePlan,
  quantized: ReadonlySet<string>,
  dtype: FloatDType,
): Record<string, unknown> {
  const eight = format === 'int8';
  const head = headPath(config);
  const weightOf = (path: string): string =>
    path === head && config.tieWordEmbeddings ? embeddingPath(config) : path;
  const tables = tokenTables(config);
  const modules = new Set([
    ...linearModules(config).map(({ path }) => path),
    ...packableModules(config).filter((path) => !tables.has(path)), // experts too
  ]);
  return {
    _load_in_4bit: !eight,
    _load_in_8bit: eight,
    bnb_4bit_compute_dtype: torchNames[dtype],
    bnb_4bit_quant_storage: 'uint8',
    bnb_4bit_quant_type: eight ? 'fp4' : format, // the default, as transformers writes it with int8
    bnb_4bit_use_double_quant: doubleQuant,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: [...modules].filter((path) => !quantized.has(weightOf(path))),
    llm_int8_threshold: 6,
    load_in_4bit: !eight,
    load_in_8bit: eight,
    quant_method: 'bitsandbytes',
  };
}
