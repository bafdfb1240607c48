/**
 * The memory of a training step on a GPU, call by call: what lib/models/families/llama.ts and the backward functions of lib/ops allocate and give back, in
 * their order, with the scratch that the plans of native/backend/cuda ask for.
 */
import type { PackedFormat } from '../tensor/frozen_weight';
import { cudaCodedRows, cudaExpansionBytes } from '../native/constants';
import { lossScratch, type GpuLoss } from './gpu_loss';
import { bytesFrom, GpuMemory, laid, upTo, type GpuBlock, type GpuUse } from './gpu_memory';

/** A matrix that a layer multiplies with. */
export interface GpuMatrix {
  readonly out: number;
  readonly in: number;
  /** Of its adapter; 0: it has none. */
  readonly rank: number;
  /** In which it is quantized. */
  readonly format: PackedFormat | undefined;
}

/** The matrices of a block of Llama's kind. */
export interface GpuLayer {
  readonly q: GpuMatrix;
  readonly k: GpuMatrix;
  readonly v: GpuMatrix;
  readonly o: GpuMatrix;
  readonly gate: GpuMatrix;
  readonly up: GpuMatrix;
  readonly down: GpuMatrix;
  /** Whether queries and keys are rotated. */
  readonly rotates: boolean;
}

/** What a step computes. */
export interface GpuStep extends GpuLoss {
  readonly heads: number;
  readonly kvHeads: number;
  /** Norms over the heads of queries and keys. */
  readonly qkNorm: boolean;
  readonly layers: readonly GpuLayer[];
  readonly checkpointing: boolean;
}

const sum = (list: readonly number[]): number => list.reduce((all, each) => all + each, 0);
const isAdapted = (matrices: readonly GpuMatrix[]): boolean => matrices.some(({ rank }) => rank > 0);

/** The matrices of each call of lora_linear. */
const callsOf = ({ q, k, v, o, gate, up, down }: GpuLayer) => ({
  qkv: [q, k, v],
  o: [o],
  gateUp: [gate, up],
  down: [down],
});

/** Whether a layer has something to train. */
const isTrained = (layer: GpuLayer): boolean => isAdapted(Object.values(callsOf(layer)).flat());

/** Which results of a block depend on something that is trained, where its input does or does not. */
function gradientsIn(layer: GpuLayer, input: boolean) {
  const { qkv, o, gateUp } = callsOf(layer);
  const attention = input || isAdapted(qkv);
  const middle = attention || isAdapted(o);
  return { input, attention, middle, gated: middle || isAdapted(gateUp) };
}

/** Whether the product of y reads the codes of a matrix, as native/backend/cuda/lora_linear.cu does. */
const multipliesCodes = (
  { tokens, size }: Pick<GpuStep, 'tokens' | 'size'>,
  { format, in: inside }: GpuMatrix,
): boolean =>
  (format === 'nf4' || format === 'fp4') && size === 2 && tokens <= cudaCodedRows && inside % 64 === 0;

/**
 * The values of the matrices that are expanded: beside each other, or where they are more than LORA_CUDA_EXPANSION_BYTES, one after the other in the place of the
 * largest. Then the gradient of the input is a sum of products, in f32 where it is rounded.
 */
function expandedScratch(
  step: Pick<GpuStep, 'tokens' | 'size'>,
  matrices: readonly GpuMatrix[],
  gradient: boolean,
): number[] {
  const { tokens, size } = step;
  const isExpanded = (each: GpuMatrix): boolean =>
    each.format !== undefined && (gradient || !multipliesCodes(step, each));
  const bytes = matrices.map((each) => (isExpanded(each) ? size * each.out * each.in : 0));
  const largest = Math.max(0, ...bytes);
  const inTurn = sum(bytes) > Math.max(largest, bytesFrom('LORA_CUDA_EXPANSION_BYTES', cudaExpansionBytes));
  if (!inTurn) return bytes;
  return [largest, gradient && size === 2 ? 4 * tokens * matrices[0]!.in : 0];
}

/**
 * Scratch of a call of lora_linear as native/backend/cuda/lora_linear.cu lays it out: matrices that are expanded; h or u, rounded, and the factor behind it, which
 * has as many columns as the matrices have on their `side`, the inner one in the backward pass; with `floats`, u in f32; partial sums, as of products that are not
 * split.
 */
