/**
 * Which tests run when. `npm test` runs the everyday ones; README's command, scripts/test.sh, the standard ones, which include them;
 * `npm run test:deep` the rest; `.ci/run` all. `npx jest` and `node scripts/ctest.mjs` know no tiers. Also a reporter, which says at the end
 * of a run what it was.
 */
const { join } = require('node:path');

/**
 * These run programs on dist/ in processes of their own, or kernels on the emulator, or test scripts/ and the documentation, or wait
 * for threads that compile grammars. Most of them see a change in lib/ only after a build.
 */
const programs = [
  '/test/docs/',
  '/test/e2e/(acceptance|benchmark|chat_terminal|cli|cuda_\\w+|examples|web_applications)\\.test\\.ts',
  '/test/lifecycle/',
  '/test/unit/(amx_check|ci_summary|cuda_build|cuda_report|gpu_check|grammars|include_order|json_schema_values|native_mutants|package_json|platforms|workflows)\\.test\\.ts',
];

/**
 * Each of these takes longer than two seconds on two cores: files of hundreds of megabytes, training over again for every option. Run
 * them by name while you change what they read.
 */
const slow = [
  '/test/e2e/(command_line(_options)?|compare(_command|_report)?|evaluate_task|full_training|generation_sampling|grpo(_\\w+)?|html_report|hub(_answers|_data|_model|_push)?|memory_estimate|model_files|preference_runs)\\.test\\.ts',
  '/test/e2e/(combine_adapters|convert_adapter|convert_model|engine|gguf_(blocks|commands|files|model)|int8_activations|json_schema|memory_cuda|methods|modelfile|prompt_tuning|quantize_model|serve_(adapters|apis|command|handler|limits|page|tools)|speculation|stochastic_rounding|trainer_(best|optimizers|ranks|resume)|weight_formats)\\.test\\.ts',
  '/test/numerics/quant_gguf\\.test\\.ts',
  '/test/unit/(dataset_files|gguf_tokenizer|zod_schemas)\\.test\\.ts',
];

/**
 * What soaks, goes over many seeds, emulates whole models, or starts dozens of programs. A feature that has tests here has standard ones
 * too. With a pattern, the cases of the file that it matches are standard.
 */
