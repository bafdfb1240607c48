// The questions of docs/concepts/comparison.md, asked with compareMethods; a results file for each, from which the page has its tables.
//
//   node benchmarks/comparison.mjs [methods] [ranks] [smollm2] [--out-dir build/comparison] [--steps N] [--seeds N] [--publish]
//   node benchmarks/comparison.mjs --check       fails unless the page says what the results files hold
//
// methods, ranks: the bundled task and the bundled model. smollm2: SmolLM2-135M and WikiSQL of ../shared/data. A question that was stopped
// goes on where it was. --publish keeps the results as results/comparison-NAME.json and writes the tables of the page anew.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CausalLM, compareMethods } from 'lora-native';
import { endedAnswers } from '../examples/data/answers.mjs';
import { defaultThreads, facts } from './machine.mjs';
import { findModel, shared } from './models.mjs';
import { withTables } from './report/comparison.mjs';
import { resultsText } from './report/results_text.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const page = join(root, 'docs/concepts/comparison.md');
const kept = (name) => join(root, `benchmarks/results/comparison-${name}.json`);

/** The rows of the bundled task. */
async function bundled() {
  const modelDir = join(root, 'examples/base-model');
  const model = await CausalLM.fromPretrained(modelDir);
  const [data, evalData] = [await endedAnswers('train', model), await endedAnswers('heldout', model)];
  await model.dispose();
  return { modelDir, data, evalData };
}

/** WikiSQL's rows: a table's columns and a question, answered by a query. */
async function wikisql() {
  const { dir, name, reason, instead } = findModel('SmolLM2-135M');
  if (name !== 'SmolLM2-135M') throw new Error(reason ?? instead);
  const model = await CausalLM.fromPretrained(dir);
  const end = model.config.eosTokenIds[0];
  const rows = (file) =>
    readFileSync(join(shared, `data/chat/wikisql/${file}.jsonl`), 'utf8')
      .trim()
      .split('\n')
      .map((line) => {
        const { text } = JSON.parse(line);
        const at = text.lastIndexOf('\nA:') + 3;
        const prompt = model.tokenizer.encode(text.slice(0, at));
        const completion = model.tokenizer.encode(text.slice(at), { addSpecialTokens: false });
        return {
          inputIds: [...prompt, ...completion, end],
          labels: [...prompt.map(() => -100), ...completion, end],
        };
      });
  const data = { modelDir: dir, data: rows('train'), evalData: rows('valid') };
  await model.dispose();
  return data;
}

const all = ['full', 'lora', 'dora', 'bottleneck', 'ia3', 'prompt'];

const questions = {
  methods: {
    source: bundled,
    steps: 200,
    methods: all,
    ranks: [16],
    learningRates: [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1],
  },
  ranks: {
    source: bundled,
    steps: 200,
    methods: ['lora'],
    ranks: [4, 8, 16, 32, 64],
    alphas: ['r', '2r'],
    targets: ['attention', 'all-linear'],
  },
  smollm2: {
    source: wikisql,
    steps: 150,
    methods: ['full', 'lora', 'bottleneck', 'prompt'],
    ranks: [16],
    dtype: 'bf16',
    evalLimit: 40,
  },
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'out-dir': { type: 'string', default: 'build/comparison' },
    steps: { type: 'string' },
    seeds: { type: 'string', default: '3' },
    publish: { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
  },
});

async function ask(name) {
  const { source, steps, ...axes } = questions[name];
  const about = { ...facts(defaultThreads()), load: loadavg() };
  const run = compareMethods({
    ...(await source()),
    ...axes,
    seeds: Number(values.seeds),
    budget: { steps: Number(values.steps ?? steps) },
    outDir: join(values['out-dir'], name),
  });
  for await (const event of run) {
    if (event.type === 'start') console.log(`${name}: ${event.done} of ${event.variants} variants are there`);
    if (event.type === 'rate') console.log(`learning rate of ${event.method}: ${event.lr}`);
    if (event.type === 'variant')
      console.log(`${event.result.id}: ${event.result.failed ?? event.result.loss.toFixed(4)}`);
  }
  const { rows, rates, base, baseParameters } = await run.result;
  const { loss, exactMatch } = base;
  return {
    ...about,
    steps: Number(values.steps ?? steps),
    seeds: Number(values.seeds),
    base: { parameters: baseParameters, loss, exactMatch },
    rates,
    rows,
  };
}

/** The results that are kept, by the names of their questions. */
function keptResults() {
  const names = Object.keys(questions).filter((name) => existsSync(kept(name)));
  return Object.fromEntries(names.map((name) => [name, JSON.parse(readFileSync(kept(name), 'utf8'))]));
}

const unknown = positionals.filter((name) => !Object.hasOwn(questions, name));
if (unknown.length > 0)
  throw new Error(`expected ${Object.keys(questions).join(', ')} but received ${unknown.join(', ')}`);
for (const name of positionals) {
  const results = await ask(name);
  const file = values.publish ? kept(name) : join(root, `benchmarks/results/local-comparison-${name}.json`);
  writeFileSync(file, resultsText(results));
  console.log(file);
}
const text = readFileSync(page, 'utf8');
const written = withTables(text, keptResults());
if (values.publish) writeFileSync(page, written);
else if (values.check) {
  if (written !== text)
    throw new Error(`${page} is not what the results give: node benchmarks/comparison.mjs --publish`);
  console.log('docs/concepts/comparison.md says what the results hold');
}
