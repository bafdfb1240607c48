/** Rotary position embeddings: the settings of config.json, and the frequencies of the variants that transformers knows. */
import { loraError } from '../../errors';

/** How the frequencies of the rotation are stretched for long contexts, in the words of config.json; 'none': nothing is rotated. */
export type RopeScaling =
  | { type: 'none' }
  | { type: 'default' }
  | { type: 'linear'; factor: number }
  | {
      type: 'proportional';
      /** The part of a head's frequencies that are there, the fastest ones; the others are 0. */
      part: number;
      factor: number;
    }
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
    }
  | {
      type: 'longrope';
      /** What divides the frequencies in texts of up to `originalLength` positions. */
      shortFactors: readonly number[];
      /** And in longer ones. */
      longFactors: readonly number[];
      /** Factor on cos and sin. */
      attentionFactor: number;
      originalLength: number;
    };

/** Rotary position embedding (Su et al., 2021): angle(t, i) = t · theta^(−2i/width). */
export interface RopeConfig {
  /** The base of the frequencies. */
  theta: number;
  /** What stretches them. */
  scaling: RopeScaling;
  /** How many numbers of a head are rotated, from the first on; absent: all. */
  width?: number;
  /** What multiplies rotated queries; absent: nothing. */
  queryScale?: QueryScale;
}

/** A factor on queries by their position p: 1 + beta·ln(1 + ⌊p / length⌋). */
export interface QueryScale {
  readonly beta: number;
  readonly length: number;
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
export function positive(rope: Json, key: string, fallback?: number): number {
  const value = rope[key] ?? fallback;
  if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0)
    throw loraError(
      'from_pretrained',
      'ERR_FILE',
      `expected a positive number for ${key} of the rope settings in config.json but received ${JSON.stringify(rope[key])}`,
    );
  return value;
}

/** What yarn multiplies cos and sin by. */
export const yarnMagnitude = (factor: number, mscale: number): number =>
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
  proportional: ['factor', 'original_max_position_embeddings'],
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
  longrope: ['factor', 'attention_factor', 'short_factor', 'long_factor', 'original_max_position_embeddings'],
};

const variants = Object.keys(knownKeys) as Variant[];

/** 256 times that of Phi-4-mini. */
const maxOriginalLength = 2 ** 20;

/** The factor on cos and sin of a context that is so many times the original length. */
export const longropeMagnitude = (factor: number, originalLength: number): number =>
  factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalLength));

/** LongRoPE (Ding et al., 2024). `count`: the frequencies. */
function longrope(config: Json, rope: Json, maxPositions: number, count: number): RopeScaling {
  const factors = (key: string): readonly number[] => {
    const value: unknown = rope[key];
    if (
      Array.isArray(value) &&
      value.length === count &&
      value.every((one) => Number.isFinite(one) && one > 0)
    )
      return value as number[];
    throw loraError(
      'from_pretrained',
      'ERR_FILE',
      `expected ${key} of the rope settings in config.json to list ${count} positive numbers but received ${JSON.stringify(value)?.slice(0, 120)}`,
    );
  };
  const name = 'original_max_position_embeddings';
  const originalLength = positive({ [name]: config[name] ?? rope[name] }, name, maxPositions);
  // A table of as many rows is made.
  if (!Number.isInteger(originalLength) || originalLength > maxOriginalLength)
    throw loraError(
      'from_pretrained',
      'ERR_FILE',
      `expected ${name} of config.json to be a whole number of at most ${maxOriginalLength} but received ${originalLength}`,
    );
  const factor = positive(rope, 'factor', maxPositions / originalLength);
  return {
    type: 'longrope',
    shortFactors: factors('short_factor'),
    longFactors: factors('long_factor'),
    attentionFactor: positive(rope, 'attention_factor', longropeMagnitude(factor, originalLength)),
    originalLength,
  };
}

/** How many of the `headDim` numbers of a head are rotated; undefined where all are. */
function rotatedWidth(config: Json, key: string, headDim: number | undefined): number | undefined {
  const name = 'partial_rotary_factor';
  const own = isObject(config[key]) ? (config[key][name] ?? undefined) : undefined;
  const part = own ?? config[name] ?? 1;
  if (part === 1) return undefined;
  const shown = `config.json has ${own === undefined ? '' : `${key}.`}${name} = ${JSON.stringify(part)}`;
  if (headDim === undefined) unsupported(`${shown}; supported is 1`);
  const width = typeof part === 'number' ? Math.floor(headDim * part) : 0;
  if (width < 2 || width > headDim || width % 2 !== 0)
    unsupported(`${shown}; supported is what gives an even number of rotated numbers, at most ${headDim}`);
  return width;
}

/**
 * Reads `rope_theta` + `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
 * @param headDim the width of heads of which a part may be rotated; absent: partial_rotary_factor is refused
 * @throws ERR_UNSUPPORTED for a variant that is not implemented, naming key and value.
 */
