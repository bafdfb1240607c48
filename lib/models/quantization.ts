/** Which quantised weights are read: int8 rows, as compressed-tensors writes them (`int-quantized`, one scale per output channel). */

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** What int8 rows look like in a group of quantization_config; null and absent values are as good. */
const int8Rows: Readonly<Record<string, unknown>> = {
  num_bits: 8,
  type: 'int',
  strategy: 'channel',
  symmetric: true,
};

/** Why the weights that `quantization_config` of config.json describes are not read; undefined: they are. */
export function refusedQuantization(value: unknown): string | undefined {
  const supported = 'supported is quant_method "compressed-tensors" with int8 weights by output channel';
  if (!isRecord(value) || value['quant_method'] !== 'compressed-tensors') return supported;
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
