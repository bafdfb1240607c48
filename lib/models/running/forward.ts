/** model.forward: logits and loss of a batch. */
import { crossEntropy, linearCrossEntropy } from '../../ops';
import type { LossAndCount } from '../../ops/cross_entropy';
import { splitRows } from '../../ops/rows';
import { Tensor } from '../../tensor/tensor';
import type { Device } from '../../native/device';
import type { Adapter } from '../../peft/adapter';
import type { AdapterChoice, AdapterSet } from '../../peft/adapter_set';
import type { AdapterUse } from '../../peft/adapter_use';
import { isRecording, moved } from '../../tensor/scope';
import { check, checkBoolean, checkOneOf, checkOptions } from '../../validate';
import { idsTensor, targetsTensor, type Targets, type TokenRows } from '../inputs/batch';
import { deltasOf, finalNorm, headLogits, hiddenStatesByBlock, type Decoder } from '../core/decoder';
import { InputLayout } from '../inputs/input_layout';
import { headLogProbs, type LabelLogProbs, type LogProbsWanted } from '../core/label_log_probs';
import type { ModelCore } from '../core/model_core';
import { noiseFactors, type EmbeddingNoise } from '../inputs/noise';
import type { ForwardOptions } from '../core/options';
import { classLogits } from './class_logits';
import { RowAdapters } from '../inputs/row_adapters';
import { checkSegments, segmentsOf, tableRowsOf } from '../inputs/segments';
import { linearsOf } from '../files/tensor_table';

/** The adapter of a call, or those of its rows. */
type ForwardUse = AdapterUse & { readonly rows?: RowAdapters | undefined };

/** What the options of a call ask for. */
interface ForwardPlan {
  labels?: TokenRows | undefined;
  segmentIds?: readonly (readonly number[] | Int32Array)[] | undefined;
  noise?: EmbeddingNoise | undefined;
  watch?: ((module: string, x: Tensor) => void) | undefined;
  logProbs?: LogProbsWanted | undefined;
  rowLosses: boolean;
  recompute: boolean;
  reduction: 'mean' | 'sum';
  wantLogits: boolean;
  use: ForwardUse;
}

interface ForwardRequest extends ForwardPlan {
  ids: TokenRows;
  device: Device;
}

export interface ForwardResult {
  /** Mean or sum of −log p of the labels that count; present when labels were given. */
  loss?: Tensor;
  /** The sum of each row, a scalar; present in the place of `loss` when asked for. */
  rowLosses?: Tensor[];
  /** log p of the labels that count; present in the place of `loss` when asked for. */
  logProbs?: LabelLogProbs;
  /** [batch, seq, vocab] f32, or of a head of classes [texts, labels]; present when asked for. */
  logits?: Tensor;
}

/** Resolves the adapters that a call names. */
function planAdapters(op: string, options: ForwardOptions, adapters: AdapterSet): ForwardUse {
  const choice = options.adapter;
  const each = (Array.isArray(choice) ? choice : [choice]).map((one: AdapterChoice) =>
    adapters.resolve(op, one),
  );
  const train = options.train ?? (isRecording() && each.some((adapter) => adapter?.trainable));
  checkBoolean(op, 'train', train);
  if (Array.isArray(choice)) return { adapter: null, rows: new RowAdapters(each, train) };
  const adapter = each[0]!;
  return { adapter, dropoutForward: adapter?.nextForward(train) };
}

/** Checks the options of a call, and chooses its adapter. */
function planForward(options: ForwardOptions, adapters: AdapterSet): ForwardPlan {
  const op = 'forward';
  checkOptions(
    op,
    options,
    ['labels', 'segmentIds', 'reduction', 'logits', 'adapter', 'train', 'gradientCheckpointing'],
    ['logProbs', 'noise', 'rowLosses', 'watch'],
  );
  const {
    labels,
    segmentIds,
    noise,
    watch,
    logProbs,
    rowLosses = false,
    gradientCheckpointing: recompute = false,
    reduction = 'mean',
    logits: wantLogits = labels === undefined,
  } = options;
  checkOneOf(op, 'reduction', reduction, ['mean', 'sum']);
  checkBoolean(op, 'logits', wantLogits);
  checkBoolean(op, 'gradientCheckpointing', recompute);
  const use = planAdapters(op, options, adapters);
  return { labels, segmentIds, noise, watch, logProbs, rowLosses, recompute, reduction, wantLogits, use };
}

/** Checks the rows of a call, and finds where their tokens lie. */
function layoutOf(
  { ids, labels, segmentIds, use }: ForwardRequest,
  [batch, width]: readonly [number, number],
  context: number,
): InputLayout {
  const adapters = use.rows?.adapters ?? Array<Adapter | null>(batch).fill(use.adapter);
  check(
    adapters.length === batch,
    'forward',
    `expected one adapter for each of ${batch} rows but received ${adapters.length}`,
  );
  if (segmentIds !== undefined) {
    check(
      !(ids instanceof Tensor) && !(labels instanceof Tensor),
      'forward',
      'expected ids and labels to be number[][], since segmentIds are given',
    );
    checkSegments(segmentIds, ids);
  }
  const lengths = ids instanceof Tensor ? adapters.map(() => width) : ids.map(({ length }) => length);
  return new InputLayout({ adapters, lengths, width, segmentIds, context });
}

/** What the head of a model reads. */
interface Normed {
  /** [batch, layout.length, hiddenSize], after the last norm. */
  readonly hidden: Tensor;
  readonly layout: InputLayout;
  readonly targets: Targets | undefined;
  /** The adapters of the call, for its head. */
  readonly use: AdapterUse;
}

