// Training that is killed at random moments and resumed ends bitwise as the undisturbed run; every checkpoint loads meanwhile.
//
//   node scripts/killed-training.mjs [--kills 200] [--seed 1] [--model DIR]
//
// Each run takes 24 steps, saves after every one, and is killed (SIGKILL) and started again with resume until it ends by itself.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CausalLM, Trainer } from 'lora-native';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '200' },
    seed: { type: 'string', default: '1' },
    model: { type: 'string', default: fileURLToPath(new URL('../examples/base-model', import.meta.url)) },
    train: { type: 'string' }, // the folder of a run: this process trains, and is killed
  },
});

/** One process: takes up the run of the folder where it is. */
async function train(outDir) {
  const model = await CausalLM.fromPretrained(values.model, { dtype: 'f32' });
  model.addAdapter({ r: 2, loraDropout: 0.2, targetModules: ['q_proj', 'v_proj'] }, { seed: 7 });
  const row = (i) => Array.from({ length: 5 + (i % 7) }, (_, j) => 1 + ((i * 37 + j * 11) % 400));
  const data = Array.from({ length: 13 }, (_, i) => ({ inputIds: row(i) }));
  const steps = { maxSteps: 24, batchSize: 2, gradientAccumulationSteps: 2, lr: 1e-2, seed: 3 };
  const files = { outDir, saveEvery: 1, saveLimit: 2, resume: true };
  for await (const e of new Trainer({ model, data, ...steps, ...files }).run())
    if (e.type === 'start' || e.type === 'step') console.log(`${e.type} ${e.step}`);
  await model.dispose();
}

/** Starts a process; `moment` ms after its first step it is killed. Gives its words, and whether it ended by itself. */
async function start(outDir, moment) {
  const args = [fileURLToPath(import.meta.url), '--model', values.model, '--train', outDir];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let [out, error] = ['', ''];
  child.stderr.on('data', (text) => (error += text));
  child.stdout.on('data', (text) => {
    const first = out === '';
    out += text;
    if (first && moment !== undefined) setTimeout(() => child.kill('SIGKILL'), moment);
  });
  const [status, signal] = await new Promise((end) => child.once('close', (...how) => end(how)));
  if (signal !== 'SIGKILL' && status !== 0)
    throw new Error(`the run ended with ${status ?? signal}\n${error}`);
  return { out, killed: signal === 'SIGKILL' };
}

const weights = (dir) =>
  createHash('sha256')
    .update(readFileSync(join(dir, 'adapter_model.safetensors')))
    .digest('hex');

if (values.train !== undefined) await train(values.train);
else {
  let state = Number(values.seed) >>> 0;
  const random = (end) => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32) * end;
  const scratch = mkdtempSync(join(tmpdir(), 'killed-training-'));
  try {
    const whole = join(scratch, 'whole');
    await start(whole);
    let [kills, runs, resumed] = [0, 0, 0];
    while (kills < Number(values.kills)) {
      const dir = join(scratch, `run-${runs++}`);
      for (let going = true; going;) {
        const { out, killed } = await start(dir, random(400));
        if (!out.startsWith('start 0\n')) resumed++;
        if (killed) kills++;
        going = killed;
      }
      if (weights(dir) !== weights(whole))
        throw new Error(`run ${runs} ended with other weights (--seed ${values.seed})`);
      const left = readdirSync(dir).filter((name) => name.startsWith('.'));
      if (left.length > 0) throw new Error(`run ${runs} left ${left.join(', ')}`);
      const checkpoints = readdirSync(dir).filter((name) => name.startsWith('checkpoint-'));
      if (checkpoints.sort().join() !== 'checkpoint-23,checkpoint-24')
        throw new Error(`run ${runs} left ${checkpoints.join(', ')} with saveLimit 2`);
      rmSync(dir, { recursive: true });
    }
    console.log(
      `${kills} kills, ${resumed} resumed, ${runs} runs ended with the bits of the undisturbed one`,
    );
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
