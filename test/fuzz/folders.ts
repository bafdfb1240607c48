/** Folders of a stranger: files, links, folders and FIFOs under the names that readers and saves heed. */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { LoRAError } from '../../lib/errors';
import { loadCheckpoint, saveCheckpoint } from '../../lib/formats/checkpoint';
import { savedFiles } from '../../lib/formats/model_files';
import { readAdapter, writeAdapter } from '../../lib/peft/adapter_files';
import { fileOf } from '../support/safetensors_bytes';
import { mutateText } from './mutate';
import type { Dice } from './random';
import { bytes, text } from './seeds';

/** A name in the folder, what it is, and what it holds or leads to. */
type Entry = readonly [name: string, kind: 'file' | 'link' | 'folder' | 'fifo', content: string];

const journal = '.lora-native-save';
const secret = 'PRIVATE of the user';
const kinds = ['file', 'file', 'file', 'file', 'link', 'folder', 'fifo'] as const;
const weights = Buffer.from(
  fileOf({ w: { dtype: 'U8', shape: [1], data_offsets: [0, 1] } }, Uint8Array.of(7)),
).toString('latin1');
const contents = [
  '',
  '{}',
  'null',
  '[]',
  '["vocab.txt"]',
  '["config.json",1]',
  '{"peft_type":"LORA","r":1}',
  weights,
];
const targets = [
  '../outside',
  '../outside/secret',
  '../outside/adapter_config.json',
  '.',
  'README.md',
  'nothing',
  journal,
];
const names = [...savedFiles, '.removed', '.removed', '.removed', 'id_rsa', '.x', `.save.1-01234567.tmp`];

function entry(dice: Dice, folder: string): Entry {
  const kind = dice.pick(kinds);
  const name = join(folder, dice.pick(names));
  if (kind === 'link') return [name, kind, join(folder === '' ? '' : '..', dice.pick(targets))];
  const content = dice.pick(contents);
  return [name, kind, dice.once(4) ? mutateText(content, dice) : content];
}

export function makeFolder(dice: Dice): Uint8Array {
  const kind = dice.once(4) ? dice.pick(kinds) : 'folder';
  const entries: Entry[] = [[journal, kind, kind === 'link' ? dice.pick(targets) : '']];
  if (kind === 'folder') for (let i = dice.count(5); i > 0; i--) entries.push(entry(dice, journal));
  for (let i = dice.count(4); i > 0; i--) entries.push(entry(dice, ''));
  return bytes(JSON.stringify(entries));
}

function put(dir: string, [name, kind, content]: Entry, fifo: string): void {
  const path = join(dir, name);
  rmSync(path, { recursive: true, force: true });
  if (kind === 'link') symlinkSync(content, path);
  else if (kind === 'folder') mkdirSync(path);
  else if (kind === 'fifo') linkSync(fifo, path);
  else writeFileSync(path, content, 'latin1');
}

const adapter = {
  config: { peft_type: 'LORA', r: 2 },
  tensors: new Map([['w', { dtype: 'U8' as const, shape: [1], bytes: Uint8Array.of(9) }]]),
};

/** Reads the folder and saves into it. Nothing of the user's beside it may change or be told, and what was saved is read. */
export async function runFolder(input: Uint8Array, dir: string): Promise<void> {
  const [received, outside] = [join(dir, 'received'), join(dir, 'outside')];
  const fifo = `${dir}.fifo`; // made once: the folder is another for each input
  if (!existsSync(fifo)) spawnSync('mkfifo', [fifo]);
  for (const made of [received, outside]) {
    rmSync(made, { recursive: true, force: true });
    mkdirSync(made);
  }
  const theirs = ['adapter_config.json', 'secret'];
  for (const name of theirs) writeFileSync(join(outside, name), secret);
  for (const one of JSON.parse(text(input)) as Entry[]) put(received, one, fifo);

  /** Whether the call succeeds; it may only fail with a LoRAError. */
  const succeeds = async (call: () => Promise<unknown>): Promise<boolean> => {
    try {
      await call();
      return true;
    } catch (error) {
      if (!(error instanceof LoRAError)) throw error;
      if (inspect(error).includes(secret.slice(0, 7)))
        throw new Error('an error tells the secret', { cause: error });
      return false;
    }
  };
  await succeeds(() => readAdapter(received));
  await succeeds(() => loadCheckpoint(received));
  if (await succeeds(() => writeAdapter(received, adapter)))
    if ((await readAdapter(received)).config['r'] !== 2)
      throw new Error('what was saved is not what is read');
  if (await succeeds(() => saveCheckpoint(received, { step: 1 })))
    await succeeds(() => loadCheckpoint(received));
  const left = readdirSync(outside).sort();
  if (left.join() !== theirs.join()) throw new Error(`the folder outside holds ${left.join()}`);
  for (const name of theirs)
    if (readFileSync(join(outside, name), 'utf8') !== secret) throw new Error(`${name} outside was changed`);
}
