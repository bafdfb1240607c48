/** Which modules an adapter changes, by PEFT's rules. */
import { LoRAError } from '../errors';
import type { DeltaKindName } from '../linear/kinds';
import type { LoRAConfig } from './config';
import { isAllLinear } from './config_values';
import { scoreModules } from './head';
import { Deadline, fullMatch, matchAround, type PathPattern } from './python_regex';
import { endsOf, lastPart, type ModulePath } from './roles';

/** What chooses the modules of an adapter, whatever it does to them. */
export type TargetRules = Pick<
  LoRAConfig,
  'targetModules' | 'excludeModules' | 'layersToTransform' | 'layersPattern' | 'modulesToSave'
> &
  Partial<Pick<LoRAConfig, 'targetParameters'>>;

export interface Target {
  /** 'whole' for modulesToSave. */
  readonly kind: DeltaKindName;
  readonly r: number;
  /** alpha / r, or alpha / √r with useRslora. */
  readonly scale: number;
}

type Matches = (path: string) => boolean;

function matcher(names: readonly string[] | string, deadline: Deadline): Matches {
  if (typeof names === 'string') {
    const pattern = deadline.spend(() => fullMatch(names));
    return (path) => deadline.spend(() => pattern.test(path));
  }
  const set = new Set(names); // lists may be as long as a file
  return (path) => {
    for (const end of endsOf(path)) if (set.has(end)) return true;
    return false;
  };
}

/** Which of some names are those of no module. */
function strangersAmong(names: readonly string[], modules: readonly ModulePath[]): string[] {
  const ends = new Set(modules.flatMap(({ path }) => [...endsOf(path)]));
  return names.filter((name) => !ends.has(name));
}

/** Whether a layer is one of layersToTransform; the index follows a list's name in the path. */
function layerFilter({ layersToTransform, layersPattern }: TargetRules, deadline: Deadline): Matches {
  if (layersToTransform === null) return () => true;
  const layers = new Set(layersToTransform);
  const patterns: readonly PathPattern[] =
    layersPattern === null
      ? [/^.*?\.[^.]*\.(\d+)\./]
      : layersPattern.map((list) => {
          return deadline.spend(() => matchAround('.*\\.', list, '\\.(\\d+)\\.'));
        });
  return (path) => {
    for (const pattern of patterns) {
      const found = deadline.spend(() => pattern.exec(path));
      if (found) return layers.has(Number(found[1]));
    }
    return false;
  };
}

/** The value of the first pattern that matches the end of a path. */
function patternValue(
  patterns: Readonly<Record<string, number>>,
  fallback: number,
  deadline: Deadline,
): (path: string) => number {
  const compiled = Object.entries(patterns).map(([key, value]) => {
    return { pattern: deadline.spend(() => matchAround('(.*\\.)?(', key, ')$')), value };
  });
  return (path) => {
    const found = compiled.find(({ pattern }) => {
      return deadline.spend(() => pattern.test(path));
    });
    return found?.value ?? fallback;
  };
}

/**
 * The modules that a configuration targets, in the order of `modules`, each with its rank and scale: those of modulesToSave, which are trained
 * whole; then excludeModules; then 'all-linear', a regular expression for the whole path, or names; layersToTransform applies to names
 * that match the end of a path, not to whole paths.
 *
 * Errors: ERR_ADAPTER when no module is left, with the names that there are.
 *
 * @example
 * resolveTargets(normalizeLoRAConfig({ targetModules: ['q_proj'] }), [{ path: 'a.0.q_proj', role: 'query' }])
 * // Map { 'a.0.q_proj' → { kind: 'lora', r: 16, scale: 2 } }
 */
export function resolveTargets(config: LoRAConfig, modules: readonly ModulePath[]): Map<string, Target> {
  return within((deadline) => {
    const chosen = chooseWithin(deadline, config, modules);
    const rankOf = patternValue(config.rankPattern, config.r, deadline);
    const alphaOf = patternValue(config.alphaPattern, config.loraAlpha, deadline);
    const resolved = new Map<string, Target>();
    for (const [path, choice] of chosen) {
      const r = rankOf(path);
      const scale = alphaOf(path) / (config.useRslora ? Math.sqrt(r) : r);
      const kind = config.useDora ? 'dora' : 'lora';
      resolved.set(path, choice === 'whole' ? { kind: 'whole', r: 0, scale: 1 } : { kind, r, scale });
    }
    return resolved;
  });
}

/**
 * The modules that rules name, in the order of `modules`: those that are adapted, and those that are trained whole.
 *
 * Errors: those of {@link resolveTargets}.
 */
