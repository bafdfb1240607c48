/** What adapters make of the roles of layers, on models of several namings. */
import { readdirSync, readFileSync } from 'node:fs';
import ts from 'typescript';
import { modulesOf } from '../../lib/compare/methods';
import { ia3Input, ia3Output } from '../../lib/linear/ia3';
import { bottleneck } from '../../lib/peft/bottleneck';
import { completeLoRAConfig, fromPeftJson, normalizeLoRAConfig } from '../../lib/peft/config';
import { chooseModules, resolveTargets } from '../../lib/peft/matching';
import { configOfJson, jsonOfConfig } from '../../lib/peft/config_values';
import { ia3, type IA3ConfigInput } from '../../lib/peft/ia3';
import type { ModelShape } from '../../lib/peft/method';
import { prompt } from '../../lib/peft/prompt';
import { namesOfRoles, placeInBlocks, type ModulePath } from '../../lib/peft/roles';
import { gpt2Layers, lfm2Layers, llamaLayers, phi3Layers, withWeights } from '../support/made_up_layers';

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

describe('bottleneck adapters', () => {
  const config = (placement: 'houlsby' | 'pfeiffer') =>
    bottleneck.normalize({ placement, bottleneckSize: 3 }, { hiddenSize: 4 } as ModelShape);
  const planned = (layers: readonly ModulePath[], placement: 'houlsby' | 'pfeiffer') =>
    bottleneck
      .plan(config(placement), { linears: withWeights(layers), experts: [] }, true)
      .map(({ linear, prefix }) => [linear.path, prefix]);

  test('stand behind the outputs of attention and MLP', () => {
    expect(planned(gpt2Layers, 'houlsby')).toEqual([
      ['transformer.h.0.attn.c_proj', 'layers.0.attention'],
      ['transformer.h.0.mlp.c_proj', 'layers.0.mlp'],
      ['transformer.h.1.attn.c_proj', 'layers.1.attention'],
      ['transformer.h.1.mlp.c_proj', 'layers.1.mlp'],
    ]);
    expect(planned(phi3Layers, 'pfeiffer')).toEqual([
      ['model.layers.0.mlp.down_proj', 'layers.0.mlp'],
      ['model.layers.1.mlp.down_proj', 'layers.1.mlp'],
    ]);
  });

  test('count as a LoRA of these layers in estimates', () => {
    expect(bottleneck.sizeAsLora(config('houlsby'), llamaLayers)).toEqual({
      r: 3,
      targetModules: ['o_proj', 'down_proj'],
    });
    expect(bottleneck.sizeAsLora(config('pfeiffer'), gpt2Layers)).toEqual({
      r: 3,
      targetModules: ['mlp.c_proj'],
    });
  });

  test('have no place in a model without such layers', () => {
    expect(() => planned(llamaLayers.slice(0, 3), 'houlsby')).toThrow(
      'expected blocks with a layer of the role attentionOutput or mlpOutput for bottleneck adapters but the model has none',
    );
  });
});

test('prompt tuning counts as a LoRA of one layer as wide as the model, whatever its name', () => {
  const config = prompt.normalize({ numVirtualTokens: 5 }, {
    hiddenSize: 4,
    maxPositionEmbeddings: 9,
  } as ModelShape);
  expect(prompt.sizeAsLora(config, gpt2Layers)).toEqual({
    r: 3,
    targetModules: ['transformer.h.0.attn.c_proj'],
  });
});

test('null targets of a LoRA are those of query and value, or of what is both', () => {
  const { config } = fromPeftJson({ peft_type: 'LORA', target_modules: null });
  const names = [llamaLayers, gpt2Layers, phi3Layers].map(
    (layers) => completeLoRAConfig(config, layers).targetModules,
  );
  expect(names).toEqual([['q_proj', 'v_proj'], ['c_attn'], ['qkv_proj']]);
  expect(completeLoRAConfig({ ...config, targetModules: 'all-linear' }, gpt2Layers).targetModules).toBe(
    'all-linear',
  );
});

