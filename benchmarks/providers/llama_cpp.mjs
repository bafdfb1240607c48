// node-llama-cpp as a rival. It is no dependency: where NODE_PATH names a folder with it, it runs in a process of its own.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { processes } from '../kinds/whole_model.mjs';
import { rivalEnvironment, Worker } from './worker.mjs';

/** Starts processes/NAME, which finds the library in its settings. @throws where it is not installed, with what to do. */
export function startLlamaCpp(name, settings) {
  let library;
  try {
    library = createRequire(import.meta.url).resolve('node-llama-cpp');
  } catch {
    throw new Error(
      'it is not installed: npm install --prefix FOLDER node-llama-cpp, NODE_PATH=FOLDER/node_modules',
    );
  }
  const command = [join(processes, name), JSON.stringify({ ...settings, library })];
  return Worker.start('node-llama-cpp', process.execPath, command, rivalEnvironment(settings.threads));
}
