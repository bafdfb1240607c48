/** The readers of files, each with seeds and a way to make an input that is nearly right. */
import { attentionLayers } from '../../lib/models/config/model_config';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { loadCheckpoint } from '../../lib/formats/checkpoint';
import { headerLength, HeaderError, parseHeader } from '../../lib/formats/header';
import { parseJson } from '../../lib/formats/json';
import { defaultLimits } from '../../lib/formats/limits';
import { atOnce } from '../../lib/tensor/pace';
import type { ModelFiles } from '../../lib/formats/model_folder';
import { openSafetensors } from '../../lib/formats/safetensors';
import { openModelTensors } from '../../lib/formats/sharded';
import { parseModelConfig } from '../../lib/models/families';
import { parseGenerationDefaults } from '../../lib/models/files/generation_config';
import { planGeneration } from '../../lib/engine/sampling';
import { inverseFrequencies } from '../../lib/models/config/rope';
import { expectedTensors } from '../../lib/models/files/tensor_table';
import { readAdapter } from '../../lib/peft/adapter_files';
import { completeLoRAConfig, fromPeftJson, toPeftJson } from '../../lib/peft/config';
import { resolveTargets } from '../../lib/peft/matching';
import type { ModulePath } from '../../lib/peft/roles';
import { AdamW, parameter, tensor, Tensor, type StateDict } from '../../lib/index';
import { BestEvaluation } from '../../lib/train/best';
import { checkRunState } from '../../lib/train/resume';
import { ChatTemplate } from '../../lib/text/chat';
import type { ChatMessage } from '../../lib/text/messages';
import { encodeSteps } from '../../lib/text/encode_steps';
import { insideOf, installParts } from '../../lib/text/library';
import { Tokenizer } from '../../lib/text/tokenizer';
import { checkTokenizerJson } from '../../lib/text/tokenizer_json';
import { fileOf } from '../support/safetensors_bytes';
import { tinyConfig } from '../support/tiny_model';
import { binding } from './binding/target';
import { csv, gzip, jsonFile, jsonl } from './data';
import { makeFolder, runFolder } from './folders';
import { gguf } from './gguf';
import { ggufModel } from './gguf_model';
import { hubName } from './hub_names';
import { expression, jsonText, mutateBytes, mutateJson, mutateText, template } from './mutate';
import {
  adapterConfigs,
  bytes,
  conversation,
  dataBytes,
  header,
  once,
  safetensors,
  samples,
  sharedJson,
  templates,
  text,
  tokenizerConfigs,
  tokenizers,
  type Json,
} from './seeds';
import { quantized } from './quantized';
import { same, type Target } from './target';
import { isRecord } from '../../lib/validate';

/** A JSON file whose seeds are damaged. */
const json = (seeds: () => readonly Json[], run: (value: unknown, dir: string) => unknown): Target => ({
  make: (dice) => bytes(jsonText(mutateJson(structuredClone(dice.pick(seeds())), dice, seeds()), dice)),
  run: (input, dir) => run(parseJson(text(input), 'input'), dir),
});

const modules: readonly ModulePath[] = [
  ...Array.from({ length: 8 }, (_, i): ModulePath[] => [
    { path: `model.layers.${i}.self_attn.q_proj`, role: 'query' },
    { path: `model.layers.${i}.self_attn.v_proj`, role: 'value' },
    { path: `model.layers.${i}.mlp.up_proj`, role: 'up' },
  ]).flat(),
  { path: 'lm_head', role: 'outputEmbedding' },
];

const written = (dir: string, name: string, content: Uint8Array | string): string => {
  const path = join(dir, name);
  writeFileSync(path, content);
  return path;
};

const runSettings = {
  lr: 0.1,
  seed: 1,
  weights: [1, 2, 3, 4],
  adapter: { r: 2, targets: ['q_proj'] },
  totalSteps: 10,
};

