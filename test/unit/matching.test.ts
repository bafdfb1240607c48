import { join } from 'node:path';
import { openSafetensors } from '../../lib/formats/safetensors';
import {
  completeLoRAConfig,
  fromPeftJson,
  normalizeLoRAConfig,
  type LoRAConfigInput,
} from '../../lib/peft/config';
import { resolveTargets, unmatchedTargets } from '../../lib/peft/matching';
import type { ModulePath } from '../../lib/peft/roles';
import { fullMatch } from '../../lib/peft/python_regex';
import { goldenFolders } from '../support/golden';
import { cpuMilliseconds, endlessMilliseconds } from '../support/gaps';
import { describeWithData } from '../support/shared_data';

function llama(layers: number): ModulePath[] {
  const inLayer = [
    'self_attn.q_proj',
    'self_attn.k_proj',
    'self_attn.v_proj',
    'self_attn.o_proj',
    'mlp.gate_proj',
    'mlp.up_proj',
    'mlp.down_proj',
  ];
  const modules = Array.from({ length: layers }, (_, i) =>
    inLayer.map((end) => `model.layers.${i}.${end}`),
  ).flat();
  return [...modules.map((path) => ({ path, role: null })), { path: 'lm_head', role: 'outputEmbedding' }];
}
const modules = llama(12);
const resolve = (input: LoRAConfigInput) => resolveTargets(normalizeLoRAConfig(input), modules);
/** Layers and last parts of what is matched, in short: 0.q 3.down. */
const short = (input: LoRAConfigInput): string =>
  [...resolve(input).keys()]
    .map((path) => path.replace(/^model\.layers\.(\d+)\.\w+\.(\w+)_proj$/, '$1.$2'))
    .join(' ');

describe('which modules', () => {
  const cases: [string, LoRAConfigInput, string][] = [
    [
      'a name is the whole path or its end after a dot',
      { targetModules: ['11.self_attn.q_proj', '_proj', 'lm_head', 'head'] },
      '11.q lm_head',
    ],
    ['a whole path', { targetModules: ['model.layers.3.mlp.down_proj'] }, '3.down'],
    [
      'a regular expression must match the whole path',
      { targetModules: 'model.*[12]\\.self_attn\\.(q|v)_proj' },
      '1.q 1.v 2.q 2.v 11.q 11.v',
    ],
    [
      'names may be lists of characters that are special in expressions',
      { targetModules: ['1.mlp.up.proj', 'layers.1.mlp.up_proj'] },
      '1.up',
    ],
    [
      'excluded names',
      {
        targetModules: ['q_proj', 'k_proj'],
        excludeModules: ['k_proj', 'layers.0.self_attn.q_proj'],
        layersToTransform: [0, 1],
      },
      '1.q',
    ],
    [
      'a part of a name excludes nothing',
      {
        targetModules: ['q_proj', 'k_proj'],
        excludeModules: ['proj', 'layers.1', '1.self_attn', 'q_proj.', 'self_attn'],
        layersToTransform: [1],
      },
      '1.q 1.k',
    ],
    [
      'an excluding expression must match the whole path',
      { targetModules: ['q_proj'], excludeModules: 'layers|.*\\.1\\..*', layersToTransform: [1, 2] },
      '2.q',
    ],
    [
      'an excluding expression',
      { targetModules: 'all-linear', excludeModules: '.*\\.([0-9]|10)\\..*|.*mlp.*' },
      '11.q 11.k 11.v 11.o',
    ],
    ['layers', { targetModules: ['q_proj'], layersToTransform: [1, 11] }, '1.q 11.q'],
    ['one layer, 0', { targetModules: ['q_proj', 'up_proj'], layersToTransform: 0 }, '0.q 0.up'],
    [
      'layers of a list by name',
      { targetModules: ['q_proj'], layersToTransform: [2], layersPattern: ['blocks', 'layers'] },
      '2.q',
    ],
    [
      'a whole path is taken whatever the layers',
      { targetModules: ['model.layers.5.mlp.up_proj', 'q_proj'], layersToTransform: [2] },
      '2.q 5.up',
    ],
    [
      'so is a module that is in no layer',
      { targetModules: ['q_proj', 'lm_head'], layersToTransform: [2] },
      '2.q lm_head',
    ],
  ];
  test.each(cases)('%s', (_, input, expected) => {
    expect(short(input)).toBe(expected);
  });

  test('all-linear, in any case, is every module but the output embedding', () => {
    for (const targetModules of ['all-linear', 'ALL-Linear'])
      expect([...resolve({ targetModules }).keys()]).toEqual(modules.slice(0, -1).map(({ path }) => path));
  });

  test('the index of a layer is the first number in a path, after a name', () => {
    const paths = [
      'model.layers.1.experts.2.up_proj',
      'model.layers.2.experts.1.up_proj',
      '1.up_proj',
      'up_proj',
    ];
    const config = normalizeLoRAConfig({ targetModules: ['up_proj'], layersToTransform: [1] });
    const found = resolveTargets(
      config,
      paths.map((path) => ({ path, role: null })),
    );
    expect([...found.keys()]).toEqual(['model.layers.1.experts.2.up_proj', 'up_proj']);
  });

  test('the default is every linear layer', () => {
    expect(resolve({})).toEqual(resolve({ targetModules: 'all-linear' }));
  });

  const nothing: [LoRAConfigInput, string][] = [
    [
      { targetModules: ['c_attn'] },
      'targetModules ["c_attn"] match no linear module of the model; their names end in q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head, as in model.layers.0.self_attn.q_proj',
    ],
    [
      { targetModules: 'q_proj' },
      'targetModules "q_proj" match no linear module of the model; their names end in',
    ],
    [
      { targetModules: ['q_proj'], excludeModules: ['q_proj'] },
      'targetModules ["q_proj"] match modules of the model, but excludeModules ["q_proj"] leave none',
    ],
    [
      { targetModules: ['q_proj'], layersToTransform: 99 },
      'targetModules ["q_proj"] match modules of the model, but layersToTransform [99] leave none',
    ],
    [
      { targetModules: ['q_proj'], layersToTransform: 1, layersPattern: 'h' },
      'layersToTransform [1], layersPattern ["h"] leave none',
    ],
  ];
  test.each(nothing)('%j match nothing', (input, sentence) => {
    expect(() => resolve(input)).toThrow(
      expect.objectContaining({ code: 'ERR_ADAPTER', message: expect.stringContaining(sentence) }),
    );
  });

  test('entries that match nothing beside others that do', () => {
    const config = normalizeLoRAConfig({ targetModules: ['q_proj', 'c_attn', 'q_porj'] });
    expect(unmatchedTargets(config, modules)).toEqual(['c_attn', 'q_porj']);
    expect(unmatchedTargets(normalizeLoRAConfig({ targetModules: 'all-linear' }), modules)).toEqual([]);
  });
});

