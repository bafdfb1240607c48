/** Sliding windows of the attention. */
import { refuse, type ConfigJson } from './config_json';

/** `layer_types`, checked against the kinds of layers that a family has; undefined where config.json has none. */
export function layerTypes(
  config: ConfigJson,
  layers: number,
  known: readonly string[] = ['full_attention', 'sliding_attention'],
): readonly string[] | undefined {
  const kinds = config.get('layer_types');
  if (kinds === undefined) return undefined;
  if (!Array.isArray(kinds) || kinds.length !== layers)
    refuse(
      'ERR_FILE',
      `expected layer_types of config.json to list ${layers} layers but received ${JSON.stringify(kinds).slice(0, 120)}`,
    );
  const odd = (kinds as unknown[]).find((kind) => !(known as readonly unknown[]).includes(kind));
  if (odd !== undefined)
    refuse(
      'ERR_UNSUPPORTED',
      `config.json has ${JSON.stringify(odd)} in layer_types; supported are ${known.join(' and ')}`,
    );
  return kinds as string[];
}

/** No layer slides. */
export const fullAttention = (layers: number): number[] => new Array<number>(layers).fill(0);

/**
 * `sliding_window` in the layers that layer_types names, without that list in those that slide by themselves. An absent sliding_window is 4096, as in
 * transformers' config classes; null and 0 turn it off.
 */
export function slidingWindows(
  config: ConfigJson,
  layers: number,
  slides: (index: number) => boolean,
): number[] {
  const kinds = layerTypes(config, layers);
  const given = config.raw['sliding_window'];
  const window = given === undefined ? 4096 : given;
  if (window === null || window === 0) return fullAttention(layers);
  if (typeof window !== 'number' || !Number.isSafeInteger(window) || window < 0)
    refuse(
      'ERR_FILE',
      `expected sliding_window of config.json to be a positive integer or null but received ${JSON.stringify(window)}`,
    );
  const isSliding = (i: number): boolean => (kinds ? kinds[i] === 'sliding_attention' : slides(i));
  return fullAttention(layers).map((_, i) => (isSliding(i) ? window : 0));
}

/** Qwen keeps a sliding_window in its files that counts only when use_sliding_window says so. */
export function qwenWindows(config: ConfigJson, layers: number): number[] {
  if (config.get('use_sliding_window') === true) {
    const first = config.integer('max_window_layers', 28);
    return slidingWindows(config, layers, (i) => i >= first);
  }
  layerTypes(config, layers); // a wrong list is an error although no layer slides
  return fullAttention(layers);
}
