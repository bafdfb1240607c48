/** A file that the bundle holds as text, for tests. */
module.exports = { process: (text) => ({ code: `module.exports = ${JSON.stringify(text)};` }) };
