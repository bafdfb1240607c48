/** Calls that ops accept: operands of the dtypes and shapes that native/core/ops describes. */
import type { LinearPhase, NativeBinding } from '../../../lib/native/binding';
import { writtenBlocks } from '../../../lib/native/constants';
import { binaryKinds, unaryKinds } from '../../../lib/native/op_functions';
import { deltaTable, device, guard, storedDtypes, type Builder, type Draw } from './draw';
import { isSpec, type Spec, type SpecObject } from './plan';

const phasesWithoutTable: readonly LinearPhase[] = ['auto', 'prefill'];

/** One layer, or several that share an input, with the shapes that both directions of lora_linear need. */
function layers(d: Draw, withTable: boolean) {
  const { dice } = d;
  const act = d.act();
  const inner = d.size();
  const list = Array.from({ length: 1 + dice.below(3) }, () => ({ out: d.size(), rank: d.some() }));
  const branches = list.map(({ out, rank }, i): SpecObject => {
    const adapted = !withTable && !dice.once(4);
    return {
      weight: d.weight(act, out, inner),
      bias: d.flag() ? d.tensor(d.flag() ? act : 'f32', [out]) : null,
      up: adapted ? d.f32(out, rank) : null,
      down: adapted ? d.f32(rank, inner) : null,
      scale: 0.5,
      dropout: adapted && d.flag() ? d.dropout() : null,
      site: withTable && !dice.once(4) ? i : -1,
      factor: null,
      activations: 'exact',
    };
  });
  return { act, inner, list, branches };
}

function loraLinearForward(d: Draw): Spec[] {
  const withTable = d.dice.once(3);
  const { act, inner, list, branches } = layers(d, withTable);
  const { lead, rows } = d.leading();
  const x = d.tensor(act, [...lead, inner]);
  for (const branch of branches)
    if (branch['dropout'] === null && d.dice.once(3)) branch['activations'] = 'int8';
  const decodes = d.dice.once(3) && branches.every(({ dropout }) => dropout === null);
  if (!withTable) {
    for (const [i, branch] of branches.entries()) if (d.dice.once(4)) branch['factor'] = d.f32(list[i]!.out);
    const phase = decodes ? 'decode' : d.dice.pick(phasesWithoutTable);
    return [x, branches, phase, null, null, d.flag()];
  }
  const dtype = decodes && act === 'bf16' ? d.act() : 'f32';
  const table = deltaTable(
    d,
    list.map(({ out }) => ({ out, inner })),
    dtype,
  );
  const phase = decodes ? 'decode' : 'prefill';
  return [x, branches, phase, d.ids([rows], Number(table['slots']), -1), table, false];
}

function loraLinearBackward(d: Draw): Spec[] {
  const { act, inner, list, branches } = layers(d, false);
  const { lead, rows } = d.leading();
  const adapted = branches.map(({ up }) => up !== null);
  const wantUp = adapted.map((is) => is && d.flag());
  const wantDown = adapted.map((is) => is && d.flag());
  const [wantDx, keepU] = [d.flag(), d.dice.once(4)];
  const u = list.map(({ rank }, i) => (adapted[i] && d.flag() ? d.f32(rows, rank) : null));
  return [
    wantDown.includes(true) || d.flag() ? d.tensor(act, [...lead, inner]) : null,
    branches,
    list.map(({ out }) => d.tensor(act, [...lead, out])),
    list.map(({ rank }, i) => (wantUp[i] ? d.f32(rows, rank) : null)),
    wantDx || keepU ? [] : u,
    wantDx,
    wantUp,
    wantDown,
    keepU,
  ];
}

/** Tokens with k experts each, in an order of their own: assignments and their inverse. */
function assignments(d: Draw) {
  const [tokens, chosen, width] = [d.size(), 1 + d.dice.below(3), d.size()];
  const m = tokens * chosen;
  const order = { ...d.ids([m], 1), set: Array.from({ length: m }, (_, i): Spec => [i, m - 1 - i]) };
  return { act: d.act(), tokens, chosen, m, width, order };
}

