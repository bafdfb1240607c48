// Runs web-xgrammar, in a thread of its own: compiling a grammar for a large vocabulary takes milliseconds to seconds.
// Each message is a list of commands; each command is answered, in its order: { id, bits } or { id, error }.
//
// The package's script expects a browser or a CommonJS module. Its package.json calls it an ES module, in which it finds neither
// `require` nor `__filename`, so that neither import() nor require() loads it. Here it is compiled as the body of a function whose
// parameters it takes for the globals of a browser without `process`: WebAssembly, which it carries inside, is all that it uses then.
'use strict';
const { readFileSync } = require('node:fs');
const { pathToFileURL } = require('node:url');
const { compileFunction } = require('node:vm');
const { parentPort, workerData } = require('node:worker_threads');

/** Compiled grammars that are kept. */
const mostGrammars = 32;

const said = [];
const listen = (...words) => said.push(words.join(' '));

function load(path) {
  const parameters = ['exports', 'module', 'location', 'process', 'console'];
  const run = compileFunction(readFileSync(path, 'utf8'), parameters, { filename: path });
  const module = { exports: {} };
  const console = { log: listen, warn: listen, error: listen };
  run(module.exports, module, { href: pathToFileURL(path).href }, undefined, console);
  return module.exports;
}

const xgrammar = load(workerData.path);

const ready = (async () => {
  const { vocabulary, vocabSize, stop } = workerData;
  const info = await xgrammar.TokenizerInfo.createTokenizerInfo(
    vocabulary.split('\0'),
    'raw',
    false,
    vocabSize,
    stop,
  );
  // Its own cache has no bound.
  return xgrammar.GrammarCompiler.createGrammarCompiler(info, false);
})();

/** The one that was used last comes last. */
const grammars = new Map();

async function compiled(text) {
  let grammar = grammars.get(text);
  grammars.delete(text);
  grammar ??= await (await ready).compileGrammar(text);
  grammars.set(text, grammar);
  if (grammars.size > mostGrammars) {
    const [oldest] = grammars.keys();
    grammars.get(oldest).dispose();
    grammars.delete(oldest);
  }
  return grammar;
}

const matchers = new Map();

async function answer({ id, grammar, token }) {
  if (grammar !== undefined)
    matchers.set(id, await xgrammar.GrammarMatcher.createGrammarMatcher(await compiled(grammar)));
  const matcher = matchers.get(id);
  if (token !== undefined && !matcher.acceptToken(token))
    throw new Error(`token ${token} is not one that may follow`);
  return matcher.getNextTokenBitmask();
}

async function obey(commands) {
  let answers = [];
  const post = () => {
    if (answers.length > 0) parentPort.postMessage(answers);
    answers = [];
  };
  for (const command of commands) {
    const { id, end } = command;
    if (end) {
      matchers.get(id)?.dispose();
      matchers.delete(id);
      continue;
    }
    if (command.grammar !== undefined) post(); // others need not wait until it is compiled
    try {
      said.length = 0;
      answers.push({ id, bits: await answer(command) });
    } catch (error) {
      answers.push({ id, error: said[0] ?? error.message });
    }
  }
  post();
}

let turn = Promise.resolve();
parentPort.on('message', (commands) => {
  turn = turn.then(() => obey(commands));
});