export function linearScratch(
  { tokens, size }: Pick<GpuStep, 'tokens' | 'size'>,
  matrices: readonly GpuMatrix[],
  side: 'in' | 'out',
  { expands = true, floats = false, partial = 0 } = {},
): number {
  const adapted = matrices.filter(({ rank }) => rank > 0);
  return laid(
    ...(expands ? expandedScratch({ tokens, size }, matrices, side === 'in') : []),
    ...(expands ? adapted.map(({ rank }) => size * tokens * upTo(rank, 16)) : []),
    ...(expands && size === 2 ? adapted.map((each) => size * factorSize(each, side)) : []),
    ...(floats ? adapted.map(({ rank }) => 4 * tokens * rank) : []),
    Math.max(partial, sum(adapted.map(({ rank }) => 4 * tokens * upTo(rank, 8)))),
  );
}

/** The numbers of up [out, rank], or of down [rank, in], whose rows are padded to multiples of 8. */
const factorSize = ({ rank, out, in: inside }: GpuMatrix, side: 'in' | 'out'): number =>
  side === 'out' ? out * upTo(rank, 8) : rank * upTo(inside, 8);

/** What the backward pass needs again of a block, by the nodes that hold it. */
interface SavedLayer {
  readonly norm: readonly GpuBlock[];
  readonly qkv: readonly GpuBlock[];
  readonly headNorms: readonly (readonly GpuBlock[])[];
  readonly attention: readonly GpuBlock[];
  readonly o: readonly GpuBlock[];
  readonly middleNorm: readonly GpuBlock[];
  readonly gateUp: readonly GpuBlock[];
  readonly gated: readonly GpuBlock[];
  readonly down: readonly GpuBlock[];
}

/** The residual stream: x in f32, and what is not added to it yet. */
interface Stream {
  readonly x: GpuBlock;
  readonly addend: GpuBlock | null;
}

/** The gradients of both. */
interface StreamGradient {
  readonly x: GpuBlock;
  readonly addend: GpuBlock;
}

/** What a step has in use when that is most, beside weights, trained values and moments. */
export function gpuStepUse(step: GpuStep): GpuUse {
  const memory = new GpuMemory();
  new StepWalk(memory, step).run();
  return memory.atMost;
}

/** Walks through the calls of a step. */
class StepWalk {
  readonly #memory: GpuMemory;
  readonly #step: GpuStep;
  /** Of the adapters. */
  readonly #gradients: GpuBlock[] = [];

  constructor(memory: GpuMemory, step: GpuStep) {
    this.#memory = memory;
    this.#step = step;
  }

