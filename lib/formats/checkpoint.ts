/** Whole states in one file: values, and anything with stateDict() and loadStateDict(). */
import { join } from 'node:path';
import { SlicedUpload } from '../tensor/slices';
import { dtypeOfStored } from './dtypes';
import { cannotWrite, makeDirectory, writeFileAtomic } from './atomic';
import {
  damaged,
  namesIn,
  Reader,
  setOwn,
  valuesPerStep,
  version,
  Writer,
  type Json,
  type Referred,
  type Saved,
} from './checkpoint_values';
import { jsonFault } from './json_scanner';
import { SavedFolder } from './file_group';
import { checkpointFile } from './model_files';
import { toPath } from './paths';
import { nestingSteps, readLimits, type Limits, type ReadLimits } from './limits';
import { serializeLate, type LateTensor } from './safetensors';
import { StoredTensors } from './stored_tensors';
import { isThenable, runDetached, Scope } from '../tensor/scope';
import { inSlices, Pace } from '../tensor/pace';
import {
  prepare,
  settle,
  type Settling,
  type StateDict,
  type Stateful,
  type StateValue,
} from '../tensor/state';
import { check, checkOptions, describe, isRecord, suggest } from '../validate';

export type { StateDict, Stateful, StateValue } from '../tensor/state';

const metadataKey = 'lora-native.checkpoint';

/** Reads the tensors and arrays that values refer to, those that are missing excepted: decode names them. */
async function readReferred(
  values: readonly Json[],
  stored: StoredTensors,
  file: Saved,
  scope?: Scope,
): Promise<void> {
  const names: Referred = { tensors: new Set(), arrays: new Set() };
  for (const json of values) await inSlices(namesIn(json, names));
  for (const name of names.arrays) {
    const found = stored.tensors.get(name);
    if (found === undefined || file.arrays.has(name)) continue;
    const { dtype, shape } = found;
    file.arrays.set(name, { dtype, shape, bytes: await found.read() });
  }
  for (const name of names.tensors) {
    const found = stored.tensors.get(name);
    if (found === undefined || file.tensors.has(name)) continue;
    const { dtype, shape } = found;
    const ours = dtypeOfStored(dtype);
    if (ours === undefined) throw damaged(file, `a tensor has the dtype ${dtype}`);
    const begin = (): SlicedUpload => new SlicedUpload(ours, ours, shape, 'cpu');
    const upload = scope ? runDetached(scope, begin) : begin();
    file.tensors.set(name, upload.tensor);
    for await (const slice of found.slices()) await upload.add(slice);
  }
}

function hasState(value: unknown): value is Stateful & Settling {
  const item = value as Partial<Stateful> | null;
  return typeof item === 'object' && item !== null && typeof item.stateDict === 'function';
}

export type Loadable = Pick<Stateful, 'loadStateDict'> & Settling;

/** What takes a state, which is checked where the object can do that. A class that has a loadStateDict() of its own has its way. */
export function loaderOf(target: Loadable, state: StateDict): () => void | Promise<void> {
  let owner: object | null = target;
  while (owner !== null && !Object.hasOwn(owner, 'loadStateDict'))
    owner = Object.getPrototypeOf(owner) as object | null;
  const prepared = owner !== null && Object.hasOwn(owner, prepare);
  return prepared ? target[prepare]!(state) : () => target.loadStateDict(state);
}

function directory(op: string, dir: unknown): string {
  check(
    (typeof dir === 'string' && dir !== '') || dir instanceof URL,
    op,
    `expected a directory but received ${describe(dir)}`,
  );
  return toPath(dir, op);
}

/**
 * Writes `dir/checkpoint.safetensors`, which appears whole or not at all: plain values (numbers, strings,
 * booleans, bigints, lists and plain objects of them), typed arrays, tensors, and the stateDict() of
 * whatever has one. The values are those of the moment of the call.
 *
 * @throws ERR_ARGUMENT for a value that cannot be saved, ERR_FILE, and the failure of an op that the state depends on.
 * @example
 * await saveCheckpoint('run', { layer, optimizer, step: 10 });
 */
export async function saveCheckpoint(dir: string | URL, state: Record<string, unknown>): Promise<void> {
  await save(dir, state, new Writer());
}

/**
 * @internal The same file without a copy of the tensors in memory: each is read while it is written, and nothing may change them until it is
 * whole.
 */
export async function streamCheckpoint(dir: string | URL, state: Record<string, unknown>): Promise<void> {
  await save(dir, state, new Writer(true));
}

