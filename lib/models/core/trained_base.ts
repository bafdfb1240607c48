/** The weights of a model as parameters: full fine-tuning, of all of them or of those that patterns name. */
import { loraError } from '../../errors';
import { entry } from '../../native/calls';
import type { AdapterSet } from '../../peft/adapter_set';
import { adoptParameter } from '../../tensor/create';
import { isPacked } from '../../tensor/frozen_weight';
import { trimHostMemory } from '../../tensor/gradient_memory';
import { rawCast } from '../../tensor/raw';
import { runDetached } from '../../tensor/scope';
import { Parameter } from '../../tensor/tensor';
import {
  check,
  checkBoolean,
  checkOptions,
  describe,
  isListOf,
  listed,
  refuseF16Training,
  suggest,
} from '../../validate';
import type { ModelConfig } from '../config/model_config';
import {
  embeddingPath,
  headPath,
  namedWeights,
  type ModelWeights,
  type NamedWeight,
} from '../files/tensor_table';
import type { ModelDType } from './weights';

/**
 * What {@link CausalLM.trainAll} takes. With n numbers, a run takes 4·n bytes each for masters and gradients, 8·n for the state of AdamW (2·n in 8 bits), and
 * 2·n in bf16. With `stochasticRounding` the weights of bf16 are the masters: 2·n bytes for both.
 */
export interface TrainAllOptions {
  /**
   * Names of tensors or of their modules, as in the files of the model, in which `*` stands for anything: `['*.self_attn.*']`. Default: all.
   */
  only?: readonly string[] | undefined;
  /**
   * For a model of bf16: trains its weights without f32 masters. Optimizers round each new value to one of the two bf16 beside it, and to each with the
   * probability that makes the mean the value itself (Gupta et al., "Deep Learning with Limited Numerical Precision", 2015; Zamirai et al., "Revisiting
   * BFloat16 Training", 2020). Takes 2 bytes for each weight less, and half the files of a checkpoint. Default false.
   */
  stochasticRounding?: boolean | undefined;
}

const op = 'trainAll';

/** Whether a name is what a pattern says. */
function matches(pattern: string, name: string): boolean {
  const parts = pattern.split('*');
  const [first, last] = [parts[0]!, parts.at(-1)!];
  if (parts.length === 1) return name === pattern;
  if (!name.startsWith(first) || !name.endsWith(last) || name.length < first.length + last.length)
    return false;
  let at = first.length;
  for (const part of parts.slice(1, -1)) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= name.length - last.length;
}

const moduleOf = (name: string): string => name.slice(0, name.lastIndexOf('.'));

/** The tensors that the patterns name. @throws ERR_ARGUMENT for a pattern that names none. */
function chosen(config: ModelConfig, all: readonly NamedWeight[], only: readonly string[]): NamedWeight[] {
  const isMeant = (pattern: string, name: string): boolean =>
    matches(pattern, name) || matches(pattern, moduleOf(name));
  for (const pattern of only) {
    if (all.some(({ name }) => isMeant(pattern, name))) continue;
    const near = suggest(
      pattern,
      all.map(({ name }) => moduleOf(name)),
    );
    const head = headPath(config);
    const tied = config.tieWordEmbeddings && isMeant(pattern, `${head}.weight`);
    const help = tied
      ? `: the model has no ${head} of its own, its matrix is ${embeddingPath(config)}`
      : near
        ? `; did you mean '${near}'?`
        : `; it has ${listed(all.map(({ name }) => name))}`;
    check(false, op, `only: ${describe(pattern)} names no tensor of the model${help}`);
  }
  return all.filter(({ name }) => only.some((pattern) => isMeant(pattern, name)));
}

export class TrainedBase {
  #trained: readonly (readonly [NamedWeight, Parameter])[] = [];

  constructor(
    private readonly config: ModelConfig,
    private readonly weights: ModelWeights,
    private readonly dtype: ModelDType,
    private readonly adapters: AdapterSet,
  ) {}

  /** The parameters, in the order of the files; none while all is frozen. */
  get parameters(): Parameter[] {
    return this.#trained.map(([, parameter]) => parameter);
  }