  run(): void {
    const memory = this.#memory;
    const { layers, checkpointing, hiddenSize: d, size } = this.#step;
    const [ids, labels] = [this.#made(4), this.#made(4)];
    const first = layers.findIndex(isTrained);
    // Rows of the matrix, cast to f32.
    const rows = size === 2 ? [this.#made(size * d)] : [];
    let stream: Stream = { x: this.#made(4 * d), addend: null };
    memory.drop(...rows);
    const saved: SavedLayer[] = [];
    const checkpoints: GpuBlock[] = [];
    for (const [i, layer] of layers.entries()) {
      const trained = i >= first;
      if (checkpointing && trained) checkpoints[i] = memory.keep(stream.x);
      const made = this.#forward(layer, stream, trained && !checkpointing, i > first);
      saved[i] = made.saved;
      stream = checkpointing ? { x: this.#added(made), addend: null } : made;
    }
    const x = this.#loss(stream, ids, labels);
    let g: StreamGradient | null = checkpointing ? { x, addend: x } : { x, addend: this.#cast(x) };
    for (let i = layers.length - 1; i >= first; i--)
      g = checkpointing
        ? this.#backwardAgain(layers[i]!, checkpoints[i]!, g!.x, i > first)
        : this.#backward(layers[i]!, saved[i]!, g!, i > first);
    memory.drop(...this.#gradients);
  }

  /** A tensor that a forward pass makes, of so many bytes for each token. */
  #made(bytes: number): GpuBlock {
    return this.#memory.hold('activations', this.#step.tokens * bytes);
  }

  /** And a backward pass. */
  #gradient(bytes: number): GpuBlock {
    return this.#memory.hold('workspace', this.#step.tokens * bytes);
  }

  /** A gradient of the residual stream in the dtype of the activations. */
  #cast(g: GpuBlock): GpuBlock {
    const { size, hiddenSize } = this.#step;
    return size === 2 ? this.#gradient(size * hiddenSize) : this.#memory.keep(g);
  }

  /** x + addend. Consumes both. */
  #added({ x, addend }: Stream): GpuBlock {
    const y = this.#made(4 * this.#step.hiddenSize);
    this.#memory.drop(x, ...(addend ? [addend] : []));
    return y;
  }

  /** The outputs of matrices that read one x, and down·x of their adapters where it is needed again. */
  #linear(matrices: readonly GpuMatrix[], recorded: boolean): { ys: GpuBlock[]; h: GpuBlock[] } {
    const { size } = this.#step;
    const ys = matrices.map(({ out }) => this.#made(size * out));
    const h = matrices.flatMap(({ rank }) => (recorded && rank > 0 ? [this.#made(4 * rank)] : []));
    this.#memory.scratch('workspace', linearScratch(this.#step, matrices, 'out'));
    return { ys, h };
  }

  /** A block's forward pass. Consumes the stream; `recorded`: for a backward pass, in which its input has a gradient or not. */
  #forward(
    layer: GpuLayer,
    { x, addend }: Stream,
    recorded: boolean,
    hasGradient: boolean,
  ): Stream & { saved: SavedLayer } {
    const memory = this.#memory;
    const { size, hiddenSize: d, heads, kvHeads, qkNorm } = this.#step;
    const { qkv, o, gateUp, down } = callsOf(layer);
    const has = gradientsIn(layer, hasGradient);
    /** Blocks that a node holds, of which this function holds some no longer. */
    const savedIf = (condition: boolean, blocks: readonly GpuBlock[]): readonly GpuBlock[] => {
      if (recorded && condition) return blocks;
      memory.drop(...blocks);
      return [];
    };
    const rstd = (condition: boolean, count = 1): GpuBlock[] =>
      recorded && condition ? [this.#made(4 * count)] : [];

    const total = addend ? this.#made(4 * d) : x;
    const normed = this.#made(size * d);
    const norm = savedIf(has.input, [memory.keep(total), ...rstd(has.input)]);
    if (addend) memory.drop(x, addend);
    const { ys, h } = this.#linear(qkv, recorded);
    // What a norm of something with a gradient made is computed once more.
    const ofQkv = [...h, ...savedIf(!has.input && isAdapted(qkv), [normed])];
    let [q, k] = ys as [GpuBlock, GpuBlock];
    const v = ys[2]!;
    const headNorms: (readonly GpuBlock[])[] = [];
    if (qkNorm) {
      const normOf = (from: GpuBlock, width: number, count: number): GpuBlock => {
        const to = this.#made(size * width);
        headNorms.push(savedIf(has.attention, [from, ...rstd(has.attention, count)]));
        return to;
      };
      q = normOf(q, layer.q.out, heads);
      k = normOf(k, layer.k.out, kvHeads);
    }
    if (layer.rotates) {
      const rotated = [this.#made(size * layer.q.out), this.#made(size * layer.k.out)] as const;
      memory.drop(q, k);
      [q, k] = rotated;
    }
    const mixed = this.#made(size * layer.q.out);
    const attention = savedIf(has.attention, [
      ...[q, k, v, memory.keep(mixed)],
      ...rstd(has.attention, heads), // the logarithms of sums
    ]);
    const attended = this.#linear(o, recorded);
    const ofO = [...attended.h, ...savedIf(isAdapted(o), [mixed])];
    const middle = this.#made(4 * d);
    const normed2 = this.#made(size * d);
    const middleNorm = savedIf(has.middle, [memory.keep(middle), ...rstd(has.middle)]);
    memory.drop(total, ...attended.ys);
    const wide = this.#linear(gateUp, recorded);
    const ofGateUp = [...wide.h, ...savedIf(!has.middle && isAdapted(gateUp), [normed2])];
    const activated = this.#made(size * layer.down.in);
    const gated = savedIf(has.gated, wide.ys);
    const last = this.#linear(down, recorded);
    const ofDown = [...last.h, ...savedIf(!has.gated && isAdapted(down), [activated])];
    return {
      x: middle,
      addend: last.ys[0]!,
      saved: {
        ...{ norm, qkv: ofQkv, headNorms, attention, o: ofO },
        ...{ middleNorm, gateUp: ofGateUp, gated, down: ofDown },
      },
    };
  }

  /** The last norm and the loss, and their backward functions: gives the gradient of the stream. Consumes all. */
  #loss(stream: Stream, ids: GpuBlock, labels: GpuBlock): GpuBlock {
    const memory = this.#memory;
    const { size, hiddenSize: d } = this.#step;
    const x = stream.addend ? this.#added(stream) : stream.x;
    const [normed, rstd] = [this.#made(size * d), this.#made(4)];
    memory.drop(ids);
    const dHidden = this.#gradient(4 * d);
    memory.scratch('logits', lossScratch(this.#step));
    memory.drop(labels, normed);
    const g = this.#gradient(size * d);
    memory.drop(dHidden);
    const dx = this.#gradient(4 * d);
    memory.drop(x, rstd, g);
    return dx;
  }

  /** A block's backward pass. Consumes the gradient and what was saved; null where the block's input has none. */
  #backward(
    layer: GpuLayer,
    saved: SavedLayer,
    g: StreamGradient,
    hasGradient: boolean,
  ): StreamGradient | null {
    const memory = this.#memory;
    const { size, hiddenSize: d, heads, qkNorm, checkpointing } = this.#step;
    const { qkv, o, gateUp, down } = callsOf(layer);
    const has = gradientsIn(layer, hasGradient);

    const ofDown = this.#linearBackward(down, [g.addend], saved.down, has.gated);
    if (!has.gated) return this.#ended(g.x);
    const wide = gateUp.map(({ out }) => this.#gradient(size * out));
    memory.drop(...saved.gated);
    ofDown.end();
    const ofGateUp = this.#linearBackward(gateUp, wide, saved.gateUp, has.middle);
    if (!has.middle) return this.#ended(g.x);
    const dMiddle = this.#gradient(4 * d);
    const dAttended = this.#cast(dMiddle);
    memory.drop(...saved.middleNorm, g.x);
    if (!has.input) memory.drop(dMiddle);
    ofGateUp.end();
    const ofO = this.#linearBackward(o, [dAttended], saved.o, has.attention, false);
    if (!has.attention) return null;
    let [dq, dk] = [this.#gradient(size * layer.q.out), this.#gradient(size * layer.k.out)];
    const dv = this.#gradient(size * layer.v.out);
    memory.scratch('workspace', 4 * heads * this.#step.tokens);
    memory.drop(...saved.attention);
    ofO.end();
    if (layer.rotates) {
      const back = [this.#gradient(size * layer.q.out), this.#gradient(size * layer.k.out)] as const;
      memory.drop(dq, dk);
      [dq, dk] = back;
    }
    if (qkNorm) {
      const normBack = (from: GpuBlock, width: number, own: readonly GpuBlock[]): GpuBlock => {
        const to = this.#gradient(size * width);
        memory.drop(...own, from);
        return to;
      };
      dk = normBack(dk, layer.k.out, saved.headNorms[1]!);
      dq = normBack(dq, layer.q.out, saved.headNorms[0]!);
    }
    const ofQkv = this.#linearBackward(qkv, [dq, dk, dv], saved.qkv, has.input);
    if (!has.input) return null;
    const dx = this.#gradient(4 * d);
    // A block that is computed twice reads a sum: its gradient is added to that of the second norm's.
    const next = checkpointing ? { x: dMiddle, addend: dMiddle } : { x: dx, addend: this.#cast(dx) };
    memory.drop(...saved.norm, checkpointing ? dx : dMiddle);
    ofQkv.end();
    return next;
  }

  /** The end of a backward pass before the input of a block. */
  #ended(g: GpuBlock): null {
    this.#memory.drop(g);
    return null;
  }

  /** A block's forward pass once more, and its backward pass. `g`: of what it makes. */
  #backwardAgain(layer: GpuLayer, input: GpuBlock, g: GpuBlock, hasGradient: boolean): StreamGradient | null {
    const memory = this.#memory;
    const made = this.#forward(layer, { x: memory.keep(input), addend: null }, true, hasGradient);
    const y = this.#added(made);
    const next = this.#backward(layer, made.saved, { x: memory.keep(g), addend: this.#cast(g) }, hasGradient);
    memory.drop(y, input, g);
    return next;
  }

  /**
   * The gradients of a call. That of its input comes first where the op before computes the input once more; end() then gives those of the adapters. Consumes
   * `gs` and what was saved.
   */
  #linearBackward(
    matrices: readonly GpuMatrix[],
    gs: readonly GpuBlock[],
    saved: readonly GpuBlock[],
    wanted: boolean,
    rematerialized = true,
  ): { end: () => void } {
    const memory = this.#memory;
    const { size } = this.#step;
    const adapted = matrices.filter(({ rank }) => rank > 0);
    const partial = sum(adapted.map(({ rank, out, in: inside }) => 4 * upTo(rank, 8) * (out + inside)));
    const gradients = (): void => {
      for (const { rank, out, in: inside } of adapted)
        for (const side of [inside, out]) this.#gradients.push(memory.hold('adapters', 4 * rank * side));
    };
    const scratch = (floats: boolean, expands = wanted): void =>
      memory.scratch('workspace', linearScratch(this.#step, matrices, 'in', { expands, floats, partial }));
    const dx = wanted ? [this.#gradient(size * matrices[0]!.in)] : [];
    if (!wanted || !rematerialized || adapted.length === 0) {
      gradients();
      scratch(adapted.length > 0);
      memory.drop(...saved, ...gs);
      return { end: () => memory.drop(...dx) };
    }
    const u = adapted.map(({ rank }) => this.#gradient(4 * rank));
    memory.scratch('workspace', linearScratch(this.#step, matrices, 'in'));
    return {
      end: () => {
        gradients();
        memory.scratch('workspace', laid(partial));
        memory.drop(...saved, ...dx, ...gs, ...u);
      },
    };
  }
}
