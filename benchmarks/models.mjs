// Where the models of the cases are.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findPython } from './providers/rival.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
export const cache = process.env.LORA_TEST_CACHE ?? join(homedir(), '.cache/lora-native-test');
export const shared = join(root, '../shared');

/** The folder of SmolLM2-135M in the cache of the tests; made from ../shared/data where that is there and numpy too. */
function smollm() {
  const dir = join(cache, 'smollm2-135m');
  if (existsSync(join(dir, 'config.json'))) return { dir };
  const script = join(shared, 'data/models/smollm2-135m/make.py');
  if (!existsSync(script)) return { reason: `${dir} is absent, and so is ${script}` };
  const python = findPython('import numpy');
  if (!python) return { reason: `${dir} is absent, and no python3 with numpy makes it (${script})` };
  const { status, stderr } = spawnSync(python, [script, dir], { encoding: 'utf8' });
  return status === 0 ? { dir } : { reason: `${script} failed: ${stderr.trim().slice(-300)}` };
}

/**
 * { dir, name } of a model of cases.json, or { reason }. `given` are folders by name, of the command line. Without SmolLM2-135M its
 * cases run with the small model of examples/, which the name then says.
 */
export function findModel(name, given = {}) {
  if (given[name] !== undefined)
    return existsSync(join(given[name], 'config.json'))
      ? { dir: given[name], name }
      : { reason: `${given[name]} has no config.json` };
  const bundled = join(root, 'examples/base-model');
  if (name === 'bundled model') return { dir: bundled, name };
  if (name === 'SmolLM2-135M') {
    const { dir, reason } = smollm();
    if (dir) return { dir, name };
    if (existsSync(bundled)) return { dir: bundled, name: 'bundled model', instead: reason };
    return { reason };
  }
  const dir = join(cache, 'llama-1b-shape');
  if (existsSync(join(dir, 'model.safetensors'))) return { dir, name };
  return { reason: `${dir} is absent: $LORA_PYTHON ../shared/baselines/make_1b.py ${dir} makes it (2.1 GB)` };
}
