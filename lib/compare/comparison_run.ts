/** A comparison that is under way: learning rates, then every variant, then the table and its report. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { DataSource } from '../data/example';
import { loraError } from '../errors';
import { writeFileAtomic } from '../formats/atomic';
import { adapterWeightsFile, weightsFile } from '../formats/model_files';
import type { CausalLM } from '../models/causal_lm';
import type { Adapter } from '../peft/adapter';
import { firstExamples, questionOf, writtenText } from '../train/report/samples';
import {
  idOf,
  comparedMethod,
  settingOfTrials,
  settingsOf,
  type MethodName,
  type SweptRate,
  type Variant,
} from './methods';
import type { CompareBudget, ResolvedCompare } from './options';
import {
  bestOf,
  rowOf,
  type ChosenRate,
  type ComparedText,
  type CompareEvent,
  type CompareStepEvent,
  type Comparison,
  type HeldOutScores,
  type Trial,
  type VariantResult,
} from './results';
import type { Shape, Study } from './study';
import { findingOf, train, type MemoryWatch, type Trained } from './trained';

/** A trial of a learning rate has this part of the budget of a variant. */
const partOfTrial = 1 / 4;
/** Examples whose answers are shown. */
const shownExamples = 5;

const scoreShape: Shape = { exactMatch: 'number or absent', f1: 'number or absent' };
const baseShape: Shape = { loss: 'number', ...scoreShape, samples: 'samples' };
const trialShape = (method: MethodName, lr: number): Shape => ({
  method: { is: method },
  lr: { is: lr },
  loss: 'number or null',
});
const resultShape = (variant: Variant): Shape => ({
  ...Object.fromEntries(
    Object.entries({ id: idOf(variant), ...variant }).map(([key, is]) => [key, { is }] as const),
  ),
  ...{ lr: 'number', trainableParameters: 'number', peakBytes: 'number', steps: 'number' },
  ...{ tokens: 'number', seconds: 'number', tokensPerSecond: 'number', curve: 'points' },
  ...scoreShape,
  ...{ loss: 'number or absent', samples: 'samples or absent' },
  ...{ fileBytes: 'number or absent', failed: 'string or absent' },
});

const trialBudget = (budget: CompareBudget): CompareBudget =>
  'steps' in budget
    ? { steps: Math.ceil(partOfTrial * budget.steps) }
    : { minutes: partOfTrial * budget.minutes };

interface Parts {
  /** Loads the model: once, and anew after its weights were trained. */
  readonly load: () => Promise<CausalLM>;
  readonly data: DataSource;
  readonly evalData: DataSource;
  readonly options: ResolvedCompare;
  readonly study: Study;
  readonly watch: MemoryWatch;
}

export class ComparisonRun {
  #model: CausalLM;

  /** Takes over the model. */
  constructor(
    private readonly parts: Parts,
    model: CausalLM,
  ) {
    this.#model = model;
  }

  async dispose(): Promise<void> {
    await this.#model.dispose();
  }

