// Loads a model and tells the most memory that it had meanwhile: load.mjs '{"model": DIR, "dtype": "bf16"}'
import { CausalLM } from 'lora-native';
import { peakBytes } from './peak.mjs';

const { model, dtype } = JSON.parse(process.argv[2]);
const before = peakBytes();
const start = performance.now();
const loaded = await CausalLM.fromPretrained(model, { dtype });
const seconds = (performance.now() - start) / 1000;
console.log(JSON.stringify({ before, peak: peakBytes(), seconds, parameters: loaded.parameterCount }));
process.exit(0);