/** An optimizer of two groups, its state without tensors, and what puts them back where a text names one. */
const savedOptimizer = once(() => {
  const parameters = [1, 2].map((n) => parameter(tensor(new Float32Array(n))));
  const optimizer = new AdamW(
    parameters.map((p) => ({ params: [p] })),
    { lr: 0.1 },
  );
  const state = optimizer.stateDict() as { lr: number; groups: Record<string, unknown>[] };
  const isTensor = (item: unknown): boolean => item instanceof Tensor;
  const replaced = (item: unknown, key: string): unknown => (isTensor(item) ? `$${key}` : item);
  const plain = {
    ...state,
    groups: state.groups.map((group) =>
      Object.fromEntries(Object.entries(group).map(([key, item]) => [key, replaced(item, key)])),
    ),
  };
  const withTensors = (saved: unknown): StateDict => {
    const groups: unknown = isRecord(saved) ? saved['groups'] : undefined;
    if (!Array.isArray(groups)) return saved as StateDict;
    const filled = (groups as unknown[]).map((group, i) => {
      if (!isRecord(group)) return group;
      const items = Object.entries(group).map(([key, item]) => [
        key,
        item === `$${key}` ? state.groups[i]?.[key] : item,
      ]);
      return Object.fromEntries(items) as unknown;
    });
    return { ...(saved as StateDict), groups: filled as StateDict[string] };
  };
  return { optimizer, plain: plain as unknown as Json, withTensors };
});

