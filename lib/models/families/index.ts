/** The families whose mathematics is known, by model_type of config.json. */
import { llama } from './llama';
import { mistral } from './mistral';
import { qwen2 } from './qwen2';
import { qwen3 } from './qwen3';

export const families = { llama, mistral, qwen2, qwen3 } as const;

/** The families whose mathematics is known. SmolLM2 is a `llama`. */
export type ModelType = keyof typeof families;

export const modelTypes = Object.keys(families) as ModelType[];
