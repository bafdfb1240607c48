/** A model's folder as the Hub has it where the model sees images too: text_config, prefixes of names, and tensors of an encoder. */
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openSafetensors, writeSafetensors, type SafetensorsTensor } from '../../lib/formats/safetensors';

/** The two ways of transformers: version 4 wrote the first, version 5 writes the second. */
export const wrappings = {
  'language_model.model': (name: string) => `language_model.${name}`,
  'model.language_model': (name: string) => name.replace(/^model\./, 'model.language_model.'),
} as const;

const stray: SafetensorsTensor = { dtype: 'F32', shape: [2], bytes: new Uint8Array(8) };

/** @param beside what stands beside text_config */
export async function rewrapped(
  dir: string,
  modelType: string,
  wrapping: keyof typeof wrappings,
  beside: object = {},
): Promise<string> {
  const wrapped = mkdtempSync(join(tmpdir(), 'rewrapped-'));
  cpSync(dir, wrapped, { recursive: true });
  const text = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>;
  writeFileSync(
    join(wrapped, 'config.json'),
    JSON.stringify({
      model_type: modelType,
      text_config: text,
      vision_config: { hidden_size: 4 },
      ...beside,
    }),
  );
  const file = await openSafetensors(join(dir, 'model.safetensors'));
  const tensors = new Map<string, SafetensorsTensor>([
    ['vision_tower.patch_conv.weight', stray],
    ['model.multi_modal_projector.linear.bias', stray],
  ]);
  for (const [name, tensor] of file.tensors) tensors.set(wrappings[wrapping](name), tensor);
  await writeSafetensors(join(wrapped, 'model.safetensors'), tensors, { format: 'pt' });
  file.close();
  return wrapped;
}
