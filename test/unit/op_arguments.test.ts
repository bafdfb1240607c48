// The arguments of the ops are checked at the call, with a sentence that says what was expected.
import { tensor, type DType, type Tensor } from '../../lib/index';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';
import {
  addRmsNorm,
  attention,
  attentionPaged,
  crossEntropy,
  embedding,
  gated,
  linearCrossEntropy,
  loraLinear,
  loraLinearGroup,
  pageAppend,
  randomNormal,
  randomUniform,
  rmsNorm,
  rope,
  sample,
  view,
  type PagedAttentionOptions,
} from '../../lib/ops';
import { expectThrow } from '../support/errors';
import { numel } from '../support/numbers';

const device = 'reference';
const x = (shape: number[], dtype: DType = 'f32', on: 'reference' | 'cpu' = device): Tensor =>
  tensor(new Float32Array(numel(shape)), { shape, dtype, device: on });
const ids = (...shape: number[]): Tensor => x(shape, 'i32');
const pool = (dtype: DType = 'f32'): Tensor => x([4, 2, 64, 2], dtype);
const paged = (q: Tensor, options: Partial<PagedAttentionOptions> = {}): Tensor =>
  attentionPaged(q, pool(), pool(), ids(2, 3), ids(2), { scale: 1, phase: 'decode', ...options });
const append = (
  changed: Partial<Record<'k' | 'cos' | 'sin' | 'kPool' | 'vPool' | 'pageTable' | 'lengths', Tensor>>,
) => {
  const [q, v] = [x([2, 1, 4, 2]), x([2, 1, 2, 2])];
  const { k = v, cos = x([192, 1]), sin = x([192, 1]), kPool = pool(), vPool = pool() } = changed;
  const { pageTable = ids(2, 3), lengths = ids(2) } = changed;
  return pageAppend(q, k, v, { cos, sin }, { k: kPool, v: vPool }, pageTable, lengths);
};
const weight = FrozenWeight.pack(x([4, 6]));
const gone = FrozenWeight.pack(x([4, 6]));
gone.dispose();
const table = { cos: x([9, 2]), sin: x([9, 2]) };
const branch = { weight, up: x([4, 2]), down: x([2, 6]) };
const heads = x([1, 3, 4, 2]);

