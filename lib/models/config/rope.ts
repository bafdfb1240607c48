/** Rotary position embeddings: the settings of config.json, and the frequencies of the variants that transformers knows. */
import { loraError } from '../../errors';

/** How the frequencies of the rotation are stretched for long contexts, in the words of config.json; 'none': nothing is rotated. */
export type RopeScaling =
  | { type: 'none' }
  | { type: 'default' }
  | { type: 'linear'; factor: number }
  | { type: 'llama3'; factor: number; lowFreqFactor: number; highFreqFactor: number; originalLength: number }
  | {
      type: 'yarn';
      factor: number;
      /** Factor on cos and sin. */
      attentionFactor: number;
      betaFast: number;
      betaSlow: number;
      originalLength: number;
      truncate: boolean;
    };

/** Rotary position embedding (Su et al., 2021): angle(t, i) = t · theta^(−2i/headDim). */
export interface RopeConfig {
  /** The base of the frequencies. */
  theta: number;
  /** What stretches them. */
  scaling: RopeScaling;
}

/** The rope of a layer that rotates nothing. */
export const noRope: RopeConfig = { theta: 1, scaling: { type: 'none' } };

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function unsupported(message: string): never {
  throw loraError('from_pretrained', 'ERR_UNSUPPORTED', message);
}

/** A positive number of the rope settings, or its default; anything else is an error that names the key. */
function positive(rope: Json, key: string, fallback?: number): number {
  const value = rope[key] ?? fallback;
  if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0)
    throw loraError(
      'from_pretrained',
      'ERR_FILE',
      `expected a positive number for ${key} of the rope settings in config.json but received ${JSON.stringify(rope[key])}`,
    );
  return value;
}

const yarnMagnitude = (factor: number, mscale: number): number =>
  factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;

/** 0.1·ln(factor) + 1 (Peng et al. 2023, YaRN), or what the keys attention_factor, mscale, mscale_all_dim say. */
function yarnAttentionFactor(rope: Json, factor: number): number {
  if (typeof rope['attention_factor'] === 'number') return rope['attention_factor'];
  const mscale = rope['mscale'];
  const all = rope['mscale_all_dim'];
  // A zero counts as absent, as in transformers.
  if (typeof mscale === 'number' && typeof all === 'number' && mscale !== 0 && all !== 0)
    return yarnMagnitude(factor, mscale) / yarnMagnitude(factor, all);
  return yarnMagnitude(factor, 1);
}

/** The variants that config.json names. */
type Variant = Exclude<RopeScaling['type'], 'none'>;

const knownKeys: Record<Variant, readonly string[]> = {
  default: ['factor', 'original_max_position_embeddings'],
  linear: ['factor', 'original_max_position_embeddings'],
  llama3: ['factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings'],
  yarn: [
    'factor',
    'attention_factor',
    'mscale',
    'mscale_all_dim',
    'beta_fast',
    'beta_slow',
    'original_max_position_embeddings',
    'truncate',
  ],
};

/**
 * Reads `rope_theta` + `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
 * @throws ERR_UNSUPPORTED for a variant that is not implemented, naming key and value.
 */
export function parseRope(config: Json, maxPositions: number): RopeConfig {
  const key = isObject(config['rope_parameters']) ? 'rope_parameters' : 'rope_scaling';
  const rope = isObject(config[key]) ? config[key] : {};
  for (const [name, value] of Object.entries(rope))
    if (isObject(value))
      unsupported(
        `config.json has rope settings per layer type (${key}.${name}), which are not supported; supported is one rope for all layers`,
      );
  const partial = rope['partial_rotary_factor'];
  if (partial !== undefined && partial !== null && partial !== 1)
    unsupported(`config.json has ${key}.partial_rotary_factor = ${JSON.stringify(partial)}; supported is 1`);

  const theta = positive({ rope_theta: rope['rope_theta'] ?? config['rope_theta'] }, 'rope_theta', 10000);
  const type = rope['rope_type'] ?? rope['type'] ?? 'default';
  if (type !== 'default' && type !== 'linear' && type !== 'llama3' && type !== 'yarn')
    unsupported(
      `config.json has ${key}.rope_type = ${JSON.stringify(type)}; supported are default, linear, llama3 and yarn`,
    );
  const known = [...knownKeys[type], 'rope_type', 'type', 'rope_theta', 'partial_rotary_factor'];
  for (const [name, value] of Object.entries(rope))
    if (value !== null && !known.includes(name))
      unsupported(
        `config.json has ${key}.${name} = ${JSON.stringify(value)}, which ${type} rope does not know; supported are ${knownKeys[type].join(', ')}`,
      );

  const originalLength = (): number => positive(rope, 'original_max_position_embeddings', maxPositions);
  switch (type) {
    case 'default':
      return { theta, scaling: { type } };
    case 'linear':
      return { theta, scaling: { type, factor: positive(rope, 'factor') } };
    case 'llama3':
      return {
        theta,
        scaling: {
          type,
          factor: positive(rope, 'factor'),
          lowFreqFactor: positive(rope, 'low_freq_factor'),
          highFreqFactor: positive(rope, 'high_freq_factor'),
          originalLength: originalLength(),
        },
      };
    case 'yarn': {
      const factor = positive(rope, 'factor', maxPositions / originalLength());
      return {
        theta,
        scaling: {
          type,
          factor,
          attentionFactor: yarnAttentionFactor(rope, factor),
          betaFast: positive(rope, 'beta_fast', 32),
          betaSlow: positive(rope, 'beta_slow', 1),
          originalLength: originalLength(),
          truncate: rope['truncate'] !== false,
        },
      };
    }
  }
}

/** Inverse frequencies [headDim / 2] of a variant: θ^(−2i/d), then rescaled as the variant says. */
export function inverseFrequencies({ theta, scaling }: RopeConfig, headDim: number): Float64Array {
  const half = headDim / 2;
  const inv = Float64Array.from({ length: half }, (_, i) => theta ** (-(2 * i) / headDim));
  switch (scaling.type) {
    case 'none':
      return inv.fill(0);
    case 'default':
      return inv;
    case 'linear':
      return inv.map((f) => f / scaling.factor);
    case 'llama3': {
      // Short wavelengths stay, long ones are stretched, those between are blended.
      const { factor, lowFreqFactor: low, highFreqFactor: high, originalLength } = scaling;
      return inv.map((f) => {
        const wavelength = (2 * Math.PI) / f;
        if (wavelength < originalLength / high) return f;
        if (wavelength > originalLength / low) return f / factor;
        const smooth = (originalLength / wavelength - low) / (high - low);
        return ((1 - smooth) * f) / factor + smooth * f;
      });
    }
    case 'yarn': {
      // The dimension that turns `rotations` times over the original length.
      const dimension = (rotations: number): number =>
        (headDim * Math.log(scaling.originalLength / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
      let low = dimension(scaling.betaFast);
      let high = dimension(scaling.betaSlow);
      if (scaling.truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
      low = Math.max(low, 0);
      high = Math.min(high, headDim - 1);
      if (low === high) high += 0.001; // as transformers does, against a division by zero
      return inv.map((f, i) => {
        const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
        return (f / scaling.factor) * ramp + f * (1 - ramp);
      });
    }
  }
}
