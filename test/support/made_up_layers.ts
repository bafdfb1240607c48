/** Linear layers of models by name and role alone. */
import { Linear, type LinearRole } from '../../lib/linear/linear';
import type { ModulePath } from '../../lib/peft/roles';
import { tensor } from '../../lib/tensor/create';
import { FrozenWeight } from '../../lib/tensor/frozen_weight';

type Block = readonly (readonly [module: string, role: LinearRole])[];

const modules = (blocks: string, block: Block, count = 2): ModulePath[] => [
  ...Array.from({ length: count }, (_, i) =>
    block.map(([module, role]): ModulePath => ({ path: `${blocks}.${i}.${module}`, role })),
  ).flat(),
  { path: 'lm_head', role: 'outputEmbedding' },
];

/** As Llama has them. */
export const llamaLayers = modules('model.layers', [
  ['self_attn.q_proj', 'query'],
  ['self_attn.k_proj', 'key'],
  ['self_attn.v_proj', 'value'],
  ['self_attn.o_proj', 'attentionOutput'],
  ['mlp.gate_proj', 'gate'],
  ['mlp.up_proj', 'up'],
  ['mlp.down_proj', 'mlpOutput'],
]);

/** As GPT-2 has them: two layers of a block end in c_proj. */
export const gpt2Layers = modules('transformer.h', [
  ['attn.c_attn', 'queryKeyValue'],
  ['attn.c_proj', 'attentionOutput'],
  ['mlp.c_fc', 'up'],
  ['mlp.c_proj', 'mlpOutput'],
]);

/** As Phi-3 has them: two layers are several in one. */
export const phi3Layers = modules('model.layers', [
  ['self_attn.qkv_proj', 'queryKeyValue'],
  ['self_attn.o_proj', 'attentionOutput'],
  ['mlp.gate_up_proj', 'gateUp'],
  ['mlp.down_proj', 'mlpOutput'],
]);

/** As LFM2 has them: convolutions in some blocks. */
export const lfm2Layers = modules(
  'model.layers',
  [
    ['conv.in_proj', 'mixerInput'],
    ['conv.out_proj', 'attentionOutput'],
    ['feed_forward.w1', 'gate'],
    ['feed_forward.w2', 'mlpOutput'],
  ],
  1,
);

/** The same with matrices of 4 by 4 zeros. */
export const withWeights = (layers: readonly ModulePath[]): Linear[] =>
  layers.map(
    ({ path, role }) =>
      new Linear(path, FrozenWeight.pack(tensor(new Float32Array(16), { shape: [4, 4] })), undefined, role),
  );
