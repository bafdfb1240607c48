// LORA_MEMORY_LIMIT=154624: what is asked for would fit, the block that holds it does not.
import { complaint, cpu, native, print } from './common.mjs';

print({ alloc: await complaint(() => native.alloc(cpu, 'f32', [149_248 / 4])) });