/** The segments of rows that hold one text each. */
const wholeRows = (ids: TokenRows, [batch, width]: readonly [number, number]): number[][] =>
  Array.from({ length: batch }, (_, i) =>
    Array<number>(ids instanceof Tensor ? width : ids[i]!.length).fill(1),
  );

/** Runs all but the head. Yields after each block. */
function* normedSteps(decoder: Decoder, request: ForwardRequest): Generator<void, Normed, void> {
  const { use, device } = request;
  const { vocabSize } = decoder.config;
  const ids = idsTensor(request.ids, vocabSize, device);
  const shape = ids.shape as [number, number];
  const layout = layoutOf(request, shape, decoder.config.maxPositionEmbeddings);
  const { length } = layout;
  const linears = linearsOf(decoder.weights);
  // What stands behind the pooled tokens has other rows than the blocks.
  use.rows?.prepare(decoder.config.head ? linears.slice(0, -1) : linears, length, device);
  const { segmentIds, labels } = request;
  const { bothDirections } = decoder.config;
  // Causal attention never looks at the padding behind a text.
  const texts = segmentIds ?? (bothDirections ? wholeRows(request.ids, shape) : undefined);
  const segments =
    texts &&
    segmentsOf(
      texts.map((row, i) => layout.placed(row, i)),
      length,
      device,
      bothDirections,
    );
  const tableRows = decoder.ropes.start && tableRowsOf(layout, decoder.ropes.start, device);
  const noise =
    request.noise && noiseFactors(request.noise, request.ids, segmentIds, decoder.config.hiddenSize, device);
  const rows = { ids: request.ids, shape, segmentIds, layout, vocab: vocabSize, device };
  const targets = labels && targetsTensor(labels, rows);

  const hidden = finalNorm(
    decoder,
    yield* hiddenStatesByBlock(decoder, ids, use, {
      segments,
      tableRows,
      noise,
      watch: request.watch,
      recompute: request.recompute,
      input: (x) => layout.insert(x),
    }),
  );
  ids.dispose();
  noise?.factors.dispose();
  segments?.keyBegin.dispose();
  segments?.positions.dispose();
  segments?.keyEnd?.dispose();
  tableRows?.dispose();
  return { hidden, layout, targets, use };
}

/**
 * Yields after each block. It runs inside one scope of the caller's, which frees what is left when a check fails midway.
 */
function* forwardSteps(decoder: Decoder, request: ForwardRequest): Generator<void, ForwardResult, void> {
  const { use } = request;
  const { hidden, layout, targets } = yield* normedSteps(decoder, request);
  if (decoder.config.head) return { logits: classLogits(decoder, hidden, { ...request, layout }) };
  const { length } = layout;
  const [batch] = hidden.shape as [number];
  if (request.logProbs) {
    const logProbs = moved(hidden, (t) => headLogProbs(decoder, t, targets!.rows!, use, request.logProbs!));
    targets!.labels.dispose();
    return { logProbs };
  }
  // The fused loss never holds all logits, but knows only a plain head.
  const { output: head } = decoder.weights.head;
  const plainHead = deltasOf(use, head.path).length === 0;
  let logits: Tensor | undefined;
  if (request.wantLogits || !plainHead) {
    const narrow = headLogits(decoder, hidden, use);
    logits = narrow.dtype === 'f32' ? narrow : narrow.to({ dtype: 'f32' });
    if (logits !== narrow) narrow.dispose();
  }
  let loss: Tensor | undefined;
  if (targets) {
    const flat = (logits ?? hidden).reshape([batch * length, (logits ?? hidden).shape[2]!]);
    const lossOf = (rows: Tensor, labels: Tensor): LossAndCount =>
      logits
        ? crossEntropy(rows, labels)
        : linearCrossEntropy(rows, head.weight, labels, { cap: decoder.config.logitCap });
    if (request.rowLosses) {
      const counts = Array<number>(batch).fill(length);
      const labels = splitRows(targets.labels, counts);
      // The scope of the caller frees the rest.
      return { rowLosses: splitRows(flat, counts).map((row, i) => lossOf(row, labels[i]!).loss) };
    }
    const { loss: sum, count } = lossOf(flat, targets.labels);
    flat.dispose();
    targets.labels.dispose();
    loss = request.reduction === 'sum' ? sum : sum.div(targets.count ?? count);
    if (loss !== sum) sum.dispose();
    count.dispose();
  }
  hidden.dispose();
  if (request.wantLogits) logits = layout.tokens(logits!);
  else {
    logits?.dispose();
    logits = undefined;
  }
  return { loss, logits };
}

/** The steps of CausalLM.forward. Checks the options at once. */
export function plannedForward(
  model: ModelCore,
  ids: TokenRows,
  options: ForwardOptions,
): ReturnType<typeof forwardSteps> {
  model.checkAlive('forward');
  if (options.labels !== undefined) model.checkLanguageHead('forward');
  const plan = planForward(options, model.adapters);
  return forwardSteps(model.decoder, { ...plan, ids, device: model.device });
}

/** The same, of which the head computes nothing. What it gives may run several times, each with the same dropout masks. */
export function plannedNormed(
  model: ModelCore,
  ids: TokenRows,
  options: ForwardOptions,
): () => ReturnType<typeof normedSteps> {
  const plan = planForward(options, model.adapters);
  return () => normedSteps(model.decoder, { ...plan, ids, device: model.device });
}