  get active(): boolean {
    return this.#trained.length > 0;
  }

  /** Counts the changes of the parameters. */
  get revision(): number {
    let revision = 0;
    for (const [, { version }] of this.#trained) revision += version;
    return revision;
  }

  /**
   * Makes a master copy, which is trained, of each tensor that `only` names: in f32, or in bf16 with stochastic rounding.
   * @throws ERR_BUSY beside adapters, and while anything reads the weights; ERR_ARGUMENT for a pattern that names no tensor, and for stochastic rounding of a model in another dtype than bf16; ERR_UNSUPPORTED for a
   * quantized model; ERR_OUT_OF_MEMORY, after which all weights are frozen.
   */
  start(options: TrainAllOptions): Parameter[] {
    checkOptions(op, options, ['only', 'stochasticRounding']);
    if (this.dtype === 'f16') refuseF16Training(op);
    const release = this.adapters.lockBase(op);
    try {
      return entry(() => this.#start(options));
    } catch (error) {
      release();
      throw error;
    }
  }

  #start({ only = ['*'], stochasticRounding = false }: TrainAllOptions): Parameter[] {
    checkBoolean(op, 'stochasticRounding', stochasticRounding);
    check(
      !stochasticRounding || this.dtype === 'bf16',
      op,
      () =>
        `expected a model of bf16 for stochasticRounding but received one of ${this.dtype}: load it with dtype: 'bf16'`,
    );
    const kept = stochasticRounding ? 'bf16' : 'f32';
    const isText = (one: unknown): boolean => typeof one === 'string' && one !== '';
    check(
      isListOf(only, isText) && only.length > 0,
      op,
      () => `expected only to be a list of patterns but received ${describe(only)}`,
    );
    const named = [...namedWeights(this.config, this.weights)].filter(({ fixed }) => !fixed);
    const entries = chosen(this.config, named, only);
    for (const entry of entries) refuseQuantized(entry);
    const trained: [NamedWeight, Parameter][] = [];
    try {
      for (const entry of entries) trained.push([entry, masterOf(entry, kept)]);
    } catch (error) {
      for (const one of trained) this.#freeze(one);
      throw error;
    }
    this.#trained = trained;
    // Masters have every value, and what reads packed copies makes them again.
    for (const entry of entries) if (!('tensor' in entry)) matrixOf(entry).forgetPacked();
    trimHostMemory(this.weights.stem.embedding.device);
    return this.parameters;
  }

  /**
   * Keeps the values that the parameters have now, rounded to the dtype of the model. What is frozen stays so where a later one fails.
   * Says whether anything was trained.
   * @throws ERR_BUSY while anything reads the weights.
   */
  freeze(): boolean {
    if (!this.active) return false;
    const freezeAll = (): void => {
      for (const one of this.#trained) {
        this.#freeze(one);
        this.#trained = this.#trained.slice(1);
      }
    };
    this.adapters.unlockBase('freeze', () => entry(freezeAll));
    return true;
  }

  #freeze([entry, parameter]: readonly [NamedWeight, Parameter]): void {
    if ('tensor' in entry) {
      entry.replace(runDetached(null, () => rawCast(parameter, this.dtype)));
      parameter.dispose();
    } else matrixOf(entry).freeze();
  }
}

const matrixOf = (entry: Exclude<NamedWeight, { tensor: unknown }>) =>
  'matrix' in entry ? entry.matrix : entry.linear.base;

function masterOf(entry: NamedWeight, kept: 'f32' | 'bf16'): Parameter {
  if (!('tensor' in entry)) return matrixOf(entry).train(entry.name, kept);
  const { name, tensor, replace } = entry;
  const parameter = adoptParameter(
    runDetached(null, () => rawCast(tensor, kept)),
    name,
  );
  replace(parameter);
  tensor.dispose();
  return parameter;
}

function refuseQuantized(entry: NamedWeight): void {
  if ('tensor' in entry) return;
  const { format } = matrixOf(entry);
  if (!isPacked(format)) return;
  throw loraError(
    op,
    'ERR_UNSUPPORTED',
    `${entry.name} is kept in ${format} and cannot be trained: load whole weights, or train an adapter`,
  );
}
