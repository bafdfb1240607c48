/** Finds the optional package that matches grammars. */
import { loraError } from '../errors';

const name = '@mlc-ai/web-xgrammar';

/**
 * The path of its script. What requires it is the thread that runs it: matcher.worker.js says how.
 * @throws ERR_UNSUPPORTED where it is not installed.
 */
export function packagePath(): string {
  try {
    return require.resolve('@mlc-ai/web-xgrammar');
  } catch (cause) {
    throw loraError(
      'generate',
      'ERR_UNSUPPORTED',
      `jsonSchema needs the optional package ${name}, which is not installed: npm install ${name}`,
      cause,
    );
  }
}
