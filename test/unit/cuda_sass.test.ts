/** What the report of the CUDA kernels reads in machine code: instructions, passes of loops, the order of fences, gates of decoding. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { temporaryFolder } from '../support/temporary';

const root = join(__dirname, '../..');
const scratch = temporaryFolder();
const scripts = join(root, 'scripts/cuda-report');

/** What the modules of the report give for an expression of `input`; Jest does not load modules of this form. */
function evaluate<T>(input: unknown, expression: string): T {
  const imports = {
    'sass.mjs': 'listing, functionsIn',
    'lint.mjs': 'faultsOf, checkedIn',
    'passes.mjs': 'passesIn',
    'decode_gates.mjs': 'decodeLoops, gateFaults',
  };
  const code = [
    ...Object.entries(imports).map(
      ([file, names]) => `import { ${names} } from '${pathToFileURL(join(scripts, file)).href}';`,
    ),
    `import { readFileSync } from 'node:fs';`,
    `const input = JSON.parse(readFileSync(0, 'utf8'));`,
    `console.log(JSON.stringify(${expression}));`,
  ].join('\n');
  const program = join(scratch, 'evaluate.mjs');
  writeFileSync(program, code);
  return JSON.parse(
    execFileSync(process.execPath, [program], { encoding: 'utf8', input: JSON.stringify(input) }),
  ) as T;
}

/** A listing of one kernel. A line may begin with a label ('again:'), and branches name labels. */
function listed(lines: readonly string[], name = 'Kernel'): string {
  const labels = new Map<string, number>();
  const bare = lines.map((line, i) => {
    const found = /^(\w+): (.*)/.exec(line);
    if (!found) return line;
    labels.set(found[1]!, 16 * i);
    return found[2]!;
  });
  const hex = (address: number) => address.toString(16).padStart(4, '0');
  const body = bare.map((line, i) => {
    const text = line.replace(
      /\b(BRA\S*|BSSY\S* B\d,) (?:(!?UP\d), )?(\w+)$/,
      (_, before, guard, label: string) =>
        [before, guard === undefined ? '' : ` ${guard},`, ` 0x${labels.get(label)!.toString(16)}`].join(''),
    );
    return `        /*${hex(16 * i)}*/                   ${text} ;                 /* 0x000ea2000c1e1900 */`;
  });
  return `\t\tFunction : ${name}\n${body.join('\n')}\n`;
}
const faults = (lines: readonly string[]) =>
  evaluate<string[]>(listed(lines), 'faultsOf(functionsIn(input)[0])');

// A kernel that waits, stores its part, arrives at a counter, and adds all parts where it is the last.
const sound = [
  'S2R R0, SR_TID.X',
  'LDG.E.CONSTANT R2, [R4.64]',
  'ACQBULK',
  'LDG.E R3, [R6.64]',
  'STG.E [R8.64], R3',
  'BAR.SYNC.DEFER_BLOCKING 0x0',
  'BSSY.RECONVERGENT B0, met',
  '@P0 BRA others',
  'MEMBAR.ALL.GPU',
  'ERRBAR',
  'ATOMG.E.INC.STRONG.GPU PT, R9, [R10.64], R11',
  'CCTL.IVALL',
  'STS [R1], R9',
  'others: BSYNC.RECONVERGENT B0',
  'met: BAR.SYNC.DEFER_BLOCKING 0x0',
  'LDS R9, [R1]',
  '@!P1 EXIT',
  'again: LDG.E.128 R12, [R14.64]',
  'FADD R13, R12, R13',
  '@P2 BRA again',
  'STG.E [R16.64], R13',
  'EXIT',
];
const place = (start: string) => sound.findIndex((line) => line.includes(start));
const without = (start: string) => sound.filter((line) => !line.includes(start));
const inserted = (line: string, before: string) => sound.toSpliced(place(before), 0, line);

test('the order of fences of a sound kernel is found right, and what was looked at is counted', () => {
  expect(faults(sound)).toEqual([]);
  // A predicate in place of the branch: the fences of a thread that arrives.
  const guarded = sound
    .filter((line) => !/^@P0 BRA|BSSY|BSYNC/.test(line) && !line.startsWith('others:'))
    .map((line) => line.replace(/^(MEMBAR|ATOMG|CCTL)/, '@!P0 $1'));
  expect(faults(guarded)).toEqual([]);
  expect(evaluate(listed(sound), 'checkedIn(functionsIn(input)[0])')).toEqual({ arrivals: 1, waits: 1 });
});