async function save(dir: string | URL, state: Record<string, unknown>, writer: Writer): Promise<void> {
  const op = 'saveCheckpoint';
  const path = directory(op, dir);
  check(
    typeof state === 'object' && state !== null && !Array.isArray(state),
    op,
    `expected an object of what to save but received ${describe(state)}`,
  );
  const scope = new Scope(null); // owns what stateDict() makes
  try {
    const states = new Map<string, readonly ['state' | 'value', unknown]>();
    const waiting: Promise<void>[] = [];
    const settling: Settling[] = [];
    for (const name of Object.keys(state)) {
      const value = state[name];
      if (value === undefined) continue;
      if (!hasState(value)) {
        states.set(name, ['value', writer.take(value, { name })]);
        continue;
      }
      settling.push(value);
      const put = (saved: StateDict): void => void states.set(name, ['state', writer.take(saved, { name })]);
      const saved = runDetached(scope, () => value.stateDict());
      if (isThenable(saved)) waiting.push(Promise.resolve(saved).then(put));
      else put(saved);
    }
    await Promise.all(waiting);
    const tensors = new Map<string, LateTensor>();
    const pace = new Pace();
    for (const [name, read] of writer.tensors) {
      tensors.set(name, await read);
      if (pace.due) await pace.rest();
    }
    // An update that was queued before the reads may have failed, and its moments are those before it.
    for (const value of settling) await value[settle]?.();
    await makeDirectory(path).catch((error: unknown) => {
      throw cannotWrite(path, error);
    });
    const metadata = {
      format: 'pt',
      [metadataKey]: await inSlices(writer.json(states)),
    };
    const pieces = await inSlices(serializeLate(tensors, metadata, op));
    await writeFileAtomic(join(path, checkpointFile), pieces);
  } finally {
    scope.close();
  }
}

/** The options of {@link loadCheckpoint}. */
export interface LoadCheckpointOptions {
  /** Bounds on what the file may ask for. */
  limits?: ReadLimits | undefined;
}

/**
 * Loads what saveCheckpoint wrote into the given objects (each by its loadStateDict), bit for bit, and
 * gives the plain values. States that are not asked for stay in the file. The states of all objects of this package are checked before
 * one of them changes.
 *
 * @throws ERR_ARGUMENT for a name that the file does not have, ERR_FILE, ERR_SAFETENSORS.
 * @example
 * const { step } = await loadCheckpoint('run', { layer, optimizer });
 */
export async function loadCheckpoint<T extends object = Record<string, unknown>>(
  dir: string | URL,
  targets: Record<string, Pick<Stateful, 'loadStateDict'>> = {},
  options: LoadCheckpointOptions = {},
): Promise<T> {
  const op = 'loadCheckpoint';
  checkOptions(op, options, ['limits']);
  const limits = readLimits(op, options.limits);
  const folder = directory(op, dir);
  const path = join(folder, checkpointFile);
  for (const [name, target] of Object.entries(targets)) {
    check(
      typeof (target as Partial<Stateful> | null)?.loadStateDict === 'function',
      op,
      `expected ${name} to have loadStateDict() but received ${describe(target)}`,
    );
  }
  const stored = await StoredTensors.open((await SavedFolder.open(folder)).file(checkpointFile), { limits });
  const scope = new Scope(null);
  try {
    const { metadata } = stored;
    const file: Saved = { path, metadata, tensors: new Map(), arrays: new Map() };
    const states = await inSlices(readStates(file, limits));
    const names = Object.keys(states);
    for (const name of Object.keys(targets)) {
      const near = suggest(name, names);
      check(
        Object.hasOwn(states, name) && 'state' in states[name]!,
        op,
        `${path} holds no state of '${name}'` +
          (near ? `; did you mean '${near}'?` : `; it holds ${names.join(', ') || 'nothing'}`),
      );
    }
    const valueNames = names.filter((name) => 'value' in states[name]!);
    // Values first: a tensor that a state names as well stays when the scope is closed.
    await readReferred(
      valueNames.map((name) => states[name]!.value!),
      stored,
      file,
    );
    await readReferred(
      Object.keys(targets).map((name) => states[name]!.state!),
      stored,
      file,
      scope,
    );
    await stored.file.checkUnchanged();
    const reader = new Reader(file);
    const values = await inSlices(
      (function* () {
        const decoded: { [key: string]: StateValue } = {};
        for (const name of valueNames) setOwn(decoded, name, yield* reader.item(states[name]!.value!));
        return decoded;
      })(),
    );
    const loads: (() => void | Promise<void>)[] = [];
    for (const [name, target] of Object.entries<Loadable>(targets)) {
      const state = (await inSlices(reader.item(states[name]!.state!))) as StateDict;
      loads.push(loaderOf(target, state));
    }
    for (const load of loads) await load();
    return values as T;
  } finally {
    scope.close();
    await stored.close();
  }
}

/** The states of a file, whose shape is checked. Yields where it may be interrupted. */
function* readStates(
  file: Saved,
  limits: Limits,
): Generator<void, Record<string, { state?: Json; value?: Json }>, void> {
  const text = file.metadata[metadataKey];
  if (text === undefined) throw damaged(file, `it has no '${metadataKey}' in its metadata`);
  let parsed: { version?: unknown; states?: unknown };
  try {
    parsed = JSON.parse(text) as typeof parsed;
  } catch {
    throw damaged(file, `its state is not valid JSON: ${jsonFault(text)}`);
  }
  yield;
  yield* nestingSteps(parsed, limits, `the state in ${file.path}`);
  if (!isRecord(parsed)) throw damaged(file, `its state is ${describe(parsed)}`);
  if (parsed.version !== version) throw damaged(file, `its version is ${describe(parsed.version)}`);
  const { states } = parsed;
  if (!isRecord(states)) throw damaged(file, 'it has no states');
  for (const [i, name] of Object.keys(states).entries()) {
    const entry = states[name];
    if (!isRecord(entry) || !('state' in entry || 'value' in entry)) {
      throw damaged(file, `its state '${name}' is ${describe(entry)}`);
    }
    if (i % valuesPerStep === 0) yield;
  }
  return states as Record<string, { state?: Json; value?: Json }>;
}
