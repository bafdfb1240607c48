/** llama.cpp through node-llama-cpp, where NODE_PATH or a folder above has it. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

/** Where it lies; undefined where it is not installed. */
export const llamaCpp = ((): string | undefined => {
  const found = spawnSync(process.execPath, ['-p', "require.resolve('node-llama-cpp')"], {
    encoding: 'utf8',
  });
  return found.status === 0 ? found.stdout.trim() : undefined;
})();

export interface LlamaCppAnswer {
  /** The ids of each text. */
  readonly tokens: number[][];
  /** The most probable ids after the first one. */
  readonly greedy: number[];
}

/** @param count of ids after the first text */
export function askLlamaCpp(
  model: string,
  texts: readonly string[],
  count: number,
  lora = 'none',
): LlamaCppAnswer {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(__dirname, 'llama_cpp_program.mjs'), llamaCpp!, model, String(count), lora],
    { input: JSON.stringify(texts), encoding: 'utf8' },
  );
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as LlamaCppAnswer;
}