export const targets: Readonly<Record<string, Target>> = {
  safetensors: {
    make: safetensors,
    async run(input, dir) {
      try {
        const length = headerLength(input.subarray(0, 512), input.length, defaultLimits);
        await parseHeader(input.subarray(8, 8 + length), input.length - 8 - length);
      } catch (error) {
        if (!(error instanceof HeaderError)) throw error;
      }
      // The same through a file, which costs more.
      if (input.length % 16 !== 0) return;
      const file = await openSafetensors(written(dir, 'x.safetensors', input));
      for (const { bytes: view } of file.tensors.values()) view.at(-1);
      file.close();
    },
  },
  adapter: {
    make: safetensors,
    async run(input, dir) {
      written(dir, 'adapter_config.json', '{"peft_type":"LORA"}');
      written(dir, 'adapter_model.safetensors', input);
      await readAdapter(dir);
    },
  },
  folder: { make: makeFolder, run: runFolder },
  index: json(
    (): Json[] => [
      { metadata: { total_size: 8 }, weight_map: { a: 'one.safetensors', b: 'two.safetensors' } },
      { weight_map: { a: 'one.safetensors' } },
    ],
    async (value, dir) => {
      const entry = { dtype: 'F32', shape: [1], data_offsets: [0, 4] };
      written(dir, 'one.safetensors', fileOf({ a: entry }, new Uint8Array(4)));
      written(dir, 'two.safetensors', fileOf({ b: entry }, new Uint8Array(4)));
      written(dir, 'model.safetensors.index.json', JSON.stringify(value) ?? '');
      const model = await openModelTensors(dir);
      for (const name of model.names) model.get(name);
      await model.close();
    },
  ),
  adapter_config: {
    make(dice) {
      if (!dice.once(3)) return json(adapterConfigs, () => undefined).make(dice);
      const field = dice.pick([
        'target_modules',
        'exclude_modules',
        'layers_pattern',
        'rank_pattern',
        'alpha_pattern',
      ]);
      const pattern = expression(dice);
      const list = field === 'layers_pattern' ? { layers_to_transform: [0], target_modules: ['q_proj'] } : {};
      return bytes(
        JSON.stringify({
          peft_type: 'LORA',
          ...list,
          [field]: field.startsWith('rank') || field.startsWith('alpha') ? { [pattern]: 4 } : pattern,
        }),
      );
    },
    run(input) {
      const { config, raw } = fromPeftJson(parseJson(text(input), 'input'));
      toPeftJson(config, raw);
      resolveTargets(completeLoRAConfig(config, modules), modules);
    },
  },
  config: json(
    once((): Json[] => [
      tinyConfig as Json,
      {
        ...(tinyConfig as { [key: string]: Json }),
        model_type: 'qwen3',
        use_sliding_window: true,
        sliding_window: 16,
        layer_types: ['full_attention', 'sliding_attention', 'full_attention'],
        rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 },
      },
      {
        ...(tinyConfig as { [key: string]: Json }),
        model_type: 'mistral',
        rope_scaling: {
          rope_type: 'llama3',
          factor: 8,
          low_freq_factor: 1,
          high_freq_factor: 4,
          original_max_position_embeddings: 64,
        },
      },
      ...sharedJson(
        'models/smollm2-135m/config.json',
        'golden/tiny-qwen3/model/config.json',
        'golden/tiny-llama-yarn-bias/model/config.json',
      ),
    ]),
    (value) => {
      const config = parseModelConfig(value);
      // What loading does next; a program of so many weights would need a file of that size.
      if (config.numHiddenLayers <= 64) expectedTensors(config);
      for (const { rope, headDim } of attentionLayers(config).slice(0, 1))
        if (headDim <= 4096) inverseFrequencies(rope, headDim);
      planGeneration({}, parseGenerationDefaults(value, config));
    },
  ),
  tokenizer: {
    make(dice) {
      const whole = mutateJson(structuredClone(dice.pick(tokenizers())), dice, tokenizers());
      const config = dice.once(3)
        ? mutateJson(structuredClone(dice.pick(tokenizerConfigs())), dice)
        : dice.pick(tokenizerConfigs());
      return bytes(
        `${jsonText(whole, dice)}\n\n${jsonText(config, dice)}\n\n${mutateText(dice.pick(samples), dice)}`,
      );
    },
    async run(input) {
      const [whole = '', config = '', ...rest] = text(input).split('\n\n');
      const folder = {
        dir: 'folder',
        reading: {},
        where: (name: string) => name,
        json: (name: string) => parseJson(name === 'tokenizer.json' ? whole : config, name),
        text: () => undefined,
      };
      const tokenizer = (await Tokenizer.fromFiles(folder as unknown as ModelFiles))!;
      const sample = rest.join('\n\n');
      let ids: number[] = [0, 1, 2, 3];
      try {
        ids = tokenizer.encode(sample);
      } finally {
        tokenizer.decode(ids.slice(0, 200), { skipSpecialTokens: true });
        tokenizer.decode([0, tokenizer.vocabSize, 5]);
        const stream = tokenizer.stream(ids);
        for (const id of ids.slice(0, 50)) stream.push(id);
        stream.flush();
      }
      same(ids.join(), (await tokenizer.encodeAsync(sample)).join());
      // In steps, as long texts are, and in the library's one call.
      const checked = checkTokenizerJson(parseJson(whole, 'tokenizer.json'), 'tokenizer.json');
      const library = new HuggingFaceTokenizer(checked.json, parseJson(config, 'config') ?? {});
      installParts(library);
      const steps = atOnce(encodeSteps(insideOf(library), sample, true));
      same(JSON.stringify(steps), JSON.stringify(library.encode(sample).tokens));
      if (tokenizer.hasChatTemplate) tokenizer.applyChatTemplate(conversation);
    },
  },
  template: {
    make: (dice) =>
      bytes(
        dice.once(2)
          ? template(dice)
          : mutateText(dice.pick(templates()), dice, [
              '{%',
              '%}',
              '{{',
              '}}',
              '|',
              '~',
              '[',
              ']',
              '(',
              ')',
              "'",
              '{#',
              ' ',
              template(dice, 2),
              ...templates().map((one) => one.slice(0, 60)),
            ]),
      ),
    run(input) {
      const source = text(input);
      const given = { addGenerationPrompt: true };
      let made: string | undefined;
      try {
        made = ChatTemplate.from(source, undefined, { bos_token: '<s>' })!.render(conversation, given);
      } finally {
        // What ends within its steps is what the interpreter alone gives.
        const variables = { bos_token: '<s>', messages: conversation, tools: null, documents: null };
        if (made !== undefined && !source.includes('strftime'))
          same(made, new Template(source).render({ ...variables, add_generation_prompt: true }));
      }
    },
  },
  messages: json(
    (): Json[] => [
      structuredClone(conversation) as unknown as Json,
      [
        { role: 'user', content: [{ type: 'text', text: 'a' }] },
        {
          role: 'assistant',
          content: null,
          tool_calls: [{ type: 'function', function: { name: 'f', arguments: '{"a": 1}' } }],
        },
        { role: 'tool', content: 'b' },
        { role: 'assistant', content: 'c' },
      ],
    ],
    (value) => {
      for (const source of templates()) {
        const template = ChatTemplate.from(source, undefined, { bos_token: '<s>' })!;
        const { text: whole } = template.turns(value as ChatMessage[]);
        if (/\[object \w+\]/.test(whole)) throw new Error(`wrote ${whole.slice(0, 500)}`);
      }
    },
  ),
  quantized,
  gguf,
  gguf_model: ggufModel,
  jsonl,
  json: jsonFile,
  csv,
  gzip,
  hub_name: hubName,
  checkpoint: {
    make(dice) {
      const state = {
        version: '1',
        states: {
          layer: {
            state: {
              tensors: { w: { $tensor: 't1', device: 'cpu' } },
              step: { $number: 'NaN' },
              n: { $bigint: '5' },
            },
          },
          step: { value: [1, { $array: 't2', kind: 'Float32Array' }] },
        },
      };
      const entries = {
        ...header(dice),
        __metadata__: { 'lora-native.checkpoint': jsonText(mutateJson(structuredClone(state), dice), dice) },
      };
      return dice.once(6)
        ? mutateBytes(fileOf(entries, new Uint8Array(dataBytes(entries))), dice)
        : fileOf(entries, new Uint8Array(dataBytes(entries)));
    },
    async run(input, dir) {
      written(dir, 'checkpoint.safetensors', input);
      await loadCheckpoint(dir);
      await loadCheckpoint(dir, { layer: { loadStateDict: () => undefined } });
    },
  },
  // What a checkpoint tells of the run that goes on, and of the state of its optimizer.
  resume: json(
    (): Json[] => [
      {
        step: 4,
        data: 'a digest',
        settings: runSettings,
        evaluations: { best: { step: 2, loss: 1.5 }, waited: 1, at: 3 },
        optimizer: savedOptimizer().plain,
      },
    ],
    (value) => {
      const { optimizer: saved, ...rest } = (isRecord(value) ? value : { settings: value }) as Record<
        string,
        Json
      >;
      const { optimizer, withTensors } = savedOptimizer();
      optimizer.loadStateDict(withTensors(saved));
      const { groups } = optimizer.stateDict() as { groups: { steps: unknown[] }[] };
      for (const steps of groups.map((group) => group.steps))
        if (steps.length !== 1 || !Number.isSafeInteger(steps[0]))
          throw new Error(`took the steps ${String(steps)}`);
      const settings =
        typeof rest['settings'] === 'string' ? rest['settings'] : JSON.stringify(rest['settings']);
      const own = { settings: runSettings, maxSteps: 10, ofTotal: [] };
      const { step, evaluations } = checkRunState('folder', { ...rest, settings }, own);
      const best = new BestEvaluation();
      best.restore(evaluations);
      if (!(step >= 0 && step <= 10 && best.at <= step && best.waited <= step))
        throw new Error('took a place beyond the end');
    },
  ),
  binding,
};

/** A fresh folder for the files of a target. */
export function freshFolder(path: string): string {
  rmSync(path, { recursive: true, force: true });
  mkdirSync(path, { recursive: true });
  return path;
}