describe('ranks and scales', () => {
  const at = (input: LoRAConfigInput, path: string) =>
    resolve({ targetModules: 'all-linear', ...input }).get(path);
  const pair = (r: number, scale: number) => ({ kind: 'lora', r, scale });

  test('alpha / r, and alpha / √r with rslora', () => {
    expect(at({ r: 16, loraAlpha: 8 }, 'model.layers.0.mlp.up_proj')).toEqual(pair(16, 0.5));
    expect(at({ r: 16, loraAlpha: 8, useRslora: true }, 'model.layers.0.mlp.up_proj')).toEqual(pair(16, 2));
  });

  test('a pattern of r or alpha enters the scale, with and without rslora', () => {
    const input = { r: 16, loraAlpha: 8, rankPattern: { up_proj: 4 }, alphaPattern: { down_proj: 2 } };
    const scales = (useRslora: boolean): (number | undefined)[] =>
      ['up_proj', 'down_proj', 'gate_proj'].map(
        (name) => at({ ...input, useRslora }, `model.layers.0.mlp.${name}`)?.scale,
      );
    expect(scales(false)).toEqual([8 / 4, 2 / 16, 8 / 16]);
    expect(scales(true)).toEqual([8 / 2, 2 / 4, 8 / 4]);
  });

  test('patterns match whole parts at the end of a path, and the first one wins', () => {
    const input = {
      r: 4,
      loraAlpha: 8,
      rankPattern: { 'layers.[34].mlp.up_proj': 9, up_proj: 2, own_proj: 7 },
      alphaPattern: { '^model.layers.3.mlp.down_proj': 1, 'self_attn\\..*': 3 },
    };
    expect(at(input, 'model.layers.3.mlp.up_proj')).toEqual(pair(9, 8 / 9));
    expect(at(input, 'model.layers.5.mlp.up_proj')?.r).toBe(2);
    expect(at(input, 'model.layers.3.mlp.down_proj')).toEqual(pair(4, 0.25));
    expect(at(input, 'model.layers.4.mlp.down_proj')).toEqual(pair(4, 2));
    expect(at(input, 'model.layers.4.self_attn.q_proj')).toEqual(pair(4, 0.75));
  });
});

