/**
 * The way to the add-on: every op that can fail later is marked with a tag, and the caller's stack is kept
 * under it for a while, so that the error that a read reports shows where the op was called.
 */
import { findSourceMap } from 'node:module';
import { basename, dirname, sep } from 'node:path';
import { native, type NativeBinding } from './binding';
import { LoRAError, type ErrorCode } from '../errors';

const ringSize = 4096;
const frames = 12;
/** The folder of this package's code: lib/ as source, dist/ as a bundle. */
const ownFolder = (basename(__dirname) === 'native' ? dirname(__dirname) : __dirname) + sep;

// It is formatted at once, because an unformatted stack would keep the receivers of its frames, tensors among them, alive.
const stacks: string[] = new Array<string>(ringSize).fill('');
const tags = new Float64Array(ringSize);
const texts = new Map<string, string>();
const delivered = new Set<number>();
let lastTag = 0;
/** The tag that the add-on has; 0 outside ops, where an error is thrown at the caller anyway. */
let currentTag = 0;
let depth = 0;
let peeking = false;
let failedTag = 0;
let ready: NativeBinding | undefined;

/** Whether a frame is code of the program: neither ours nor Node's. */
function isOutside(site: NodeJS.CallSite): boolean {
  const file = site.getFileName() ?? '';
  return !file.includes(ownFolder) && !file.startsWith('node:');
}

/**
 * The frames of the program, or all where it has none, as V8 writes them: the hooks of source maps and test runners are far too
 * slow for every op. The text of a frame costs ten times what its file does, so those that nobody reads get none.
 */
function plainStack(_: Error, sites: NodeJS.CallSite[]): string {
  const outside = sites.filter(isOutside);
  const shown = outside.length > 0 ? outside : sites;
  return shown.map((site) => `    at ${site as unknown as string}`).join('\n');
}

/** The caller's stack, for an `entry` in a later turn of the event loop. */
export function callerStack(): string {
  const hooks: { prepareStackTrace?: unknown; stackTraceLimit: number } = Error;
  const { prepareStackTrace, stackTraceLimit } = hooks;
  const holder: { stack?: string } = {};
  try {
    hooks.prepareStackTrace = plainStack;
    hooks.stackTraceLimit = frames;
    Error.captureStackTrace(holder, callerStack);
    return holder.stack ?? '';
  } finally {
    // This runs also where the stack has no room for these calls, because the hooks belong to the program.
    hooks.prepareStackTrace = prepareStackTrace;
    hooks.stackTraceLimit = stackTraceLimit;
  }
}

function mark(text = callerStack()): void {
  const stack = shared(text);
  lastTag++;
  tags[lastTag % ringSize] = lastTag;
  stacks[lastTag % ringSize] = stack;
}

/** Keeps one copy of equal texts, because a loop calls from the same lines again and again. */
function shared(text: string): string {
  const known = texts.get(text);
  if (known !== undefined) return known;
  if (texts.size >= 256) texts.clear();
  texts.set(text, text);
  return text;
}

function use(loaded: NativeBinding, tag: number): NativeBinding {
  if (tag !== currentTag) {
    loaded.setTag(tag);
    currentTag = tag;
  }
  return loaded;
}

/** A frame at its place in the source, where Node maps sources. */
function mapFrame(frame: string): string {
  return frame.replace(
    /(\/[^():]+|file:[^()]+?):(\d+):(\d+)/,
    (place, file: string, line: string, column: string) => {
      const entry = findSourceMap(file)?.findEntry(Number(line) - 1, Number(column) - 1);
      if (entry === undefined || !('originalSource' in entry)) return place;
      return `${entry.originalSource}:${entry.originalLine + 1}:${entry.originalColumn + 1}`;
    },
  );
}

function callerFrames(tag: number): string {
  if (tag <= 0 || tags[tag % ringSize] !== tag) return '';
  const stack = stacks[tag % ringSize]!;
  return process.sourceMapsEnabled ? stack.split('\n').map(mapFrame).join('\n') : stack;
}

function makeError(code: string, op: string, message: string, tag: number): LoRAError {
  const error = new LoRAError(code as ErrorCode, message, op === '' ? {} : { op });
  const where = callerFrames(tag);
  if (where !== '') error.stack = `LoRAError: ${message}\n${where}`;
  if (!peeking) {
    delivered.add(tag);
    if (delivered.size > ringSize) delivered.delete(delivered.values().next().value!);
  }
  failedTag = tag;
  return error;
}

function load(): NativeBinding {
  if (ready === undefined) {
    const loaded = native();
    loaded.setErrorFactory(makeError);
    loaded.setTag(currentTag); // another realm of this process may have set its own tag
    ready = loaded;
  }
  return ready;
}

/** The add-on, for calls that are not ops (reads, memory, files). */
export function binding(): NativeBinding {
  return use(load(), 0);
}

/** The add-on, for an op: marks the call unless an outer `entry` has. */
export function call(): NativeBinding {
  if (depth === 0) mark();
  return use(load(), lastTag);
}

/**
 * Runs a synchronous function whose ops all count as one call by its caller. `stack`: what their failures show in the place of
 * the caller's stack, where no line of the program is behind the call.
 */
export function entry<T>(fn: () => T, stack?: string): T {
  if (depth === 0) mark(stack);
  depth++;
  try {
    return fn();
  } finally {
    depth--;
  }
}

/** Whether `probe` throws a failure that the program has been told before. */
export function alreadyReported(probe: () => void): boolean {
  peeking = true;
  try {
    probe();
    return false;
  } catch {
    return delivered.has(failedTag);
  } finally {
    peeking = false;
  }
}
