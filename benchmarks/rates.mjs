// lr: 'auto' against the best of a sweep on three tasks; a results file, and the table of docs/guides/learning-rate.md on standard output.
//
//   node benchmarks/rates.mjs [bundled] [wikisql] [queries] [shakespeare] [--out-dir build/rates] [--seeds N] [--publish]
//
// bundled: the bundled task and model. wikisql: SmolLM2-135M and WikiSQL; queries: stories260K, which was trained on stories, and WikiSQL;
// shakespeare: the same and plays; the models and texts of ../shared/data.
// A sweep that was stopped goes on where it was. --publish keeps the results in results/rates.json, beside those of other tasks.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CausalLM, sweep } from 'lora-native';
import { endedAnswers } from '../examples/data/answers.mjs';
import { defaultThreads, facts } from './machine.mjs';
import { findModel, shared } from './models.mjs';
import { resultsText } from './report/results_text.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Rows of a model, which is gone when they are made. */
async function rowsOf(modelDir, make) {
  const model = await CausalLM.fromPretrained(modelDir);
  const rows = await make(model);
  await model.dispose();
  return { modelDir, ...rows };
}

const bundled = () =>
  rowsOf(join(root, 'examples/base-model'), async (model) => ({
    data: await endedAnswers('train', model),
    evalData: await endedAnswers('heldout', model),
  }));

const stories = join(shared, 'data/models/stories260K');

function smollm() {
  const { dir, name, reason, instead } = findModel('SmolLM2-135M');
  if (name !== 'SmolLM2-135M') throw new Error(reason ?? instead);
  return dir;
}

/** A table's columns and a question, answered by a query. */
function wikisql(dir) {
  return rowsOf(dir, ({ tokenizer, config }) => {
    const end = config.eosTokenIds[0];
    const rows = (file, count) =>
      readFileSync(join(shared, `data/chat/wikisql/${file}.jsonl`), 'utf8')
        .trim()
        .split('\n')
        .slice(0, count)
        .map((line) => {
          const { text } = JSON.parse(line);
          const at = text.lastIndexOf('\nA:') + 3;
          const prompt = tokenizer.encode(text.slice(0, at));
          const completion = tokenizer.encode(text.slice(at), { addSpecialTokens: false });
          return {
            inputIds: [...prompt, ...completion, end],
            labels: [...prompt.map(() => -100), ...completion, end],
          };
        });
    return { data: rows('train', 1000), evalData: rows('valid', 40) };
  });
}

/** Pieces of 96 tokens: the first 1000 train, 40 of the end measure. */
function shakespeare() {
  return rowsOf(stories, ({ tokenizer }) => {
    const text = readFileSync(join(shared, 'data/text/tinyshakespeare.txt'), 'utf8');
    const pieces = (part, count) => {
      const ids = tokenizer.encode(part, { addSpecialTokens: false });
      return Array.from({ length: count }, (_, i) => {
        const inputIds = ids.slice(96 * i, 96 * (i + 1));
        return { inputIds, labels: inputIds };
      });
    };
    return { data: pieces(text.slice(0, 300_000), 1000), evalData: pieces(text.slice(-40_000), 40) };
  });
}

const learningRates = ['auto', 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2];
const tasks = {
  bundled: { source: bundled, steps: 200 },
  queries: { source: () => wikisql(stories), steps: 100 },
  wikisql: {
    source: () => wikisql(smollm()),
    steps: 40,
    dtype: 'bf16',
    learningRates: ['auto', 5e-4, 1e-3, 2e-3, 4e-3],
  },
  shakespeare: { source: shakespeare, steps: 200 },
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'out-dir': { type: 'string', default: 'build/rates' },
    seeds: { type: 'string', default: '2' },
    publish: { type: 'boolean', default: false },
  },
});
const names = positionals.length > 0 ? positionals : Object.keys(tasks);

const about = { ...facts(defaultThreads()), load: loadavg() };
const found = {};
for (const name of names) {
  const { source, steps, ...more } = tasks[name];
  const run = sweep({
    ...(await source()),
    ...{ learningRates, seeds: Number(values.seeds), budget: { steps }, ...more },
    outDir: join(values['out-dir'], name),
  });
  for await (const event of run)
    if (event.type === 'variant')
      console.error(`${event.result.id}: ${event.result.failed ?? event.result.loss}`);
  const { rows, best, base } = await run.result;
  found[name] = { ...about, seeds: Number(values.seeds), steps, base: base.loss, best, rows };
}

console.log('| task | base | `auto` | its loss | best rate of the sweep | its loss | `auto` is above by |');
console.log('|---|---|---|---|---|---|---|');
for (const [name, { base, rows, steps }] of Object.entries(found)) {
  const ruled = rows.find(({ rate }) => rate === 'auto');
  const fixed = rows.filter(({ rate, loss }) => rate !== 'auto' && loss);
  const least = fixed.reduce((a, b) => (b.loss.median < a.loss.median ? b : a));
  const spread = ({ loss }) => `${loss.median.toFixed(3)} (${loss.least.toFixed(3)}–${loss.most.toFixed(3)})`;
  const above = 100 * (ruled.loss.median / least.loss.median - 1);
  const cells = [
    `${name}, ${steps} steps`,
    base.toFixed(3),
    ruled.lr,
    spread(ruled),
    least.lr,
    spread(least),
  ];
  console.log(`| ${cells.join(' | ')} | ${above.toFixed(1)}% |`);
}
const file = join(root, `benchmarks/results/${values.publish ? 'rates' : 'local-rates'}.json`);
const others = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
writeFileSync(file, resultsText({ ...others, ...found }));
console.error(file);