  /** After its weights were trained. */
  async #reload(): Promise<void> {
    await this.#model.dispose();
    this.#model = await this.parts.load();
  }

  async *events(question: Record<string, unknown>): AsyncGenerator<CompareEvent, Comparison, void> {
    const { options, study } = this.parts;
    const settings = settingsOf(options);
    const seeds = Array.from({ length: options.seeds }, (_, seed) => seed);
    // All settings with one seed come first, so that one that is stopped has something of each.
    const variants = seeds.flatMap((seed) => settings.map((setting): Variant => ({ ...setting, seed })));
    const results = new Map<string, VariantResult>();
    for (const variant of variants) {
      const known = await study.find<VariantResult>(idOf(variant), resultShape(variant));
      if (known) results.set(idOf(variant), known);
    }
    await this.#checkTargets();
    const chosen = options.swept ? [] : options.methods;
    const trials = chosen.map((method) => this.#tried(method).length);
    yield {
      ...{ type: 'start', variants: variants.length, done: results.size },
      trials: trials.reduce((sum, count) => sum + count, 0),
    };
    const base = await this.#base();
    const rates: ChosenRate[] = [];
    for (const method of chosen) rates.push(yield* this.#chooseRate(method));
    for (const variant of variants) {
      const id = idOf(variant);
      if (results.has(id)) continue;
      const lr = variant.rate ?? rates.find(({ method }) => method === variant.method)!.lr;
      const result = yield* this.#variant(variant, lr);
      await study.keep(id, result);
      results.set(id, result);
      yield { type: 'variant', result, done: results.size, variants: variants.length };
    }
    const resultOf = (variant: Variant): VariantResult => results.get(idOf(variant))!;
    const baseParameters = this.#model.parameterCount;
    const rows = settings.map((setting) =>
      rowOf(
        idOf(setting),
        seeds.map((seed) => resultOf({ ...setting, seed })),
        baseParameters,
      ),
    );
    const best = options.swept && bestOf(rows)?.id;
    const found = { question, baseParameters, base, rates, rows, results: variants.map(resultOf) };
    return this.#write({ ...found, ...(best !== undefined && { best }) });
  }

  /** Throws for targets that the model does not have, before anything is trained. */
  async #checkTargets(): Promise<void> {
    const { options } = this.parts;
    const ranks = [Math.min(...options.ranks)];
    for (const method of options.methods)
      for (const targets of options.targets) {
        const setting = settingOfTrials(method, { ...options, ranks, targets: [targets] });
        const adapter = comparedMethod(method).begin(this.#model, { ...setting, seed: 0 });
        if (adapter) await this.#model.removeAdapter(adapter.name);
        else this.#model.freeze(); // nothing was trained
      }
  }

  /** The base alone, measured once. */
  async #base(): Promise<HeldOutScores> {
    const { study } = this.parts;
    const known = await study.find<HeldOutScores>('base', baseShape);
    if (known) return known;
    const scores = await this.#measure(null);
    this.#forget();
    await study.keep('base', scores);
    return scores;
  }

  /** The rates that are tried: none where there is nothing to choose. */
  #tried(method: MethodName): readonly number[] {
    const rates = this.parts.options.rates[method]!;
    return rates.length > 1 ? rates : [];
  }

  async *#chooseRate(method: MethodName): AsyncGenerator<CompareEvent, ChosenRate, void> {
    const { options } = this.parts;
    const setting = settingOfTrials(method, options);
    const trials: Trial[] = [];
    for (const lr of this.#tried(method)) {
      const trial = yield* this.#trial({ ...setting, seed: options.seeds }, lr);
      trials.push(trial);
      yield { type: 'trial', ...trial };
    }
    const [only] = options.rates[method]!;
    const finite = trials.filter(({ loss }) => loss !== null);
    if (trials.length > 0 && finite.length === 0)
      throw loraError(
        options.op,
        'ERR_NON_FINITE',
        `no learning rate of ${method} gave a loss that is a number: tried were ${trials.map(({ lr }) => lr).join(', ')}; give others as learningRates`,
      );
    const lr = finite.length === 0 ? only! : finite.reduce((a, b) => (b.loss! < a.loss! ? b : a)).lr;
    const tried = trials.map((trial) => trial.lr);
    const atEdge = tried.length > 0 && (lr === Math.min(...tried) || lr === Math.max(...tried));
    const chosen: ChosenRate = { method, lr, atEdge, setting, trials };
    yield { type: 'rate', ...chosen };
    return chosen;
  }

  async *#trial(variant: Variant, lr: number): AsyncGenerator<CompareStepEvent, Trial, void> {
    const { options, evalData, study } = this.parts;
    const name = `rate-${variant.method}-${lr}`;
    const known = await study.find<Trial>(name, trialShape(variant.method, lr));
    if (known) return known;
    const { batchSize, evalLimit: limit, signal } = options;
    const trial = yield* this.#with(
      name,
      variant,
      { lr, budget: trialBudget(options.budget) },
      async (trained) => {
        const none: Trial = { method: variant.method, lr, loss: null };
        if (trained.failed !== undefined) return none;
        const rows = { limit, batchSize, signal, generate: false, adapters: [trained.adapter ?? null] };
        const { loss } = (await this.#model.evaluateTask(evalData, rows)).results[0]!;
        return Number.isFinite(loss) ? { ...none, loss: loss! } : none;
      },
    );
    await study.keep(name, trial);
    return trial;
  }

  async *#variant(variant: Variant, lr: SweptRate): AsyncGenerator<CompareStepEvent, VariantResult, void> {
    const { options, study } = this.parts;
    const id = idOf(variant);
    return yield* this.#with(id, variant, { lr, budget: options.budget }, async ({ adapter, ...trained }) => {
      const result: VariantResult = { id, ...variant, ...trained };
      if (trained.failed !== undefined) return result;
      try {
        const scores = await this.#measure(adapter ?? null);
        if (!Number.isFinite(scores.loss))
          return { ...result, failed: `the held-out loss is ${scores.loss}` };
        const dir = study.path('adapters', id);
        await (adapter ?? this.#model).save(dir);
        const { size: fileBytes } = await stat(join(dir, adapter ? adapterWeightsFile : weightsFile));
        return { ...result, ...scores, fileBytes };
      } catch (error) {
        return { ...result, failed: findingOf(error) };
      }
    });
  }

  /** Trains a variant, lets `use` look at it, and removes it. After an error the caller disposes of the model. */
  async *#with<T>(
    id: string,
    variant: Variant,
    how: { lr: SweptRate; budget: CompareBudget },
    use: (trained: Trained) => Promise<T>,
  ): AsyncGenerator<CompareStepEvent, T, void> {
    const trained = yield* train({ ...this.parts, model: this.#model }, variant, { id, ...how });
    const result = await use(trained);
    this.#forget();
    if (trained.adapter) await this.#model.removeAdapter(trained.adapter.name);
    else if (this.#model.numTrainable > 0) await this.#reload();
    return result;
  }

  /** What the engine keeps for later requests would count as memory of the next variant. */
  #forget(): void {
    this.#model.configureEngine();
  }

  async #measure(adapter: Adapter | null): Promise<HeldOutScores> {
    const model = this.#model;
    const { evalData, options } = this.parts;
    const { evalLimit: limit, maxNewTokens, stop, batchSize, signal } = options;
    // A sweep compares losses alone: answers would take longer than the training of its many variants.
    const generate = options.swept === undefined;
    const rows = { adapters: [adapter], limit, maxNewTokens, stop, batchSize, signal, generate };
    const { loss, exactMatch, f1 } = (await model.evaluateTask(evalData, rows)).results[0]!;
    const samples: ComparedText[] = [];
    if (generate && model.hasTokenizer)
      for (const example of await firstExamples(evalData, shownExamples)) {
        const { ids, prompt, expected } = questionOf(example, model);
        const text = await writtenText(model, ids, { adapter, deadline: Infinity, signal });
        samples.push({ prompt, expected, text });
      }
    return {
      loss: loss!,
      ...(exactMatch === undefined ? {} : { exactMatch, f1: f1! }),
      samples,
    };
  }

  async #write(found: Omit<Comparison, 'report' | 'file'>): Promise<Comparison> {
    const { study } = this.parts;
    const { writeComparisonPage } = await import('./page'); // with uPlot, which only this needs
    const report = await writeComparisonPage(study.dir, found);
    const comparison: Comparison = { ...found, report, file: study.path('comparison.json') };
    await writeFileAtomic(comparison.file, `${JSON.stringify(comparison, null, 2)}\n`);
    return comparison;
  }
}