const arrives = /an arrival at a counter without MEMBAR/;
test.each<[string, string[], RegExp]>([
  ['a fence that was removed', without('MEMBAR'), arrives],
  ['a store between the fence and the arrival', inserted('STG.E [R8.64], R3', 'ATOMG'), arrives],
  ['a store through a generic address behind the fence', inserted('ST.E [R8.64], R3', 'ATOMG'), arrives],
  ['a fence of other threads', sound.with(place('MEMBAR'), '@P3 MEMBAR.ALL.GPU'), arrives],
  ['an L1 that is not emptied', without('CCTL'), /BAR after an arrival at a counter, before CCTL/],
  ['an L1 that is emptied by some', sound.with(place('CCTL'), '@P3 CCTL.IVALL'), /before CCTL/],
  ['a load before it is emptied', inserted('LDG.E R3, [R6.64]', 'CCTL'), /^0xb0: LDG after an arrival/],
  [
    'a copy to shared memory before it is emptied',
    inserted('LDGSTS.E.128 [R1], [R14.64]', 'CCTL'),
    /^0xb0: LDGSTS after an arrival/,
  ],
  ['an end before it is emptied', inserted('EXIT', 'CCTL'), /^0xb0: EXIT after an arrival/],
  [
    'a constant load of the parts',
    sound.with(place('again:'), 'again: LDG.E.128.CONSTANT R12, [R14.64]'),
    /^0x110: a non-coherent load \(LDG.CONSTANT\) after an arrival/,
  ],
  ['an early store', inserted('STG.E [R8.64], R3', 'ACQBULK'), /^0x20: STG that ACQBULK/],
  ['a store on a way around the wait', inserted('@P5 BRA others', 'ACQBULK'), /^0x150: STG that ACQBULK/],
  ['a wait of some threads', sound.with(place('ACQBULK'), '@P4 ACQBULK'), /^0x40: STG that ACQBULK/],
  ['an arrival before the wait', without('ACQBULK').toSpliced(11, 0, 'ACQBULK'), /ATOMG that ACQBULK/],
])('a planted fault is found: %s', (_, lines, fault) => {
  const found = faults(lines);
  expect(found.some((one) => fault.test(one))).toBe(true);
});

test('ways through a kernel: branches on uniform predicates, barriers that several regions share, ends', () => {
  // Nothing comes behind a branch that always goes elsewhere.
  expect(faults(['BRA over', 'STG.E [R0.64], R1', 'over: ACQBULK', 'EXIT'])).toEqual([]);
  expect(faults(['BRA.U UP0, over', 'STG.E [R0.64], R1', 'over: ACQBULK', 'EXIT'])).toHaveLength(1);
  expect(faults(['BRA.U !UP0, over', 'ACQBULK', 'over: STG.E [R0.64], R1', 'EXIT'])).toHaveLength(1);
  expect(faults(['@P0 EXIT', 'ACQBULK', 'STG.E [R0.64], R1', 'EXIT', 'STG.E [R0.64], R1'])).toEqual([]);
  // The first region ends where it goes on, and not where the second one does.
  const regions = [
    'BSSY B0, one',
    'NOP',
    'BSYNC B0',
    'one: ACQBULK',
    'BSSY B0, two',
    'BSYNC B0',
    'two: STG.E [R0.64], R1',
  ];
  expect(faults(regions)).toEqual([]);
  // From the middle of a region its barrier goes on where the region ends.
  const far = [
    'BSSY B0, end',
    '@P0 BRA other',
    'BSYNC B0',
    'other: ACQBULK',
    'BSYNC B0',
    'end: STG.E [R0.64], R1',
  ];
  expect(faults(far)).toHaveLength(1);
  // A wait in a loop, and one behind it for those that have not waited: products have both. One alone is not enough.
  const inLoop = ['again: @P0 BRA some', 'NOP', 'ACQBULK', 'some: @P1 BRA again'];
  const behind = ['@P2 BRA stores', 'ACQBULK', 'stores: STG.E [R0.64], R1', 'EXIT'];
  expect(faults([...inLoop, ...behind])).toEqual([]);
  expect(faults(behind)).toHaveLength(1);
  expect(faults([...inLoop, ...behind.slice(2)])).toHaveLength(1);
  const past = ['@P2 BRA stores', 'ACQBULK', 'NOP', 'stores: STG.E [R0.64], R1', 'EXIT'];
  expect(faults([...inLoop, ...past])).toHaveLength(1);
  expect(faults(['STG.E [R0.64], R1', ...inLoop, ...behind])).toHaveLength(1);
  expect(faults([...inLoop, 'STG.E [R0.64], R1', ...behind])).toHaveLength(1);
  // A kernel of PTX without a wait is launched after the one ahead of it.
  expect(faults(['STG.E [R0.64], R1', 'EXIT'])).toEqual([]);
});

