import { completeLoRAConfig, fromPeftJson, normalizeLoRAConfig, toPeftJson } from '../../lib/peft/config';
import { goldenFolders } from '../support/golden';
import { llamaLayers } from '../support/made_up_layers';
import { describeWithData } from '../support/shared_data';

const defaults = {
  r: 16,
  loraAlpha: 32,
  loraDropout: 0,
  targetModules: 'all-linear',
  excludeModules: null,
  layersToTransform: null,
  layersPattern: null,
  rankPattern: {},
  alphaPattern: {},
  useRslora: false,
  useDora: false,
  targetParameters: null,
  modulesToSave: null,
  bias: 'none',
  initLoraWeights: true,
};
const peftDefaults = { ...defaults, r: 8, loraAlpha: 8, targetModules: null };
/** What a current PEFT writes beside the supported fields, all of it neutral. */
const neutral = {
  alora_invocation_tokens: null,
  arrow_config: null,
  auto_mapping: null,
  base_model_name_or_path: 'org/name',
  corda_config: null,
  ensure_weight_tying: false,
  fan_in_fan_out: false,
  inference_mode: true,
  layer_replication: null,
  loftq_config: {},
  lora_bias: false,
  megatron_config: null,
  megatron_core: 'megatron.core',
  modules_to_save: [],
  peft_type: 'LORA',
  peft_version: '0.21.2',
  qalora_group_size: 16,
  revision: null,
  target_parameters: null,
  task_type: 'CAUSAL_LM',
  use_dora: false,
};

