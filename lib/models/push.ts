/** A model or an adapter of it in a repository of the hub: saved into a temporary folder, with a card, and uploaded from there. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { version } from '../../package.json';
import { loraError } from '../errors';
import { cardAdvice, code, frontMatter, signed, usage, type CardSubject } from '../formats/card';
import { cardFile } from '../formats/model_files';
import { systemReason } from '../formats/system_reason';
import { baseModelId } from '../hub/cache';
import { pushFiles } from '../hub/push';
import { pushOptionNames, pushTarget, type PushOptions, type PushResult } from '../hub/push_options';
import { folderToPush } from '../hub/pushed_folder';
import type { Adapter } from '../peft/adapter';
import { check, checkOptions, describe } from '../validate';
import type { ModelCore } from './core/model_core';
import { saveModel } from './save';

const op = 'push';

/** The options of {@link CausalLM.push}. */
export interface PushModelOptions extends PushOptions {
  /** The adapter that is pushed, alone. Default: the active one; where none is active, the whole model is pushed. */
  adapter?: string | undefined;
  /** The adapter that is merged into a copy of the base, which is pushed whole; the model in memory stays as it is. */
  merge?: string | undefined;
}

/** The adapter that is pushed alone; null: the whole model. @throws ERR_ARGUMENT */
function chosenAdapter({ adapters }: ModelCore, { adapter, merge }: PushModelOptions): Adapter | null {
  check(
    adapter === undefined || merge === undefined,
    op,
    'expected adapter, which is pushed alone, or merge, which is added to the base, but received both',
  );
  if (merge !== undefined) return null;
  if (adapter === undefined) return adapters.active;
  const found = adapters.all.get(adapter);
  check(
    found !== undefined,
    op,
    () => `expected adapter to be the name of one but received ${describe(adapter)}`,
  );
  return found;
}

/** The card of what no run has described. */
function cardOf({ directory, config }: ModelCore, adapter: Adapter | null): string {
  const subject: CardSubject = {
    base: baseModelId(directory),
    library: adapter === null ? 'transformers' : adapter.facts.loadedByPeft ? 'peft' : 'lora-native',
    relation: adapter === null ? 'finetune' : 'adapter',
    tags: adapter === null ? [] : [adapter.method],
    labels: config.head?.labels,
  };
  const what = adapter === null ? 'A model' : `${adapter.facts.title} adapter`;
  const text = `${frontMatter(subject)}
# ${what} of ${code(subject.base ?? 'BASE_MODEL')}

Made with lora-native ${version}. ${cardAdvice(subject)}

## How to use it

${usage(subject)}`;
  return signed(text);
}

/** Pushes a model, as CausalLM.push says. */
export async function pushModel(
  core: ModelCore,
  name: string,
  options: PushModelOptions,
): Promise<PushResult> {
  core.checkAlive(op);
  checkOptions(op, options, ['adapter', 'merge', ...pushOptionNames]);
  const { adapter: _adapter, merge, ...pushing } = options;
  const repository = pushTarget(op, name, pushing);
  const adapter = chosenAdapter(core, options);
  pushing.signal?.throwIfAborted();
  const root = await mkdtemp(join(tmpdir(), 'lora-native-push-')).catch((cause: unknown) => {
    throw loraError(op, 'ERR_FILE', `cannot write to ${tmpdir()}: ${systemReason(cause)}`, cause);
  });
  try {
    const folder = join(root, 'files');
    const card = cardOf(core, adapter);
    if (adapter === null) await saveModel(core, folder, { merge });
    else await adapter.save(folder);
    const files = await folderToPush(op, folder);
    return await pushFiles(op, repository, [{ name: cardFile, content: { text: card } }, ...files], pushing);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}
