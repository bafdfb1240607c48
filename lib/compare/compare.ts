/** Comparing methods: the function that programs call. */
import { loadDataset } from '../data/dataset';
import type { DataSource } from '../data/example';
import { hasSplits } from '../data/folders';
import { loraError } from '../errors';
import { plannedRun, type RunHandle } from '../handle';
import { CausalLM } from '../models/causal_lm';
import { fromPretrainedOptionNames } from '../models/core/load_model';
import { ComparisonRun } from './comparison_run';
import { maxVirtualTokens } from './methods';
import {
  resolveCompare,
  resolveSweep,
  type CompareOptions,
  type ResolvedCompare,
  type SweepOptions,
} from './options';
import { questionAsked } from './question';
import type { Comparison, CompareEvent } from './results';
import { Study } from './study';
import { memoryWatch } from './trained';
import { check } from '../validate';

/** The thread's memory is counted for the variant that is trained. */
let busy = false;

/**
 * Trains the same model on the same data by several methods, ranks, alphas and target layers, over several seeds, and measures each
 * variant on the same held-out data: parameters, memory, speed, loss, exact answers. For every method the learning rate is chosen first, by
 * trials that are equally many and equally long.
 *
 * Iterate the handle for its events, or await it for the table. `outDir` gets a file for each result as soon as there is one: after an abort,
 * a crash or a power cut the same call goes on with the variant that was under way. It also gets the adapters, `comparison.json`, and
 * `comparison.html`, which opens in any browser without a network.
 *
 * `peakBytes` is of one variant alone: the counter of the bytes that tensors hold begins anew with each, on every device, and what the
 * program held before the call is taken away. It has the base model, but not JavaScript's heap.
 *
 * @throws (into the loop, or to who awaits) ERR_ARGUMENT for a bad option, and for an `outDir` with the results of another question, naming what differs;
 * ERR_BUSY while another comparison runs in the thread; what {@link CausalLM.fromPretrained}, {@link loadDataset} and {@link Trainer} throw.
 * A loss that is no number, and memory that runs out, are results of a variant.
 *
 * @example
 * const run = compareMethods({ model: 'model', data, evalData, ranks: [8, 16], budget: { steps: 200 }, outDir: 'comparison' });
 * for await (const e of run) if (e.type === 'variant') console.log(e.result.id, e.result.loss);
 * const { rows, report } = await run.result;
 */
export function compareMethods(options: CompareOptions): RunHandle<CompareEvent, Comparison> {
  return plannedRun('compareMethods', () => {
    const resolved = resolveCompare(options);
    return () => compare(resolved);
  });
}

/**
 * Trains one method with every combination of learning rates, ranks, alphas and target layers, over several seeds, and measures the held-out loss: a
 * comparison as that of {@link compareMethods}, of the same folder, events, page and resuming, in which the learning rate is one of the settings. The row with the
 * lowest median of the loss is the `best`.
 *
 * @throws (into the loop, or to who awaits) what {@link compareMethods} throws.
 * @example
 * const run = sweep({ model: 'model', data, evalData, ranks: [8, 32], learningRates: ['auto', 1e-3], budget: { steps: 200 }, outDir: 'sweep' });
 * const { rows, best } = await run;
 */
export function sweep(options: SweepOptions): RunHandle<CompareEvent, Comparison> {
  return plannedRun('sweep', () => {
    const resolved = resolveSweep(options);
    return () => compare(resolved);
  });
}

/** Tokens that the context holds in all variants, which read the same texts. @throws ERR_ARGUMENT where there is no room for any. */
function roomOf(options: ResolvedCompare, context: number): number {
  const room = context - maxVirtualTokens(options);
  check(
    room > 1,
    options.op,
    `expected ranks of less than ${context - 1}, since 'prompt' puts as many virtual tokens before each text and the model has max_position_embeddings ${context}, but received ${context - room}`,
  );
  return room;
}

async function* compare(options: ResolvedCompare): AsyncGenerator<CompareEvent, Comparison, void> {
  if (busy)
    throw loraError(
      options.op,
      'ERR_BUSY',
      'another comparison runs in this thread, and would count the memory of this one: await it first',
    );
  busy = true;
  try {
    const { modelDir, signal } = options;
    const watch = memoryWatch();
    const loading = fromPretrainedOptionNames.map((name) => [name, options[name]] as const);
    const loadModel = () => CausalLM.fromPretrained(modelDir, Object.fromEntries(loading));
    const model = await loadModel();
    let run: ComparisonRun | undefined;
    try {
      const room = roomOf(options, model.config.maxPositionEmbeddings);
      const load = async (source: CompareOptions['data'], split: 'train' | 'valid'): Promise<DataSource> => {
        if (typeof source !== 'string' && !(source instanceof URL)) return source;
        const { trainOn, chatTemplate, allowSpecialTokens, columns } = options;
        const maxLength = Math.min(options.maxLength, room);
        const tokenizer = model.hasTokenizer ? model.tokenizer : undefined;
        const rows = { trainOn, chatTemplate, allowSpecialTokens, columns };
        const { token, offline, onProgress } = options;
        const found = { token, offline, onProgress, ...((await hasSplits(source)) && { split }) };
        return loadDataset(source, { tokenizer, maxLength, ...rows, ...found, signal });
      };
      const data = await load(options.data, 'train');
      const evalData = await load(options.evalData, 'valid');
      const question = await questionAsked(options, { model, data, evalData });
      const study = await Study.open(options.op, options.outDir, question);
      run = new ComparisonRun({ load: loadModel, data, evalData, options, study, watch }, model);
      const comparison = yield* run.events(question);
      yield { type: 'end', comparison };
      return comparison;
    } finally {
      await (run ?? model).dispose();
    }
  } finally {
    busy = false;
  }
}
