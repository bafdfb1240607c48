/** What makes the adapters of a model: new ones, those of files, and one of several. */
import { loraError } from '../errors';
import { idOfSnapshot } from '../hub/cache';
import { sourceOptionNames } from '../hub/source';
import { Adapter } from '../peft/adapter';
import type { AdapterSource } from '../peft/adapter_parts';
import { adapterFiles, type AdapterFiles } from '../peft/adapter_files';
import type { AddAdapterOptions } from '../peft/adapter_set';
import { combineOptions, combinePlan, type CombineAdaptersOptions } from '../peft/combine';
import { withStackedExperts } from '../peft/expert_keys';
import { scoreModule, scoreModules, type ModelHead } from '../peft/head';
import { peftPrefix, type AdaptedBase } from '../peft/method';
import {
  checkMethod,
  methodNames,
  methodOfInput,
  methodOfJson,
  type AdapterConfigInput,
  type AdapterMethodName,
  type MethodChoice,
} from '../peft/methods';
import { tensor } from '../tensor/create';
import { moved } from '../tensor/scope';
import {
  check,
  checkBoolean,
  checkInteger,
  checkOneOf,
  checkOptions,
  describe,
  isListOf,
  listed,
} from '../validate';
import { combineAdapters } from './combine_adapters';
import { embeddingsOf } from './core/decoder';
import type { ModelCore } from './core/model_core';
import type { LoadAdapterOptions } from './core/options';

/**
 * A head of classes is trained whole beside an adapter. Its file then lists both names that the matrix may have, as PEFT's do.
 * @throws ERR_UNSUPPORTED for a method that trains no module whole
 */
function withScore(op: string, choice: MethodChoice): MethodChoice {
  const { method, config } = choice;
  if (!('modulesToSave' in config))
    throw loraError(
      op,
      'ERR_UNSUPPORTED',
      `expected method 'lora' or 'ia3' in a model with a head of classes, which is trained beside, but received '${method}'`,
    );
  const named = config.modulesToSave ?? [];
  if (named.includes(scoreModule)) return choice;
  return { ...choice, config: { ...config, modulesToSave: [...new Set([...named, ...scoreModules])] } };
}

/** @throws ERR_ADAPTER for an adapter of a head that the model does not have. */
function checkHeads(op: string, name: string, files: AdapterFiles, head: ModelHead | undefined): void {
  const refuse = (why: string): never => {
    throw loraError(op, 'ERR_ADAPTER', `adapter '${name}' does not fit the model: ${why}`);
  };
  const { labels } = files.head ?? {};
  if (head === undefined) {
    const names = labels ? JSON.stringify(labels) : '[…]';
    if (files.config['task_type'] === 'SEQ_CLS')
      refuse(
        `it is for a head of classes (task_type SEQ_CLS): load the model with head: { type: 'classify', labels: ${names} }`,
      );
    return;
  }
  if (labels && labels.join('\0') !== head.labels.join('\0'))
    refuse(`it was trained for the labels ${listed(labels)}, and the model has ${listed(head.labels)}`);
}

/** @internal The methods are those of CausalLM, where they are documented. */
export class ModelAdapters {
  constructor(private readonly model: ModelCore) {}

  add(config: AdapterConfigInput, options: AddAdapterOptions): Adapter {
    const op = 'addAdapter';
    const { adapters } = this.model;
    checkOptions(op, options, ['name', 'seed', 'activate']);
    const source = this.#source(op, { ...options, trainable: true });
    const base = this.#base();
    const choice = methodOfInput(op, config, base);
    const { head } = this.model.config;
    const adapter = Adapter.create({ ...source, ...(head ? withScore(op, choice) : choice) }, base);
    adapters.add(adapter, options.activate ?? false);
    return adapter;
  }

  async load<Name extends AdapterMethodName>(
    from: string | URL | AdapterFiles,
    options: LoadAdapterOptions<Name>,
  ): Promise<Adapter<Name>> {
    const op = 'loadAdapter';
    const { adapters } = this.model;
    const known = ['name', 'seed', 'activate', 'trainable', 'limits', 'method', ...sourceOptionNames];
    checkOptions(op, options, known);
    const { method } = options;
    if (method !== undefined) checkOneOf(op, 'method', method, methodNames);
    const source = this.#source(op, options);
    const found = await adapterFiles(op, from, options);
    this.model.checkAlive(op);
    const base = this.#base();
    const files = await withStackedExperts(source.name, found, base, source.trainable);
    this.model.checkAlive(op);
    const { head } = this.model.config;
    checkHeads(op, source.name, files, head);
    const stored = methodOfJson(files.config, base.linears);
    // Some writers keep the matrix without naming it.
    const holdsScore = head !== undefined && files.tensors.has(`${peftPrefix(scoreModule)}.weight`);
    const choice = holdsScore ? withScore(op, stored) : stored;
    if (method !== undefined) checkMethod(op, choice, method);
    const adapter = await Adapter.fromTensors({ ...source, ...choice }, files.tensors, base);
    try {
      this.model.checkAlive(op);
      adapters.checkName(op, source.name); // again: others may have come meanwhile
      if (options.activate) adapters.checkActivates(op);
    } catch (error) {
      adapter.dispose();
      throw error;
    }
    adapters.add(adapter, options.activate ?? false);
    return adapter as Adapter<Name>;
  }

  async combine(given: readonly (string | Adapter)[], options: CombineAdaptersOptions): Promise<Adapter> {
    const op = 'combineAdapters';
    const { adapters } = this.model;
    const { name = 'combined', seed, activate, trainable, ...settings } = options;
    checkOptions(op, options, [...combineOptions, 'name', 'seed', 'activate', 'trainable']);
    adapters.checkName(op, name);
    const isName = (one: unknown): boolean => typeof one === 'string' || one instanceof Adapter;
    check(
      isListOf(given, isName) && given.length > 0,
      op,
      () => `expected a list of adapters but received ${describe(given)}`,
    );
    const found = given.map((one) => adapters.resolveForCombining(op, one));
    const plan = combinePlan(op, found.length, { ...settings, seed });
    const releases = found.map((adapter) => adapter.acquire());
    try {
      const files = await combineAdapters(op, found, this.model.linears(), this.model.experts(), plan);
      this.model.checkAlive('loadAdapter');
      return await this.load(files, { name, seed, activate, trainable });
    } finally {
      for (const release of releases) release();
    }
  }

  #source(
    op: string,
    { name = 'default', seed = 0, trainable = false, activate = false }: LoadAdapterOptions,
  ): Omit<AdapterSource, 'method' | 'config'> {
    const { directory, device, adapters, config } = this.model;
    adapters.checkName(op, name);
    checkInteger(op, 'seed', seed);
    checkBoolean(op, 'trainable', trainable);
    checkBoolean(op, 'activate', activate);
    if (activate) adapters.checkActivates(op);
    const { head } = config;
    return { name, base: idOfSnapshot(directory) ?? directory, head, trainable, seed, device };
  }

  /** What adapters are made for. */
  #base(): AdaptedBase {
    const { config, device } = this.model;
    return {
      ...config,
      linears: this.model.linears(),
      experts: this.model.experts(),
      encode: (text) => this.model.tokenizer.encode(text),
      embed: (ids) =>
        moved(tensor([...ids], { dtype: 'i32', device }), (t) => embeddingsOf(this.model.decoder, t)),
    };
  }
}
