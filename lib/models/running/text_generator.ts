/** What generates texts for a model: its engine, the grammars of its vocabulary, and the generations that run. */
import {
  defaultLimits,
  Engine,
  engineLimits,
  type EngineLimits,
  type EngineOptions,
  type EngineStats,
} from '../../engine/engine';
import { SequencePlan } from '../../data/sequence_plan';
import type { GeneratedToken } from '../../engine/delivery';
import { pageBytes, pagesFor } from '../../engine/pages';
import { mostSlots, slotBytes } from '../../engine/states';
import type { EngineModel } from '../../engine/model';
import { planGeneration, type GenerationDefaults, type GenerationPlan } from '../../engine/sampling';
import { checkSpeculation } from '../../engine/speculation';
import { loraError } from '../../errors';
import type { TokenConstraint } from '../../grammar/constraint';
import { Grammars } from '../../grammar/grammars';
import { packagePath } from '../../grammar/package';
import { plannedRun, type RunHandle } from '../../handle';
import { binding } from '../../native/calls';
import { nativeDevice } from '../../native/device';
import type { Adapter } from '../../peft/adapter';
import type { Tokenizer } from '../../text/tokenizer';
import { engineModel } from '../core/decoder';
import {
  checkedLimit,
  conversationOptions,
  promptIds,
  RunningGeneration,
  type ConversationOptions,
  type GenerationResult,
  type Prompt,
} from './generate';
import { Generations } from './generations';
import type { EngineLoan, ModelCore } from '../core/model_core';
import type { GenerateOptions } from '../core/options';

/** @internal The methods are those of CausalLM, where they are documented. */
export class TextGenerator {
  readonly #model: ModelCore;
  readonly #defaults: GenerationDefaults;
  readonly #generations = new Generations();
  readonly #grammars: Grammars;
  #limits = defaultLimits;
  #engine: Engine | undefined;

  constructor(model: ModelCore) {
    this.#model = model;
    model.lendEngine = (sequences, tokens) => this.#lend(sequences, tokens);
    const { defaults, hasTokenizer, decoder } = model;
    this.#grammars = new Grammars(decoder.config.vocabSize, [...defaults.eosTokenIds]);
    // stop_strings of generation_config.json are for texts: ids that are generated without a tokenizer never end by one.
    this.#defaults = hasTokenizer ? defaults : { ...defaults, stop: [] };
  }

