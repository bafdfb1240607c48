/** What a method of adapting a model is: a file beside this one that gives an AdapterMethod, and a line in methods.ts. */
import { loraError } from '../errors';
import { nameInTextModel } from '../formats/text_model_names';
import type { DeltaInit, DeltaKind, DeltaSpec } from '../linear/delta';
import { parameterNames, type ExpertModule } from '../linear/expert_module';
import type { Linear } from '../linear/linear';
import type { Tensor } from '../tensor/tensor';
import type { LoRAConfigInput } from './config';
import type { ConfigFile, StoredConfig } from './config_values';
import { unmatchedTargets } from './matching';
import { lastPart, type ModulePath } from './roles';

/** The change of one layer that an adapter is made of. */
export interface PlannedDelta {
  readonly linear: Linear | ExpertModule;
  readonly kind: DeltaKind;
  readonly spec: DeltaSpec;
  readonly initWeights: DeltaInit['initWeights'];
  /** What stands before the names of its tensors in adapter_model.safetensors. */
  readonly prefix: string;
}

/** What a configuration may depend on. */
export interface ModelShape {
  readonly linears: readonly ModulePath[];
  /** The width of the sums that all blocks add to. */
  readonly hiddenSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly vocabSize: number;
  /** Whether blocks read the ids of their tokens, so that no vector without an id may stand among them; absent: they do not. */
  readonly readsIds?: boolean | undefined;
  /** Positions that it reads. */
  readonly maxPositionEmbeddings: number;
}

/** The frozen model that is adapted. */
export interface AdaptedBase extends ModelShape {
  readonly linears: readonly Linear[];
  /** The matrices of experts, where it has some. */
  readonly experts: readonly ExpertModule[];
  /** The ids of a text, with the special tokens that the tokenizer adds. @throws ERR_UNSUPPORTED without a tokenizer. */
  encode(text: string): number[];
  /** What the ids are embedded as: [ids, hidden] in f32. */
  embed(ids: readonly number[]): Tensor;
}

/** Trained vectors before the tokens of every text. */
export interface PlannedVectors {
  /** The key of their tensor in adapter_model.safetensors. */
  readonly key: string;
  readonly shape: readonly [count: number, hidden: number];
  /** Their first values, in f32. */
  initial(init: Pick<DeltaInit, 'seed' | 'device'>): Tensor;
}

/** A name and a value for reports. */
type Fact = readonly [name: string, value: string];

/** A method, with configurations of its own. */
export interface AdapterMethod<Config extends object> {
  /** What people call it. */
  readonly title: string;
  /** Whether PEFT reads its files. */
  readonly loadedByPeft: boolean;
  readonly file: ConfigFile<Config>;
  /** The configuration that a program means, for a model of this shape. @throws ERR_ARGUMENT for an unknown option and a bad value. */
  normalize(input: object, model: ModelShape): Config;
  /** The configuration of a file for a model of these layers, where a file may leave them to the architecture. */
  complete?(config: StoredConfig<Config>, linears: readonly ModulePath[]): Config;
  /**
   * What changes in which layers. `typed`: the configuration was typed by hand, so that a name which matches nothing is a mistake; PEFT
   * leaves such names in files.
   * @throws ERR_ADAPTER when it changes nothing, ERR_UNSUPPORTED for a layer that it cannot change.
   */
  plan(config: Config, base: Pick<AdaptedBase, 'linears' | 'experts'>, typed: boolean): PlannedDelta[];
  /** What it puts before the tokens, where it does. @throws ERR_ADAPTER for a configuration of another model. */
  vectors?(config: Config, base: AdaptedBase): PlannedVectors;
  /** What is written for the configuration of an adapter that changes these layers. `base`: the name of the model, or where it lies. */
  written(config: Config, changed: readonly string[], base: string): Config;
  /** The probability of its dropout. */
  dropout(config: Config): number;
  /** The key of today for that of a file, where some writers used another one. */
  canonicalKey?(key: string): string;
  /** Why its change cannot be part of the weights, where it cannot. */
  readonly mergingObstacle?: string;
  /** Why no factor makes its change a part of itself, where none does. */
  readonly scalingObstacle?: string;
  /** What its size is called, for short descriptions: { r: 16 }. */
  size(config: Config): Record<string, number | string>;
  /** A LoRA that takes about as much memory in a model of these layers, for estimates. */
  sizeAsLora(config: Config, linears: readonly ModulePath[]): LoRAConfigInput;
  /** How many vectors stand before each text; absent: none. */
  virtualTokens?(config: Config): number;
  /** Its settings in the words of reports. */
  facts(config: Config): Fact[];
}

/** What stands before the names of the tensors of a module in PEFT's files. */
export const peftPrefix = (path: string): string => `base_model.model.${path}`;

/** The key of a tensor of an adapter that was trained in a model which sees images too, as its text model alone has it. */
export const keyInTextModel = (key: string): string => {
  const prefix = peftPrefix('');
  return key.startsWith(prefix) ? peftPrefix(nameInTextModel(key.slice(prefix.length))) : key;
};

const op = 'adapter';

/** @throws ERR_ADAPTER for names typed by hand that match no layer. */
export function refuseStrangers(
  config: { readonly targetModules: readonly string[] | string },
  linears: readonly Linear[],
  experts: readonly ExpertModule[] = [],
): void {
  const strangers = unmatchedTargets(config, linears);
  if (strangers.length === 0) return;
  const names = [...new Set(linears.map(({ path }) => lastPart(path)))].join(', ');
  const parameters = parameterNames(experts).join(', ');
  const ofExperts = parameters && `, and targetParameters of its experts ${parameters}`;
  throw loraError(
    op,
    'ERR_ADAPTER',
    `targetModules ${strangers.join(', ')} match no linear layer of the model; its layers are ${names}${ofExperts}`,
  );
}

/** @throws ERR_UNSUPPORTED for a layer that a kind of change cannot change. */
export function refuseUnchangeable(linear: PlannedDelta['linear'], kind: DeltaKind): void {
  const why = kind.refuses?.(linear);
  if (why !== undefined) throw loraError(op, 'ERR_UNSUPPORTED', `${linear.path} cannot be trained: ${why}`);
}
