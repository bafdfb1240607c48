// The server under many connections for a minute:
//
//   node scripts/http-soak.mjs [--model DIR] [--connections 64] [--seconds 60] [--tokens 32] [--clients build/clients]
//
// A process serves the model with createOpenAIHandler. autocannon, which lies in --clients (npm install --prefix build/clients autocannon),
// keeps --connections streams of it open, and a third process asks for /health all the time. No request may fail, every stream must come to
// its end, and from the end of a warm-up on neither the heap nor resident memory without tensors may grow by more than `allowed`. Printed are
// the times of the first token, of the whole answer and of /health, memory before and after, and the gaps of the server's event loop.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { Agent, createServer, get } from 'node:http';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { quantile, watched } from '../benchmarks/loop_watch.mjs';

const self = fileURLToPath(import.meta.url);
const root = join(self, '../..');
const { values } = parseArgs({
  options: {
    model: { type: 'string', default: join(root, 'examples/base-model') },
    connections: { type: 'string', default: '64' },
    seconds: { type: 'string', default: '60' },
    tokens: { type: 'string', default: '32' },
    clients: { type: 'string', default: join(root, 'build/clients') },
    part: { type: 'string', default: 'all' }, // of the processes that this one starts
    url: { type: 'string' }, // what `health` asks
  },
});
const mebi = 2 ** 20;
const allowed = { heap: 4 * mebi, others: 24 * mebi };

/** Another process of this program, which answers each message with one. */
function child(part, ...args) {
  const started = fork(self, [...process.argv.slice(2), '--part', part, ...args]);
  const ask = async (message) => {
    started.send(message);
    const [answer] = await Promise.race([once(started, 'message'), once(started, 'exit')]);
    if (typeof answer !== 'object' || answer === null) throw new Error(`the process '${part}' has ended`);
    return answer;
  };
  return { ask, end: () => started.disconnect() };
}

function answerWith(answers) {
  process.on('message', async ({ what }) => process.send(await answers[what]()));
  process.on('disconnect', () => process.exit());
}

/** Serves, and looks at itself. */
async function serve() {
  const { CausalLM, createOpenAIHandler, memoryUsage } = await import('lora-native');
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  const model = await CausalLM.fromPretrained(values.model);
  const server = createServer(createOpenAIHandler(model, { modelName: 'base' }));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  let watch;
  answerWith({
    address: () => ({ url: `http://127.0.0.1:${server.address().port}`, vocabulary: model.config.vocabSize }),
    /** When the engine has nothing to do, garbage is collected and its finalizers have run. */
    async memory() {
      while (model.engineStats().running > 0) await sleep(20);
      for (let i = 0; i < 5; i++) {
        collect();
        await sleep(20);
      }
      const { rss: resident, heapUsed: heap } = process.memoryUsage();
      const { bytes: tensors } = memoryUsage();
      return { resident, heap, tensors, others: resident - tensors, tokens: model.engineStats().tokens };
    },
    watch() {
      let end;
      const ended = new Promise((resolve) => (end = resolve));
      watch = { end, figures: watched(() => ended) };
      return {};
    },
    loop() {
      watch.end(1);
      return watch.figures;
    },
  });
}

/** Asks for /health, one request after the other, and tells how long each took. */
async function health() {
  const times = [];
  answerWith({ times: () => ({ times: times.splice(0) }) });
  const agent = new Agent({ keepAlive: true });
  for (;;) {
    const began = performance.now();
    const [response] = await once(get(`${values.url}/health`, { agent }), 'response');
    if (response.statusCode !== 200) throw new Error(`/health answered ${response.statusCode}`);
    await once(response.resume(), 'end');
    times.push(performance.now() - began);
    await sleep(20);
  }
}

