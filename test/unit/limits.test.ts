/** Files that ask for more than memory or patience has: each is refused, at once, with the bound and the option that raises it. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CausalLM } from '../../lib/models/causal_lm';
import { parseModelConfig } from '../../lib/models/config';
import { readAdapter } from '../../lib/peft/adapter_files';
import { expectReject, expectThrow } from '../support/errors';
import { temporaryFolder } from '../support/temporary';
import { tinyConfig } from '../support/tiny_model';

const dir = temporaryFolder();
const folder = (files: Record<string, string>): string => {
  const made = mkdtempSync(join(dir, 'x-'));
  for (const [name, content] of Object.entries(files)) writeFileSync(join(made, name), content);
  return made;
};

describe('config.json', () => {
  test('400 million layers', async () => {
    const path = folder({ 'config.json': JSON.stringify({ ...tinyConfig, num_hidden_layers: 4e8 }) });
    await expectReject(
      CausalLM.fromPretrained(path),
      'ERR_FILE',
      '[from_pretrained] config.json asks for num_hidden_layers = 400000000: the limit is 1024, which limits.layers raises',
    );
  });

  test.each([
    ['hidden_size'],
    ['intermediate_size'],
    ['num_attention_heads'],
    ['num_key_value_heads'],
    ['head_dim'],
    ['vocab_size'],
  ])('a %s beyond every model', (key) => {
    // Heads are a multiple of the key-value heads.
    const config = {
      ...tinyConfig,
      num_attention_heads: 4 * 2 ** 30,
      num_key_value_heads: 2,
      [key]: 4 * 2 ** 30,
    };
    if (key !== 'num_attention_heads' && key !== 'num_key_value_heads') config.num_attention_heads = 4;
    expectThrow(
      () => parseModelConfig(config),
      'ERR_FILE',
      /^\[from_pretrained\] config\.json asks for \w+ = 4294967296: the limit is 4194304, which limits\.width raises$/,
    );
  });

  test('a bound that is raised, and one that is lowered', async () => {
    const path = folder({ 'config.json': JSON.stringify({ ...tinyConfig, num_hidden_layers: 1100 }) });
    await expect(CausalLM.fromPretrained(path)).rejects.toThrow('the limit is 1024');
    await expect(CausalLM.fromPretrained(path, { limits: { layers: 2000 } })).rejects.toThrow(
      'has neither model.safetensors',
    );
    await expect(CausalLM.fromPretrained(path, { limits: { layers: 10 } })).rejects.toThrow(
      'the limit is 10,',
    );
  });
});

describe('the option itself', () => {
  test.each<[object, string]>([
    [{ limits: { layer: 3 } }, "unknown option 'layer'; did you mean 'layers'?"],
    [{ limits: { layers: -1 } }, 'expected limits.layers to be an integer of at least 0 but received -1'],
    [{ limits: { nesting: 1e6 } }, 'expected limits.nesting to be at most 1000 but received 1000000'],
    [{ limits: 5 }, 'expected an object of options but received 5'],
  ])('%j', async (options, sentence) => {
    await expectReject(
      CausalLM.fromPretrained(dir, options),
      'ERR_ARGUMENT',
      `[from_pretrained] ${sentence}`,
    );
  });
});

describe('JSON files', () => {
  test('a file that is too large is not read', async () => {
    const path = folder({ 'config.json': `{"a":"${'x'.repeat(17 * 2 ** 20)}"}` });
    await expectReject(
      CausalLM.fromPretrained(path),
      'ERR_FILE',
      `${join(path, 'config.json')} has 17825800 bytes: the limit is 16777216, which limits.jsonBytes raises`,
    );
  });

  test('deep nesting', async () => {
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`;
    const model = folder({ 'config.json': `{"quantization_config":${deep}}` });
    const message = (path: string): string =>
      `${path} is nested 128 levels deep: the limit is 127, which limits.nesting raises`;
    await expectReject(CausalLM.fromPretrained(model), 'ERR_FILE', message(join(model, 'config.json')));
    const adapter = folder({
      'adapter_config.json': `{"peft_type":"LORA","x":${deep}}`,
      'adapter_model.safetensors': '',
    });
    await expectReject(readAdapter(adapter), 'ERR_FILE', message(join(adapter, 'adapter_config.json')));
  });
});
