/** Grammars without a model, over the tiny model's tokenizer. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TokenConstraint } from '../../lib/grammar/constraint';
import { Tokenizer } from '../../lib/text/tokenizer';
import { eos } from './chain_model';
import { temporaryFolder } from './temporary';
import { byteTokenizer } from './tiny_model';

/** The tokens of the tiny model's tokenizer: bytes, and four that have no text. */
export const vocabSize = 260;

/** A folder is made for it, and removed after the tests of the file. */
export function tinyTokenizer(): () => Promise<Tokenizer> {
  const folder = temporaryFolder();
  return async () => {
    const directory = mkdtempSync(join(folder, 'x-'));
    writeFileSync(join(directory, 'tokenizer.json'), JSON.stringify(byteTokenizer()));
    return (await Tokenizer.fromDirectory(directory))!;
  };
}

/** The tokens that may come next. */
export async function allowed(text: TokenConstraint): Promise<number[]> {
  await text.ready();
  return allowedBy(text.bits!);
}

/** The ids of a mask. */
export const allowedBy = (bits: Int32Array): number[] =>
  [...Array(vocabSize).keys()].filter((id) => (bits[id >> 5]! >>> (id & 31)) & 1);

/** Whether the text may come next, and may then end or not. */
export async function follows(
  constraint: TokenConstraint,
  text: string,
): Promise<{ taken: number; ends: boolean }> {
  const bytes = [...Buffer.from(text)];
  for (const [taken, byte] of bytes.entries()) {
    if (!(await allowed(constraint)).includes(byte)) return { taken, ends: false };
    constraint.accept([byte]);
  }
  return { taken: bytes.length, ends: (await allowed(constraint)).includes(eos) };
}
