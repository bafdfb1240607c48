/** What adapters make of the roles of layers, on models of several namings. */
import { normalizeLoRAConfig } from '../../lib/peft/config';
import { chooseModules, resolveTargets } from '../../lib/peft/matching';
import { namesOfRoles, placeInBlocks } from '../../lib/peft/roles';
import { gpt2Layers, llamaLayers, phi3Layers } from '../support/made_up_layers';

describe('names of roles', () => {
  test('are the ends of paths, each once, in the order of the model', () => {
    expect(namesOfRoles(llamaLayers, ['value', 'query'])).toEqual(['q_proj', 'v_proj']);
    expect(namesOfRoles(phi3Layers, ['mlpOutput', 'queryKeyValue'])).toEqual(['qkv_proj', 'down_proj']);
    expect(namesOfRoles(llamaLayers, ['outputEmbedding'])).toEqual(['lm_head']);
  });

  test('are longer where a layer of another role ends alike', () => {
    expect(namesOfRoles(gpt2Layers, ['mlpOutput'])).toEqual(['mlp.c_proj']);
    expect(namesOfRoles(gpt2Layers, ['attentionOutput'])).toEqual(['attn.c_proj']);
    expect(namesOfRoles(gpt2Layers, ['attentionOutput', 'mlpOutput'])).toEqual(['c_proj']);
  });

  test('name the layers of these roles alone, in every block', () => {
    for (const layers of [llamaLayers, gpt2Layers, phi3Layers])
      for (const role of new Set(layers.map((layer) => layer.role!))) {
        const rules = {
          excludeModules: null,
          layersToTransform: null,
          layersPattern: null,
          modulesToSave: null,
        };
        const chosen = chooseModules({ ...rules, targetModules: namesOfRoles(layers, [role]) }, layers);
        const paths = layers.filter((layer) => layer.role === role).map(({ path }) => path);
        expect([...chosen.keys()]).toEqual(paths);
      }
  });

  test('are none where no layer has the role, or none is known', () => {
    expect(namesOfRoles(gpt2Layers, ['gate', 'query'])).toEqual([]);
    expect(namesOfRoles([{ path: 'a.0.q_proj', role: null }], ['query'])).toEqual([]);
  });
});

test("'all-linear' leaves out what gives the logits, whatever its name", () => {
  const layers = gpt2Layers.map((layer) =>
    layer.path === 'lm_head' ? { ...layer, path: 'head.out' } : layer,
  );
  const found = resolveTargets(normalizeLoRAConfig({ targetModules: 'all-linear' }), layers);
  expect([...found.keys()]).toEqual(layers.slice(0, -1).map(({ path }) => path));
  const named = resolveTargets(normalizeLoRAConfig({ targetModules: ['out'] }), layers);
  expect([...named.keys()]).toEqual(['head.out']);
});

test('the place of a layer is the first number of its path and what follows', () => {
  expect(placeInBlocks('transformer.h.11.attn.c_attn')).toEqual({ block: 11, module: 'attn.c_attn' });
  expect(placeInBlocks('model.layers.3.mlp.experts.7.up_proj')).toEqual({
    block: 3,
    module: 'mlp.experts.7.up_proj',
  });
  expect(placeInBlocks('lm_head')).toBeNull();
  expect(placeInBlocks('model.layers.3')).toBeNull();
});
