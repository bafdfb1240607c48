/**
 * Which quantized weights are read: int8 rows, as compressed-tensors writes them (`int-quantized`, one scale per output channel), and what
 * bitsandbytes writes: NF4, FP4 and int8 rows. stored_matrix.ts has their tensors. And the experts of gpt-oss in MXFP4 (files/expert_stacks.ts).
 */

import { isRecord } from '../../validate';

/** What int8 rows look like in a group of quantization_config; null and absent values are as good. */
const int8Rows: Readonly<Record<string, unknown>> = {
  num_bits: 8,
  type: 'int',
  strategy: 'channel',
  symmetric: true,
};

/** Why the weights that `quantization_config` of config.json describes are not read; undefined: they are. */
export function refusedQuantization(value: unknown): string | undefined {
  const supported =
    'supported are quant_method "compressed-tensors" with int8 weights by output channel, "bitsandbytes" with nf4, fp4 or int8, and "mxfp4"';
  if (!isRecord(value)) return supported;
  if (value['quant_method'] === 'mxfp4') return undefined; // only experts may be: the names of the tensors say which
  if (value['quant_method'] === 'bitsandbytes') return refusedBitsandbytes(value);
  if (value['quant_method'] !== 'compressed-tensors') return supported;
  const groups = value['config_groups'];
  if (!isRecord(groups)) return `it has no config_groups; ${supported}`;
  for (const [name, group] of Object.entries(groups)) {
    const weights = isRecord(group) ? group['weights'] : undefined;
    if (!isRecord(weights)) return `${name} has no weights; ${supported}`;
    for (const [key, wanted] of Object.entries(int8Rows))
      if ((weights[key] ?? wanted) !== wanted)
        return `weights of ${name} have ${key} = ${JSON.stringify(weights[key])}; ${supported}`;
    // Activations that are rounded too would give other numbers than these weights with whole activations.
    for (const key of ['input_activations', 'output_activations'])
      if (isRecord(group) && (group[key] ?? null) !== null)
        return `${name} rounds its activations (${key}); ${supported}, and activations that stay whole`;
  }
  return undefined;
}

/** The tensors say the format of each matrix; this says only which methods of bitsandbytes they are of. */
function refusedBitsandbytes(value: Readonly<Record<string, unknown>>): string | undefined {
  const of = (key: string): unknown => value[key] ?? value[`_${key}`] ?? false;
  if (of('load_in_8bit') === true) return undefined;
  if (of('load_in_4bit') !== true) return 'it has neither load_in_4bit nor load_in_8bit';
  const type = value['bnb_4bit_quant_type'] ?? 'fp4';
  if (type !== 'nf4' && type !== 'fp4')
    return `bnb_4bit_quant_type is ${JSON.stringify(type)}; supported are "nf4" and "fp4"`;
  const storage = value['bnb_4bit_quant_storage'] ?? 'uint8';
  return storage === 'uint8'
    ? undefined
    : `bnb_4bit_quant_storage is ${JSON.stringify(storage)}; supported is "uint8"`;
}
