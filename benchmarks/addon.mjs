// The native add-on itself, which lora-native has loaded: for what the published API does not have.
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);

/** The same copy that the package loads, or an error that says why there is none (lib/native/loader.ts). */
export function addon() {
  if (process.env.LORA_NATIVE_BINARY) return require(process.env.LORA_NATIVE_BINARY);
  return require('node-gyp-build')(join(dirname(fileURLToPath(import.meta.url)), '..'));
}
