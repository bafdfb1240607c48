// Names of kernels, and what the names of functions in an object say of them.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const native = join(dirname(fileURLToPath(import.meta.url)), '../../native');
/** The formats of weights by the numbers that they have in names: what each is called, and of how many values a block is of how many bytes. */
export const weightFormats = [
  ...readFileSync(join(native, 'core/maths/weight_format.h'), 'utf8').matchAll(
    /^ {4}\{"(\w+)", DType::\w+, \{(\d+), (\d+)\}/gm,
  ),
].map(([, name, values, bytes]) => ({ name, values: Number(values), bytes: Number(bytes) }));

/** A kernel's name as c++filt writes it, without namespaces, return type and parameters. */
function shortened(name) {
  const text = name.replace(/lora::device::/g, '').replace(/^void /, '');
  return text
    .slice(0, endOf(text, '('))
    .replace(/\(lora::WeightFormat\)(\d+)/g, (_, number) => weightFormats[Number(number)].name)
    .replace(/\((?:int|bool|unsigned int)\)/g, '');
}
/** Where a character stands in a text that is inside of no <> and no (); the text's length where it is nowhere. */
function endOf(text, character) {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    if (depth === 0 && text[i] === character) return i;
    if (text[i] === '<' || text[i] === '(') depth++;
    else if (text[i] === '>' || text[i] === ')') depth--;
  }
  return text.length;
}

const demangled = new Map();
/** The name of a kernel from its symbol. */
export function demangle(symbol) {
  let name = demangled.get(symbol);
  if (name === undefined) {
    name = shortened(execFileSync('c++filt', [symbol], { encoding: 'utf8' }).trim());
    demangled.set(symbol, name);
  }
  return name;
}

/**
 * The dynamic shared memory of the kernels that an object launches, by their names: bytes, or 'by call' where each launch has its own. It
 * stands in the names of the functions cuda::Start<BYTES, &KERNEL, …> (native/backend/cuda/launch.h), as `nm --demangle` writes them.
 */
export function sharedBytesIn(symbols) {
  const bytes = new Map();
  for (const [, number, rest] of symbols.matchAll(/ lora::cuda::Start<(\d+)ul, &(.*)/g)) {
    const kernel = rest.startsWith('(')
      ? rest.slice(1, endOf(rest.slice(1), ')') + 1)
      : rest.slice(0, endOf(rest, ','));
    bytes.set(shortened(kernel), BigInt(number) === 2n ** 64n - 1n ? 'by call' : Number(number));
  }
  return bytes;
}