export function chooseModules(
  rules: TargetRules,
  modules: readonly ModulePath[],
): Map<string, 'adapted' | 'whole'> {
  return within((deadline) => chooseWithin(deadline, rules, modules));
}

/** Tells of a path whether it is one of some modules, named as targets are. */
export function moduleMatcher(names: readonly string[] | string): Matches {
  const matches = within((deadline) => matcher(names, deadline));
  return (path) => within(() => matches(path));
}

/** The names of the modules that are adapted, of the paths of all that an adapter changes: those that it trains whole are in another list. */
export function namesOfAdapted(
  { modulesToSave }: Pick<TargetRules, 'modulesToSave'>,
  changed: readonly string[],
): string[] {
  const whole = modulesToSave === null ? () => false : moduleMatcher(modulesToSave);
  return [...new Set(changed.filter((path) => !whole(path)).map(lastPart))].sort();
}

function within<T>(work: (deadline: Deadline) => T): T {
  try {
    return work(new Deadline());
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new LoRAError(
      'ERR_ADAPTER',
      `the configuration of the adapter cannot be applied: ${error.message}`,
    );
  }
}

/** The layers that 'all-linear' leaves out. */
const notLinear = ['outputEmbedding', 'router', 'score'] as const;

function chooseWithin(
  deadline: Deadline,
  rules: TargetRules,
  modules: readonly ModulePath[],
): Map<string, 'adapted' | 'whole'> {
  const { targetModules: targets, excludeModules, modulesToSave, targetParameters } = rules;
  const excluded = excludeModules === null ? () => false : matcher(excludeModules, deadline);
  const inLayers = layerFilter(rules, deadline);
  const named = isAllLinear(targets) ? () => true : matcher(targets, deadline);

  const saved = modulesToSave === null ? () => false : matcher(modulesToSave, deadline);
  const scored = modules.some(({ role }) => role === 'score');
  const strangers = strangersAmong(modulesToSave ?? [], modules).filter(
    (name) => !(scored && scoreModules.includes(name)),
  );
  if (strangers.length > 0)
    throw new LoRAError(
      'ERR_UNSUPPORTED',
      `modulesToSave ${JSON.stringify(strangers)} name no linear module of the model, and other modules are not trained here`,
    );

  const chosen = new Map<string, 'adapted' | 'whole'>();
  let adapted = 0;
  const whole = new Set(Array.isArray(targets) ? (targets as readonly string[]) : []);
  for (const { path, role } of modules) {
    if (saved(path)) {
      chosen.set(path, 'whole');
      continue;
    }
    if (excluded(path) || !named(path) || (isAllLinear(targets) && notLinear.some((other) => other === role)))
      continue;
    if (!whole.has(path) && !inLayers(path)) continue;
    adapted++;
    chosen.set(path, 'adapted');
  }
  if (adapted === 0 && !targetParameters)
    throw nothingMatches(
      rules,
      modules,
      modules.some(({ path }) => named(path)),
    );
  return chosen;
}

/**
 * Entries of a list of targets that match no module. PEFT ignores them as long as another entry matches, and
 * adapters made for several architectures have such entries; in a configuration typed by hand they are mistakes.
 */
export function unmatchedTargets(
  { targetModules: targets }: Pick<LoRAConfig, 'targetModules'>,
  modules: readonly ModulePath[],
): string[] {
  return typeof targets === 'string' ? [] : strangersAmong(targets, modules);
}

function nothingMatches(config: TargetRules, modules: readonly ModulePath[], matched: boolean): LoRAError {
  const targets = JSON.stringify(config.targetModules);
  if (matched) {
    const filters = [
      config.excludeModules === null ? '' : `excludeModules ${JSON.stringify(config.excludeModules)}`,
      config.layersToTransform === null
        ? ''
        : `layersToTransform ${JSON.stringify(config.layersToTransform)}`,
      config.layersPattern === null ? '' : `layersPattern ${JSON.stringify(config.layersPattern)}`,
    ].filter((text) => text !== '');
    const why =
      filters.length > 0
        ? filters.join(', ')
        : 'the rule that all-linear leaves out the output embedding, a head of classes and routers';
    return new LoRAError(
      'ERR_ADAPTER',
      `targetModules ${targets} match modules of the model, but ${why} leave none`,
    );
  }
  const ends = [...new Set(modules.map(({ path }) => path.slice(path.lastIndexOf('.') + 1)))];
  const example = modules[0] === undefined ? '' : `, as in ${modules[0].path}`;
  return new LoRAError(
    'ERR_ADAPTER',
    `targetModules ${targets} match no linear module of the model; their names end in ${ends.join(', ')}${example}`,
  );
}
