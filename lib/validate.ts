/** Argument checks and the words of their sentences. */
import { inspect } from 'node:util';
import { loraError } from './errors';

/**
 * Throws ERR_ARGUMENT `[op] message` unless the condition holds. A message that says what a shape or a value is costs more than
 * most checks: what runs at each call of an op gives a function that makes it.
 */
export function check(condition: unknown, op: string, message: string | (() => string)): asserts condition {
  if (condition) return;
  const sentence = typeof message === 'string' ? message : message();
  throw loraError(op, 'ERR_ARGUMENT', sentence);
}

/** Throws ERR_ARGUMENT for a typed array whose memory was transferred to another thread, or whose file was closed. */
export function checkAttached(op: string, what: string, { buffer }: ArrayBufferView): void {
  try {
    new Uint8Array(buffer, 0, 0); // Node.js 20 has no other way to ask
  } catch {
    check(false, op, `${what} has no memory any more: it was transferred, or its file was closed`);
  }
}

/** Throws ERR_UNSUPPORTED, because gradients are computed in f32 and bf16 only. */
export function refuseF16Training(op: string, what = 'with f16 activations'): never {
  throw loraError(op, 'ERR_UNSUPPORTED', `training ${what} is not supported; use bf16`);
}

/** Whether p can be a probability of dropout, as CheckProbability of native/core/ops/linear.cc has it; a test compares them. */
export function isDropout(p: number): boolean {
  return p >= 0 && p < 1;
}

/** Words of other libraries, and near misses that edit distance does not find. */
const synonyms: Readonly<Record<string, readonly string[]>> = {
  learningRate: ['lr'],
  learning_rate: ['lr'],
  rank: ['r'],
  alpha: ['loraAlpha', 'alpha'],
  dropout: ['loraDropout', 'dropout'],
  rslora: ['useRslora'],
  steps: ['maxSteps', 'totalSteps'],
  numSteps: ['maxSteps', 'totalSteps'],
  numTrainingSteps: ['totalSteps'],
  numWarmupSteps: ['warmupSteps'],
  warmup: ['warmupSteps'],
  numEpochs: ['epochs'],
  numTrainEpochs: ['epochs'],
  targets: ['targetModules'],
  modules: ['targetModules'],
  outputDir: ['outDir'],
  output: ['outDir'],
  out: ['outDir'],
  perDeviceTrainBatchSize: ['batchSize'],
  batch: ['batchSize'],
  gradAccumSteps: ['gradientAccumulationSteps'],
  accumulate: ['gradientAccumulationSteps'],
  maxGradientNorm: ['maxGradNorm'],
  clip: ['maxGradNorm'],
  scheduler: ['schedule'],
  lrSchedulerType: ['schedule'],
  decay: ['weightDecay'],
  beta1: ['betas'],
  beta2: ['betas'],
  epsilon: ['eps'],
  maxTokens: ['maxNewTokens'],
  maxSeqLength: ['maxLength'],
  maxSequenceLength: ['maxLength'],
  temp: ['temperature'],
  randomSeed: ['seed'],
  type: ['dtype'],
  torchDtype: ['dtype'],
  bfloat16: ['bf16'],
  float16: ['f16'],
  half: ['f16'],
  float32: ['f32'],
  float: ['f32'],
  int32: ['i32'],
  size: ['shape'],
  requires_grad: ['requiresGrad'],
  trainable: ['requiresGrad'],
  inputSize: ['inFeatures'],
  outputSize: ['outFeatures'],
  axis: ['dim'],
  dims: ['dim'],
  keepdim: ['keepDim'],
  keepdims: ['keepDim'],
  evaluateEvery: ['evalEvery'],
  validationData: ['evalData'],
  signalAbort: ['signal'],
};

const camel = (word: string): string =>
  word.replace(/[-_]+([a-z0-9])/gi, (_, letter: string) => letter.toUpperCase());

/** Edits (insert, delete, replace, swap neighbors) between two words. */
function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let best = Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, rows[i - 1]![j - 1]! + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        best = Math.min(best, rows[i - 2]![j - 2]! + 1);
      }
      row.push(best);
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}

/** Longer words come from files, not from slips, and the table of edits grows with them. */
const longestWord = 100;

/** The word of `words` that was probably meant: by synonym, then by edit distance; undefined when none is near. */
export function suggest(word: string, words: readonly string[]): string | undefined {
  if (word.length > longestWord) return undefined;
  const plain = camel(word);
  for (const candidate of [word, plain]) {
    if (words.includes(candidate) && candidate !== word) return candidate;
    const known = Object.hasOwn(synonyms, candidate) ? synonyms[candidate]! : [];
    const hit = known.find((w) => words.includes(w));
    if (hit !== undefined) return hit;
  }
  const longer = words.find((w) => plain.startsWith(w) || (plain.length > 3 && w.startsWith(plain)));
  if (longer !== undefined && longer.length > 3) return longer;
  let best: string | undefined;
  let distance = Infinity;
  for (const w of words) {
    const d = editDistance(plain.toLowerCase(), camel(w).toLowerCase());
    if (d < distance) [best, distance] = [w, d];
  }
  return best !== undefined && distance <= Math.max(1, Math.floor(plain.length / 3)) ? best : undefined;
}

