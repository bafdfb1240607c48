/** A Llama-family language model: loaded from a Hugging Face directory or a GGUF file, adapted, trained, served, saved. */
import { inspect } from 'node:util';
import type { NativeGuard } from '../native/binding';
import { binding, entry } from '../native/calls';
import type { Device } from '../native/device';
import { atOnce } from '../tensor/pace';
import type { RunHandle } from '../handle';
import type { AdapterFiles } from '../peft/adapter_files';
import type { BottleneckConfigInput } from '../peft/bottleneck';
import type { LoRAConfigInput } from '../peft/config';
import type { IA3ConfigInput } from '../peft/ia3';
import type { AdapterConfigInput, AdapterMethodName } from '../peft/methods';
import type { PromptConfigInput } from '../peft/prompt';
import { enqueueInSlices } from '../tensor/op_slices';
import { tidy } from '../tensor/scope';
import type { QuantizedFormat } from '../tensor/frozen_weight';
import type { Parameter } from '../tensor/tensor';
import type { EvaluateOptions, Evaluation } from './running/evaluate';
import { check, checkOptions, numelOf } from '../validate';
import type { Adapter } from '../peft/adapter';
import type { AddAdapterOptions } from '../peft/adapter_set';
import type { CombineAdaptersOptions } from '../peft/combine';
import type { ModelConfig } from './config/model_config';
import { embedTexts, type EmbedInput, type EmbedOptions } from './embedding/embed';
import { rankDocuments, type RankedDocument, type RankOptions } from './embedding/rank';
import { classify, type Classification, type ClassifyOptions } from './running/classify';
import { plannedForward } from './running/forward';
import type { GenerationResult, Prompt } from './running/generate';
import { hiddenStates, type HiddenStates, type HiddenStatesOptions } from './running/hidden_states';
import { completionLogProbs, type LogProbs, type LogProbsOptions, type TextOrIds } from './running/log_probs';
import type { EngineOptions, EngineStats } from '../engine/engine';
import type { GeneratedToken } from '../engine/delivery';
import { loadModel, type LoadedModel } from './core/load_model';
import type { QuantizeOptions } from './quantized/quantize_options';
import { pushModel, type PushModelOptions } from './push';
import type { PushResult } from '../hub/push_options';
import { saveModel, type SavedModel } from './save';
import type { Tokenizer } from '../text/tokenizer';
import type { EvaluateTaskOptions, TaskData, TaskEvaluation } from '../tasks/options';
import { ModelAdapters } from './model_adapters';
import { ModelCore } from './core/model_core';
import { ModelEvaluations } from './running/model_evaluations';
import { TextGenerator } from './running/text_generator';
import { expectedTensors } from './files/tensor_table';
import type { ModelDType } from './core/weights';
import type { TokenRows } from './inputs/batch';
import type { DataSource } from '../data/example';
import type { TrainAllOptions } from './core/trained_base';
import type {
  ForwardOptions,
  ForwardOutput,
  FromPretrainedOptions,
  GenerateOptions,
  LoadAdapterOptions,
  NoOther,
} from './core/options';

/**
 * A causal language model with a frozen base and any number of adapters.
 *
 * @example
 * const model = await CausalLM.fromPretrained('smollm2-135m');
 * const adapter = model.addAdapter({ r: 16, targetModules: 'all-linear' });
 * const { loss } = model.forward(ids, { labels: ids });
 * loss.backward();
 */
export class CausalLM {
  /** Where it was read from: a directory, or a GGUF file. */
  readonly directory: string;
  /** What config.json, or the values of a GGUF file, say, checked. */
  readonly config: ModelConfig;
  /** The device of weights and ops. */
  readonly device: Device;
  /** The element type of activations; that of frozen weights is at most as wide. */
  readonly dtype: ModelDType;
  /** @internal An own property that cannot be cloned, so that structuredClone fails loudly. */
  readonly handle: NativeGuard = binding().createGuard();
  /** @internal */
  readonly core: ModelCore;
  readonly #maker: ModelAdapters;
  readonly #generator: TextGenerator;
  readonly #evaluations: ModelEvaluations;
  #disposing: Promise<void> | undefined;

