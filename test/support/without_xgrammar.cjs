/** For node --require: as if the optional package were not installed. */
const Module = require('node:module');
const resolve = Module._resolveFilename;
Module._resolveFilename = function (name, ...rest) {
  if (name.startsWith('@mlc-ai/')) throw Object.assign(new Error(`no ${name}`), { code: 'MODULE_NOT_FOUND' });
  return resolve.call(this, name, ...rest);
};