/**
 * Throws ERR_ARGUMENT on an option that is not in `allowed`, and names the one that was probably meant. `internal`: what the library
 * itself gives, of which programs do not learn.
 */
export function checkOptions(
  op: string,
  options: object,
  allowed: readonly string[],
  internal: readonly string[] = [],
): void {
  check(
    typeof options === 'object' && options !== null && !Array.isArray(options),
    op,
    () => `expected an object of options but received ${describe(options)}`,
  );
  for (const name of Object.keys(options)) {
    if (allowed.includes(name) || internal.includes(name)) continue;
    const near = suggest(name, allowed);
    const help = near === undefined ? `; the options are ${allowed.join(', ')}` : `; did you mean '${near}'?`;
    check(false, op, `unknown option '${name}'${help}`);
  }
}

/** A value in a few words, for "… but received …". */
export function describe(value: unknown): string {
  if (value === null || value === undefined || typeof value === 'boolean') return String(value);
  if (typeof value === 'string') return value.length > 60 ? `'${value.slice(0, 57)}…'` : `'${value}'`;
  if (typeof value === 'number' || typeof value === 'bigint') return inspect(value);
  if (typeof value === 'function') return value.name ? `function ${value.name}` : 'a function';
  if (typeof value === 'symbol') return value.toString();
  if (Array.isArray(value)) {
    const short = value.length <= 8 && value.every((v) => typeof v === 'number' || typeof v === 'string');
    return short ? `[${value.map(describe).join(', ')}]` : `an array of ${value.length}`;
  }
  if (ArrayBuffer.isView(value)) {
    const view = value as unknown as { length?: number; byteLength: number };
    return `a ${Object.prototype.toString.call(value).slice(8, -1)} of ${view.length ?? view.byteLength}`;
  }
  const tensor = value as { dtype?: unknown; shape?: unknown };
  if (typeof tensor.dtype === 'string' && Array.isArray(tensor.shape)) {
    return `a tensor ${tensor.dtype} ${shapeText(tensor.shape as number[])}`;
  }
  const name = (Object.getPrototypeOf(value) as { constructor?: { name?: string } } | null)?.constructor
    ?.name;
  return name && name !== 'Object' ? `an instance of ${name}` : 'an object';
}

/** A list for a sentence: the first few, and how many more. */
export function listed(names: readonly string[], most = 5): string {
  const rest = names.length - most;
  return names.slice(0, most).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}

/** `[2, 3]`. */
export function shapeText(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}

/** A safe integer of at least `least`. */
export function checkInteger(op: string, name: string, value: unknown, least = 0): asserts value is number {
  check(
    typeof value === 'number' && Number.isSafeInteger(value) && value >= least,
    op,
    () => `expected ${name} to be an integer of at least ${least} but received ${describe(value)}`,
  );
}

/** A finite number, of at least `least`. */
export function checkNumber(
  op: string,
  name: string,
  value: unknown,
  least = -Infinity,
): asserts value is number {
  check(typeof value === 'number' && Number.isFinite(value) && value >= least, op, () => {
    const bound = least === -Infinity ? 'a finite number' : `a finite number of at least ${least}`;
    return `expected ${name} to be ${bound} but received ${describe(value)}`;
  });
}

export function checkBoolean(op: string, name: string, value: unknown): asserts value is boolean {
  check(
    typeof value === 'boolean',
    op,
    () => `expected ${name} to be true or false but received ${describe(value)}`,
  );
}

/** An AbortSignal, of any realm, or nothing. */
export function checkSignal(op: string, value: unknown): asserts value is AbortSignal | undefined {
  check(
    value === undefined || typeof (value as AbortSignal | null)?.throwIfAborted === 'function',
    op,
    () => `expected signal to be an AbortSignal but received ${describe(value)}`,
  );
}

/** One word of a fixed set. */
export function checkOneOf<T extends string>(
  op: string,
  name: string,
  value: unknown,
  words: readonly T[],
): asserts value is T {
  if (words.includes(value as T)) return;
  const near = typeof value === 'string' ? suggest(value, words) : undefined;
  check(
    false,
    op,
    `expected ${name} to be ${words.map((w) => `'${w}'`).join(', ')} but received ${describe(value)}` +
      (near === undefined ? '' : `; did you mean '${near}'?`),
  );
}

/** Whether a value is a list whose items are all as `is` says. `every` would leave out the holes of a sparse one. */
export function isListOf<T>(value: unknown, is: (item: unknown) => item is T): value is T[];
export function isListOf(value: unknown, is: (item: unknown) => boolean): value is unknown[];
export function isListOf(value: unknown, is: (item: unknown) => boolean): value is unknown[] {
  if (!Array.isArray(value)) return false;
  for (let i = 0; i < value.length; i++) if (!is(value[i])) return false;
  return true;
}

/** A list of dimensions: integers of at least 0. */
export function checkShape(op: string, shape: unknown): asserts shape is readonly number[] {
  check(
    isListOf(shape, (d) => Number.isSafeInteger(d) && (d as number) >= 0),
    op,
    () => `expected shape to be a list of integers of at least 0 but received ${describe(shape)}`,
  );
}

export function numelOf(shape: readonly number[]): number {
  let n = 1;
  for (const d of shape) n *= d;
  return n;
}

/** True for an object that JSON text could give: neither an array nor null. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
