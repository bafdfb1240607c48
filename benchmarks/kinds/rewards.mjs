// A step of training on rewards against what it is made of: the same completions generated, and the same tokens trained on, each apart.
import { ratio, spread } from '../stats.mjs';
import { inTurns, startOurs, stopAll } from './whole_model.mjs';

export async function runRewards(testCase, bench) {
  const { dtype, prompts, completions, tokens, prompt, found, id } = testCase;
  const settings = { model: found.dir, dtype, prompts, completions, tokens, prompt, threads: bench.threads };
  const workers = new Map();
  try {
    for (const part of ['step', 'generate', 'train'])
      workers.set(part, await startOurs('rewards.mjs', { ...settings, do: part }));
    for (const worker of workers.values()) await worker.ask({});
    const { answers } = await inTurns(workers, () => ({}), bench.stepSettings);
    const seconds = (part) => answers.get(part).map(({ ms }) => ms / 1000);
    const peak = (part) => answers.get(part).at(-1).peak;
    const [step, generate, train] = ['step', 'generate', 'train'].map(seconds);
    bench.add({
      ...{ kind: 'rewards', case: id, what: 'step', unit: 's', ours: spread(step), rivals: {} },
      tokens: answers.get('step')[0].tokens,
      parts: { generate: spread(generate), train: spread(train) },
      ofParts: ratio(
        step,
        generate.map((own, i) => own + train[i]),
      ),
      memoryOfTraining: peak('step') / peak('train'),
    });
  } finally {
    await stopAll(workers);
  }
}
