// Runs web-xgrammar, in a thread of its own: compiling a grammar for a large vocabulary takes milliseconds to seconds.
// Each message is a list of commands; each command but `end` is answered, in its order: { id, full, bits, foreseen },
// { id, full, ahead } or { id, full, error }.
//
// The package's script expects a browser or a CommonJS module. Its package.json calls it an ES module, in which it finds neither
// `require` nor `__filename`, so that neither import() nor require() loads it. Here it is compiled as the body of a function whose
// parameters it takes for the globals of a browser without `process`: WebAssembly, which it carries inside, is all that it uses then.
/* global WebAssembly */
'use strict';
const { readFileSync } = require('node:fs');
const { pathToFileURL } = require('node:url');
const { compileFunction } = require('node:vm');
const { parentPort, workerData } = require('node:worker_threads');

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

/** Bytes of WebAssembly's memory. It has one that grows and never shrinks. */
let bytes = 0;
let maxBytes = Infinity;
const { grow } = WebAssembly.Memory.prototype;
WebAssembly.Memory.prototype.grow = function (pages) {
  if (this.buffer.byteLength + pages * 65536 > maxBytes) {
    said.push(`it takes more than ${workerData.bytes} bytes of memory`);
    throw new RangeError(said.at(-1));
  }
  const before = grow.call(this, pages);
  bytes = this.buffer.byteLength;
  return before;
};

const xgrammar = load(workerData.path);

const spellings = workerData.vocabulary.split('\0');

const ready = (async () => {
  const { vocabSize, stop } = workerData;
  const info = await xgrammar.TokenizerInfo.createTokenizerInfo(spellings, 'raw', false, vocabSize, stop);
  // Its own cache has no bound.
  const compiler = await xgrammar.GrammarCompiler.createGrammarCompiler(info, false);
  maxBytes = bytes + workerData.bytes;
  return { compiler, info };
})();

/** The one that was used last comes last. */
const grammars = new Map();

// compileGrammar() of a text and createGrammarMatcher() dispose neither of the parsed text nor of the vocabulary that they ask for.
async function compile(text) {
  const { compiler, info } = await ready;
  const parsed = await xgrammar.Grammar.fromEBNF(text);
  try {
    const grammar = await compiler.compileGrammar(parsed);
    grammar.tokenizerInfo = () => info;
    return grammar;
  } finally {
    parsed.dispose();
  }
}

async function compiled(text) {
  let grammar = grammars.get(text);
  grammars.delete(text);
  grammar ??= await compile(text);
  grammars.set(text, grammar);
  if (grammars.size > workerData.maxGrammars) {
    const [oldest] = grammars.keys();
    grammars.get(oldest).dispose();
    grammars.delete(oldest);
  }
  return grammar;
}

const allows = (bits, token) => ((bits[token >> 5] >> (token & 31)) & 1) === 1;

/** Where a text of JSON stands: its last character, whether that lies in a string, and the white space that it has had after { [ : and , */
class Place {
  last = '';
  quoted = false;
  #escaped = false;
  spaces = { '{': '', '[': '', ':': ' ', ',': ' ' };

  read(text) {
    for (const character of text) {
      if (!this.quoted && this.last in this.spaces)
        this.spaces[this.last] = ' \n\t'.includes(character) ? character : '';
      if (character === '"' && !this.#escaped) this.quoted = !this.quoted;
      this.#escaped = this.quoted && character === '\\' && !this.#escaped;
      this.last = character;
    }
  }

  /** The white space that comes next, if it comes as before. */
  get space() {
    return this.quoted ? '' : (this.spaces[this.last] ?? '');
  }

  copy() {
    const other = new Place();
    Object.assign(other, { last: this.last, quoted: this.quoted, spaces: { ...this.spaces } });
    other.#escaped = this.#escaped;
    return other;
  }
}

/** With one of them begins whatever is no white space, outside of strings. */
const beginnings = [...'"{}[]:,-0123456789.eEtfn'];
/** Characters that are looked for; more than most proposals have. */
const maxForeseen = 64;

/** The beginnings that the grammar allows here, two at most. */
function allowedHere(matcher) {
  const allowed = [];
  for (const character of beginnings) {
    if (!matcher._acceptString(character)) continue;
    matcher.rollBack(1);
    if (allowed.push(character) === 2) break;
  }
  return allowed;
}

/** What comes next while the grammar leaves no choice but of white space, which is taken to be as before. */
function foresee({ matcher, place: now }) {
  const place = now.copy();
  let text = '';
  let added = 0;
  const add = (part) => {
    if (part === '' || !matcher._acceptString(part)) return false;
    added++;
    text += part;
    place.read(part);
    return true;
  };
  while (text.length < maxForeseen) {
    if (add(matcher.findJumpForwardString()) || add(place.space)) continue;
    const allowed = allowedHere(matcher);
    if (allowed.length !== 1 || !add(allowed[0])) break;
  }
  if (added > 0) matcher.rollBack(added);
  return text;
}

const texts = new Map();

/** What may follow each of these tokens, as far as they may come; the first may. The matcher goes back. */
async function lookAhead(matcher, tokens) {
  const masks = [];
  for (const token of tokens) {
    const last = masks.at(-1);
    if ((last && !allows(last, token)) || !matcher.acceptToken(token)) break;
    masks.push(await matcher.getNextTokenBitmask());
  }
  if (masks.length > 0) matcher.rollBack(masks.length);
  return masks;
}

async function answer({ id, grammar, tokens, ahead, foresees }) {
  if (grammar !== undefined) {
    const matcher = await xgrammar.GrammarMatcher.createGrammarMatcher(await compiled(grammar));
    texts.set(id, { matcher, foresees, place: new Place() });
  }
  const text = texts.get(id);
  if (ahead) return { ahead: await lookAhead(text.matcher, ahead) };
  for (const token of tokens) {
    if (!text.matcher.acceptToken(token)) throw new Error(`token ${token} is not one that may follow`);
    if (text.foresees) text.place.read(spellings[token]);
  }
  const bits = await text.matcher.getNextTokenBitmask();
  return { bits, foreseen: text.foresees ? foresee(text) : undefined };
}

/** Says which command is worked on: how many there were, and the id of this one; -1 where there is none. */
function begin(id) {
  Atomics.store(workerData.progress, 1, id);
  Atomics.add(workerData.progress, 0, 1);
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
      texts.get(id)?.matcher.dispose();
      texts.delete(id);
      continue;
    }
    if (command.grammar !== undefined) post(); // others need not wait until it is compiled
    try {
      await ready;
      begin(id);
      said.length = 0;
      const found = await answer(command);
      answers.push({ id, full: bytes > maxBytes - workerData.bytes / 2, ...found });
    } catch (error) {
      answers.push({ id, full: true, error: said[0] ?? error.message });
    }
  }
  begin(-1);
  post();
}

let turn = Promise.resolve();
parentPort.on('message', (commands) => {
  turn = turn.then(() => obey(commands));
});
