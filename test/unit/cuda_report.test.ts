/** What the report of the CUDA kernels says of the bytes of weights, against the sizes that JavaScript knows. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isPacked, quantisedBytes } from '../../lib/tensor/frozen_weight';
import type { WeightFormat } from '../../lib/native/binding';

const root = join(__dirname, '../..');

interface Row {
  name: WeightFormat;
  decoded: boolean;
  stored: number;
  expanded: number;
}

test('the bytes of weights are those of the formats, and stand in the page', () => {
  const script = pathToFileURL(join(root, 'scripts/cuda-report/weight_bytes.mjs')).href;
  const code = `import { weightBytes } from '${script}'; console.log(JSON.stringify(weightBytes(${JSON.stringify(root)})));`;
  const text = execFileSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
  const { perLaunch, most, formats } = JSON.parse(text) as {
    perLaunch: number;
    most: number;
    formats: Row[];
  };
  expect(formats.filter(({ decoded }) => decoded).map(({ name }) => name)).toEqual(['int8', 'nf4', 'fp4']);
  const page = readFileSync(join(root, 'docs/internals/cuda-kernels.md'), 'utf8');
  for (const { name, decoded, stored, expanded } of formats) {
    if (name !== 'bf16' && name !== 'f16' && name !== 'f32' && isPacked(name))
      expect([name, stored * 4096 ** 2]).toEqual([name, quantisedBytes(name, 4096, 4096)]);
    const once = decoded ? stored : stored + 2 * expanded;
    const all = once * (decoded ? most / perLaunch : 1);
    const numbers = [stored, once, all].map((bytes) => bytes.toFixed(3)).join(' | ');
    expect(page).toMatch(
      new RegExp(`^\\| \`${name}\` \\| [^|]+ \\| ${numbers.replace(/[.|]/g, '\\$&')} \\|$`, 'm'),
    );
  }
});
