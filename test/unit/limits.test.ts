/** Files that ask for more than memory or patience has: each is refused, at once, with the bound and the option that raises it. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LoRAError } from '../../lib/errors';
import { loadCheckpoint } from '../../lib/formats/checkpoint';
import { openSafetensors, writeSafetensors } from '../../lib/formats/safetensors';
import { CausalLM } from '../../lib/models/causal_lm';
import { parseModelConfig } from '../../lib/models/families';
import { readAdapter } from '../../lib/peft/adapter_files';
import { expectReject, expectThrow } from '../support/errors';
import { cpuMilliseconds, endlessMilliseconds, longestGap } from '../support/gaps';
import { fileOf } from '../support/safetensors_bytes';
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

describe('safetensors headers', () => {
  const file = (header: string, data = 0): string => {
    const path = join(folder({}), 'x.safetensors');
    writeFileSync(path, fileOf(header, new Uint8Array(data)));
    return path;
  };

  test('96 MB of lists of one number', async () => {
    const path = file(`{"a":[${'[0],'.repeat(24e6)}[0]]}`);
    await expectReject(
      openSafetensors(path),
      'ERR_SAFETENSORS',
      `${path} has a header of 96000011 bytes: the limit is 16777216, which limits.headerBytes raises`,
    );
  });

  test('16 MB of them, and of other things that the format does not know', async () => {
    const most = 'more than 65536 values that the format does not know at character';
    for (const header of [
      `{"a":[${'[0],'.repeat(2 ** 21)}[0]]}`,
      `{"a":{"note":[${'0,'.repeat(2 ** 22)}0]}}`,
      `{"a":{"shape":[${'{},'.repeat(2 ** 21)}0]}}`,
    ]) {
      const path = file(header);
      await expect(openSafetensors(path)).rejects.toMatchObject({ code: 'ERR_SAFETENSORS' });
    }
    await expect(openSafetensors(file(`{"a":[${'[0],'.repeat(2 ** 21)}[0]]}`))).rejects.toThrow(most);
  });

  test('more dimensions than any tensor has', async () => {
    const shape = (dims: number): string =>
      file(`{"a":{"dtype":"U8","shape":[${'1,'.repeat(dims - 1)}1],"data_offsets":[0,1]}}`, 1);
    (await openSafetensors(shape(64))).close();
    await expect(openSafetensors(shape(65))).rejects.toThrow(
      'gives the tensor "a" a shape of more than 64 numbers',
    );
  });

  test('500,000 tensors keep neither timers nor I/O waiting', async () => {
    const count = 500_000;
    // From the last to the first, so that they have to be sorted.
    const entries = Array.from({ length: count }, (_, i) => {
      const at = count - 1 - i;
      return `"t${i}":{"dtype":"U8","shape":[1],"data_offsets":[${at},${at + 1}]}`;
    });
    const path = file(`{${entries.join(',')}}`, count);
    await expect(openSafetensors(path)).rejects.toThrow('which limits.headerBytes raises');
    const { gap } = await longestGap(async () => {
      const opened = await openSafetensors(path, { limits: { headerBytes: 64 * 2 ** 20 } });
      expect(opened.tensors.size).toBe(count);
      expect([...opened.tensors.keys()][0]).toBe(`t${count - 1}`);
      opened.close();
    });
    console.info(`longest gap while 500,000 tensors are opened: ${gap.toFixed(0)} ms`);
    expect(gap).toBeLessThan(1000); // about 50 on a machine that does nothing else
  });
});

describe('checkpoints', () => {
  const written = async (state: string): Promise<string> => {
    const path = folder({});
    await writeSafetensors(join(path, 'checkpoint.safetensors'), new Map(), {
      'lora-native.checkpoint': `{"version":"1","states":{"x":{"value":${state}}}}`,
    });
    return path;
  };

  test('deep nesting', async () => {
    const path = await written(`${'['.repeat(100_000)}${']'.repeat(100_000)}`);
    await expectReject(
      loadCheckpoint(path),
      'ERR_FILE',
      `the state in ${join(path, 'checkpoint.safetensors')} is nested 128 levels deep: the limit is 127, which limits.nesting raises`,
    );
  });

  test('numbers of a million digits, and a state that is none', async () => {
    await expect(loadCheckpoint(await written(`{"$bigint":"${'9'.repeat(1e6)}"}`))).rejects.toThrow(
      "…' is no bigint",
    );
    const path = folder({});
    await writeSafetensors(join(path, 'checkpoint.safetensors'), new Map(), {
      'lora-native.checkpoint': 'null',
    });
    await expect(loadCheckpoint(path)).rejects.toMatchObject({ code: 'ERR_SAFETENSORS' });
  });
});

describe('words as long as a file', () => {
  test('a family whose name has millions of letters: nothing near it is looked for', () => {
    const begin = cpuMilliseconds();
    expect(() => parseModelConfig({ ...tinyConfig, model_type: 'llama'.repeat(2e6) })).toThrow(
      /^\[from_pretrained\] config\.json has model_type = "llamallama.*… \(10000\d+ characters\) ….*supported are [a-z0-9_, ]+$/s,
    );
    expect(cpuMilliseconds() - begin).toBeLessThan(endlessMilliseconds);
  });

  test('the sentence of an error is not as long as the file', () => {
    const error = new LoRAError('ERR_FILE', `a${'b'.repeat(1e6)}c`);
    expect(error.message.length).toBeLessThan(8000);
    expect(error.message).toMatch(/^ab+… \(1000002 characters\) …b+c$/);
    expect(new LoRAError('ERR_FILE', 'x'.repeat(8000)).message).toBe('x'.repeat(8000));
  });
});