/** Experts of one shape, rows between offsets, and a change of all. */
function experts(d: Draw) {
  const [act, out, inner, rank] = [d.act(), d.some(), d.some(), d.some()];
  const counts = Array.from({ length: 1 + d.dice.below(3) }, () => d.dice.below(6));
  const ends = counts.map((_, e) => counts.slice(0, e + 1).reduce((sum, n) => sum + n, 0));
  const offsets = { ...d.ids([counts.length + 1], 1), set: ends.map((end, e): Spec => [e + 1, end]) };
  const weights = counts.map((): SpecObject => ({
    weight: d.weight(act, out, inner),
    bias: null,
    activations: 'exact',
  }));
  const adapted = d.flag();
  const change = adapted
    ? [d.f32(counts.length, out, rank), d.f32(counts.length, rank, inner)]
    : [null, null];
  return { act, out, inner, rank, rows: ends.at(-1)!, offsets, weights, adapted, change };
}

function routedLinearForward(d: Draw): Spec[] {
  const { act, inner, rows, offsets, weights, adapted, change } = experts(d);
  const phase = d.dice.pick(['auto', 'prefill', 'decode']);
  return [d.tensor(act, [rows, inner]), offsets, weights, ...change, 0.5, phase, adapted && d.flag()];
}

function routedLinearBackward(d: Draw): Spec[] {
  const { act, out, inner, rank, rows, offsets, weights, adapted, change } = experts(d);
  const [wantUp, wantDown] = [adapted && d.flag(), adapted && d.flag()];
  return [
    wantDown ? d.tensor(act, [rows, inner]) : null,
    ...[offsets, weights, ...change, 0.5],
    d.tensor(act, [rows, out]),
    wantUp ? d.f32(rows, rank) : null,
    ...[d.flag(), wantUp, wantDown],
  ];
}

/** q, k, v of one call, and the options that both directions share. */
function heads(d: Draw) {
  const act = d.act();
  const [batch, sequence] = [d.dice.pick([0, 1, 2, 3]), d.size()];
  const kvHeads = d.dice.pick([1, 2, 3]);
  const qHeads = kvHeads * d.dice.pick([1, 2, 4]);
  const width = d.dice.pick([1, 2, 3, 8, 16, 20]);
  const q = [batch, sequence, qHeads, width];
  const kv = [batch, sequence, kvHeads, width];
  const keyBegin = d.dice.once(3) ? d.ids([batch, sequence], 1) : null;
  const keyEnd = d.dice.once(3) ? d.ids([batch, sequence], sequence + 1) : null;
  const options = { window: d.dice.pick([0, 0, 1, 3, 100, 2 ** 53]), scale: 0.5 };
  return { act, q, kv, keyBegin, keyEnd, options, lse: [batch, qHeads, sequence] };
}

/** Sequences whose pages lie in one pool. */
function pages(d: Draw, sequence: number, widths = [1, 2, 3, 8]) {
  const batch = d.dice.pick([0, 1, 2, 3]);
  const columns = 1 + Math.ceil(sequence / 64);
  const kvHeads = d.dice.pick([1, 2]);
  const width = d.dice.pick(widths);
  const pool = [Math.max(1, batch * columns), kvHeads, 64, width];
  const set = Array.from({ length: batch * columns }, (_, i): Spec => [i, i]);
  const table = { ...d.ids([batch, columns], 1), set };
  const lengths = d.ids([batch], columns * 64 + 1, sequence);
  return { batch, columns, kvHeads, width, pool, table, lengths };
}

function attentionPaged(d: Draw): Spec[] {
  const act = d.act();
  const phase = d.dice.pick(['prefill', 'decode']);
  const sequence = phase === 'decode' ? 1 : d.size();
  const { batch, kvHeads, width, pool, table, lengths } = pages(d, sequence);
  const heads = kvHeads * d.dice.pick([1, 2, 3]);
  const q = [batch, sequence, heads, width];
  const sinks = d.flag() ? d.f32(heads) : null;
  const options = { window: d.dice.pick([0, 0, 1, 70, 2 ** 53]), scale: 0.5, phase };
  return [d.tensor(act, q), d.tensor(act, pool), d.tensor(act, pool), table, lengths, sinks, options];
}