export function parseRope(config: Json, maxPositions: number, headDim?: number): RopeConfig {
  const key = isObject(config['rope_parameters']) ? 'rope_parameters' : 'rope_scaling';
  const rope = isObject(config[key]) ? config[key] : {};
  for (const [name, value] of Object.entries(rope))
    if (isObject(value))
      unsupported(
        `config.json has rope settings per layer type (${key}.${name}), which are not supported; supported is one rope for all layers`,
      );
  const theta = positive({ rope_theta: rope['rope_theta'] ?? config['rope_theta'] }, 'rope_theta', 10000);
  const named = rope['rope_type'] ?? rope['type'] ?? 'default';
  const type = variants.find((one) => one === (named === 'su' ? 'longrope' : named)); // 'su': its first name
  if (!type)
    unsupported(
      `config.json has ${key}.rope_type = ${JSON.stringify(named)}; supported are ${variants.join(', ')}`,
    );
  const known = [...knownKeys[type], 'rope_type', 'type', 'rope_theta', 'partial_rotary_factor'];
  for (const [name, value] of Object.entries(rope))
    if (value !== null && !known.includes(name))
      unsupported(
        `config.json has ${key}.${name} = ${JSON.stringify(value)}, which ${type} rope does not know; supported are ${knownKeys[type].join(', ')}`,
      );

  // A proportional rope has frequencies of the whole head.
  const width = type === 'proportional' ? undefined : rotatedWidth(config, key, headDim);
  const made = (scaling: RopeScaling): RopeConfig => ({
    theta,
    scaling,
    ...(width !== undefined && { width }),
  });
  const originalLength = (): number => positive(rope, 'original_max_position_embeddings', maxPositions);
  switch (type) {
    case 'default':
      return made({ type });
    case 'linear':
      return made({ type, factor: positive(rope, 'factor') });
    case 'proportional': {
      const part = positive(rope, 'partial_rotary_factor', 1);
      if (part > 1)
        unsupported(`config.json has ${key}.partial_rotary_factor = ${part}; supported are parts up to 1`);
      return made({ type, part, factor: positive(rope, 'factor', 1) });
    }
    case 'llama3':
      return made({
        type,
        factor: positive(rope, 'factor'),
        lowFreqFactor: positive(rope, 'low_freq_factor'),
        highFreqFactor: positive(rope, 'high_freq_factor'),
        originalLength: originalLength(),
      });
    case 'yarn': {
      const factor = positive(rope, 'factor', maxPositions / originalLength());
      return made({
        type,
        factor,
        attentionFactor: yarnAttentionFactor(rope, factor),
        betaFast: positive(rope, 'beta_fast', 32),
        betaSlow: positive(rope, 'beta_slow', 1),
        originalLength: originalLength(),
        truncate: rope['truncate'] !== false,
      });
    }
    case 'longrope': {
      const heads =
        headDim ??
        unsupported(`config.json has ${key}.rope_type = "longrope", which models of this family do not have`);
      return made(longrope(config, rope, maxPositions, (width ?? heads) / 2));
    }
  }
}

/** The rope that `rope_parameters` has for layers of a type; undefined where it has one for all. */
export function ropeOfType(config: Json, maxPositions: number, type: string): RopeConfig | undefined {
  const settings = isObject(config['rope_parameters']) ? config['rope_parameters'][type] : undefined;
  return isObject(settings) ? parseRope({ ...config, rope_parameters: settings }, maxPositions) : undefined;
}

/**
 * Inverse frequencies [d / 2] of the d rotated numbers of a head: θ^(−2i/d), then rescaled as the variant says.
 * @param long whether by longrope's factors for long texts
 */
export function inverseFrequencies(
  { theta, scaling, width }: RopeConfig,
  headDim: number,
  long = false,
): Float64Array {
  const dim = width ?? headDim;
  const inv = Float64Array.from({ length: dim / 2 }, (_, i) => theta ** (-(2 * i) / dim));
  switch (scaling.type) {
    case 'none':
      return inv.fill(0);
    case 'default':
      return inv;
    case 'linear':
      return inv.map((f) => f / scaling.factor);
    case 'proportional': {
      const rotated = Math.floor((scaling.part * dim) / 2);
      return inv.map((f, i) => (i < rotated ? f / scaling.factor : 0));
    }
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
        (dim * Math.log(scaling.originalLength / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
      let low = dimension(scaling.betaFast);
      let high = dimension(scaling.betaSlow);
      if (scaling.truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
      low = Math.max(low, 0);
      high = Math.min(high, dim - 1);
      if (low === high) high += 0.001; // as transformers does, against a division by zero
      return inv.map((f, i) => {
        const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
        return (f / scaling.factor) * ramp + f * (1 - ramp);
      });
    }
    case 'longrope': {
      const factors = long ? scaling.longFactors : scaling.shortFactors;
      return inv.map((f, i) => f / factors[i]!);
    }
  }
}

/**
 * The row of a table of angles where those of a text begin that has so many positions at most: longrope's table has the rows of short texts
 * first, and those of long ones below.
 */
export const tableStart = ({ scaling }: RopeConfig, positions: number): number =>
  scaling.type === 'longrope' && positions > scaling.originalLength ? scaling.originalLength : 0;