describe("Python's spelling of regular expressions", () => {
  const cases: [pattern: string, matches: string[], others: string[]][] = [
    ['(?P<part>q|k)\\.(?P<end>k)', ['q.k', 'k.k'], ['q.q']],
    ['(?i:Q)_proj', ['q_proj', 'Q_proj'], ['q_PROJ']],
    ['(?i-s:Q)', ['q'], ['k']],
    ['[[:alpha:]]', ['a]', ':]', '[]'], ['b]', 'a']],
    ['\\x71\\u005F\\U00000070\\162\\157', ['q_pro'], ['qproj']],
    ['[\\b\\d]', ['1', '\b'], ['b']],
    ['q\\_proj', ['q_proj'], ['q\\_proj']],
    ['\\Aab\\Z', ['ab'], ['aab']],
    ['(?i)Q_PROJ', ['q_proj'], ['k_proj']],
    ['a(?#a comment)b', ['ab'], ['a']],
    ['[]a]+', [']a]'], ['b']],
    ['[^]a]', ['b'], [']', 'a']],
    ['[(?P<x>]+', ['(?P<x>'], ['y']],
    ['a{,2}', ['', 'aa'], ['aaa']],
    ['a|ab', ['a', 'ab'], ['abc']],
    ['\\[\\]', ['[]'], ['[']],
  ];
  test.each(cases)('%s', (pattern, matches, others) => {
    for (const text of matches) expect([text, fullMatch(pattern).test(text)]).toEqual([text, true]);
    for (const text of others) expect([text, fullMatch(pattern).test(text)]).toEqual([text, false]);
  });

  test.each([
    ['(?>a)', '(?>a…, an atomic group, is not supported'],
    ['(?(1)a)', '(?(1…, a conditional group, is not supported'],
    ['a(?=b)b', '(?=b…, look-around, is not supported'],
    ['(?!a)b', '(?!a…, look-around, is not supported'],
    ['(?<=a)b', '(?<=…, look-around, is not supported'],
    ['(?<!a)b', '(?<!…, look-around, is not supported'],
    ['(a)\\1', '\\1, a reference to a group, is not supported'],
    ['(?P<a>b)(?P=a)', '(?P=…, a reference to a group, is not supported'],
    ['(?x)a', 'the flag x is not supported'],
    ['a(?i)', 'flags must stand at the start'],
    ['a++', 'invalid nested repetition operator: `++`'],
    ['a)(b', 'unexpected ): `a)(b`'],
    ['\\q', 'bad escape \\q'],
    ['[\\A]', 'bad escape \\A'],
    ['a\\', 'bad escape at the end'],
    ['(?Pa)', 'the flag P is not supported'],
    ['a{2000}', 'invalid repeat count: `{2000}`'],
    ['((a{99}){99}){99}', 'invalid repeat count: `{99}`'],
    ['a|'.repeat(5000), 'it has 10000 characters, and at most 8192 are read'],
    [`${'(?:a{900})'.repeat(30)}`, 'it has 27002 states, and at most 20000 are kept'],
  ])('%s is refused', (pattern, reason) => {
    expect(() => fullMatch(pattern)).toThrow(reason);
    expect(() => fullMatch(pattern)).toThrow(SyntaxError);
  });
});