function pageAppend(d: Draw): Spec[] {
  const act = d.act();
  const sequence = d.size();
  const { batch, columns, kvHeads, width, pool, table, lengths } = pages(d, sequence, [2, 4, 8]);
  const q = [batch, sequence, kvHeads * d.dice.pick([1, 2, 3]), width];
  const kv = [batch, sequence, kvHeads, width];
  const spare = d.dice.below(3);
  const angles = [64 * columns + spare, d.flag() ? width / 2 : 1];
  return [
    d.tensor(act, q),
    d.tensor(act, kv),
    d.tensor(act, kv),
    d.f32(...angles),
    d.f32(...angles),
    d.tensor(act, pool),
    d.tensor(act, pool),
    table,
    lengths,
    d.flag() ? d.ids([batch], spare + 1) : null,
  ];
}

/** The operands that the calls of a short convolution share. */
function convolution(d: Draw) {
  const [act, kind] = [d.act(), d.dice.pick(['gated', 'silu'])];
  const [batch, sequence, channels] = [d.dice.pick([0, 1, 2, 3]), d.size(), d.size()];
  const taps = d.dice.pick([1, 2, 3, 4, 8]);
  const x = d.tensor(act, [batch, sequence, kind === 'gated' ? 3 * channels : channels]);
  const weight = d.tensor(d.dice.pick([act, 'f32']), [channels, taps]);
  const bias = d.flag() ? d.tensor(d.dice.pick([act, 'f32']), [channels]) : null;
  return { act, batch, sequence, channels, taps, shared: [kind, x, weight, bias] };
}

/** The operands that the calls of a delta rule share. */
function delta(d: Draw, act: string, sequence: number) {
  const [batch, kHeads, dk, dv] = [d.dice.below(4), d.dice.below(3), d.some(), d.some()];
  const vHeads = kHeads * d.dice.pick([0, 1, 2]);
  const [keys, values] = [
    [batch, sequence, kHeads, dk],
    [batch, sequence, vHeads, dv],
  ];
  const gates = [batch, sequence, vHeads];
  return {
    ...{ batch, values, pool: [4, vHeads, dk, dv], options: { scale: 0.5, eps: 1e-6 } },
    operands: [
      d.tensor(act, keys),
      d.tensor(act, keys),
      d.tensor(act, values),
      d.tensor('f32', gates, -3, 0),
      d.f32(...gates),
    ],
    keyBegin: d.flag() ? d.ids([batch, sequence], sequence + 1) : null,
  };
}

function logits(d: Draw): { rows: number; vocab: number; lead: number[]; spec: SpecObject } {
  const { lead, rows } = d.leading();
  const vocab = d.some();
  return { rows, vocab, lead, spec: d.tensor(d.act(), [...lead, vocab]) };
}
function flatLogits(d: Draw): { rows: number; vocab: number; spec: SpecObject } {
  const [rows, vocab] = [d.size(), d.some()];
  return { rows, vocab, spec: d.tensor(d.act(), [rows, vocab]) };
}
/** Labels, some of which do not count; the first one does. */
function labels(d: Draw, shape: number[], vocab: number): SpecObject {
  return {
    ...d.ids(shape, vocab),
    set: d.flag()
      ? [
          [1, -100],
          [0, 0],
        ]
      : [],
  };
}

function segments(d: Draw, states: (size: number) => SpecObject): Spec[] {
  const rounds = d.flag();
  return Array.from({ length: 1 + d.dice.below(3) }, () => {
    const size = d.dice.once(8) ? 300 : d.size();
    const rounded = rounds && !d.dice.once(4); // f32 and bf16 may meet in a call
    return {
      param: d.tensor(rounded ? 'bf16' : 'f32', [size]),
      grad: d.f32(size),
      ...states(size),
      ...(rounded && { rounding: rounding(d) }),
    };
  });
}
/** The counters of random bits, also where they are as large as they may be. */
function rounding(d: Draw): SpecObject {
  const most = 2 ** 32 - 1;
  const { dice } = d;
  return {
    seed: dice.pick([0, 7, 2 ** 53 - 1]),
    parameter: dice.pick([0, 1, most]),
    step: dice.pick([1, 2, most]),
  };
}
/** Whether a call updates a parameter of bf16, whose new values it rounds stochastically. */
export const roundsUpdates = ([list]: readonly Spec[]): boolean =>
  Array.isArray(list) && list.some((segment) => isSpec(segment) && isSpec(segment['rounding']));

