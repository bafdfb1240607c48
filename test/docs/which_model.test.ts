/** The table of the guide "Which model for which machine" is what estimateMemory() says of the published shapes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { estimateMemory, type MemoryOptions } from '../../lib/index';
import { parseModelConfig } from '../../lib/models/families';
import { expectedTensors } from '../../lib/models/files/tensor_table';
import { publishedModels } from '../support/published_models';
import { root } from './markdown';

const page = readFileSync(join(root, 'docs/guides/which-model.md'), 'utf8');

/** Gemma 4's table of layer inputs is most of the model: it is quantized too. */
const nf4 = (json: Readonly<Record<string, unknown>>): MemoryOptions['quantize'] =>
  json['model_type'] === 'gemma4_text' ? { format: 'nf4', embedding: true } : 'nf4';

function lineOf(name: string, json: Readonly<Record<string, unknown>>): string {
  const config = parseModelConfig(json);
  const parameters = [...expectedTensors(config).values()].reduce(
    (sum, shape) => sum + shape.reduce((product, size) => product * size, 1),
    0,
  );
  const gigabytes = (options: MemoryOptions): string =>
    (estimateMemory(config, { dtype: 'bf16', ...options }).total / 1e9).toFixed(1);
  const write = { streams: 1, length: 2048 };
  const train = { length: 512, r: 16, targetModules: 'all-linear', gradientCheckpointing: true } as const;
  const cells = [
    name,
    (parameters / 1e9).toFixed(2),
    gigabytes({ ...write, quantize: nf4(json) }),
    gigabytes(write),
    gigabytes({ ...train, quantize: nf4(json) }),
    gigabytes(train),
  ];
  return `| ${cells.join(' | ')} |`;
}

const lines = Object.entries(publishedModels).map(([name, json]) => lineOf(name, json));

test('each line of the table is what is estimated', () => {
  const [, section = ''] = page.split('<!-- which-model -->');
  const shown = section.split('<!-- /which-model -->')[0]!.trim().split('\n').slice(2);
  expect(shown).toEqual(lines);
});

test('the models of each machine fit in it, and the largest that is named is the largest that does', () => {
  const limits = { '4 GB': 4, '8 GB': 8, '16 GB': 16, '32 GB': 32 };
  const sizes = new Map(
    lines.map((line) => {
      const [, name, , write, , train] = line.split('|').map((cell) => cell.trim());
      return [name!, { write: Number(write), train: Number(train) }] as const;
    }),
  );
  for (const [machine, limit] of Object.entries(limits)) {
    const row = new RegExp(`^\\| ${machine} \\|(.*)$`, 'm').exec(page)![1]!;
    const [train, write] = row.split('|').map((cell) => cell.trim());
    // A quarter is left for the system and other programs.
    const fits = (what: 'train' | 'write') =>
      [...sizes].filter(([, size]) => size[what] <= 0.75 * limit).map(([name]) => name);
    expect({ machine, train, write }).toEqual({
      ...{ machine, train: fits('train').slice(-3).join(', '), write: fits('write').slice(-3).join(', ') },
    });
  }
});
