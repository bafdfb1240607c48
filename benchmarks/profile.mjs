// npm run bench -- --profile [--model DIR] [--dtype bf16] [--shape 1x512] [--steps 3] [--json]
// npm run bench -- --profile --decode 16 [--model DIR] [--dtype bf16] [--json]
//
// Where a training step, or a written token, spends its time: a table by op, forward and backward, and one by op and shape.
import { CausalLM, synchronize } from 'lora-native';
import { addon } from './addon.mjs';
import { steps, trainable } from './steps.mjs';

/** Groups entries of the add-on's profile by `key`; the longest first. */
function grouped(entries, key) {
  const groups = new Map();
  for (const entry of entries) {
    const name = key(entry);
    const group = groups.get(name) ?? { name, calls: 0, ms: 0, flops: 0, bytes: 0 };
    group.calls += entry.calls;
    group.ms += entry.ms;
    group.flops += entry.flops * entry.calls;
    group.bytes += entry.bytes * entry.calls;
    groups.set(name, group);
  }
  return [...groups.values()].sort((a, b) => b.ms - a.ms);
}

/** Rows of `count` steps that took `ms` each. */
function table(groups, count, ms) {
  const width = Math.max(...groups.map(({ name }) => name.length), 20);
  const line = (name, ...cells) => name.padEnd(width) + cells.map((cell) => cell.padStart(9)).join('');
  console.log(line('', 'share', 'calls', 'ms', 'GFLOP/s', 'GB/s'));
  for (const group of groups) {
    const rate = (amount) => (amount ? (amount / group.ms / 1e6).toFixed(1) : '');
    const share = `${((100 * group.ms) / count / ms).toFixed(1)}%`;
    const calls = group.calls === undefined ? '' : String(Number((group.calls / count).toFixed(1)));
    const each = (group.ms / count).toFixed(2);
    console.log(line(group.name, share, calls, each, rate(group.flops), rate(group.bytes)));
  }
}

/** Prints tables of a profile over `count` steps or tokens of `ms` each, or JSON. `figures` say what was run. */
function report(entries, { what, title, count, ms, figures, json }) {
  const ops = grouped(entries, ({ op }) => op);
  const inOps = ops.reduce((sum, group) => sum + group.ms, 0) / count;
  if (json) {
    console.log(JSON.stringify({ ...figures, [`msPer${what}`]: ms, msInOps: inOps, entries }, null, 1));
    return;
  }
  const rest = { name: '(between ops)', ms: (ms - inOps) * count };
  const all = {
    name: what.toLowerCase(),
    ms: ms * count,
    calls: ops.reduce((sum, group) => sum + group.calls, 0),
    flops: ops.reduce((sum, group) => sum + group.flops, 0),
  };
  console.log(`${title}:\n`);
  table([...ops, rest, all], count, ms);
  console.log('\nby shape:\n');
  table(
    grouped(entries, ({ op, shape }) => `${op}  ${shape}`),
    count,
    ms,
  );
}

/** Profiles `count` training steps; prints tables, or JSON. */
export async function profileSteps({ model: directory, dtype, batch, length, count, device = 'cpu', json }) {
  const native = addon();
  const model = await trainable(directory, { dtype, device });
  const run = steps(model, { batch, length });
  for (let i = 0; i < 2; i++) await run.next(); // makes the layouts for gradients, and takes the memory
  await synchronize(device);
  native.startProfile(native.openDevice(device));
  const start = performance.now();
  for (let i = 0; i < count; i++) await run.next();
  const ms = (performance.now() - start) / count;
  const entries = native.endProfile(native.openDevice(device)).filter(({ calls }) => calls > 0);
  await run.return();
  await model.dispose();
  const title = `A training step, ${dtype}, ${batch} × ${length} tokens, mean of ${count} steps, per step`;
  report(entries, {
    what: 'Step',
    title,
    count,
    ms,
    json,
    figures: { dtype, batch, length, steps: count },
  });
}

/** Profiles `count` tokens that are written after a prompt of `prompt` ids; prints tables, or JSON. */
export async function profileDecode({ model: directory, dtype, prompt, count = 128, device = 'cpu', json }) {
  const native = addon();
  const model = await CausalLM.fromPretrained(directory, { dtype, device });
  const ids = Array.from({ length: prompt }, (_, i) => (i * 7919) % model.config.vocabSize);
  const write = (maxNewTokens) => model.generate(ids, { maxNewTokens, ignoreEos: true, temperature: 0 });
  // The first token is that of the prompt. The program of a decode step is recorded, and hence timed, with the second.
  await write(1);
  native.startProfile(native.openDevice(device));
  const { timings } = await write(count + 1);
  // The end of the prompt is read again, by calls of its own that are fewer than the tokens.
  const entries = native.endProfile(native.openDevice(device)).filter(({ calls }) => calls >= count);
  await model.dispose();
  report(entries, {
    what: 'Token',
    title: `A written token, ${dtype}, after a prompt of ${prompt}, mean of ${count} tokens, per token`,
    count,
    ms: (timings.totalMs - timings.firstTokenMs) / count,
    json,
    figures: { dtype, prompt, tokens: count },
  });
}
