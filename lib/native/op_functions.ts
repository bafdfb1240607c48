// Written by native/test/core/op_types_test.cc from the descriptions in
// native/core/ops, which has formulas and shapes.
import type { DType } from './dtype';
import type { NativeDevice, NativeGuard, NativeTable, NativeTensor, NativeWeight } from './handles';

/** A function for each op. Scalars have shape []. */
export interface OpFunctions {
  pack(
    weight: NativeTensor,
    scales: NativeTensor | null,
    format: 'int8' | 'nf4' | 'fp4' | 'f32' | 'bf16' | 'f16' | 'q4_0' | 'q4_1' | 'q5_0' | 'q5_1' | 'q8_0' | 'q2_k' | 'q3_k' | 'q4_k' | 'q5_k' | 'q6_k' | 'iq1_s' | 'iq2_s' | 'iq3_s' | 'iq4_nl' | 'iq4_xs' | 'tq1_0' | 'tq2_0' | 'mxfp4',
    shape: readonly number[],
    dtype: DType,
  ): NativeWeight;
  quantize(
    weight: NativeTensor,
    format: 'int8' | 'nf4' | 'fp4',
  ): [values: NativeTensor, magnitudes: NativeTensor];
  quantizeBlocks(
    values: NativeTensor,
    format: 'q8_0' | 'q5_0' | 'q4_0' | 'q4_k',
  ): [blocks: NativeTensor, held: NativeTensor];
  unpack(
    weight: NativeWeight,
  ): NativeTensor;
  loraLinearForward(
    x: NativeTensor,
    branches: readonly { weight: NativeWeight; bias?: NativeTensor | null; up?: NativeTensor | null; down?: NativeTensor | null; scale: number; dropout?: { p: number; seed: number; layer: number; forward: number } | null; site: number; factor?: NativeTensor | null; activations: 'exact' | 'int8' }[],
    phase: 'auto' | 'prefill' | 'decode',
    slots: NativeTensor | null,
    table: NativeTable | null,
    keepH: boolean,
  ): [y: NativeTensor[], h: (NativeTensor | null)[]];
  loraLinearBackward(
    x: NativeTensor | null,
    branches: readonly { weight: NativeWeight; bias?: NativeTensor | null; up?: NativeTensor | null; down?: NativeTensor | null; scale: number; dropout?: { p: number; seed: number; layer: number; forward: number } | null; site: number; factor?: NativeTensor | null; activations: 'exact' | 'int8' }[],
    g: readonly NativeTensor[],
    h: readonly (NativeTensor | null)[],
    u: readonly (NativeTensor | null)[],
    wantDx: boolean,
    wantUp: readonly boolean[],
    wantDown: readonly boolean[],
    keepU: boolean,
  ): [dx: NativeTensor | null, dUp: (NativeTensor | null)[], dDown: (NativeTensor | null)[], keptU: (NativeTensor | null)[]];
  dropout(
    x: NativeTensor,
    dropout: { p: number; seed: number; layer: number; forward: number } | null,
  ): NativeTensor;
  routeForward(
    logits: NativeTensor,
    chosen: number,
    amongChosen: boolean,
  ): [weights: NativeTensor, experts: NativeTensor, order: NativeTensor, places: NativeTensor, offsets: NativeTensor];
  routeBackward(
    logits: NativeTensor,
    experts: NativeTensor,
    g: NativeTensor,
    amongChosen: boolean,
  ): NativeTensor;
  spreadRows(
    x: NativeTensor,
    order: NativeTensor,
    weights: NativeTensor | null,
  ): NativeTensor;
  combineRows(
    x: NativeTensor,
    places: NativeTensor,
    weights: NativeTensor | null,
    chosen: number,
  ): NativeTensor;
  rowDots(
    g: NativeTensor,
    x: NativeTensor,
    places: NativeTensor,
  ): NativeTensor;
  routedLinearForward(
    x: NativeTensor,
    offsets: NativeTensor,
    experts: readonly { weight: NativeWeight; bias?: NativeTensor | null; activations: 'exact' | 'int8' }[],
    up: NativeTensor | null,
    down: NativeTensor | null,
    scale: number,
    phase: 'auto' | 'prefill' | 'decode',
    keepH: boolean,
  ): [y: NativeTensor, h: NativeTensor | null];
  routedLinearBackward(
    x: NativeTensor | null,
    offsets: NativeTensor,
    experts: readonly { weight: NativeWeight; bias?: NativeTensor | null; activations: 'exact' | 'int8' }[],
    up: NativeTensor | null,
    down: NativeTensor | null,
    scale: number,
    g: NativeTensor,
    h: NativeTensor | null,
    wantDx: boolean,
    wantUp: boolean,
    wantDown: boolean,
  ): [dx: NativeTensor | null, dUp: NativeTensor | null, dDown: NativeTensor | null];
  routedWeights(
    x: NativeTensor,
    offsets: NativeTensor,
    g: NativeTensor,
  ): NativeTensor;
  embedding(
    weight: NativeWeight,
    ids: NativeTensor,
  ): NativeTensor;
  embeddingBackward(
    g: NativeTensor,
    ids: NativeTensor,
    dw: NativeTensor,
  ): void;
  rmsNormForward(
    x: NativeTensor,
    addend: NativeTensor | null,
    weight: NativeTensor,
    eps: number,
    offset: number,
    dtype: DType,
    keepRstd: boolean,
  ): [sum: NativeTensor | null, y: NativeTensor, rstd: NativeTensor | null];
  rmsNormBackward(
    x: NativeTensor,
    weight: NativeTensor,
    rstd: NativeTensor,
    g: NativeTensor,
    gSum: NativeTensor | null,
    eps: number,
    offset: number,
    y: NativeTensor | null,
    wantAddend: boolean,
  ): [dx: NativeTensor, dAddend: NativeTensor | null];
  layerNormForward(
    x: NativeTensor,
    weight: NativeTensor,
    bias: NativeTensor,
    eps: number,
    keepMean: boolean,
    keepRstd: boolean,
  ): [y: NativeTensor, mean: NativeTensor | null, rstd: NativeTensor | null];
  layerNormBackward(
    x: NativeTensor,
    weight: NativeTensor,
    mean: NativeTensor,
    rstd: NativeTensor,
    g: NativeTensor,
  ): NativeTensor;
  rope(
    q: NativeTensor,
    k: NativeTensor | null,
    cos: NativeTensor,
    sin: NativeTensor,
    positions: NativeTensor | null,
    offset: number,
    inverse: boolean,
  ): [rotatedQ: NativeTensor, rotatedK: NativeTensor | null];
  attentionForward(
    q: NativeTensor,
    k: NativeTensor,
    v: NativeTensor,
    keyBegin: NativeTensor | null,
    sinks: NativeTensor | null,
    options: { window: number; scale: number },
    keepLse: boolean,
    keyEnd: NativeTensor | null,
  ): [y: NativeTensor, lse: NativeTensor | null];
  attentionBackward(
    q: NativeTensor,
    k: NativeTensor,
    v: NativeTensor,
    keyBegin: NativeTensor | null,
    y: NativeTensor,
    lse: NativeTensor,
    g: NativeTensor,
    options: { window: number; scale: number },
    keyEnd: NativeTensor | null,
  ): [dq: NativeTensor, dk: NativeTensor, dv: NativeTensor];
  gatedForward(
    kind: 'silu' | 'gelu_tanh' | 'sigmoid' | 'clamped',
    gate: NativeTensor,
    up: NativeTensor,
  ): NativeTensor;
  gatedBackward(
    kind: 'silu' | 'gelu_tanh' | 'sigmoid' | 'clamped',
    gate: NativeTensor,
    up: NativeTensor,
    g: NativeTensor,
    y: NativeTensor | null,
  ): [dgate: NativeTensor, dup: NativeTensor];
  pageAppend(
    q: NativeTensor,
    k: NativeTensor,
    v: NativeTensor,
    cos: NativeTensor,
    sin: NativeTensor,
    kPool: NativeTensor,
    vPool: NativeTensor,
    pageTable: NativeTensor,
    lengths: NativeTensor,
    tableStart: NativeTensor | null,
  ): NativeTensor;
  positions(
    lengths: NativeTensor,
    count: number,
  ): NativeTensor;
  attentionPaged(
    q: NativeTensor,
    kPool: NativeTensor,
    vPool: NativeTensor,
    pageTable: NativeTensor,
    lengths: NativeTensor,
    sinks: NativeTensor | null,
    options: { window: number; scale: number; phase: 'prefill' | 'decode' },
  ): NativeTensor;
  shortConvForward(
    kind: 'gated' | 'silu',
    x: NativeTensor,
    weight: NativeTensor,
    bias: NativeTensor | null,
    keyBegin: NativeTensor | null,
  ): NativeTensor;
  shortConvBackward(
    kind: 'gated' | 'silu',
    x: NativeTensor,
    weight: NativeTensor,
    bias: NativeTensor | null,
    keyBegin: NativeTensor | null,
    g: NativeTensor,
    wantDx: boolean,
    wantWeight: boolean,
    wantBias: boolean,
  ): [dx: NativeTensor | null, dweight: NativeTensor | null, dbias: NativeTensor | null];
  shortConvAppend(
    kind: 'gated' | 'silu',
    x: NativeTensor,
    weight: NativeTensor,
    bias: NativeTensor | null,
    pool: NativeTensor,
    slots: NativeTensor,
    lengths: NativeTensor,
  ): NativeTensor;
  gatedDeltaForward(
    q: NativeTensor,
    k: NativeTensor,
    v: NativeTensor,
    g: NativeTensor,
    beta: NativeTensor,
    keyBegin: NativeTensor | null,
    options: { scale: number; eps: number },
  ): NativeTensor;
  gatedDeltaBackward(
    q: NativeTensor,
    k: NativeTensor,
    v: NativeTensor,
    g: NativeTensor,
    beta: NativeTensor,
    keyBegin: NativeTensor | null,
    dy: NativeTensor,
    options: { scale: number; eps: number },
  ): [dq: NativeTensor, dk: NativeTensor, dv: NativeTensor, dg: NativeTensor, dbeta: NativeTensor];
  gatedDeltaAppend(
    q: NativeTensor,
    k: NativeTensor,
    v: NativeTensor,
    g: NativeTensor,
    beta: NativeTensor,
    pool: NativeTensor,
    slots: NativeTensor,
    lengths: NativeTensor,
    options: { scale: number; eps: number; phase: 'prefill' | 'decode' },
  ): NativeTensor;
  crossEntropyForward(
    logits: NativeTensor,
    labels: NativeTensor,
    keepLse: boolean,
    wantLosses: boolean,
    wantEntropies: boolean,
  ): [loss: NativeTensor, count: NativeTensor, lse: NativeTensor | null, losses: NativeTensor | null, entropies: NativeTensor | null];
  crossEntropyBackward(
    logits: NativeTensor,
    labels: NativeTensor,
    lse: NativeTensor,
    g: NativeTensor,
  ): NativeTensor;
  linearCrossEntropy(
    hidden: NativeTensor,
    weight: NativeWeight,
    labels: NativeTensor,
    scale: number,
    cap: number,
    wantGrad: boolean,
    wantLosses: boolean,
    wantEntropies: boolean,
  ): [loss: NativeTensor, count: NativeTensor, dHidden: NativeTensor | null, losses: NativeTensor | null, entropies: NativeTensor | null];
  adamw(
    segments: readonly { param: NativeTensor; grad: NativeTensor; m: NativeTensor; v: NativeTensor; rounding?: { seed: number; parameter: number; step: number } | null }[],
    options: { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number; step: number },
    guard: NativeGuard,
  ): void;
  adamw8bit(
    segments: readonly { param: NativeTensor; grad: NativeTensor; mCodes: NativeTensor; vCodes: NativeTensor; mScales: NativeTensor; vScales: NativeTensor; rounding?: { seed: number; parameter: number; step: number } | null }[],
    options: { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number; step: number },
    guard: NativeGuard,
  ): void;
  sgd(
    segments: readonly { param: NativeTensor; grad: NativeTensor; velocity?: NativeTensor | null; rounding?: { seed: number; parameter: number; step: number } | null }[],
    options: { lr: number; momentum: number; weightDecay: number; nesterov: boolean },
    guard: NativeGuard,
  ): void;
  lion(
    segments: readonly { param: NativeTensor; grad: NativeTensor; m: NativeTensor; rounding?: { seed: number; parameter: number; step: number } | null }[],
    options: { lr: number; beta1: number; beta2: number; weightDecay: number },
    guard: NativeGuard,
  ): void;
  globalNorm(
    tensors: readonly NativeTensor[],
  ): NativeTensor;
  clipByNorm(
    tensors: readonly NativeTensor[],
    norm: NativeTensor,
    maxNorm: number,
  ): void;
  binary(
    kind: 'add' | 'sub' | 'mul' | 'div' | 'maximum' | 'minimum' | 'less' | 'equal' | 'where' | 'where_not' | 'pow',
    a: NativeTensor,
    b: NativeTensor,
    dtype: DType,
  ): NativeTensor;
  unary(
    kind: 'copy' | 'scale' | 'square' | 'sqrt' | 'relu' | 'gelu' | 'silu' | 'gelu_tanh' | 'exp' | 'log' | 'sigmoid' | 'softcap' | 'softplus' | 'tanh',
    alpha: number,
    x: NativeTensor,
    dtype: DType,
  ): NativeTensor;
  unaryBackward(
    kind: 'copy' | 'scale' | 'square' | 'sqrt' | 'relu' | 'gelu' | 'silu' | 'gelu_tanh' | 'exp' | 'log' | 'sigmoid' | 'softcap' | 'softplus' | 'tanh',
    alpha: number,
    x: NativeTensor,
    g: NativeTensor,
  ): NativeTensor;
  reduceSum(
    x: NativeTensor,
    shape: readonly number[],
    dtype: DType,
  ): NativeTensor;
  accumulate(
    x: NativeTensor,
    y: NativeTensor,
  ): void;
  fill(
    y: NativeTensor,
    value: number,
  ): void;
  transpose(
    x: NativeTensor,
    perm: readonly number[],
  ): NativeTensor;
  splitColumns(
    x: NativeTensor,
    sizes: readonly number[],
    wanted: readonly boolean[],
  ): (NativeTensor | null)[];
  joinColumns(
    parts: readonly (NativeTensor | null)[],
    sizes: readonly number[],
  ): NativeTensor;
  take(
    x: NativeTensor,
    index: NativeTensor,
    dim: number,
  ): NativeTensor;
  takeBackward(
    g: NativeTensor,
    index: NativeTensor,
    dim: number,
    dx: NativeTensor,
  ): void;
  rowMax(
    x: NativeTensor,
    wantMax: boolean,
    wantIndex: boolean,
    wantLogSum: boolean,
  ): [max: NativeTensor | null, index: NativeTensor | null, logSum: NativeTensor | null];
  matmul(
    a: NativeTensor,
    b: NativeTensor,
    transA: boolean,
    transB: boolean,
    dtype: DType,
  ): NativeTensor;
  random(
    device: NativeDevice,
    kind: 'uniform' | 'normal',
    seed: number,
    stream: number,
    lo: number,
    hi: number,
    shape: readonly number[],
  ): NativeTensor;
  sample(
    logits: NativeTensor,
    reals: NativeTensor,
    wholes: NativeTensor,
  ): NativeTensor;
  adjustLogits(
    logits: NativeTensor,
    rows: NativeTensor,
    ids: NativeTensor,
    factors: NativeTensor,
    addends: NativeTensor,
  ): void;
  maskLogits(
    logits: NativeTensor,
    bits: NativeTensor,
  ): void;
  logProbs(
    logits: NativeTensor,
    ids: NativeTensor,
    n: number,
  ): [values: NativeTensor, topIds: NativeTensor];
}
export const binaryKinds = ['add', 'sub', 'mul', 'div', 'maximum', 'minimum', 'less', 'equal', 'where', 'where_not', 'pow'] as const;
export const unaryKinds = ['copy', 'scale', 'square', 'sqrt', 'relu', 'gelu', 'silu', 'gelu_tanh', 'exp', 'log', 'sigmoid', 'softcap', 'softplus', 'tanh'] as const;