  private constructor(loaded: LoadedModel) {
    const core = new ModelCore(loaded);
    this.core = core;
    this.directory = core.directory;
    this.config = core.config;
    this.device = core.device;
    this.dtype = core.dtype;
    this.#maker = new ModelAdapters(core);
    this.#generator = new TextGenerator(core);
    this.#evaluations = new ModelEvaluations(core, {
      lanes: () => this.#generator.maxBatchSize,
      forward: (ids, options) => this.forwardInSlices(ids, options),
      generate: (prompt, options) => this.generate(prompt, options),
    });
  }

  /**
   * Loads a Hugging Face directory: config.json, model.safetensors (or shards with an index), tokenizer.json. The files
   * are read, not kept open, and the weights are packed once into the layout of the kernels.
   *
   * A GGUF file (of a split one, any part), or a folder with one GGUF model, works too; it contains configuration, tokenizer and chat template.
   *
   * `hf:org/name`, or `hf:org/name@revision`, is a model of the hub, which is downloaded once, checked, and kept in the cache that Python's tools
   * use; so is `org/name` where no folder has that name. `hf:org/name/FILE.gguf` is a GGUF file of a repository; a repository with one GGUF model
   * and no safetensors needs no FILE.
   *
   * @throws ERR_FILE for missing or wrong files, ERR_HUB for a name that cannot be had from the hub and a repository with several GGUF models, ERR_SAFETENSORS for broken weights,
   * ERR_UNSUPPORTED for a model that would be computed wrongly, ERR_DEVICE_UNAVAILABLE, ERR_OUT_OF_MEMORY, the reason of the signal when aborted.
   * @example
   * const model = await CausalLM.fromPretrained('./SmolLM2-135M', {
   *   onProgress: ({ loaded, total }) => console.log(`${Math.round((100 * loaded) / total)}%`),
   * });
   */
  static async fromPretrained(source: string | URL, options: FromPretrainedOptions = {}): Promise<CausalLM> {
    return new CausalLM(await loadModel(source, options));
  }

  /** Whether the directory has a tokenizer.json, or the GGUF file a tokenizer. */
  get hasTokenizer(): boolean {
    return this.core.hasTokenizer;
  }

  /** The tokenizer of the model. @throws ERR_UNSUPPORTED when it has none. */
  get tokenizer(): Tokenizer {
    return this.core.tokenizer;
  }

  /** How many numbers the base has. */
  get parameterCount(): number {
    return [...expectedTensors(this.config).values()].reduce((sum, shape) => sum + numelOf(shape), 0);
  }

  /** Its adapters by name. */
  get adapters(): ReadonlyMap<string, Adapter> {
    return this.core.adapters.all;
  }
  /** The adapter of calls that name none; null: the base, with what is merged into it. */
  get activeAdapter(): Adapter | null {
    return this.core.adapters.active;
  }

  /**
   * Adds a new, trainable adapter, which has no effect at first: LoRA, with down Kaiming uniform and up zero (`initLoraWeights`), or another
   * `method`. It becomes the active one if there is no other.
   *
   * @throws ERR_ARGUMENT for a bad option or a name that is taken, ERR_ADAPTER when targets match no layer.
   * @example
   * const adapter = model.addAdapter({ r: 16, loraAlpha: 32, targetModules: 'all-linear' }, { name: 'sql', seed: 1 });
   */
  addAdapter(config?: LoRAConfigInput, options?: AddAdapterOptions): Adapter<'lora'>;
  addAdapter(config: IA3ConfigInput, options?: AddAdapterOptions): Adapter<'ia3'>;
  addAdapter(config: BottleneckConfigInput, options?: AddAdapterOptions): Adapter<'bottleneck'>;
  addAdapter(config: PromptConfigInput, options?: AddAdapterOptions): Adapter<'prompt'>;
  addAdapter(config: AdapterConfigInput, options?: AddAdapterOptions): Adapter;
  addAdapter(config: AdapterConfigInput = {}, options: AddAdapterOptions = {}): Adapter {
    this.core.checkAlive('addAdapter');
    return this.#maker.add(config, options);
  }

  /**
   * Loads a PEFT directory, an adapter of the hub by its name (as fromPretrained says), or what readAdapter gave.
   *
   * @throws ERR_ADAPTER that lists what does not fit the model, ERR_FILE, ERR_HUB, ERR_SAFETENSORS, ERR_ARGUMENT for a name that is taken.
   * @example
   * const adapter = await model.loadAdapter('my-adapter', { name: 'other', trainable: true });
   */
  async loadAdapter<Name extends AdapterMethodName = AdapterMethodName>(
    from: string | URL | AdapterFiles,
    options: LoadAdapterOptions<Name> = {},
  ): Promise<Adapter<Name>> {
    this.core.checkAlive('loadAdapter');
    return this.#maker.load(from, options);
  }

  /**
   * Combines several adapters, which stay as they are, into a new one.
   *
   * @throws ERR_ARGUMENT for options, names, and adapters of several ranks where the method sums the factors; ERR_UNSUPPORTED for what is no plain LoRA.
   * @example
   * const both = await model.combineAdapters(['sql', 'tone'], { weights: [0.7, 0.3], method: 'svd', svdRank: 16, name: 'both' });
   */
  async combineAdapters(
    adapters: readonly (string | Adapter)[],
    options: CombineAdaptersOptions = {},
  ): Promise<Adapter> {
    this.core.checkAlive('combineAdapters');
    return this.#maker.combine(adapters, options);
  }

  /**
   * Chooses the adapter of calls that name none; null: the base alone.
   *
   * @throws ERR_ARGUMENT for an unknown name; ERR_BUSY while an adapter is merged.
   * @example
   * model.setAdapter('default');
   */
  setAdapter(adapter: string | Adapter | null): void {
    this.core.checkAlive('setAdapter');
    check(adapter !== undefined, 'setAdapter', 'expected a name or null but received undefined');
    this.core.adapters.activate(adapter);
  }

  /** Frees an adapter. @throws ERR_BUSY while a run or a generation uses it, or while it is merged. */
  async removeAdapter(name: string): Promise<void> {
    this.core.checkAlive('removeAdapter');
    this.#generator.adapterRemoved(this.core.adapters.remove(name));
  }

  /**
   * Makes the weights themselves trainable: full fine-tuning. Each gets an f32 master, which gradients and optimizers change; in bf16, products
   * read it rounded. Until freeze(), the model takes no adapter. A head that is tied to the embedding is one parameter with it.
   *
   * @throws ERR_BUSY while adapters are loaded, a run, generation or evaluation reads the weights, or they are trainable already; ERR_ARGUMENT for a pattern
   * that names nothing, or stochasticRounding without bf16; ERR_UNSUPPORTED for quantized weights and a model in f16; ERR_OUT_OF_MEMORY.
   * @example
   * const parameters = model.trainAll({ only: ['*.self_attn.*'] });
   * await new Trainer({ model, data, outDir: 'run', maxSteps: 200, lr: 1e-5 }).run();
   */
  trainAll(options: TrainAllOptions = {}): Parameter[] {
    this.core.checkAlive('trainAll');
    const parameters = this.core.decoder.trained.start(options);
    this.#generator.baseChanged(); // what it recorded reads weights that are gone
    return parameters;
  }

  /**
   * Ends what trainAll() began: the weights keep the values that they were trained to, rounded to the dtype of the model, and adapters may be loaded.
   * The parameters are disposed of. Without trainAll() it does nothing.
   *
   * @throws ERR_BUSY while a run, generation or evaluation reads the weights; ERR_OUT_OF_MEMORY, after which the same call goes on.
   * @example
   * model.freeze();
   * const adapter = model.addAdapter({ r: 8 });
   */
  freeze(): void {
    this.core.checkAlive('freeze');
    if (this.core.decoder.trained.freeze()) this.#generator.baseChanged();
  }

  /** The numbers that gradients fill: those of trainable adapters, or after trainAll() those of the weights that are trained. */
  get numTrainable(): number {
    return this.core.numTrainable;
  }

  /** @internal The temperature of a server's requests that name none. */
  get servedTemperature(): number {
    return this.#generator.servedTemperature;
  }

  /**
   * Loss and logits of a batch. The graph is recorded when the adapter is trainable.
   * @throws ERR_DATA for ids or labels outside the vocabulary and when no label counts; ERR_BUSY while merged.
   * @example
   * const { loss } = model.forward(ids, { labels: ids });
   * const { logits } = model.forward(ids); // [batch, seq, vocab]; of a head of classes [batch, labels]
   */
  forward<O extends ForwardOptions = Record<never, never>>(
    ids: TokenRows,
    options: O & NoOther<O> = {} as O & NoOther<O>,
  ): ForwardOutput<O> {
    const steps = plannedForward(this.core, ids, options);
    return entry(() => tidy(() => atOnce(steps))) as ForwardOutput<O>;
  }

  /** @internal forward(), during which the event loop goes on. The caller holds the adapter and the weights. */
  async forwardInSlices<O extends ForwardOptions>(
    ids: TokenRows,
    options: O & NoOther<O>,
  ): Promise<ForwardOutput<O>> {
    const steps = plannedForward(this.core, ids, options);
    return (await tidy(() => enqueueInSlices(this.device, steps))) as ForwardOutput<O>;
  }

  /**
   * Generates text: iterate the handle for tokens, or await it for the result. Concurrent calls run in one batch without affecting each other's
   * text. Leaving the loop ends the generation and frees its memory.
   * @throws (into the loop, or to who awaits) ERR_ARGUMENT for a bad option or prompt; ERR_BUSY during a merge and beyond maxQueued; the reason of the signal.
   * @example
   * for await (const { text } of model.generate('Once', { maxNewTokens: 20 })) process.stdout.write(text);
   */
  generate(prompt: Prompt, options: GenerateOptions = {}): RunHandle<GeneratedToken, GenerationResult> {
    return this.#generator.generate(prompt, options);
  }

  /**
   * Sets the limits of the engine that all generations share, and frees its cache.
   *
   * @throws ERR_BUSY while a generation runs; ERR_ARGUMENT for invalid limits.
   * @example
   * model.configureEngine({ maxBatchSize: 32, maxQueued: 1000, kvCacheBytes: 4 * 2 ** 30 });
   */
  configureEngine(options: EngineOptions = {}): void {
    this.core.checkAlive('configureEngine');
    this.#generator.configureEngine(options);
  }

  /**
   * The engine's current state and counters.
   *
   * @example
   * const { running, waiting, kvCacheBytes, prefixHits } = model.engineStats();
   */
  engineStats(): EngineStats {
    this.core.checkAlive('engineStats');
    return this.#generator.stats;
  }

  /**
   * The mean loss over a data set, without gradients and without dropout.
   *
   * @throws ERR_DATA for examples that are none, and when no label counts; the reason of the signal when aborted.
   * @example
   * const { loss, perplexity, tokens } = await model.evaluate(data, { adapter: 'default', batchSize: 8 });
   */
  async evaluate(data: DataSource, options: EvaluateOptions = {}): Promise<Evaluation> {
    return this.#evaluations.evaluate(data, options);
  }

  /**
   * Measures adapters on a data set, what evaluate() takes, questions, or a JSONL file of either: the loss, and greedy answers where the rows have prompts (exact
   * match, F1, JSON that is valid), or the accuracy on questions with several choices, by the log-likelihood of each choice as lm-evaluation-harness defines it.
   *
   * @throws ERR_ARGUMENT, ERR_UNSUPPORTED for a schema that cannot be checked; ERR_DATA for a row that is not as expected; ERR_FILE; the reason of the signal.
   * @example
   * const { results } = await model.evaluateTask('heldout.jsonl', { adapters: [null, 'default'] });
   * for (const { adapter, loss, exactMatch } of results) console.log(adapter ?? 'base', loss, exactMatch);
   */
  async evaluateTask(data: TaskData, options: EvaluateTaskOptions = {}): Promise<TaskEvaluation> {
    return this.#evaluations.evaluateTask(data, options);
  }

  /**
   * How likely completions are behind their prompts, texts or ids or lists of either: log p in nats of each token and in sum. No logits are held whole.
   *
   * @throws ERR_ARGUMENT for an empty prompt; ERR_DATA for an empty completion and ids outside the vocabulary.
   * @example
   * const { sum, mean } = await model.logProbs('The sky is', ' blue', { adapter: null });
   */
  async logProbs<T extends TextOrIds | readonly TextOrIds[]>(
    prompt: T extends TextOrIds ? TextOrIds : readonly TextOrIds[],
    completion: T,
    options: LogProbsOptions = {},
  ): Promise<LogProbs<T>> {
    return (await completionLogProbs(this.core, prompt, completion, options)) as LogProbs<T>;
  }

  /**
   * The scores of texts, or of rows of token ids, over the labels of a head of classes: softmaxed, of several labels for a text sigmoids. A text's scores do not depend
   * on what else is in the list.
   *
   * @throws ERR_UNSUPPORTED for a model with another head; ERR_ARGUMENT; ERR_DATA for a text without tokens, and ids outside the vocabulary; the reason of the signal.
   * @example
   * const [answer] = await model.classify(['Where is my parcel?'], { adapter: 'intents' });
   * console.log(answer?.label, answer?.scores);
   */
  async classify(texts: readonly TextOrIds[], options: ClassifyOptions = {}): Promise<Classification[]> {
    return classify(this.core, texts, options);
  }

  /**
   * What the model holds of texts behind a layer, without gradients; padding and the vectors of an adapter do not count.
   *
   * @throws ERR_ARGUMENT, ERR_DATA for ids outside the vocabulary.
   * @example
   * const vectors = await model.hiddenStates(ids, { layer: -1, pool: 'mean' }); // [texts, hiddenSize]
   */
  async hiddenStates<O extends HiddenStatesOptions>(ids: TokenRows, options?: O): Promise<HiddenStates<O>> {
    return (await hiddenStates(this.core, ids, options ?? {})) as HiddenStates<O>;
  }

  /**
   * Texts, or rows of ids, as vectors: those of alike texts have a small angle. Texts of any lengths are computed together, each as if it were alone. Pooling, dense
   * layers and prompts are those of the files of sentence-transformers beside the model, where it has some.
   *
   * @throws ERR_ARGUMENT; ERR_DATA for a text without a token, or with more than the model reads; the reason of the signal.
   * @example
   * const [question] = await model.embed(['How do I reset my password?'], { instruction: 'query' });
   * const documents = await model.embed(['Click on "Forgot password".', 'Our offices are in Graz.']); // Float32Array[]
   */
  async embed(texts: readonly EmbedInput[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    return (await this.embedCounted(texts, options)).vectors;
  }

  /** @internal The same, with how many tokens were read. */
  async embedCounted(
    texts: readonly EmbedInput[],
    options: EmbedOptions,
  ): Promise<{ vectors: Float32Array[]; tokens: number }> {
    return embedTexts(this.core, texts, options);
  }

  /**
   * Documents in the order in which they answer a query, as Qwen3-Reranker has it: the model is asked whether each one does, and the score is the probability of
   * "yes" against "no". Special tokens that texts spell stay text.
   *
   * @throws ERR_ARGUMENT; ERR_UNSUPPORTED for a model of which "yes" or "no" is no token; ERR_DATA for a document beyond the context; the reason of the signal.
   * @example
   * const [best] = await model.rank('How do I reset my password?', ['Our offices are in Graz.', 'Click on "Forgot password".']);
   * console.log(best?.index, best?.score); // 1, near 1
   */
  async rank(
    query: string,
    documents: readonly string[],
    options: RankOptions = {},
  ): Promise<RankedDocument[]> {
    return (await rankDocuments(this.core, query, documents, options)).ranked;
  }

  /**
   * Adds an adapter into the base weights, W + (α/r)·up·down computed in f32 and rounded once; it is then no longer active. Until unmerge(), calls
   * that name no adapter get the merged weights where none is active; a call with another adapter or null, an active adapter and setAdapter() are ERR_BUSY.
   *
   * @throws ERR_BUSY while another is merged, or a run or generation reads the weights; ERR_ARGUMENT for an unknown name.
   * @example
   * await model.merge('default');
   * await model.unmerge();
   */
  async merge(name: string): Promise<void> {
    this.core.checkAlive('merge');
    await this.core.adapters.merge([...this.core.linears(), ...this.core.experts()], name);
    this.#generator.baseChanged();
  }

  /** Undoes merge(), bit for bit; an adapter that was active becomes active again. */
  async unmerge(): Promise<void> {
    this.core.checkAlive('unmerge');
    this.core.adapters.unmerge();
    this.#generator.baseChanged();
  }

  /**
   * Writes a Hugging Face directory atomically: the base with whatever is merged into it, or with `merge` added. Over an earlier save it
   * replaces the files of that model and keeps other folders; whenever the process dies, the old model or the new one is complete.
   *
   * With `quantize` its matrices (of a model that was loaded quantized, those that were) are written in 4 or 8 bits, in the layout of bitsandbytes.
   *
   * @throws ERR_ARGUMENT when a trained adapter would be left out, ERR_BUSY while another adapter is merged, ERR_FILE.
   * @example
   * await model.save('merged-model', { merge: 'default' });
   * const { quantizationError } = await model.save('merged-nf4', { merge: 'default', quantize: 'nf4' });
   */
  async save(
    dir: string,
    options: { merge?: string; quantize?: QuantizedFormat | QuantizeOptions } = {},
  ): Promise<SavedModel> {
    checkOptions('save', options, ['merge', 'quantize']);
    return saveModel(this.core, dir, options);
  }

  /**
   * Uploads an adapter, with `merge` its sum with the base, or the whole model, and a model card to a repository of the hub, which is created where there is none: one
   * commit. What the hub has already is not sent. It is saved into the folder for temporary files first, which needs room for it.
   *
   * @throws ERR_ARGUMENT for options and names; ERR_HUB for what the hub does not take, without a token and without a network; ERR_FILE; ERR_BUSY as save() does; the
   * reason of the signal.
   * @example
   * const { url, commit } = await model.push('my-name/my-adapter', { private: true, message: 'First version' });
   * await model.push('my-name/my-model', { merge: 'default', onProgress: ({ loaded, total }) => console.log(loaded, total) });
   */
  async push(name: string, options: PushModelOptions = {}): Promise<PushResult> {
    return pushModel(this.core, name, options);
  }

  /** @internal save() into the folder of a run; `more` puts further files there, which appear together with those of the model. */
  async saveWith(dir: string, more?: (folder: string) => Promise<void>): Promise<void> {
    await saveModel(this.core, dir, {}, { more });
  }

  /** Whether dispose() was called. */
  get disposed(): boolean {
    return this.core.disposed;
  }

  /**
   * Waits for running generations and saves, then frees everything; a second call waits for the first. A generation
   * that waits for its consumer is ended, because the consumer may be the caller: its loop ends, its result is ERR_DISPOSED.
   *
   * @throws ERR_BUSY while a Trainer trains an adapter of the model.
   */
  async dispose(): Promise<void> {
    if (!this.#disposing) this.core.adapters.checkNoTraining('dispose');
    this.#disposing ??= this.#dispose();
    this.core.disposed = true;
    return this.#disposing;
  }

  async #dispose(): Promise<void> {
    await this.#generator.end('the model was disposed of');
    await this.core.adapters.idle();
    await this.#generator.dispose();
    this.core.dispose();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
  /** For `using`, which cannot wait: frees everything as soon as running generations have ended. */
  [Symbol.dispose](): void {
    if (!this.#disposing) this.core.adapters.checkNoTraining('dispose'); // a promise would tell nobody
    void this.dispose();
  }

  /** A short description for logs. */
  toJSON(): object {
    const { directory, device, dtype, config, adapters } = this;
    return { directory, modelType: config.modelType, device, dtype, adapters: [...adapters.keys()] };
  }

  toString(): string {
    const { directory, device, dtype } = this;
    return `CausalLM(${this.config.modelType} of ${directory}, ${dtype} on ${device}${this.disposed ? ', disposed' : ''})`;
  }

  [inspect.custom](): string {
    return this.toString();
  }
}