const rates = { lr: 0.1, beta1: 0.9, beta2: 0.99, weightDecay: 0.1 };

const columnSizes = (d: Draw): number[] => Array.from({ length: 1 + d.dice.below(3) }, () => d.size());

/** Places of one dimension: one list for all lines, or one for each. */
function taken(d: Draw) {
  const shape = [d.size(), d.some(), d.size()].slice(d.dice.below(2));
  const dim = d.dice.below(shape.length);
  const of = shape.map((size, i) => (i === dim ? d.size() : size));
  const index = d.ids(d.flag() ? of : [of[dim]!], Math.max(shape[dim]!, 1));
  return { shape, dim, of, index };
}

const unary = (d: Draw): string => d.dice.pick(unaryKinds);

/** What a program may have as a step. */
export const ops: Partial<Record<keyof NativeBinding, Builder>> = {
  copyInto: (d) => {
    const shape = d.shape();
    const operands = [d.tensor(d.float(), shape), d.tensor(d.float(), shape)];
    return [...operands, ...(d.flag() ? [guard] : [])];
  },
  quantize: (d) => [d.tensor(d.float(), [d.size(), d.size()]), d.dice.pick(['int8', 'nf4', 'fp4'])],
  unpack: (d) => [d.weight(d.act(), d.size(), d.columns())],
  loraLinearForward,
  loraLinearBackward,
  routeForward: (d) => {
    const count = d.some();
    return [d.f32(d.size(), count), 1 + d.dice.below(Math.min(count, 4)), d.flag()];
  },
  routeBackward: (d) => {
    const [tokens, count, chosen] = [d.size(), d.some(), 1 + d.dice.below(4)];
    return [d.f32(tokens, count), d.ids([tokens, chosen], count, -1), d.f32(tokens, chosen), d.flag()];
  },
  spreadRows: (d) => {
    const { act, tokens, m, width, order } = assignments(d);
    return [d.tensor(act, [tokens, width]), order, d.flag() ? d.f32(m) : null];
  },
  combineRows: (d) => {
    const { act, chosen, m, width, order } = assignments(d);
    return [d.tensor(act, [m, width]), order, d.flag() ? d.f32(m) : null, chosen];
  },
  rowDots: (d) => {
    const { act, tokens, m, width, order } = assignments(d);
    return [d.tensor(act, [tokens, width]), d.tensor(act, [m, width]), order];
  },
  routedLinearForward,
  routedLinearBackward,
  routedWeights: (d) => {
    const { act, out, inner, rows, offsets } = experts(d);
    return [d.tensor(act, [rows, inner]), offsets, d.tensor(act, [rows, out])];
  },
  pack: (d) => {
    const { values, scales, format, shape, dtype } = d.weight(d.act(), d.size(), d.columns());
    // A copy: damage to the argument would else also reach the tensor, which must have a size.
    return [values!, scales!, format!, [...(shape as number[])], dtype!];
  },
  quantizeBlocks: (d) => [d.tensor(d.float(), [256 * d.size()]), d.dice.pick(writtenBlocks)],
  embedding: (d) => {
    const rows = d.some();
    return [d.weight(d.act(), rows, d.columns()), d.ids(d.shape(), rows)];
  },
  embeddingBackward: (d) => {
    const [vocab, width, { lead }] = [d.some(), d.size(), d.leading()];
    return [d.tensor('f32', [...lead, width]), d.ids(lead, vocab), d.tensor('f32', [vocab, width])];
  },
  rmsNormForward: (d) => {
    const [act, width] = [d.act(), d.size()];
    const { lead } = d.leading();
    const like = (): string => d.dice.pick([act, 'f32']);
    const x = [...lead, width];
    const addend = d.flag() ? d.tensor(act, x) : null;
    return [d.tensor(like(), x), addend, d.tensor(like(), [width]), 1e-5, d.dice.below(2), act, d.flag()];
  },
  rmsNormBackward: (d) => {
    const [act, width] = [d.act(), d.size()];
    const { lead, rows } = d.leading();
    const like = (): string => d.dice.pick([act, 'f32']);
    const [x, dtype] = [[...lead, width], like()];
    return [
      d.tensor(dtype, x),
      d.tensor(like(), [width]),
      d.tensor('f32', [rows], 0, 2),
      d.tensor(act, x),
      d.flag() ? d.tensor(dtype, x) : null,
      1e-5,
      d.dice.below(2),
      d.flag() ? d.tensor(act, x) : null,
      d.flag(),
    ];
  },
  layerNormForward: (d) => {
    const [act, width] = [d.act(), d.size()];
    const row = (): SpecObject => d.tensor(d.dice.pick([act, 'f32']), [width]);
    return [d.tensor(act, [...d.leading().lead, width]), row(), row(), 1e-5, d.flag(), d.flag()];
  },
  layerNormBackward: (d) => {
    const [act, width, { lead, rows }] = [d.act(), d.size(), d.leading()];
    const [x, ofRows] = [d.tensor(act, [...lead, width]), d.tensor('f32', [rows], 0, 2)];
    const weight = d.tensor(d.dice.pick([act, 'f32']), [width]);
    return [x, weight, ofRows, ofRows, d.tensor(act, [...lead, width])];
  },
  shortConvForward: (d) => {
    const { batch, sequence, shared } = convolution(d);
    return [...shared, d.flag() ? d.ids([batch, sequence], sequence + 1, -1) : null];
  },
  shortConvBackward: (d) => {
    const { act, batch, sequence, channels, shared } = convolution(d);
    const keyBegin = d.flag() ? d.ids([batch, sequence], sequence + 1, -1) : null;
    return [...shared, keyBegin, d.tensor(act, [batch, sequence, channels]), d.flag(), d.flag(), d.flag()];
  },
  shortConvAppend: (d) => {
    const { batch, sequence, channels, taps, shared } = convolution(d);
    const set = Array.from({ length: batch }, (_, i): Spec => [i, i]);
    const slots = { ...d.ids([batch], 1), set };
    return [
      ...shared,
      d.f32(batch + 1, taps - 1, channels),
      slots,
      d.ids([batch], 2 * sequence + 2, sequence),
    ];
  },
  rope: (d) => {
    const [batch, sequence, half] = [d.dice.below(4), d.size(), d.dice.pick([0, 1, 3, 8, 9])];
    const offset = d.dice.below(4);
    const positions = offset + sequence + d.dice.below(3);
    const at = d.flag() && positions > 0 ? d.ids([batch, sequence], positions) : null;
    const [cos, sin] = [d.f32(positions, half), d.f32(positions, half)];
    const act = d.act();
    const width = 2 * half + d.dice.pick([0, 0, 2, 16]);
    const heads = (): SpecObject => d.tensor(act, [batch, sequence, d.dice.below(4), width]);
    return [heads(), d.flag() ? heads() : null, cos, sin, at, offset, d.flag()];
  },
  attentionForward: (d) => {
    const { act, q, kv, keyBegin, keyEnd, options } = heads(d);
    const sinks = d.flag() ? d.f32(q[2]!) : null;
    const [k, v] = [d.tensor(act, kv), d.tensor(act, kv)];
    return [d.tensor(act, q), k, v, keyBegin, sinks, options, d.flag(), keyEnd];
  },
  attentionBackward: (d) => {
    const { act, q, kv, keyBegin, keyEnd, options, lse } = heads(d);
    const [y, g] = [d.tensor(act, q), d.tensor(act, q)];
    const [k, v] = [d.tensor(act, kv), d.tensor(act, kv)];
    return [d.tensor(act, q), k, v, keyBegin, y, d.f32(...lse), g, options, keyEnd];
  },
  attentionPaged,
  pageAppend,
  gatedDeltaForward: (d) => {
    const { operands, keyBegin, options } = delta(d, d.act(), d.size());
    return [...operands, keyBegin, options];
  },
  gatedDeltaBackward: (d) => {
    const act = d.act();
    const { operands, keyBegin, options, values } = delta(d, act, d.size());
    return [...operands, keyBegin, d.tensor(act, values), options];
  },
  gatedDeltaAppend: (d) => {
    const phase = d.dice.pick(['prefill', 'decode']);
    const sequence = phase === 'decode' ? 1 : d.size();
    const { operands, batch, pool, options } = delta(d, d.act(), sequence);
    const lengths = d.ids([batch], 300, sequence);
    return [...operands, d.tensor('f32', pool), d.ids([batch], 4), lengths, { ...options, phase }];
  },
  positions: (d) => [d.ids([d.dice.below(4)], 300), d.size()],
  dropout: (d) => [
    d.tensor(d.float() === 'bf16' ? 'bf16' : 'f32', [...d.leading().lead, d.size()]),
    d.dropout(),
  ],
  gatedForward: (d) => {
    const [act, shape] = [d.act(), d.shape()];
    return [
      d.dice.pick(['silu', 'gelu_tanh', 'sigmoid', 'clamped']),
      d.tensor(act, shape),
      d.tensor(act, shape),
    ];
  },
  gatedBackward: (d) => {
    const [act, shape] = [d.act(), d.shape()];
    const y = d.flag() ? d.tensor(act, shape) : null;
    const kind = d.dice.pick(['silu', 'gelu_tanh', 'sigmoid', 'clamped']);
    return [kind, d.tensor(act, shape), d.tensor(act, shape), d.tensor(act, shape), y];
  },
  crossEntropyForward: (d) => {
    const { vocab, lead, spec } = logits(d);
    return [spec, labels(d, lead, vocab), d.flag(), d.flag(), d.flag()];
  },
  crossEntropyBackward: (d) => {
    const { rows, vocab, lead, spec } = logits(d);
    return [spec, labels(d, lead, vocab), d.f32(rows), d.flag() ? d.f32() : d.f32(rows)];
  },
  linearCrossEntropy: (d) => {
    const [act, width, vocab] = [d.act(), d.size(), d.some()];
    const { lead } = d.leading();
    return [
      d.tensor(act, [...lead, width]),
      d.weight(act, vocab, width),
      labels(d, lead, vocab),
      d.dice.pick([1, 0.7]),
      d.dice.pick([0, 30]),
      ...[d.flag(), d.flag(), d.flag()],
    ];
  },
  adamw: (d) => [
    segments(d, (size) => ({ m: d.f32(size), v: d.tensor('f32', [size], 0, 1) })),
    { ...rates, eps: 1e-8, step: d.some() },
    guard,
  ],
  adamw8bit: (d) => [
    segments(d, (size) => {
      const blocks = Math.ceil(size / 256);
      const codes = (): SpecObject => d.tensor('i32', [blocks * 64], -(2 ** 31), 2 ** 31);
      const scales = (): SpecObject => d.tensor('f32', [blocks], 0, 1);
      return { mCodes: codes(), vCodes: codes(), mScales: scales(), vScales: scales() };
    }),
    { ...rates, eps: 1e-8, step: d.some() },
    guard,
  ],
  sgd: (d) => {
    const momentum = d.dice.pick([0, 0.9]);
    const state = (size: number): SpecObject => (momentum > 0 ? { velocity: d.f32(size) } : {});
    return [segments(d, state), { lr: 0.1, momentum, weightDecay: 0.1, nesterov: d.flag() }, guard];
  },
  lion: (d) => [segments(d, (size) => ({ m: d.f32(size) })), rates, guard],
  globalNorm: (d) => [Array.from({ length: 1 + d.dice.below(4) }, () => d.f32(...d.shape()))],
  clipByNorm: (d) => [Array.from({ length: d.dice.below(4) }, () => d.f32(...d.shape())), d.f32(), 0.5],
  binary: (d) => {
    const shape = d.shape();
    const other = shape.map((dim) => (d.dice.once(4) ? 1 : dim)).slice(d.dice.below(shape.length + 1));
    return [d.dice.pick(binaryKinds), d.tensor(d.float(), shape), d.tensor(d.float(), other), d.float()];
  },
  unary: (d) => [unary(d), 0.5, d.tensor(d.float(), d.shape()), d.float()],
  unaryBackward: (d) => {
    const shape = d.shape();
    return [unary(d), 0.5, d.tensor(d.float(), shape), d.tensor(d.float(), shape)];
  },
  reduceSum: (d) => {
    const shape = d.shape();
    const kept = shape.map((dim) => (d.flag() ? 1 : dim)).slice(d.dice.below(shape.length + 1));
    return [d.tensor(d.float(), shape), kept, d.float()];
  },
  accumulate: (d) => {
    const shape = d.shape();
    return [d.tensor(d.float(), shape), d.tensor(d.float(), shape)];
  },
  fill: (d) => [d.tensor(d.dice.pick(storedDtypes), d.shape()), d.dice.pick([0, -1, 1.5])],
  transpose: (d) => {
    const shape = d.shape();
    const order = [...shape.keys()];
    for (let i = order.length - 1; i > 0; i--) {
      const j = d.dice.below(i + 1);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return [d.tensor(d.dice.pick(storedDtypes), shape), order];
  },
  splitColumns: (d) => {
    const [{ lead }, sizes] = [d.leading(), columnSizes(d)];
    return [
      d.tensor(d.float(), [...lead, sizes.reduce((sum, size) => sum + size)]),
      sizes,
      sizes.map(() => d.flag()),
    ];
  },
  joinColumns: (d) => {
    const [{ lead }, sizes, dtype] = [d.leading(), columnSizes(d), d.float()];
    const parts = sizes.map((size, i) => (i > 0 && d.flag() ? null : d.tensor(dtype, [...lead, size])));
    return [parts, sizes];
  },
  take: (d) => {
    const { shape, dim, index } = taken(d);
    return [d.tensor(d.dice.pick(storedDtypes), shape), index, dim];
  },
  takeBackward: (d) => {
    const { shape, dim, index, of } = taken(d);
    return [d.tensor('f32', of), index, dim, d.tensor('f32', shape)];
  },
  rowMax: (d) => [d.tensor(d.float(), [...d.leading().lead, 1 + d.size()]), d.flag(), d.flag(), d.flag()],
  matmul: (d) => {
    const [m, k, n] = [d.size(), d.size(), d.size()];
    const [transA, transB] = [d.flag(), d.flag()];
    const lead = d.dice.pick([[], [2], [0], [1, 3]]);
    const a = [...lead, ...(transA ? [k, m] : [m, k])];
    const b = [...(d.flag() ? lead : []), ...(transB ? [n, k] : [k, n])];
    return [d.tensor(d.float(), a), d.tensor(d.float(), b), transA, transB, d.float()];
  },
  random: (d) => [
    device,
    d.dice.pick(['uniform', 'normal']),
    d.dice.below(99),
    d.dice.below(99),
    -1,
    1,
    d.shape(),
  ],
  sample: (d) => {
    const { rows, spec } = flatLogits(d);
    return [spec, d.tensor('f32', [rows, 3], 0.01, 0.99), d.ids([rows, 4], 9)];
  },
  adjustLogits: (d) => {
    const { rows, vocab, spec } = flatLogits(d);
    const entries = rows === 0 ? 0 : Math.min(rows, d.dice.below(4)); // one for a row, so that no two are of one logit
    const places = {
      ...d.ids([entries], rows),
      set: Array.from({ length: entries }, (_, i): Spec => [i, i]),
    };
    return [spec, places, d.ids([entries], vocab, -1), d.tensor('f32', [entries], 0.5, 2), d.f32(entries)];
  },
  maskLogits: (d) => {
    const { rows, vocab, spec } = flatLogits(d);
    return [spec, d.tensor('i32', [rows, Math.ceil(vocab / 32)], -(2 ** 31), 2 ** 31)];
  },
  logProbs: (d) => {
    const { rows, vocab, spec } = flatLogits(d);
    return [spec, d.ids([rows], vocab + 1, -1), d.dice.below(Math.min(vocab, 5) + 1)];
  },
};