test('a pass of a loop takes its loads, and the loop of the edge stands behind', () => {
  const lines = [
    'main: @P0 BRA edges',
    'LDG.E.128.CONSTANT R0, [R2.64]',
    'LDG.E R1, [R4.64]',
    'S2UR UR4, SR_CgaCtaId',
    'LDS R5, [UR4]',
    '@P3 I2F.S8 R6, R5',
    '@!P3 I2FP.F32.S32 R6, R5',
    'BRA products',
    'edges: LDG.E.U8 R0, [R2.64]',
    'LDG.E.U8 R0, [R2.64]',
    'LDG.E.U16.CONSTANT R0, [R2.64]',
    'products: HMMA.16816.F32.BF16 R8, R0, R4, R8',
    'HMMA.16816.F32.BF16 R8, R0, R4, R8',
    'BRA.U !UP0, main',
    'tail: HMMA.16816.F32.BF16 R8, R0, R4, R8',
    '@P1 BRA tail',
    'EXIT',
  ];
  const [first, second, ...rest] = evaluate<Record<string, number>[]>(
    listed(lines),
    `passesIn(${JSON.stringify(root)}, input).get('Kernel')`,
  );
  expect(first).toMatchObject({ instructions: 17, loop: 14, pass: 11, matrix: 2, LDG: 2, LDS: 1 });
  expect(first).toMatchObject({ S2UR: 1, I2F: 2, predicated: 2 });
  expect(second).toMatchObject({ loop: 2, pass: 2, matrix: 1, predicated: 0 });
  expect(rest).toEqual([]);
  // Loads alone are enough: those of NF4 stood behind the check of an edge.
  const checked = [
    'main: @P0 BRA products',
    'LDG.E R0, [R2.64]',
    'NOP',
    'products: HMMA R8, R0, R4, R8',
    '@P1 BRA main',
  ];
  const of = `passesIn(${JSON.stringify(root)}, input).get('Kernel')`;
  expect(evaluate<unknown[]>(listed(checked), of)).toEqual([expect.objectContaining({ pass: 5, LDG: 1 })]);
  // A loop around others is none of them.
  const nested = ['outer: NOP', 'inner: HMMA R8, R0, R4, R8', '@P0 BRA inner', '@P1 BRA outer', 'EXIT'];
  const passes = evaluate<unknown[]>(
    listed(nested),
    `passesIn(${JSON.stringify(root)}, input).get('Kernel')`,
  );
  expect(passes).toEqual([expect.objectContaining({ loop: 2, pass: 2 })]);
});