const cases: [string, () => unknown, string | RegExp][] = [
  // Sums
  ['dim', () => x([2, 3]).sum({ dim: 2 }), '[sum] expected dim in [-2, 1] but received 2'],
  ['dim', () => x([2, 3]).mean({ dim: [-3] }), '[mean] expected dim in [-2, 1] but received -3'],
  ['dim', () => x([2, 3]).sum({ dim: 0.5 }), '[sum] expected dim in [-2, 1] but received 0.5'],
  [
    'dim',
    () => x([2]).sum({ dim: '0' as never }),
    "[sum] expected dim to be an integer or a list but received '0'",
  ],
  [
    'keepDim',
    () => x([2]).sum({ keepDim: 1 as never }),
    '[sum] expected keepDim to be true or false but received 1',
  ],
  // Layout
  [
    'reshape',
    () => x([6]).reshape([-1, -1]),
    '[reshape] expected a shape of 6 elements for [6] but received [-1, -1]',
  ],
  [
    'reshape',
    () => x([6]).reshape([4, -1]),
    '[reshape] expected a shape of 6 elements for [6] but received [4, -1]',
  ],
  [
    'reshape',
    () => x([0]).reshape([0, -1]),
    '[reshape] expected a shape of 0 elements for [0] but received [0, -1]',
  ],
  [
    'reshape',
    () => x([6]).reshape([-2, -3]),
    '[reshape] expected a list of dimensions but received [-2, -3]',
  ],
  ['reshape', () => x([6]).reshape(6 as never), '[reshape] expected a list of dimensions but received 6'],
  ['transpose', () => x([6]).transpose(), '[transpose] expected at least two dimensions but received [6]'],
  [
    'transpose',
    () => x([2, 3]).transpose([0, 0]),
    '[transpose] expected perm to be an order of the 2 dimensions of [2, 3] but received [0, 0]',
  ],
  ['transpose', () => x([2, 3]).transpose([0]), /expected perm to be an order of the 2 dimensions/],
  ['transpose', () => ids(2, 3).transpose(), /^\[transpose\] expected the tensor to hold floats/],
  ['view', () => view(x([6]), 5, [2]), '[view] expected at most 6 elements but received [2] from 5 on'],
  ['view', () => view(x([6]), -1, [2]), /expected elementOffset to be an integer of at least 0/],
  // Products
  ['matmul', () => x([2, 3]).matmul(x([2, 3])), /expected shapes \[.., m, k\] and \[.., k, n\]/],
  ['matmul', () => x([3]).matmul(x([3, 3])), /expected shapes/],
  ['matmul', () => x([3, 3]).matmul(x([3])), /expected shapes/],
  [
    'matmul',
    () => x([2, 3, 3]).matmul(x([4, 3, 3])),
    '[matmul] expected shapes that broadcast but received [2] and [4]',
  ],
  ['matmul', () => ids(2, 2).matmul(x([2, 2])), /^\[matmul\] expected the left operand to hold floats/],
  ['matmul', () => x([2, 2]).matmul(ids(2, 2)), /^\[matmul\] expected the right operand to hold floats/],
  [
    'matmul',
    () => x([2, 2]).matmul(x([2, 2], 'f32', 'cpu')),
    /expected the right operand on reference but received it on cpu/,
  ],
  // Norm, rope, gated
  [
    'rms_norm',
    () => rmsNorm(x([2, 6]), x([5]), 1e-5),
    '[rms_norm] expected weight of shape [6] (dim) but received [5]',
  ],
  [
    'rms_norm',
    () => rmsNorm(x([]), x([1]), 1e-5),
    '[rms_norm] expected x of at least one dimension but received a scalar',
  ],
  ['rms_norm', () => rmsNorm(x([6]), x([6]), -1), '[rms_norm] expected eps of 0 or more but received -1'],
  ['rms_norm', () => rmsNorm(x([6]), x([6], 'f32', 'cpu'), 0), /expected weight on reference/],
  [
    'rms_norm',
    () => addRmsNorm(x([6]), x([5]), x([6]), 0),
    '[rms_norm] expected addend of shape [1, 6] (that of x) but received [1, 5]',
  ],
  [
    'rms_norm',
    () => addRmsNorm(x([6]), x([6]), x([6]), 0, 'bf16'),
    '[rms_norm] expected addend of dtype bf16 (that of y) but received f32',
  ],
  [
    'rms_norm',
    () => rmsNorm(x([6], 'bf16'), x([6]), 0, 'f32'),
    '[rms_norm] expected x of dtype f32 (that of y) but received bf16',
  ],
  [
    'rms_norm',
    () => rmsNorm(ids(6), x([6]), 0),
    '[rms_norm] expected y of dtype f32 or bf16 or f16 but received i32',
  ],
  [
    'rms_norm',
    () => rmsNorm(x([6]), ids(6), 0),
    '[rms_norm] expected weight of dtype f32 (that of y) but received i32',
  ],
  [
    'rope',
    () => rope(x([1, 2, 3]), x([1, 2, 1, 4]), table),
    '[rope] expected q of 4 dimensions (batch, sequence, heads, head_dim) but received shape [1, 2, 3]',
  ],
  [
    'rope',
    () => rope(x([1, 2, 2, 3]), x([1, 2, 1, 3]), table),
    '[rope] expected an even head_dim but received q of shape [1, 2, 2, 3]',
  ],
  [
    'rope',
    () => rope(x([1, 2, 2, 4]), x([1, 3, 1, 4]), table),
    '[rope] expected k of shape [1, 2, 1, 4] (batch, sequence, heads, head_dim) but received [1, 3, 1, 4]',
  ],
  [
    'rope',
    () => rope(x([1, 2, 2, 4]), x([1, 2, 1, 4], 'bf16'), table),
    '[rope] expected k of dtype f32 (that of q) but received bf16',
  ],
  [
    'rope',
    () => rope(x([1, 2, 2, 2]), x([1, 2, 1, 2]), table),
    '[rope] expected cos of at most 1 columns (half of head_dim) but received shape [9, 2]',
  ],
  [
    'rope',
    () => rope(x([1, 2, 2, 4]), x([1, 2, 1, 4]), { ...table, sin: x([9, 2], 'f32', 'cpu') }),
    /expected sin on reference/,
  ],
  [
    'rope',
    () => rope(x([1, 2, 2, 4]), x([1, 2, 1, 4]), table, { offset: -1 }),
    '[rope] expected offset to be a whole number from 0 to 9007199254740992 but received -1',
  ],
  [
    'rope',
    () => rope(x([1, 2, 2, 4]), x([1, 2, 1, 4]), table, { positions: x([1, 2]) }),
    '[rope] expected positions of dtype i32 but received f32',
  ],
  [
    'rope',
    () => rope(x([1, 2, 2, 4]), x([1, 2, 1, 4]), table, { positions: ids(2, 1) }),
    '[rope] expected positions of shape [1, 2] (batch, sequence) but received [2, 1]',
  ],
  [
    'rope',
    () => rope(x([1, 2, 2, 4]), x([1, 2, 1, 4]), table, { position: 1 } as never),
    /unknown option 'position'/,
  ],
  [
    'gated',
    () => gated(x([2, 3]), x([3]), 'silu'),
    '[gated] expected up of shape [2, 3] (that of gate) but received [3]',
  ],
  [
    'gated',
    () => gated(x([2]), x([2], 'bf16'), 'silu'),
    '[gated] expected up of dtype f32 (that of gate) but received bf16',
  ],
  ['gated', () => gated(x([2]), x([2], 'f32', 'cpu'), 'silu'), /expected up on reference/],
  // Attention
  [
    'attention',
    () => attention(heads, x([1, 3, 3, 2]), x([1, 3, 3, 2]), { scale: 1 }),
    '[attention] expected q heads to be a multiple of kv heads but received 4 and 3',
  ],
  [
    'attention',
    () => attention(heads, x([1, 3, 2, 3]), x([1, 3, 2, 3]), { scale: 1 }),
    '[attention] expected k of shape [1, 3, 2, 2] (batch, keys, kv_heads, head_dim) but received [1, 3, 2, 3]',
  ],
  [
    'attention',
    () => attention(heads, x([2, 3, 2, 2]), x([2, 3, 2, 2]), { scale: 1 }),
    '[attention] expected k of shape [1, 3, 2, 2] (batch, keys, kv_heads, head_dim) but received [2, 3, 2, 2]',
  ],
  [
    'attention',
    () => attention(heads, x([1, 4, 2, 2]), x([1, 4, 2, 2]), { scale: 1 }),
    '[attention] expected k of 3 keys (the queries of q) but received 4',
  ],
  [
    'attention',
    () => attention(heads, x([1, 3, 2, 2]), x([1, 3, 4, 2]), { scale: 1 }),
    '[attention] expected v of shape [1, 3, 2, 2] (that of k) but received [1, 3, 4, 2]',
  ],
  [
    'attention',
    () => attention(heads, heads, x([1, 3, 4, 2], 'bf16'), { scale: 1 }),
    '[attention] expected v of dtype f32 (that of q) but received bf16',
  ],
  [
    'attention',
    () => attention(heads, x([1, 3, 4, 2], 'f32', 'cpu'), heads, { scale: 1 }),
    /expected k on reference/,
  ],
  [
    'attention',
    () => attention(heads, heads, heads, { scale: 1, window: -1 }),
    '[attention] expected window to be a whole number from 0 to 9007199254740992 but received -1',
  ],
  [
    'attention',
    () => attention(heads, heads, heads, { scale: 1, keyBegin: ids(3) }),
    '[attention] expected keyBegin of shape [1, 3] (batch, queries) but received [3]',
  ],
  [
    'page_append',
    () => append({ k: x([2, 1, 2]) }),
    '[page_append] expected k of 4 dimensions (batch, sequence, kv_heads, head_dim) but received shape [2, 1, 2]',
  ],
  [
    'page_append',
    () => append({ kPool: x([4, 64, 2, 2]) }),
    '[page_append] expected kPool of shape [4, 2, 64, 2] (pages, kv_heads, 64, head_dim) but received [4, 64, 2, 2]',
  ],
  [
    'page_append',
    () => append({ vPool: pool('bf16') }),
    '[page_append] expected vPool of dtype f32 (that of kPool) but received bf16',
  ],
  [
    'page_append',
    () => append({ pageTable: ids(3, 3) }),
    '[page_append] expected pageTable of shape [2, 3] (batch, pages) but received [3, 3]',
  ],
  [
    'page_append',
    () => append({ lengths: x([2]) }),
    '[page_append] expected lengths of dtype i32 but received f32',
  ],
  [
    'page_append',
    () => append({ cos: x([191, 1]), sin: x([191, 1]) }),
    '[page_append] expected cos of at least 192 positions (64 per column of pageTable) but received shape [191, 1]',
  ],
  [
    'attention_paged',
    () => paged(x([2, 1, 4])),
    '[attention_paged] expected q of 4 dimensions (batch, queries, heads, head_dim) but received shape [2, 1, 4]',
  ],
  [
    'attention_paged',
    () => paged(x([2, 1, 3, 2])),
    '[attention_paged] expected q heads to be a multiple of kv heads but received 3 and 2',
  ],
  [
    'attention_paged',
    () => paged(x([2, 3, 4, 2])),
    '[attention_paged] expected q of one query per sequence in phase "decode" but received shape [2, 3, 4, 2]',
  ],
  [
    'attention_paged',
    () => paged(x([2, 1, 4, 3])),
    '[attention_paged] expected kPool of shape [4, 2, 64, 3] (pages, kv_heads, 64, head_dim) but received [4, 2, 64, 2]',
  ],
  ['attention_paged', () => paged(x([2, 1, 4, 2]), { windows: 1 } as never), /unknown option 'windows'/],
  [
    'attention_paged',
    () => paged(x([2, 1, 4, 2]), { phase: 'decod' as never }),
    '[attention_paged] expected phase to be prefill or decode but received "decod"',
  ],
  [
    'attention_paged',
    () => paged(x([2, 1, 4, 2]), { window: -1 }),
    '[attention_paged] expected window to be a whole number from 0 to 9007199254740992 but received -1',
  ],
  [
    'attention_paged',
    () => paged(x([2, 1, 4, 2]), { scale: NaN }),
    '[attention_paged] expected scale to be a number but received NaN',
  ],
  [
    'attention_paged',
    () =>
      attentionPaged(x([2, 1, 4, 2]), pool(), x([3, 2, 64, 2]), ids(2, 3), ids(2), {
        scale: 1,
        phase: 'decode',
      }),
    '[attention_paged] expected vPool of shape [4, 2, 64, 2] (that of kPool) but received [3, 2, 64, 2]',
  ],
  [
    'attention_paged',
    () => attentionPaged(x([2, 1, 4, 2]), pool(), pool(), ids(2, 3), ids(3), { scale: 1, phase: 'decode' }),
    '[attention_paged] expected lengths of shape [2] (batch) but received [3]',
  ],
  // Losses and embeddings
  [
    'cross_entropy',
    () => crossEntropy(x([2, 3]), x([2])),
    '[cross_entropy] expected labels of dtype i32 but received f32',
  ],
  [
    'cross_entropy',
    () => crossEntropy(x([]), ids()),
    '[cross_entropy] expected logits of at least one dimension but received a scalar',
  ],
  [
    'crossEntropy',
    () => x([2, 3]).crossEntropy([0, 1], { reduction: 'each' as never }),
    /expected reduction to be 'mean', 'sum'/,
  ],
  [
    'crossEntropy',
    () => ids(2, 3).crossEntropy([0, 1]),
    /^\[crossEntropy\] expected the tensor to hold floats/,
  ],
  [
    'linear_cross_entropy',
    () => linearCrossEntropy(x([3, 5]), weight, ids(3)),
    '[linear_cross_entropy] expected hidden with a last dimension of 6 (the columns of weight) but received one of 5',
  ],
  [
    'linear_cross_entropy',
    () => linearCrossEntropy(x([3, 6], 'bf16'), weight, ids(3)),
    '[linear_cross_entropy] expected hidden of dtype f32 (that of weight) but received bf16',
  ],
  [
    'linear_cross_entropy',
    () => linearCrossEntropy(x([3, 6]), weight, ids(2)),
    '[linear_cross_entropy] expected labels of shape [3] (one per row) but received [2]',
  ],
  ['embedding', () => embedding(weight, x([2])), '[embedding] expected ids of dtype i32 but received f32'],
  // The LoRA layer
  [
    'lora_linear',
    () => loraLinearGroup(x([2, 6]), []),
    '[lora_linear] expected at least one branch but received none',
  ],
  [
    'lora_linear',
    () => loraLinear(x([2, 6]), { weight, up: x([4, 2]) }),
    '[lora_linear] expected up and down together but received up alone',
  ],
  [
    'lora_linear',
    () => loraLinear(x([2, 6]), { ...branch, scale: NaN }),
    '[lora_linear] expected scale to be a number but received NaN',
  ],
  [
    'lora_linear',
    () => loraLinear(x([2, 6]), { ...branch, dropout: { p: 1, seed: 0, layer: 0, forward: 0 } }),
    '[lora_linear] expected dropout p in [0, 1) but received 1',
  ],
  [
    'lora_linear',
    () => loraLinear(x([2, 6]), { ...branch, up: x([5, 2]) }),
    '[lora_linear] expected up of shape [4, 2] (out, rank) but received [5, 2]',
  ],
  [
    'lora_linear',
    () => loraLinear(x([2, 6]), { ...branch, down: x([3, 6]) }),
    '[lora_linear] expected down of shape [2, 6] (rank, in) but received [3, 6]',
  ],
  [
    'lora_linear',
    () => loraLinear(x([2, 6]), { ...branch, down: x([2, 6], 'bf16') }),
    '[lora_linear] expected down of dtype f32 but received bf16',
  ],
  [
    'lora_linear',
    () => loraLinear(x([2, 6]), { ...branch, up: x([4, 2], 'f32', 'cpu') }),
    /expected up on reference/,
  ],
  [
    'lora_linear',
    () => loraLinear(x([2, 6]), { weight, bias: x([3]) }),
    '[lora_linear] expected bias of shape [4] (out) but received [3]',
  ],
  [
    'lora_linear',
    () => loraLinear(x([]), { weight }),
    '[lora_linear] expected x of at least one dimension but received a scalar',
  ],
  // Random numbers
  ['random', () => randomUniform([-1], { seed: 0 }), /expected shape to be a list of integers of at least 0/],
  ['random', () => randomUniform([1], { seed: -1 }), /expected seed to be an integer of at least 0/],
  ['random', () => randomUniform([1], { seed: 0, stream: 0.5 }), /expected stream to be an integer/],
  ['random', () => randomUniform([1], { seed: 0, lo: NaN }), /expected lo to be a finite number/],
  ['random', () => randomNormal([1], { seed: 0, std: Infinity }), /expected std to be a finite number/],
  // Sampling
  [
    'sample',
    () => sample(x([3]), x([3, 3]), ids(3, 4)),
    '[sample] expected logits of 2 dimensions (rows, vocab) but received shape [3]',
  ],
  [
    'sample',
    () => sample(ids(1, 3), x([1, 3]), ids(1, 4)),
    '[sample] expected logits of dtype f32 or bf16 or f16 but received i32',
  ],
  [
    'sample',
    () => sample(x([1, 3]), x([1, 4]), ids(1, 4)),
    '[sample] expected reals of shape [1, 3] (rows, temperature topP minP) but received [1, 4]',
  ],
  [
    'sample',
    () => sample(x([1, 3]), x([1, 3]), ids(2, 4)),
    '[sample] expected wholes of shape [1, 4] (rows, topK step seed seed) but received [2, 4]',
  ],
  [
    'sample',
    () => sample(x([1, 3]), x([1, 3]), x([1, 4])),
    '[sample] expected wholes of dtype i32 but received f32',
  ],
  [
    'sample',
    () => sample(x([1, 3]), x([1, 3], 'f32', 'cpu'), ids(1, 4)),
    '[sample] expected reals on reference (the device of the other operands) but received one on cpu',
  ],
];

test.each(cases)('%s: %#', (_, fn, sentence) => {
  expectThrow(fn, 'ERR_ARGUMENT', sentence);
});

test('a disposed weight is ERR_DISPOSED, op by op', () => {
  const calls: Record<string, () => unknown> = {
    embedding: () => embedding(gone, ids(2)),
    linear_cross_entropy: () => linearCrossEntropy(x([3, 6]), gone, ids(3)),
    lora_linear: () => loraLinear(x([2, 6]), { weight: gone }),
  };
  for (const [op, call] of Object.entries(calls))
    expectThrow(call, 'ERR_DISPOSED', `[${op}] the weight has been disposed`);
});
