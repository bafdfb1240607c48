/**
 * For node --require, before a program that names no device: its models and tensors are on LORA_TEST_DEVICE, and its models in
 * LORA_TEST_DTYPE where that is set. The program must take the package from the dist/ of this folder.
 */
const Module = require('node:module');
const path = require.resolve('../../dist/index.js');
const { LORA_TEST_DEVICE: device, LORA_TEST_DTYPE: dtype } = process.env;

// What import gives is what a module exports when it has just been loaded, and the exports of a bundle cannot be assigned to.
const load = Module._extensions['.js'];
Module._extensions['.js'] = (module, filename) => {
  load(module, filename);
  if (filename !== path) return;
  const { CausalLM, tensor } = module.exports;
  const fromPretrained = CausalLM.fromPretrained.bind(CausalLM);
  CausalLM.fromPretrained = (source, options) =>
    fromPretrained(source, { device, ...options, ...(dtype && { dtype }) });
  module.exports = {
    ...module.exports,
    tensor: (values, options) => tensor(values, { device, ...options }),
  };
};
require(path);
Module._extensions['.js'] = load;
