/** Says at once that the library was bundled, where a bundle cannot even load Node's own modules. */
import { LoRAError } from '../errors';

export const bundledSentence =
  '[native] lora-native was bundled into another program, and a bundle cannot hold its native binary. Leave the package ' +
  "out of the bundle (esbuild: external: ['lora-native']) and install it beside the program, or set " +
  'LORA_NATIVE_BINARY to the path of lora_native.node';

/** Node's own module, which the bundler may not see here: an import would be above the try below. */
// eslint-disable-next-line @typescript-eslint/no-require-imports -- see above
const nodeModule = (): object => require('node:module') as object;

try {
  // An ES module that esbuild made has no require: the first one throws "Dynamic require of … is not supported".
  if (!('createRequire' in nodeModule())) throw new Error('there is no createRequire in node:module');
} catch (cause) {
  throw new LoRAError('ERR_BINARY', bundledSentence, { op: 'native', cause });
}