describe('IA³', () => {
  const complete = (layers: readonly ModulePath[], input: Partial<IA3ConfigInput> = {}) =>
    ia3.normalize(input, { linears: layers } as ModelShape);

  test('scales keys, values and what the MLP puts out from', () => {
    expect(complete(llamaLayers)).toMatchObject({
      targetModules: ['k_proj', 'v_proj', 'down_proj'],
      feedforwardModules: ['down_proj'],
    });
    expect(complete(phi3Layers)).toMatchObject({
      targetModules: ['qkv_proj', 'down_proj'],
      feedforwardModules: ['down_proj'],
    });
    const config = complete(gpt2Layers, { targetModules: null, feedforwardModules: null });
    expect(config).toMatchObject({
      targetModules: ['c_attn', 'mlp.c_proj'],
      feedforwardModules: ['mlp.c_proj'],
    });
    const planned = ia3.plan(config, { linears: withWeights(gpt2Layers), experts: [] }, true);
    expect(planned.slice(0, 2).map(({ linear, kind }) => [linear.path, kind])).toEqual([
      ['transformer.h.0.attn.c_attn', ia3Output],
      ['transformer.h.0.mlp.c_proj', ia3Input],
    ]);
  });

  test('scales the input of those alone that are targets', () => {
    expect(complete(gpt2Layers, { targetModules: ['c_attn'] }).feedforwardModules).toEqual([]);
    expect(complete(gpt2Layers, { targetModules: 'all-linear' }).feedforwardModules).toEqual(['mlp.c_proj']);
  });

  test('refuses names that the targets of its architecture do not have', () => {
    expect(() => complete(gpt2Layers, { feedforwardModules: ['attn.c_proj'] })).toThrow(
      'expected feedforwardModules to be names that are among those of the targets',
    );
  });

  test('of a file has null until there is a model', () => {
    const { config, raw } = configOfJson(ia3.file, { peft_type: 'IA3', target_modules: null }, 'file');
    expect(config).toMatchObject({ targetModules: null, feedforwardModules: null });
    const named = { targetModules: ['c_attn', 'mlp.c_proj'], feedforwardModules: ['mlp.c_proj'] };
    expect(ia3.complete!(config, gpt2Layers)).toMatchObject(named);
    expect(jsonOfConfig(ia3.file, ia3.complete!(config, gpt2Layers), raw)).toMatchObject({
      target_modules: named.targetModules,
      feedforward_modules: named.feedforwardModules,
    });
  });
});

test.each([
  ['attention', ['q_proj', 'k_proj', 'v_proj', 'o_proj'], ['c_attn', 'attn.c_proj'], ['qkv_proj', 'o_proj']],
  ['mlp', ['gate_proj', 'up_proj', 'down_proj'], ['c_fc', 'mlp.c_proj'], ['gate_up_proj', 'down_proj']],
  ['all-linear', 'all-linear', 'all-linear', 'all-linear'],
  ['c_attn+mlp.c_proj', ...Array.from({ length: 3 }, () => ['c_attn', 'mlp.c_proj'])],
])('comparisons know %s of every model', (targets, ...names) => {
  expect([llamaLayers, gpt2Layers, phi3Layers].map((layers) => modulesOf(targets, layers))).toEqual(names);
});

test('comparisons know what stands around a convolution as the attention of its block', () => {
  expect(modulesOf('attention', lfm2Layers)).toEqual(['in_proj', 'out_proj']);
});

/** What could name a module in a file: strings, templates and regular expressions, without imports, and without the help of the command line. */
function literalsOf(source: string): string[] {
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isPropertyAssignment(node) && node.name.getText() === 'help') return;
    if (ts.isLiteralExpression(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node))
      found.push(node.text);
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile('source.ts', source, ts.ScriptTarget.Latest, true));
  return found;
}

test('no code outside of the families names a module', () => {
  const named =
    /model\\?\.layers|lm_head|\b(q|k|v|o|qkv|gate|up|gate_up|down)_proj\b|embed_tokens|c_attn|c_proj/;
  const names = (source: string): boolean =>
    named.test(source) && literalsOf(source).some((text) => named.test(text));
  const paths = readdirSync('lib', { recursive: true, encoding: 'utf8' }).filter((path) =>
    path.endsWith('.ts'),
  );
  const naming = paths.filter((path) => names(readFileSync(`lib/${path}`, 'utf8')));
  expect(naming.filter((path) => !path.startsWith('models/families/'))).toEqual([]);
  expect(naming).toContain('models/families/llama.ts');
});