  generate(prompt: Prompt, options: GenerateOptions): RunHandle<GeneratedToken, GenerationResult> {
    const op = 'generate';
    const { adapters, decoder } = this.#model;
    return plannedRun(op, () => {
      this.#model.checkAlive(op);
      this.#model.checkLanguageHead(op);
      const plan = planGeneration(options, this.#defaults, decoder.config.vocabSize);
      if (plan.grammar !== undefined) this.#checkGrammar();
      if (plan.speculate) checkSpeculation(op, this.#engineModel());
      const chat = conversationOptions(prompt, options);
      const adapter = adapters.resolve(op, options.adapter);
      const { merged } = adapters;
      return (handle) => {
        this.#model.checkAlive(op);
        adapters.checkSince(op, adapter, merged);
        return this.#generate(prompt, chat, plan, adapter, handle);
      };
    });
  }

  async *#generate(
    prompt: Prompt,
    chat: ConversationOptions,
    plan: GenerationPlan,
    adapter: Adapter | null,
    handle: RunHandle<GeneratedToken, GenerationResult>,
  ): AsyncGenerator<GeneratedToken, GenerationResult, void> {
    const { adapters, decoder, hasTokenizer } = this.#model;
    const neededTokenizer = (): Tokenizer => this.#model.tokenizer;
    const held: { generation?: RunningGeneration; constraints?: TokenConstraint[] } = {};
    const releaseAdapter = adapters.acquire('generate', adapter);
    const release = this.#generations.add(handle, () => {
      held.generation?.cancel();
      for (const constraint of held.constraints ?? []) constraint.end();
      releaseAdapter();
    });
    const { signal } = plan;
    const abort = (): void => held.generation?.cancel(signal?.reason);
    try {
      if (plan.stop.length > 0) neededTokenizer(); // stop strings need text
      const ids = await promptIds(prompt, decoder.config.vocabSize, neededTokenizer, { ...chat, signal });
      signal?.throwIfAborted();
      const sequence = new SequencePlan(adapter, decoder.config.maxPositionEmbeddings);
      const maxNewTokens = checkedLimit(ids.length, plan, sequence);
      if (plan.grammar !== undefined)
        held.constraints = await this.#grammars.start(
          plan.grammar,
          plan.n,
          neededTokenizer(),
          signal,
          plan.speculate,
        );
      const engine = this.#startedEngine();
      const { constraints } = held;
      const tokenizer = hasTokenizer ? neededTokenizer() : undefined;
      const request = { adapter, sequence, prompt: ids, maxNewTokens };
      const running = (held.generation = new RunningGeneration({
        ...request,
        ...{ engine, plan, tokenizer, constraints },
      }));
      signal?.addEventListener('abort', abort, { once: true });
      yield* running.tokens();
      return running.result();
    } finally {
      signal?.removeEventListener('abort', abort);
      release();
    }
  }

  /** What a schema needs beside itself. */
  #checkGrammar(): void {
    void this.#model.tokenizer; // throws where there is none
    packagePath();
    if (this.#defaults.eosTokenIds.size > 0) return;
    throw loraError(
      'generate',
      'ERR_UNSUPPORTED',
      `jsonSchema needs an end-of-text token, and ${this.#model.directory} names none`,
    );
  }

  /** The engine, which is made for the first call that needs it. */
  #startedEngine(): Engine {
    return (this.#engine ??= this.#newEngine());
  }
  #newEngine(keptSteps?: number): Engine {
    return new Engine(this.#engineModel(), this.#limits, keptSteps);
  }
  #engineModel(): EngineModel {
    const { decoder, device } = this.#model;
    return engineModel(decoder, this.#model.linears(), device);
  }

  configureEngine(options: EngineOptions): void {
    const limits = engineLimits(options);
    if (this.#engine?.busy)
      throw loraError('configureEngine', 'ERR_BUSY', 'a generation runs: await it, or leave its loop');
    this.#engine?.dispose();
    this.#engine = undefined;
    this.#limits = limits;
  }

  #lend(sequences: number, tokens: number): EngineLoan {
    const own = this.#limits;
    // While it writes for others, and where another one configured it meanwhile, it stays as it is.
    const configure = (limits: EngineLimits, keptSteps?: number): void => {
      if (this.#engine?.busy) return;
      this.configureEngine(limits);
      if (keptSteps !== undefined) this.#engine = this.#newEngine(keptSteps);
      // What training and generating keep of freed memory has sizes that the other does not ask for.
      binding().trim(nativeDevice(this.#model.device));
    };
    const maxBatchSize = Math.max(own.maxBatchSize, Math.min(sequences, 64));
    const { maxPositionEmbeddings } = this.#model.config;
    // A request of another one, which comes meanwhile, may be as long as the context.
    const pages = Math.max((maxBatchSize + 8) * pagesFor(tokens), pagesFor(maxPositionEmbeddings));
    const model = this.#engineModel();
    const states = mostSlots(maxBatchSize) * slotBytes(model.layers);
    const needed = pages * pageBytes(model) + states;
    // As texts end, rows become fewer: a recording of each number would take as much as the pages.
    configure({ ...own, maxBatchSize, kvCacheBytes: Math.min(own.kvCacheBytes, needed) }, 8);
    const lent = this.#limits;
    const giveBack = (): void => {
      if (this.#limits === lent) configure(own);
    };
    return { maxBatchSize: lent.maxBatchSize, giveBack };
  }

  /** What a server's requests are drawn with that name no temperature. */
  get servedTemperature(): number {
    return this.#defaults.servedTemperature;
  }

  /** Sequences that make a token in one step. */
  get maxBatchSize(): number {
    return this.#limits.maxBatchSize;
  }

  get stats(): EngineStats {
    return this.#startedEngine().stats;
  }

  /** What was computed with an adapter is no longer wanted. */
  adapterRemoved(adapter: Adapter): void {
    this.#engine?.adapterRemoved(adapter);
  }
  /** What was computed with the base is no longer its. */
  baseChanged(): void {
    this.#engine?.baseChanged();
  }

  /** Waits for generations that run, and ends those that wait for their consumer. */
  async end(why: string): Promise<void> {
    await this.#generations.end(why);
  }
  async dispose(): Promise<void> {
    this.#engine?.dispose();
    await this.#grammars.dispose();
  }
}
