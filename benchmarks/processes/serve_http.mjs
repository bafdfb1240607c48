// Streams of `lora-native serve` that write at the same time, and their client: serve_http.mjs '{"model": DIR, "dtype": "bf16", "threads": 2, "vocabulary": 49152}'
// A line asks for { streams, tokens, newcomer } as serve_many.mjs has them.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { serve } from './serve.mjs';
import { promptsOf, writeTogether } from './streams.mjs';

const { model, dtype, threads, vocabulary } = JSON.parse(process.argv[2]);
const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const flags = [
  'serve',
  '--model',
  model,
  '--dtype',
  dtype,
  '--port',
  '0',
  '--max-batch-size',
  '32',
  '--json',
];
const env = { ...process.env, LORA_THREADS: String(threads) };
const server = spawn(process.execPath, [cli, ...flags], { env, stdio: ['ignore', 'pipe', 'inherit'] });
process.on('exit', () => server.kill());
const lines = createInterface({ input: server.stdout });
const [listening] = await Promise.race([once(lines, 'line'), once(server, 'exit')]);
const { url } = JSON.parse(listening);
const agent = new Agent({ keepAlive: true });
const newPrompt = promptsOf(vocabulary);

/** Asks for a text as a stream, and calls `seen` at each of its events that has some. */
async function complete(prompt, tokens, seen) {
  const asked = request(`${url}/v1/completions`, {
    ...{ agent, method: 'POST', headers: { 'content-type': 'application/json' } },
  });
  // With log-probabilities each token has its event, also where it is no whole character.
  asked.end(
    JSON.stringify({
      ...{ prompt, max_tokens: tokens, stream: true, ignore_eos: true, temperature: 0, logprobs: 0 },
    }),
  );
  const [response] = await once(asked, 'response');
  let count = 0;
  for await (const line of createInterface({ input: response })) {
    if (line.startsWith('data: {"error"') || line.startsWith('{')) throw new Error(line);
    if (!line.startsWith('data: {') || count === tokens) continue; // the last event has the reason alone
    count++;
    seen();
  }
  if (count !== tokens) throw new Error(`expected ${tokens} tokens but received ${count}`);
}

await serve({}, ({ streams, tokens, newcomer = 0 }) => {
  const arrive = async () => {
    const began = performance.now();
    let first;
    await complete(newPrompt(newcomer), 1, () => (first = (performance.now() - began) / 1000));
    return first;
  };
  const write = (_, seen) => complete(newPrompt(16), tokens, seen);
  return writeTogether(streams, write, newcomer > 0 ? arrive : undefined);
});
