/** The adapters of commands that take several, each by a name. */
import { basename, resolve } from 'node:path';
import { isHubName } from '../hub/names';
import type { CausalLM } from '../models/causal_lm';
import { readAdapter, type AdapterFiles } from '../peft/adapter_files';
import { UsageError, type Console, type Flags } from './command';
import { hubOptions } from './hub_report';

export const adaptersFlag = {
  adapter: {
    type: 'string',
    repeat: true,
    value: '[NAME=]DIR',
    help: 'a PEFT adapter, or a name of the hub; may be repeated',
    defaultText: 'none',
  },
} as const satisfies Flags;

/** What the base alone is called. */
export const baseName = 'base';

/** NAME=DIR, or a folder whose own name, or that on the hub, is the name. */
function named(given: string): [name: string, source: string] {
  const [, name, source] = /^([\w.-]+)=(.+)$/s.exec(given) ?? [];
  if (name !== undefined && source !== undefined) return [name, source];
  const path = isHubName(given) ? given.replace(/@.*$/, '') : resolve(given);
  return [basename(path), given];
}

/** Where adapters lie, by their names. */
export function adapterSources(adapter: readonly string[]): ReadonlyMap<string, string> {
  const sources = new Map<string, string>();
  for (const given of adapter) {
    const [name, source] = named(given);
    if (name === baseName)
      throw new UsageError(`'${baseName}' is the model without an adapter: give --adapter NAME=${source}`);
    if (sources.has(name))
      throw new UsageError(`two adapters are called '${name}': give --adapter NAME=${source}`);
    sources.set(name, source);
  }
  return sources;
}

/** Adapters by their names, read before the model is loaded. */
export async function readAdapters(
  { adapter, offline }: { readonly adapter: readonly string[]; readonly offline: boolean },
  console: Console,
): Promise<ReadonlyMap<string, AdapterFiles>> {
  const sources = adapterSources(adapter);
  const files = new Map<string, AdapterFiles>();
  for (const [name, source] of sources)
    files.set(name, await readAdapter(source, hubOptions(console, { offline })));
  return files;
}

/** Loads them into one model. */
export async function loadAdapters(
  model: CausalLM,
  files: ReadonlyMap<string, AdapterFiles>,
): Promise<string[]> {
  for (const [name, adapter] of files) await model.loadAdapter(adapter, { name });
  return [...files.keys()];
}
