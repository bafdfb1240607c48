/** What the parts of a CausalLM share: what was loaded, what of it is trained, and the adapters beside it. */
import type { GenerationDefaults } from '../../engine/sampling';
import { loraError } from '../../errors';
import type { Limits } from '../../formats/limits';
import type { ExpertModule } from '../../linear/expert_module';
import type { Linear } from '../../linear/linear';
import type { Device } from '../../native/device';
import type { Adapter } from '../../peft/adapter';
import { AdapterSet } from '../../peft/adapter_set';
import type { Parameter } from '../../tensor/tensor';
import type { Tokenizer } from '../../text/tokenizer';
import type { ClassifyHead } from '../../peft/head';
import type { ModelConfig } from '../config/model_config';
import type { SentenceSettings } from '../embedding/sentence_files';
import type { Decoder } from './decoder';
import type { LoadedModel } from './load_model';
import { RopeTables } from './rope_tables';
import { disposeWeights, expertModulesOf, linearsOf } from '../files/tensor_table';
import { TrainedBase } from './trained_base';
import type { ModelDType } from './weights';

/** The engine for a while, for work whose size is known. */
export interface EngineLoan {
  readonly maxBatchSize: number;
  /** Restores the limits, and frees the memory of keys and values, which what comes next may need. */
  readonly giveBack: () => void;
}

export class ModelCore {
  readonly directory: string;
  readonly config: ModelConfig;
  readonly device: Device;
  readonly dtype: ModelDType;
  readonly limits: Limits;
  readonly defaults: GenerationDefaults;
  /** How it makes vectors of texts. */
  readonly sentence: SentenceSettings;
  readonly decoder: Decoder;
  readonly adapters = new AdapterSet();
  readonly #tokenizer: Tokenizer | undefined;
  /** Lends an engine for so many sequences of at most so many tokens, up to 64 in a step; the one that there is while it generates for others. */
  lendEngine: (sequences: number, tokens: number) => EngineLoan = () => ({
    maxBatchSize: 1,
    giveBack: () => {},
  });
  /** Whether the model is disposed of, or about to be. */
  disposed = false;

  constructor(loaded: LoadedModel) {
    const { directory, config, weights, dtype, device, tokenizer, defaults, sentence, limits } = loaded;
    this.directory = directory;
    this.config = config;
    this.device = device;
    this.dtype = dtype;
    this.limits = limits;
    this.defaults = defaults;
    this.sentence = sentence;
    const trained = new TrainedBase(config, weights, dtype, this.adapters);
    const ropes = new RopeTables(config.layers, device);
    this.decoder = { config, weights, trained, ropes, dtype };
    this.#tokenizer = tokenizer;
  }

  get hasTokenizer(): boolean {
    return this.#tokenizer !== undefined;
  }

  /** @throws ERR_UNSUPPORTED when there is none. */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer) return this.#tokenizer;
    throw loraError(
      'tokenizer',
      'ERR_UNSUPPORTED',
      `${this.directory} has no tokenizer.json: pass token ids instead of text`,
    );
  }

  linears(): Linear[] {
    return linearsOf(this.decoder.weights);
  }

  /** The matrices of experts, of each block that has some. */
  experts(): ExpertModule[] {
    return expertModulesOf(this.decoder.weights);
  }

  /** What trainAll() gave; none while all is frozen. */
  get trainedParameters(): Parameter[] {
    return this.decoder.trained.parameters;
  }

  /** The numbers that gradients fill. */
  get numTrainable(): number {
    const adapters = [...this.adapters.all.values()].filter(({ trainable }) => trainable);
    const parameters = [...this.trainedParameters, ...adapters.flatMap((adapter) => adapter.parameters())];
    return parameters.reduce((sum, { numel }) => sum + numel, 0);
  }

  /** What a call names to run on the weights as they are: null, or undefined while an adapter is merged into them. */
  get noAdapter(): null | undefined {
    return this.adapters.merged === null ? null : undefined;
  }

  /**
   * Holds an adapter, or the base alone, for its training: it cannot be removed, the base not be merged, and the model not be disposed of,
   * until the returned function is called.
   */
  acquireForTraining(op: string, adapter: Adapter | null): () => void {
    this.checkAlive(op);
    return this.adapters.acquire(op, this.adapters.resolve(op, adapter), { training: true });
  }

  /** @throws ERR_UNSUPPORTED unless the model predicts tokens: it ends in the head of a language model, and no token sees those behind it. */
  checkLanguageHead(op: string, instead = 'classify'): void {
    const { head, bothDirections, modelType } = this.config;
    if (bothDirections)
      throw loraError(
        op,
        'ERR_UNSUPPORTED',
        `this ${modelType} reads texts in both directions, so it predicts no next token: call embed(), and train it with the objective contrastive`,
      );
    if (head === undefined) return;
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `the model ends in a head of classes and gives no probabilities of tokens: call ${instead}(), or load it without head`,
    );
  }

  /** The head of classes. @throws ERR_UNSUPPORTED for a model with another one. */
  classifyHead(op: string): ClassifyHead {
    const { head } = this.config;
    if (head?.type === 'classify') return head;
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      "the model ends in no head of classes: load it with head: { type: 'classify', labels }",
    );
  }

  /** @throws ERR_DISPOSED */
  checkAlive(op: string): void {
    if (this.disposed) throw loraError(op, 'ERR_DISPOSED', 'the model has been disposed');
  }

  /** Frees the weights and the adapters, which nothing may use any more. */
  dispose(): void {
    this.adapters.dispose();
    this.decoder.ropes.dispose();
    for (const layer of this.sentence.dense) layer.dispose();
    disposeWeights(this.config, this.decoder.weights);
  }
}