describe('normalizeLoRAConfig', () => {
  test('fills in the defaults', () => {
    expect(normalizeLoRAConfig()).toEqual(defaults);
    expect(normalizeLoRAConfig({ targetModules: null, excludeModules: [], layersToTransform: [] })).toEqual(
      defaults,
    );
  });

  test('alpha follows r unless it is given', () => {
    expect(normalizeLoRAConfig({ r: 4 })).toMatchObject({ r: 4, loraAlpha: 8 });
    expect(normalizeLoRAConfig({ r: 4, loraAlpha: 3 })).toMatchObject({ r: 4, loraAlpha: 3 });
  });

  test("what a file leaves out has PEFT's defaults", () => {
    expect(fromPeftJson({ peft_type: 'LORA' }).config).toEqual(peftDefaults);
    expect(fromPeftJson({ peft_type: 'LORA', r: 4 }).config.loraAlpha).toBe(8);
  });

  test('brings the short spellings into one form', () => {
    const config = normalizeLoRAConfig({
      layersToTransform: 0,
      layersPattern: 'layers',
      initLoraWeights: 'gaussian',
    });
    expect(config).toMatchObject({
      layersToTransform: [0],
      layersPattern: ['layers'],
      initLoraWeights: 'gaussian',
    });
  });

  test('null and the empty forms are the defaults', () => {
    const empty = { excludeModules: '', layersToTransform: [], layersPattern: '', rankPattern: {} };
    expect(normalizeLoRAConfig(empty)).toEqual(defaults);
    const none = Object.fromEntries(
      Object.keys(defaults)
        .filter((field) => field !== 'r' && field !== 'loraAlpha')
        .map((field) => [field, null]),
    );
    expect(normalizeLoRAConfig(none)).toEqual(defaults);
  });

  test('values at the border are taken as they are', () => {
    const values = { r: 1, loraAlpha: -0.5, loraDropout: 0.999, layersToTransform: [0] };
    expect(normalizeLoRAConfig(values)).toMatchObject(values);
    for (const initLoraWeights of [true, false]) {
      expect(normalizeLoRAConfig({ initLoraWeights })).toMatchObject({ initLoraWeights });
    }
    expect(normalizeLoRAConfig({ targetModules: 'ALL-Linear' }).targetModules).toBe('ALL-Linear');
    expect(normalizeLoRAConfig({ initLoraWeights: 'Gaussian' as 'gaussian' }).initLoraWeights).toBe(
      'gaussian',
    );
  });

  test('lists and patterns are copies', () => {
    const input = {
      targetModules: ['a'],
      excludeModules: ['b'],
      layersToTransform: [1],
      layersPattern: ['c'],
      rankPattern: { d: 1 },
      alphaPattern: { e: 2 },
    };
    const config = normalizeLoRAConfig(input);
    expect(config).toMatchObject(input);
    for (const list of ['targetModules', 'excludeModules', 'layersToTransform', 'layersPattern'] as const) {
      expect(config[list]).not.toBe(input[list]);
    }
    expect(config.rankPattern).not.toBe(input.rankPattern);
    expect(config.alphaPattern).not.toBe(input.alphaPattern);
  });

  const bad: [object, string | RegExp][] = [
    [{ rank: 4 }, `unknown option 'rank'; did you mean 'r'?`],
    [{ alpha: 4 }, `unknown option 'alpha'; did you mean 'loraAlpha'?`],
    [{ lora_dropout: 0 }, `unknown option 'lora_dropout'; did you mean 'loraDropout'?`],
    [{ targetModule: 'x' }, `unknown option 'targetModule'; did you mean 'targetModules'?`],
    [{ r: 0 }, 'expected r to be a positive integer but received 0'],
    [{ r: 1.5 }, 'expected r to be a positive integer but received 1.5'],
    [{ r: null }, 'expected r to be a positive integer but received null'],
    [{ loraAlpha: NaN }, 'expected loraAlpha to be a number but received NaN'],
    [{ loraDropout: 1 }, 'expected loraDropout to be a number from 0 up to, but not, 1 but received 1'],
    [
      { targetModules: [] },
      `expected targetModules to be a list of module names or a regular expression, or 'all-linear' but received []`,
    ],
    [{ targetModules: '(' }, /^expected targetModules to be a regular expression \(.*\) but received '\('$/],
    [{ targetModules: [1] }, /^expected targetModules to be a list of module names/],
    [{ targetModules: [''] }, /^expected targetModules to be a list of module names/],
    [{ targetModules: '' }, /^expected targetModules to be a list of module names/],
    [{ excludeModules: 3 }, /^expected excludeModules to be a list of module names/],
    [{ excludeModules: '[' }, /^expected excludeModules to be a regular expression/],
    [{ loraDropout: -0.1 }, /^expected loraDropout to be a number from 0 up to, but not, 1/],
    [{ loraAlpha: null }, 'expected loraAlpha to be a number but received null'],
    [{ layersToTransform: 1.5 }, /^expected layersToTransform to be a layer index or a list of them/],
    [
      { layersToTransform: 1, layersPattern: '(' },
      /^expected layersPattern to be a regular expression \(.*\) but received '\('$/,
    ],
    [
      { layersToTransform: 1, layersPattern: [''] },
      /^expected layersPattern to be a name or a list of names/,
    ],
    [{ alphaPattern: { '(': 1 } }, /^expected alphaPattern to be a regular expression/],
    [
      { alphaPattern: { q_proj: Infinity } },
      /^expected alphaPattern to be an object of patterns and numbers/,
    ],
    [{ rankPattern: { q_proj: 1.5 } }, /^expected rankPattern to be an object of patterns/],
    [{ layersToTransform: [-1] }, /^expected layersToTransform to be a layer index or a list of them/],
    [
      { layersToTransform: 1, targetModules: '.*q_proj' },
      /^expected layersToTransform to be nothing beside a regular expression for whole paths/,
    ],
    [
      { layersPattern: 'h' },
      "expected layersPattern to be nothing without layers to transform but received 'h'",
    ],
    [
      { rankPattern: { q_proj: 0 } },
      /^expected rankPattern to be an object of patterns and positive integers/,
    ],
    [{ rankPattern: { '(': 1 } }, /^expected rankPattern to be a regular expression/],
    [{ alphaPattern: { q_proj: '1' } }, /^expected alphaPattern to be an object of patterns and numbers/],
    [{ useRslora: 1 }, 'expected useRslora to be true or false but received 1'],
    [{ bias: 'all' }, `expected bias to be 'none' (biases are not trained here) but received 'all'`],
    [
      { initLoraWeights: 'pissa' },
      `expected initLoraWeights to be true, false or 'gaussian' but received 'pissa'`,
    ],
  ];
  test.each(bad)('refuses %j', (input, sentence) => {
    let error: unknown;
    try {
      normalizeLoRAConfig(input);
    } catch (caught) {
      error = caught;
    }
    expect(error).toMatchObject({ code: 'ERR_ARGUMENT', op: 'LoRAConfig' });
    const message = (error as Error).message.replace('[LoRAConfig] ', '');
    if (typeof sentence === 'string') expect(message).toBe(sentence);
    else expect(message).toMatch(sentence);
  });
});

