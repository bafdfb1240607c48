// All kinds of cases, in the order in which they run: { kind, id, quick, run(case, bench, givenModels) }.
import inputsOf from '../inputs.cjs';
import { findModel } from '../models.mjs';
import { runCublas } from '../providers/cublas.mjs';
import { runAttention } from './attention.mjs';
import { runDecodeBlocks } from './decode_blocks.mjs';
import { runDeltaRule } from './delta_rule.mjs';
import { runEmbedding } from './embedding.mjs';
import { runFamily } from './family.mjs';
import { runFullStep } from './full_step.mjs';
import { runGeneration } from './generation.mjs';
import { runGguf } from './gguf.mjs';
import { runLayers } from './lora_linear.mjs';
import { runLoading } from './loading.mjs';
import { overheadCases, runOverhead } from './overhead.mjs';
import { runRewards } from './rewards.mjs';
import { runServing } from './serving.mjs';
import { runServingHttp } from './serving_http.mjs';
import { runShortConv } from './short_conv.mjs';
import { runSpeculation } from './speculation.mjs';
import { runTrainingStep } from './training_step.mjs';

function layerCases(definitions, kind) {
  const cases = inputsOf.loraLinearCases(definitions, kind);
  return cases.map((testCase) => {
    const { against, dtype } = testCase;
    const next = against && cases.find((other) => other.model === against && other.dtype === dtype);
    return { ...testCase, kind, next, run: runLayers };
  });
}

/** A case for each format. */
function blockCases({ layers, decode_blocks: listed }) {
  return listed.flatMap(({ layer: name, format: formats, dtype, rows }) => {
    const [model, part] = name.split(' ');
    const layer = layers[model][part];
    return formats.map((format) => {
      const id = `${name} ${format} ${dtype}`;
      return { kind: 'decode_blocks', id, layer, format, dtype, rows, run: runDecodeBlocks };
    });
  });
}

/** Cases with a model run with its folder, or are left out with the reason. */
function withModel(run) {
  return async (testCase, bench, given) => {
    const found = findModel(testCase.model, given);
    if (!found.dir) return bench.leaveOut(testCase.id, found.reason);
    if (found.instead)
      bench.leaveOut(`${testCase.id}: ${testCase.model}, the bundled model in its place`, found.instead);
    await run({ ...testCase, id: testCase.id.replace(testCase.model, found.name), found }, bench);
  };
}

/** Models that are made have the tokenizer of this one. */
function withTokenizer(run) {
  return async (testCase, bench, given) => {
    const found = findModel('SmolLM2-135M', given);
    if (!found.dir) return bench.leaveOut(testCase.id, found.reason);
    await run({ ...testCase, found }, bench);
  };
}

const ids = {
  attention: ({ model, dtype, tokens }) => `${model} ${dtype} ${tokens} tokens`,
  delta_rule: ({ model, dtype, tokens }) => `${model} ${dtype} ${tokens} tokens`,
  family: ({ model, dtype, length, text }) =>
    `shape of ${model} ${dtype} ${length} tokens of texts of ${text}`,
  short_conv: ({ model, dtype, tokens, form }) => `${model} ${dtype} ${form} ${tokens} tokens`,
  training_step: ({ model, dtype, batch, length, beside }) =>
    `${model} ${dtype} ${batch}×${length}${beside ? ' beside a busy loop' : ''}`,
  full_step: ({ model, dtype, batch, length, optimizer, stochasticRounding }) =>
    `${model} ${dtype} ${batch}×${length} ${optimizer}${stochasticRounding ? ', stochastic rounding' : ''}`,
  generation: ({ model, dtype, do: what, prompt }) => `${model} ${dtype} ${what} at ${prompt}`,
  gguf: ({ model, shape, format, quantize, activations }) =>
    `${shape ? `shape of ${shape}` : model} ${quantize ?? `gguf ${format}`}${activations ? ', int8 activations' : ''}`,
  embedding: ({ model, dtype, texts, lengths: [least, most] }) =>
    `${model} ${dtype} ${texts} texts of ${least} to ${most} tokens`,
  speculation: ({ model, dtype, task }) => `${model} ${dtype} ${task}`,
  rewards: ({ model, dtype, prompts, completions, tokens }) =>
    `${model} ${dtype} ${prompts} prompts × ${completions} × ${tokens} tokens`,
  serving: ({ model, dtype }) => `${model} ${dtype}`,
  serving_http: ({ model, format, dtype }) => `${model} ${format ?? dtype} over HTTP`,
  loading: ({ model, dtype }) => `${model} ${dtype}`,
};
const runs = {
  attention: runAttention,
  delta_rule: runDeltaRule,
  family: withTokenizer(runFamily),
  short_conv: runShortConv,
  training_step: withModel(runTrainingStep),
  full_step: withModel(runFullStep),
  generation: withModel(runGeneration),
  gguf: withModel(runGguf),
  embedding: withModel(runEmbedding),
  speculation: withModel(runSpeculation),
  rewards: withModel(runRewards),
  serving: withModel(runServing),
  serving_http: withModel(runServingHttp),
  loading: withModel(runLoading),
};

const cublas = {
  kind: 'cublas',
  id: 'cublas',
  run: async (_, bench) => {
    const { skipped, failed, figures } = runCublas();
    if (skipped) bench.leaveOut('cuBLAS on a GPU', skipped);
    if (failed) throw new Error(failed);
    if (figures) bench.cublas = figures;
  },
};

export function allCases(definitions) {
  const listed = Object.entries(runs).flatMap(([kind, run]) =>
    definitions[kind].map((testCase) => ({ ...testCase, kind, id: ids[kind](testCase), run })),
  );
  const overhead = overheadCases.map((id) => ({ kind: 'overhead', id, quick: true, run: runOverhead }));
  const of = (kind) => listed.filter((testCase) => testCase.kind === kind);
  // What matters most comes first: a slow machine has no time for all.
  return [
    ...of('training_step'),
    ...of('full_step'),
    ...of('generation'),
    ...of('gguf'),
    ...of('embedding'),
    ...of('speculation'),
    ...of('rewards'),
    ...of('serving'),
    ...of('serving_http'),
    ...of('loading'),
    ...of('attention'),
    ...of('short_conv'),
    ...of('delta_rule'),
    ...of('family'),
    ...overhead,
    ...layerCases(definitions, 'lora_linear_cold'),
    ...blockCases(definitions),
    ...layerCases(definitions, 'lora_linear'),
    cublas,
  ];
}

export const quickCases = (definitions) => allCases(definitions).filter(({ quick }) => quick);
