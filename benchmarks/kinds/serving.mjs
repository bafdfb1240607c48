// Many streams on one engine: tokens per second together, over those of one stream; what several adapters in a batch cost; and how
// soon a prompt that arrives has its first token.
import { ratio, spread } from '../stats.mjs';
import { inTurns, startOurs } from './whole_model.mjs';

const adapters = 8;
const runs = {
  one: { streams: 1, adapters: 0 },
  8: { streams: 8, adapters: 0 },
  16: { streams: 16, adapters: 0 },
  'an adapter': { streams: 8, adapters: 1 },
  adapters: { streams: 8, adapters },
  newcomer: { streams: 8, adapters: 0, newcomer: 64 },
};

export async function runServing(testCase, bench) {
  const { dtype, found, tokens } = testCase;
  const worker = await startOurs('serve_many.mjs', {
    model: found.dir,
    dtype,
    threads: bench.threads,
    adapters,
  });
  try {
    const workers = new Map(Object.keys(runs).map((name) => [name, worker]));
    const request = (name) => ({ tokens, ...runs[name] });
    await inTurns(workers, request, { ...bench.stepSettings, rounds: 1 }); // records the steps
    const { answers } = await inTurns(workers, request, bench.stepSettings);
    const perToken = (name) => answers.get(name).map((answer) => answer.perToken);
    const add = (what, ours, more) =>
      bench.add({
        kind: 'serving',
        case: testCase.id,
        what,
        unit: 's',
        ours: spread(ours),
        rivals: {},
        ...more,
      });
    const over = (name, other) => ratio(perToken(other), perToken(name)).median;

    add('1 stream', perToken('one'), { tokens: 1 });
    for (const name of ['8', '16'])
      add(`${name} streams`, perToken(name), { tokens: 1, ofOne: over(name, 'one') });
    add('8, 1 adapter', perToken('an adapter'), { tokens: 1, ofOne: over('an adapter', 'one') });
    const ofAdapter = over('an adapter', 'adapters');
    add(`8, ${adapters} adapters`, perToken('adapters'), {
      tokens: 1,
      ofOne: over('adapters', 'one'),
      ofAdapter,
    });
    const first = answers.get('newcomer').map((answer) => answer.first);
    add('first token', first, { steps: ratio(first, perToken('8')).median / 8 });
  } finally {
    await worker.stop();
  }
}