describe('fromPeftJson', () => {
  test('takes what is neutral and keeps it', () => {
    const tomorrow = { a_field_of_tomorrow: null, a_list_of_tomorrow: [], an_object_of_tomorrow: {} };
    const { config, raw } = fromPeftJson({ ...neutral, r: 4, lora_alpha: 2.5, ...tomorrow });
    expect(config).toEqual({ ...peftDefaults, r: 4, loraAlpha: 2.5 });
    expect(raw).toMatchObject({ ...tomorrow, qalora_group_size: 16 });
  });

  test('needs nothing but the type', () => {
    expect(fromPeftJson({ peft_type: 'LORA' }).config).toEqual(peftDefaults);
  });

  const bad: [object, string][] = [
    [{ use_dora: 1 }, 'has use_dora 1, expected true or false'],
    [{ modules_to_save: [1] }, 'has modules_to_save [1], expected a list of module names'],
    [{ layer_replication: [[0, 2]] }, 'has layer_replication [[0,2]], which is not supported'],
    [{ fan_in_fan_out: 1 }, 'has fan_in_fan_out 1, which is of the wrong type'],
    [{ qalora_group_size: 32 }, 'has qalora_group_size 32, which is not supported'],
    [{ a_field_of_tomorrow: 0 }, 'has a_field_of_tomorrow 0, which is not supported'],
    [{ task_type: 'TOKEN_CLS' }, 'has task_type "TOKEN_CLS", which is not supported'],
    [{ peft_version: 3 }, 'has peft_version 3, which is of the wrong type'],
    [{ bias: 'all' }, `has bias "all", expected 'none' (biases are not trained here)`],
    [{ init_lora_weights: 'pissa' }, `has init_lora_weights "pissa", expected true, false or 'gaussian'`],
    [{ r: '8' }, 'has r "8", expected a positive integer'],
    [
      { rank_pattern: ['q_proj'] },
      'has rank_pattern ["q_proj"], expected an object of patterns and positive integers',
    ],
    [{ use_rslora: 'yes' }, 'has use_rslora "yes", expected true or false'],
    [{ constructor: 1 }, 'has constructor 1, which is not supported'],
    [{ peft_type: 'LOHA' }, 'has peft_type "LOHA", and only "LORA" is supported'],
  ];
  test.each(bad)('refuses %j', (fields, sentence) => {
    expect(() => fromPeftJson({ ...neutral, ...fields }, 'dir/adapter_config.json')).toThrow(
      expect.objectContaining({ code: 'ERR_ADAPTER', message: `dir/adapter_config.json ${sentence}` }),
    );
  });

  test.each([
    ['base_model_name_or_path', 'org/name', 1],
    ['revision', 'main', 1],
    ['peft_version', '0.9.0', 1],
    ['inference_mode', true, 'yes'],
    ['auto_mapping', { base_model_class: 'X' }, 'x'],
    ['runtime_config', { ephemeral: true }, [1]],
  ])('%s informs and is kept, if it is of its type', (key, value, wrong) => {
    const json = { ...neutral, [key]: value };
    expect(fromPeftJson(json)).toEqual({ config: peftDefaults, raw: json });
    expect(() => fromPeftJson({ ...neutral, [key]: wrong })).toThrow(
      `has ${key} ${JSON.stringify(wrong)}, which is of the wrong type`,
    );
  });

  test.each(['', 0, [1], { a: 1 }, true, 'x'].map((value) => [value]))(
    'a field of tomorrow that is %j',
    (value) => {
      const read = () => fromPeftJson({ ...neutral, a_field_of_tomorrow: value });
      if (value === '') expect(read).not.toThrow();
      else expect(read).toThrow('which is not supported');
    },
  );

  test('a long value is told by its beginning', () => {
    const read = (length: number) => () =>
      fromPeftJson({ ...neutral, a_field_of_tomorrow: 'x'.repeat(length) });
    expect(read(78)).toThrow(`has a_field_of_tomorrow "${'x'.repeat(78)}", which`);
    expect(read(79)).toThrow(`has a_field_of_tomorrow "${'x'.repeat(76)}…, which`);
  });

  test.each(['lora_parameters', 'fine_tune_type', 'lora_layers'])('%s is the mark of MLX', (key) => {
    expect(() => fromPeftJson({ [key]: {} })).toThrow('is the configuration of an MLX adapter');
  });

  test('refuses what is not the configuration of a PEFT adapter', () => {
    expect(() => fromPeftJson([])).toThrow('adapter_config.json is not a JSON object');
    expect(() => fromPeftJson({ r: 8 })).toThrow('has no peft_type');
    expect(() => fromPeftJson({ fine_tune_type: 'lora', num_layers: 4 })).toThrow(
      'is the configuration of an MLX adapter',
    );
  });
});

