// Jest's globalTeardown: removes what the tests left in the folder of temporary_files.cjs.
module.exports = async () => globalThis.removeTemporaryFiles();
