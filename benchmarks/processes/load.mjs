// Loads a model and tells the most memory that it had meanwhile: load.mjs '{"model": DIR, "dtype": "bf16"}'
import { readFileSync } from 'node:fs';
import { CausalLM } from 'lora-native';

/** In bytes: VmHWM is the peak of RAM that the process had, mapped pages of files among it. */
const peak = () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;

const { model, dtype } = JSON.parse(process.argv[2]);
const before = peak();
const start = performance.now();
const loaded = await CausalLM.fromPretrained(model, { dtype });
const seconds = (performance.now() - start) / 1000;
console.log(JSON.stringify({ before, peak: peak(), seconds, parameters: loaded.parameterCount }));
process.exit(0);