describe('toPeftJson', () => {
  test('writes what every PEFT reads, sorted, and reads back the same', () => {
    const config = normalizeLoRAConfig({
      r: 4,
      loraAlpha: 6,
      targetModules: ['o_proj'],
      rankPattern: { 'b.*': 2, a: 1 },
      useRslora: true,
    });
    const json = toPeftJson(config, { base_model_name_or_path: 'org/name' });
    expect(Object.keys(json)).toEqual([...Object.keys(json)].sort());
    expect(json).toMatchObject({
      base_model_name_or_path: 'org/name',
      inference_mode: true,
      lora_alpha: 6,
      peft_type: 'LORA',
      r: 4,
      task_type: 'CAUSAL_LM',
    });
    expect(json).not.toHaveProperty('exclude_modules');
    // The first pattern that matches wins, so their order is part of the meaning.
    expect(Object.keys(json['rank_pattern'] as object)).toEqual(['b.*', 'a']);
    expect(fromPeftJson(json).config).toEqual(config);
  });

  test('without a file, writes these fields and no other', () => {
    expect(toPeftJson(normalizeLoRAConfig({ targetModules: ['q_proj', 'v_proj'] }))).toEqual({
      alpha_pattern: {},
      auto_mapping: null,
      base_model_name_or_path: null,
      bias: 'none',
      fan_in_fan_out: false,
      inference_mode: true,
      init_lora_weights: true,
      layer_replication: null,
      layers_pattern: null,
      layers_to_transform: null,
      loftq_config: {},
      lora_alpha: 32,
      lora_dropout: 0,
      megatron_config: null,
      megatron_core: 'megatron.core',
      modules_to_save: null,
      peft_type: 'LORA',
      r: 16,
      rank_pattern: {},
      revision: null,
      target_modules: ['q_proj', 'v_proj'],
      task_type: 'CAUSAL_LM',
      use_dora: false,
      use_rslora: false,
    });
    expect(toPeftJson(normalizeLoRAConfig({ excludeModules: ['x'] }))['exclude_modules']).toEqual(['x']);
  });

  test('changes only the fields that the configuration changes', () => {
    const file = {
      ...neutral,
      inference_mode: false,
      target_modules: 'ALL-linear',
      exclude_modules: [],
      init_lora_weights: 'Gaussian',
      a_field_of_tomorrow: {},
    };
    const { config, raw } = fromPeftJson(file);
    const json = toPeftJson({ ...config, r: 3 }, raw);
    expect(json).toMatchObject({ ...file, inference_mode: true, r: 3 });
    expect(file.inference_mode).toBe(false);
  });

  test('writes the targets that null stands for once a model has named them', () => {
    const { config, raw } = fromPeftJson({ ...neutral, target_modules: null });
    expect(toPeftJson(config, raw)['target_modules']).toBeNull();
    const named = completeLoRAConfig(config, llamaLayers);
    expect(toPeftJson(named, raw)['target_modules']).toEqual(['q_proj', 'v_proj']);
  });
});

describeWithData('configurations that PEFT wrote', 'golden', () => {
  for (const { name, adapterConfig, adapterRefusal } of goldenFolders()) {
    if (adapterRefusal === undefined)
      test(`${name} is read and written back as it was`, () => {
        const { config, raw } = fromPeftJson(adapterConfig);
        expect(toPeftJson(config, raw)).toEqual(adapterConfig);
      });
    else
      test(`${name} is refused for the one field that is not supported`, () => {
        const field = /^adapter_config\.json has (\w+) /.exec(adapterRefusal)?.[1];
        expect(Object.keys(adapterConfig)).toContain(field);
        expect(() => fromPeftJson({ ...adapterConfig, [field!]: null })).not.toThrow();
      });
  }
});