const deep = {
  'docs/site': null,
  'e2e/acceptance':
    /^(replay (stories260K-all-linear-r8|in bf16)|method (full|ia3)|objective (dpo|kto)$|company(?! on)|stories|training|files)\b/,
  'e2e/benchmark': /^the ops that cases time/,
  'e2e/command_line': /^(?!inspect hundreds|train with any one)/,
  'e2e/compare':
    /^(?!a comparison leaves no tensors|a folder with other files|a rate with which|a method has the axes|full fine-tuning|the peak)/,
  'e2e/crash_consistency': null,
  'e2e/cuda_activity': null,
  'e2e/cuda_emulated': /^(a training step in f32|blocks of GGUF are written|steps of AdamW are)/,
  'e2e/cuda_methods': /^(houlsby|full fine-tuning)\b/,
  'e2e/cuda_opening': null,
  'e2e/cuda_families': null,
  'e2e/cuda_serving': null,
  'e2e/engine_histories': null,
  'e2e/examples': /^(quickstart|data|memory|layer|errors|fetch-handler|server)\.mjs|^every program/,
  'e2e/families': /hidden states|logits are|beside others of a packed row/,
  'e2e/full_training': /^(?!a matrix whose head)/,
  'e2e/gguf_blocks': /^(?!SmolLM2.* computes the logits)/,
  'e2e/hub': /^(?!.*(stops the other downloads|fails when it is cut at the same place))/,
  'e2e/html_report': /^(?!the report in Chromium)/,
  'e2e/memory_cuda':
    /^(?!training on a GPU (whose|takes what the estimate says, within 2% (bf16$|f32|NF4 with|norms over|adapters of|a loss in)))/,
  'e2e/memory_estimate':
    /^(?!the peak of tensors in training in (f32|bf16), \{"batchSize":[48],"length":256)/,
  'e2e/memory_peak': null,
  'e2e/quantize_model': /^(?!saving a merged model quantized \{"format":"(fp4|int8))/,
  'e2e/serve_adapters': /^(?!a thousand requests)/,
  'e2e/serve_page': /^(there is none|its policy)/,
  'e2e/speculation': /^(?!100 requests)/,
  'e2e/trainer_best': /^(?!a run that an abort cut in two tells what the whole run tells evalEvery [23])/,
  'e2e/trainer_resume': /^(?!a checkpoint that does not fit .*\{)/,
  'e2e/weight_formats': /^(?!reference: |.* under adapters of each kind$)/,
  'lifecycle/changing_files': null,
  'lifecycle/data_memory': null,
  'lifecycle/event_loop': null,
  'lifecycle/failing_allocations': null,
  'lifecycle/failing_disk': null,
  'lifecycle/killed_training': null,
  'lifecycle/leaks': null,
  'lifecycle/memory': /^(out of memory throws|an unread failure|tensors that are freed)/,
  'lifecycle/mpi': /^(?!.*a rank that hangs)/,
  'lifecycle/native':
    /^(no argument|wrong, foreign|two workers|out of memory throws|a failure reaches|a pending read)/,
  'lifecycle/serving_memory': null,
  'numerics/bench_cases': null,
  'unit/dataset_files': /^(?!a long text|lines of nothing|.*(feeds\.|rows\.jsonl))/,
  'unit/encode_steps': /^(?!.*(of a megabyte|many short lines))/,
  'unit/fuzz': null,
  'unit/gguf_tokenizer': /^(?!SmolLM2.* a thousand texts|.*reads texts as before: (gpt-2|llama-bpe|qwen2))/,
  'unit/grammars': /^(?!a thread has no memory left)/,
  'unit/json_schema_values': null,
  'unit/limits': /^(?!.*500,000)/,
  'unit/safetensors': /^(?!.*files that nobody closes)/,
  'unit/template': /^(?!what would not end (nested loops|more steps))/,
};

/** Native tests, by ctest's names. Deep runs also repeat all of the CPU's, on every instruction set. */
const deepNative = [
  'cuda_(contracted|f32|hopper)_.*', // others again, with the numbers of other hardware
  'cuda_attention_backward_test',
  'cuda_attention_paged_test',
  'cuda_attention_plan_test',
  'cuda_gemm_test',
  'cuda_sample_device_test',
  'cuda_sample_test',
  'cuda_weight_format_test',
  'driver_launch_tests_sm_[0-9]+', // the kernels that nvcc made, in builds with all GPUs
  'simt_seeded_test',
];

const wordsAtEnd = {
  everyday:
    'npm test leaves out what runs on dist/ or the emulator, scripts/, docs/, and what is slow: bash scripts/test.sh runs that too.',
  standard: 'The tests that take long are left out: npm run test:deep runs those.',
  deep: 'These are the tests that bash scripts/test.sh leaves out.',
};

/** @typedef {'everyday' | 'standard' | 'deep'} Tier */

const fileOf = (name) => `/test/${name}\\.test\\.ts$`;
const isDeep = (names) =>
  Object.keys(deep)
    .filter((name) => names(deep[name]))
    .map(fileOf);

module.exports = class {
  static programs = programs;
  static slow = slow;
  static deep = deep;
  static deepNative = deepNative;

  /** Jest's configuration of a tier. */
  static configOf(tier) {
    const { testMatch, ...all } = require('../../jest.config.cjs');
    const config = {
      ...all,
      testEnvironment: join(__dirname, 'tier_environment.cjs'),
      testEnvironmentOptions: { tier },
      reporters: ['default', [module.filename, { tier }]],
    };
    if (tier === 'deep') return { ...config, testRegex: isDeep(() => true) };
    const leftOut = [
      ...(tier === 'everyday' ? [...programs, ...slow] : []),
      ...isDeep((kept) => kept === null),
    ];
    return { ...config, testMatch, testPathIgnorePatterns: ['/node_modules/', ...leftOut] };
  }

  /**
   * Takes the cases of other tiers out of a file: out of the block of Jest's that holds all of it. What says why it is skipped stays in each:
   * Jest fails on a file without a case.
   */
  static keepCases(tier, path, file) {
    const name = Object.keys(deep).find((name) => new RegExp(fileOf(name)).test(path.replaceAll('\\', '/')));
    const standard = name && deep[name];
    if (!standard) return;
    const keep = (block, before) => {
      block.children = block.children.filter((child) => {
        const title = before + child.name;
        if (child.type === 'test')
          return title.includes(' (skipped: ') || standard.test(title) === (tier !== 'deep');
        keep(child, `${title} `);
        return child.children.length > 0;
      });
    };
    keep(file, '');
  }

  /** The arguments of ctest for a tier. */
  static ctestOf(tier) {
    if (tier === undefined) return [];
    return tier === 'deep'
      ? ['-R', `^(cpu_.*|${deepNative.join('|')})$`]
      : ['-E', `^(${deepNative.join('|')})$`];
  }

  constructor(_, { tier }) {
    this.onRunComplete = () => console.log(wordsAtEnd[tier]);
  }
};
