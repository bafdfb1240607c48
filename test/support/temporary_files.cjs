// Jest's globalSetup: gives a run of the tests a temporary folder of its own, which remove_temporary_files.cjs removes.
const { mkdtempSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');

const variables = ['TMPDIR', 'TEMP']; // os.tmpdir() reads the first, on Windows the second

/** Workers, and the programs that tests start, inherit the folder. */
module.exports = async () => {
  const before = variables.map((name) => process.env[name]);
  const folder = mkdtempSync(join(tmpdir(), 'lora-native-tests-'));
  for (const name of variables) process.env[name] = folder;
  globalThis.removeTemporaryFiles = () => {
    variables.forEach((name, i) => {
      if (before[i] === undefined) delete process.env[name];
      else process.env[name] = before[i];
    });
    rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  };
};