test('decode kernels are gated by the instructions of a byte, and none without a gate passes', () => {
  const pass = (matrix: number, instructions: number, LDS = 0) => ({ matrix, pass: instructions, LDS });
  const faultsIn = (name: string, ...passes: unknown[]) =>
    evaluate<string[]>([name, passes], 'gateFaults(...input)');
  // 16 products for two tiles of x read 16 · 128 values: 4096 bytes, or 1152 of codes with their scales.
  const scaled = 'Decode<BF16, 2, true>';
  expect(
    evaluate([scaled, [pass(16, 800, 64), pass(16, 700), pass(2, 10)]], 'decodeLoops(...input)'),
  ).toEqual([
    expect.objectContaining({ reads: 'codes', bytes: 1152, perByte: 800 / 1152 }),
    expect.objectContaining({ reads: 'int8', bytes: 2048, perByte: 700 / 2048 }),
  ]);
  expect(faultsIn('Decode<BF16, 2, false>', pass(16, 116))).toEqual([]);
  expect(faultsIn('Decode<BF16, 1, false>', pass(8, 74))).toEqual([]);
  expect(faultsIn('Decode<BF16, 2, false>', pass(16, 200))).toEqual([
    '200 instructions of a pass, 0.049 for a byte of elements: at most 0.029 expected',
  ]);
  expect(faultsIn(scaled, pass(16, 299, 64), pass(16, 3000))).toEqual([
    expect.stringMatching(/^3000 instructions of a pass, 1\.465 for a byte of int8: at most/),
  ]);
  // Blocks by the bytes of their format: 8 products of one tile read 2048 values of 210 bytes for 256.
  expect(faultsIn('DecodeBlocks<1, q6_k>', pass(8, 450))).toEqual([]);
  expect(faultsIn('DecodeBlocks<2, q6_k>', pass(16, 480))).toEqual([
    '480 instructions of a pass, 0.286 for a byte of q6_k: at most 0.275 expected',
  ]);
  expect(faultsIn('DecodeBlocks<1, q2_k>', pass(8, 10))[0]).toMatch(/there is no gate for it/);
  expect(faultsIn('Decode<BF16, 4, false>', pass(16, 10))[0]).toMatch(/there is no gate for it/);
  expect(faultsIn(scaled)).toEqual(['a decode kernel without a loop around products']);
  expect(faultsIn('GemmMma<BF16, GemmTile<64, 64, 4, 5>, false, false>')).toEqual([]);
});

/** A cubin of one kernel, of words that nvcc 13.0 wrote. */
function cubin(arch: number, words: readonly (readonly [bigint, bigint])[]): string {
  const code = Buffer.alloc(16 * words.length);
  words.forEach(([low, high], i) => {
    code.writeBigUInt64LE(low, 16 * i);
    code.writeBigUInt64LE(high, 16 * i + 8);
  });
  const names = Buffer.from('\0.text.Kernel\0.shstrtab\0');
  const header = Buffer.alloc(64);
  header.write('\x7fELF\x02\x01\x01', 0, 'latin1');
  header[8] = 8;
  header.writeBigUInt64LE(BigInt(64 + code.length + names.length), 40);
  header.writeUInt32LE((arch << 8) | 4, 48);
  header.writeUInt16LE(3, 60);
  header.writeUInt16LE(2, 62);
  const section = (name: number, offset: number, size: number) => {
    const one = Buffer.alloc(64);
    one.writeUInt32LE(name, 0);
    one.writeBigUInt64LE(BigInt(offset), 24);
    one.writeBigUInt64LE(BigInt(size), 32);
    return one;
  };
  const path = join(scratch, `${arch}.cubin`);
  writeFileSync(
    path,
    Buffer.concat([
      ...[header, code, names, section(0, 0, 0), section(1, 64, code.length)],
      section(14, 64 + code.length, names.length),
    ]),
  );
  return path;
}

test('machine code is read as instructions', () => {
  const read = (path: string) =>
    evaluate<string>(path, 'listing(readFileSync(input))')
      .trim()
      .split('\n')
      .map((line) => line.replace(/^\s*\/\*\w+\*\/ | ;$/g, '').trim());
  expect(
    read(
      cubin(90, [
        [0x782en, 0xfcc0000000000n],
        [0x608097981n, 0xee2000c1e9900n],
        [0x60a0a7981n, 0xea4000c1e1900n],
        [0x11000007945n, 0xfe20003800000n],
        [0x904007986n, 0x81e2000c101906n],
        [0x7b1dn, 0xfec0000010000n],
        [0x300947n, 0xfea0003800000n],
        [0x7992n, 0xfec000000a000n],
        [0xb080879a8n, 0x1ea800099ee1c6n],
        [0xff00798fn, 0x4fe20002000000n],
        [0x579c3n, 0xe220000008800n],
        [0xff007988n, 0x3e80008000804n],
        [0x7941n, 0xfea0003800000n],
        [0x794dn, 0xfea0003800000n],
      ]),
    ),
  ).toEqual([
    'Function : Kernel',
    ...['ACQBULK', 'LDG.CONSTANT', 'LDG', 'BSSY B0, 0x150', 'STG', 'BAR', '@P0 BRA 0x130', 'MEMBAR', 'ATOMG'],
    ...['CCTL', 'S2UR', 'STS', 'BSYNC B0', 'EXIT'],
  ]);
  // From sm_100 on a region has a mark in the bits above its end.
  expect(read(cubin(100, [[0x15000007945n, 0xfe20003800200n]]))[1]).toBe('BSSY B0, 0x160');
});