describe('patterns that take for ever in an engine that tries all ways', () => {
  const slow = '(?:[a-z._0-9]+)+!';
  const quick = (run: () => unknown): void => {
    const begin = cpuMilliseconds();
    run();
    expect(cpuMilliseconds() - begin).toBeLessThan(endlessMilliseconds);
  };

  test('targetModules, excludeModules', () => {
    quick(() =>
      expect(() => resolve({ targetModules: slow })).toThrow('match no linear module of the model'),
    );
    quick(() => expect(resolve({ excludeModules: slow }).size).toBe(modules.length - 1));
  });

  test('rankPattern, alphaPattern, layersPattern', () => {
    quick(() =>
      expect(resolve({ r: 3, rankPattern: { [slow]: 9 } }).get('model.layers.3.mlp.up_proj')?.r).toBe(3),
    );
    quick(() => resolve({ alphaPattern: { [slow]: 9 } }));
    quick(() =>
      expect(() =>
        resolve({ targetModules: ['q_proj'], layersToTransform: [0], layersPattern: [slow] }),
      ).toThrow('leave none'),
    );
  });

  test('in a file', () => {
    quick(() => {
      const { config } = fromPeftJson({ peft_type: 'LORA', target_modules: slow });
      expect(() => resolveTargets(completeLoRAConfig(config, modules), modules)).toThrow(
        'match no linear module of the model',
      );
    });
  });

  test('a file that asks for what is not supported says what', () => {
    expect(() => fromPeftJson({ peft_type: 'LORA', target_modules: '^(?!.*visual).*proj$' })).toThrow(
      expect.objectContaining({
        code: 'ERR_ADAPTER',
        message:
          'adapter_config.json has target_modules "^(?!.*visual).*proj$", expected a regular expression ((?!.…, look-around, is not supported)',
      }),
    );
  });

  test('lists of hundreds of thousands of names', () => {
    const names = Array.from({ length: 300_000 }, (_, i) => `name${i}`);
    quick(() =>
      resolve({
        targetModules: [...names, 'q_proj'],
        excludeModules: names,
        layersToTransform: names.map((_, i) => i),
      }),
    );
    quick(() => unmatchedTargets(normalizeLoRAConfig({ targetModules: names }), modules));
  });

  test('many patterns, each of them quick', () => {
    const now = performance.now.bind(performance);
    jest.spyOn(performance, 'now').mockImplementation(() => 20 * now()); // a second is over sooner
    const many = (make: (i: number) => string): Record<string, number> =>
      Object.fromEntries(Array.from({ length: 30_000 }, (_, i) => [make(i), 3]));
    quick(() =>
      expect(() => resolve({ rankPattern: many((i) => `(?:[a-z]{20}){9}${i}`) })).toThrow(
        expect.objectContaining({
          code: 'ERR_ARGUMENT',
          message: expect.stringContaining('the patterns take more than 1000 ms') as string,
        }),
      ),
    );
    const { rankPattern, ...rest } = normalizeLoRAConfig({ targetModules: 'all-linear' });
    expect(rankPattern).toEqual({});
    quick(() =>
      expect(() =>
        resolveTargets({ ...rest, rankPattern: many((i) => `(?:[a-z]{20}){9}${i}`) }, modules),
      ).toThrow('the configuration of the adapter cannot be applied: the patterns take more than 1000 ms'),
    );
    jest.restoreAllMocks();
  });
});

describeWithData("PEFT's own choice of modules", 'golden', () => {
  /** The linear layers of a model directory: its matrices except the embedding, and the head. */
  async function linearModules(dir: string): Promise<ModulePath[]> {
    const file = await openSafetensors(join(dir, 'model.safetensors'));
    const matrices = [...file.tensors].filter(([, { shape }]) => shape.length === 2).map(([name]) => name);
    file.close();
    const paths = new Set(matrices.map((name) => name.replace(/\.weight$/, '')).concat('lm_head'));
    paths.delete('model.embed_tokens');
    return [...paths].map((path) => ({ path, role: path === 'lm_head' ? 'outputEmbedding' : null }));
  }

  for (const { name, dir, model, modelRefusal, adapterConfig } of goldenFolders()) {
    const body = async (): Promise<void> => {
      const { config } = fromPeftJson(adapterConfig);
      const file = await openSafetensors(join(dir, 'adapter_init', 'adapter_model.safetensors'));
      const ranks = new Map<string, number>();
      const whole: string[] = [];
      for (const [key, { shape }] of file.tensors) {
        const path = /^base_model\.model\.(.*)\.lora_A\.weight$/.exec(key)?.[1];
        if (path !== undefined) ranks.set(path, shape[0]!);
        else if (!key.includes('.lora_')) whole.push(key.replace(/^base_model\.model\.|\.weight$/g, ''));
      }
      file.close();
      expect(ranks.size).toBeGreaterThan(0);
      const linears = await linearModules(model);
      const resolved = resolveTargets(completeLoRAConfig(config, linears), linears);
      const pairs = [...resolved].filter(([, { kind }]) => kind !== 'whole');
      expect(Object.fromEntries(pairs.map(([path, { r }]) => [path, r]))).toEqual(Object.fromEntries(ranks));
      expect([...resolved.keys()].filter((path) => !ranks.has(path)).sort()).toEqual(whole.sort());
    };
    if (modelRefusal === undefined) test(name, body);
    else test.skip(`${name} (skipped: ${modelRefusal})`, body);
  }
});
