/** What the report of the CUDA kernels says of the bytes of weights, against the sizes that JavaScript knows, and of blocks. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isPacked, quantizedBytes } from '../../lib/tensor/frozen_weight';
import type { WeightFormat } from '../../lib/native/binding';

const root = join(__dirname, '../..');

interface Row {
  name: WeightFormat;
  decoded: boolean;
  stored: number;
  expanded: number;
}

/** What a module of the report gives for an expression; Jest does not load modules of this form. */
function evaluate(module: string, names: string, expression: string): unknown {
  const script = pathToFileURL(join(root, 'scripts/cuda-report', module)).href;
  const code = `import { ${names} } from '${script}'; console.log(JSON.stringify(${expression}));`;
  return JSON.parse(
    execFileSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' }),
  );
}
const page = readFileSync(join(root, 'docs/internals/cuda-kernels.md'), 'utf8');

test('the bytes of weights are those of the formats, and stand in the page', () => {
  const bytes = evaluate('weight_bytes.mjs', 'weightBytes', `weightBytes(${JSON.stringify(root)})`);
  const { perLaunch, most, formats } = bytes as {
    perLaunch: number;
    most: number;
    formats: Row[];
  };
  expect(formats.filter(({ decoded }) => decoded).map(({ name }) => name)).toEqual(
    'int8 nf4 fp4 q4_0 q8_0 q4_k q5_k q6_k iq4_nl mxfp4'.split(' '),
  );
  for (const { name, decoded, stored, expanded } of formats) {
    if (name !== 'bf16' && name !== 'f16' && name !== 'f32' && isPacked(name))
      expect([name, stored * 4096 ** 2]).toEqual([name, quantizedBytes(name, 4096, 4096)]);
    const once = decoded ? stored : stored + 2 * expanded;
    const all = once * (decoded ? most / perLaunch : 1);
    const numbers = [stored, once, all].map((bytes) => bytes.toFixed(3)).join(' | ');
    expect(page).toMatch(
      new RegExp(`^\\| \`${name}\` \\| [^|]+ \\| ${numbers.replace(/[.|]/g, '\\$&')} \\|$`, 'm'),
    );
  }
});

test('the shared memory of a kernel stands in the names of the functions that launch it', () => {
  const symbols = `0000000000000000 W int lora::cuda::Start<0ul, &lora::device::GemmReduce, lora::device::GemmReduceParams>(lora::device::LaunchShape const&, void*, void const*)
0000000000000000 W int lora::cuda::Start<16896ul, &(void lora::device::GemmFma<lora::device::FmaTile<128, 8, 2> >(lora::device::GemmParams<lora::device::FmaTile<128, 8, 2> >)), lora::device::GemmParams<lora::device::FmaTile<128, 8, 2> > >(lora::device::LaunchShape const&, void*, void const*)
0000000000000000 W int lora::cuda::Start<18446744073709551615ul, &(void lora::device::Skinny<(lora::device::SkinnyForm)0, lora::device::BF16>(lora::device::SkinnyParams<(lora::device::SkinnyForm)0, lora::device::BF16>)), lora::device::SkinnyParams<(lora::device::SkinnyForm)0, lora::device::BF16> >(lora::device::LaunchShape const&, void*, void const*)
0000000000000000 T lora::cuda::Gemm(char const*)
`;
  expect(evaluate('names.mjs', 'sharedBytesIn', `[...sharedBytesIn(${JSON.stringify(symbols)})]`)).toEqual([
    ['GemmReduce', 0],
    ['GemmFma<FmaTile<128, 8, 2> >', 16896],
    ['Skinny<(SkinnyForm)0, BF16>', 'by call'],
  ]);
});

test('blocks of a multiprocessor follow from registers, threads and shared memory, in the page too', () => {
  // Its kernel, threads, shared memory, and what it has of registers and blocks on sm_80 and sm_86.
  const row = /^\| `KeyGradientsMma<BF16, 128, 32>` \| (\d+) \| (\d+) \| (\d+): (\d+) \| (\d+): (\d+) \|/m;
  const [threads, shared, of80, held80, of86, held86] = row.exec(page)!.slice(1).map(Number);
  const kernels = [
    { arch: 80, registers: of80, threads, shared },
    { arch: 86, registers: of86, threads, shared },
    { arch: 86, registers: of86, threads, shared: 0 },
  ];
  const asked = `blocksOf(${JSON.stringify(root)}, ${JSON.stringify(kernels)})`;
  expect(shared).toBe(66560);
  expect([held80, held86]).toEqual([2, 1]);
  expect(evaluate('occupancy.mjs', 'blocksOf', asked)).toEqual([2, 1, 2]);
});

test('low-rank products have the stages in the page that launches take', () => {
  const launches = evaluate('occupancy.mjs', 'lowRankLaunches', `lowRankLaunches(${JSON.stringify(root)})`);
  const names = ['kDown', 'kUp', 'kGradient'];
  const rows = new Map<string, number[]>();
  for (const one of launches as { form: number; ranks: number; arch: number; stages: number }[])
    if ([80, 86, 90, 100, 120].includes(one.arch)) {
      const key = `\`Skinny<${names[one.form]}, BF16>\` | ${one.ranks}`;
      rows.set(key, [...(rows.get(key) ?? []), one.stages]);
    }
  expect(rows.size).toBe(15);
  for (const [key, stages] of rows) {
    const line = page.split('\n').find((one) => one.startsWith(`| ${key} |`));
    expect([key, line?.match(/\d(?=: \d)/g)?.map(Number)]).toEqual([key, stages]);
  }
});