/** Keeps `connections` streams open; gives autocannon's counts, and the milliseconds to each first token. */
async function load(autocannon, url, vocabulary, seconds) {
  const firsts = [];
  // Prompts that begin alike in eights, each at another place of the text.
  const prompt = (i) =>
    Array.from({ length: 16 + (i % 48) }, (_, j) => 3 + (((i % 8) * 977 + j * 31) % (vocabulary - 3)));
  const requests = Array.from({ length: 64 }, (_, i) => ({
    method: 'POST',
    path: '/v1/completions',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      ...{ prompt: prompt(i), max_tokens: Number(values.tokens), stream: true, ignore_eos: true },
      ...(i % 2 === 0 && { temperature: 0.8, seed: i }),
    }),
  }));
  const result = await autocannon({
    ...{ url, requests, connections: Number(values.connections), duration: seconds, timeout: 60 },
    // What a client sees of the first token: the headers of a stream come with it.
    setupClient(client) {
      let began;
      client.on('request', () => (began = performance.now()));
      client.on('headers', () => firsts.push(performance.now() - began));
    },
    verifyBody: (body) => body.endsWith('data: [DONE]\n\n'),
  });
  return { result, firsts };
}

const times = (name, ms) => {
  const sorted = [...ms].sort((a, b) => a - b);
  const [p50, p99] = [0.5, 0.99].map((q) => quantile(sorted, q).toFixed(1));
  console.log(
    `${name.padEnd(14)} p50 ${p50} ms  p99 ${p99} ms  max ${(sorted.at(-1) ?? 0).toFixed(1)} ms  of ${sorted.length}`,
  );
};
const memory = (name, { resident, heap, tensors }) => {
  const mib = (bytes) => `${(bytes / mebi).toFixed(1)} MiB`;
  console.log(`${name.padEnd(14)} resident ${mib(resident)}  heap ${mib(heap)}  tensors ${mib(tensors)}`);
};

async function soak() {
  const { resolve: find } = createRequire(join(resolve(values.clients), 'package.json'));
  const { default: autocannon } = await import(pathToFileURL(find('autocannon')).href);
  const seconds = Number(values.seconds);
  const server = child('serve');
  const { url, vocabulary } = await server.ask({ what: 'address' });
  const prober = child('health', '--url', url);
  await load(autocannon, url, vocabulary, Math.max(2, seconds / 3)); // takes the memory, records the steps
  const before = await server.ask({ what: 'memory' });
  memory('before', before);
  await prober.ask({ what: 'times' });
  await server.ask({ what: 'watch' });
  const { result, firsts } = await load(autocannon, url, vocabulary, seconds);
  const loop = await server.ask({ what: 'loop' });
  const { times: ofHealth } = await prober.ask({ what: 'times' });
  prober.end();
  const after = await server.ask({ what: 'memory' });
  server.end();
  memory('after', after);
  times('first token', firsts);
  times('/health', ofHealth);
  const ms = (value) => `${value.toFixed(1)} ms`;
  console.log(
    `event loop     p50 ${ms(loop.p50)}  p99 ${ms(loop.p99)}  max ${ms(loop.max)}  (with waiting for a core: p99 ${ms(loop.nodeP99)}, max ${ms(loop.nodeMax)})`,
  );
  const { latency, errors, timeouts, mismatches, non2xx } = result;
  console.log(`answers        p50 ${latency.p50} ms  p99 ${latency.p99} ms  max ${latency.max} ms`);
  const answers = result['2xx'];
  const rate = (after.tokens - before.tokens) / result.duration;
  console.log(
    `${values.connections} connections, ${result.duration} s: ${answers} answers, ${rate.toFixed(0)} tokens/s, ${errors} errors, ${timeouts} timeouts, ${non2xx} not 2xx, ${mismatches} cut off`,
  );
  const problems = Object.entries({ errors, timeouts, mismatches, non2xx }).filter(([, count]) => count > 0);
  for (const [name, count] of problems) console.error(`${count} ${name}`);
  const grown = Object.keys(allowed).filter((what) => after[what] - before[what] > allowed[what]);
  for (const what of grown)
    console.error(`${what} grew by ${((after[what] - before[what]) / mebi).toFixed(1)} MiB`);
  if (answers === 0) console.error('no stream came to its end: give it more --seconds or fewer --tokens');
  if (problems.length + grown.length > 0 || answers === 0) process.exitCode = 1;
}

await { all: soak, serve, health }[values.part]();
