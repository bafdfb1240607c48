// A server near its memory limit serves for ever:
//
//   node scripts/serving-soak.mjs [--model DIR] [--requests 10000] [--together 16] [--room 3MiB | --limit 320MB]
//
// A process whose limit is --limit, or --room more than the model takes, answers requests of many lengths, each of which fits alone: first one
// after the other, then --together at once. None may fail, each gives the same ids every time, and between the first tenth and the end neither
// the heap nor resident memory without tensors, which the limit bounds, may grow by more than `allowed`. Where one does, the requests are
// answered again, up to `rounds` times: what a runtime takes once it keeps, a leak grows each time.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: {
    model: { type: 'string', default: join(root, 'examples/base-model') },
    requests: { type: 'string', default: '10000' },
    together: { type: 'string', default: '16' },
    room: { type: 'string', default: '3MiB' },
    limit: { type: 'string' },
    part: { type: 'string', default: 'all' }, // of the processes that this one starts
  },
});
const mebi = 2 ** 20;
/** What memory may grow by: from the first look on, while the runtime takes what it keeps for garbage, and from the third on. */
const allowed = {
  warm: { heap: 4 * mebi, others: 48 * mebi },
  flat: { heap: 4 * mebi, others: 8 * mebi },
};
const rounds = 3;

/** This program in a process of its own: what it sends. */
async function child(part, limit) {
  const env = { ...process.env, ...(limit !== undefined && { LORA_MEMORY_LIMIT: limit }) };
  const started = fork(fileURLToPath(import.meta.url), [...process.argv.slice(2), '--part', part], { env });
  let answer;
  started.on('message', (message) => (answer = message));
  const [status] = await once(started, 'exit');
  if (status !== 0 || !answer) process.exit(status ?? 1);
  return answer;
}

if (values.part === 'all') {
  const bytesOf = (text) => {
    const [, number, unit] = /^([\d.]+) *(MiB|MB|GiB|GB)$/.exec(text);
    return Number(number) * { MiB: mebi, MB: 1e6, GiB: 2 ** 30, GB: 1e9 }[unit];
  };
  const limit = values.limit ? bytesOf(values.limit) : (await child('weigh')).bytes + bytesOf(values.room);
  const { problems } = await child('serve', String(Math.round(limit)));
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) process.exitCode = 1;
} else {
  const { CausalLM, memoryUsage } = await import('lora-native');
  const model = await CausalLM.fromPretrained(values.model);
  const answer =
    values.part === 'weigh' ? { bytes: memoryUsage().peakBytes } : await serve(model, memoryUsage);
  process.send(answer);
  process.disconnect();
}

async function serve(model, memoryUsage) {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  const count = Number(values.requests);
  const { vocabSize, maxPositionEmbeddings } = model.config;
  const problems = [];

  /** A number below n that follows from two others. */
  const among = (a, b, n) => {
    const mixed = Math.imul(Math.imul(a + 1, 0x9e3779b1) ^ (b + 0x85ebca6b), 0xc2b2ae35);
    return ((mixed ^ (mixed >>> 15)) >>> 0) % n;
  };
  const maxPrompt = Math.min(300, maxPositionEmbeddings - 40);
  const request = (i) => {
    const length = 1 + (among(i, 1, 4) === 0 ? among(i, 2, maxPrompt) : among(i, 2, 40));
    const topic = among(i, 3, 8); // requests of one topic begin alike
    const prompt = Array.from({ length }, (_, j) => 3 + among(topic, j + 10, vocabSize - 3));
    prompt[length - 1] = 3 + among(i, 4, vocabSize - 3);
    const sampled = among(i, 5, 2) === 0 && { temperature: 0.8, seed: i };
    return { prompt, options: { maxNewTokens: 1 + among(i, 6, 24), ignoreEos: true, ...sampled } };
  };

  /** What is there when garbage has been collected and its finalizers have run. */
  const look = async (name, done) => {
    for (let i = 0; i < 5; i++) {
      collect();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const { rss: resident, heapUsed: heap } = process.memoryUsage();
    const { bytes: tensors } = memoryUsage();
    const { kvCacheCapacity, preemptions, tokens, prefixHits } = model.engineStats();
    const mib = (bytes) => (bytes / mebi).toFixed(1);
    console.log(
      `${name} ${String(done).padStart(6)}  resident ${mib(resident)} MiB  heap ${mib(heap)} MiB  tensors ${mib(tensors)} MiB  ` +
        `pages ${mib(kvCacheCapacity)} MiB  tokens ${tokens}  beginnings found ${prefixHits}  preemptions ${preemptions}`,
    );
    return { heap, others: resident - tensors };
  };

  const expected = [];
  const ask = async (i) => {
    const { prompt, options } = request(i);
    const { ids } = await model.generate(prompt, options);
    const text = ids.join();
    if (text !== (expected[i] ??= text)) problems.push(`request ${i} gave other ids in company`);
  };
  const every = Math.max(1, Math.floor(count / 10));
  /** Answers all requests, so many at once, and says what grew meanwhile. */
  const growth = async (name, lanes) => {
    const seen = [];
    for (let from = 0; from < count; from += every) {
      let next = from;
      const lane = async () => {
        while (next < Math.min(count, from + every)) {
          const i = next++;
          await ask(i).catch((error) => problems.push(`${name}, request ${i}: ${error.message}`));
        }
      };
      await Promise.all(Array.from({ length: lanes }, lane));
      seen.push(await look(name, Math.min(count, from + every)));
    }
    /** Of the last three looks the least: a finalizer may run late. */
    const least = (what) => Math.min(...seen.slice(-3).map(what));
    const grown = [];
    for (const [from, most] of [
      [seen[0], allowed.warm],
      [seen[2] ?? seen[0], allowed.flat],
    ])
      for (const [what, bytes] of Object.entries(most)) {
        const more = least((one) => one[what]) - from[what];
        if (more > bytes)
          grown.push(
            `${name}: ${what} grew by ${(more / mebi).toFixed(1)} MiB in the last of ${rounds} rounds`,
          );
      }
    return grown;
  };
  for (const [name, lanes] of [
    ['one by one', 1],
    [`${values.together} at once`, Number(values.together)],
  ]) {
    const begin = performance.now();
    let grown = await growth(name, lanes);
    for (let round = 2; round <= rounds && grown.length > 0; round++) grown = await growth(name, lanes);
    problems.push(...grown);
    console.log(`${name}: ${count} requests in ${Math.round((performance.now() - begin) / 1000)} s`);
  }
  console.log(
    `limit ${process.env.LORA_MEMORY_LIMIT} bytes: ${problems.length === 0 ? 'none failed, memory is flat' : `${problems.length} problems`}`,
  );
  return { problems: problems.slice(0, 20) };
}
