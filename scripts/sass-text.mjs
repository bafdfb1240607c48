// Prints the instructions of a cubin as `cuobjdump --dump-sass` does, as far as scripts/sass-mix.awk reads it, because the
// toolkits that CI and pip install have no disassembler:
//   nvcc -std=c++20 -O3 --expt-relaxed-constexpr -Inative -arch=sm_80 -cubin -o attention.cubin native/backend/cuda/attention.cu
//   node scripts/sass-text.mjs attention.cubin | awk -f scripts/sass-mix.awk | c++filt
// Instructions are 128 bits from sm_70 on: the operation in bits 0 to 11, the predicate in 12 to 15, the target of a branch,
// in units of 4 bytes from the next instruction on, in 34 to 81, and from sm_90 on its lowest 8 bits in 16 to 23; the
// size of a copy to shared memory in 73 to 75.
import { readFileSync } from 'node:fs';

// By all 12 bits, or by the lowest 9 where the form of the operands is in the others. Any other operation is a number.
const exact = {
  0x83b: 'LDSM',
  0xfae: 'LDGSTS',
  0xb1d: 'BAR',
  0x947: 'BRA',
  0x547: 'BRA',
  0x94d: 'EXIT',
  0x981: 'LDG',
  0x984: 'LDS',
  0x988: 'STS',
  0x983: 'LDL',
  0x387: 'STL',
  0x950: 'RET',
};
const byLowest = {
  0x009: 'FMNMX',
  0x00c: 'ISETP',
  0x010: 'IADD3',
  0x011: 'LEA',
  0x012: 'LOP3',
  0x020: 'FMUL',
  0x021: 'FADD',
  0x023: 'FFMA',
  0x024: 'IMAD',
  0x03c: 'HMMA',
  0x03e: 'F2FP',
};

function* sections(elf) {
  const at = Number(elf.readBigUInt64LE(40));
  const header = (i) => at + i * 64;
  const offset = (i) => Number(elf.readBigUInt64LE(header(i) + 24));
  const names = offset(elf.readUInt16LE(62));
  for (let i = 0; i < elf.readUInt16LE(60); i++) {
    const name = names + elf.readUInt32LE(header(i));
    const size = Number(elf.readBigUInt64LE(header(i) + 32));
    yield [elf.toString('latin1', name, elf.indexOf(0, name)), elf.subarray(offset(i), offset(i) + size)];
  }
}

function text(code, address, arch) {
  const low = code.readBigUInt64LE(address);
  const high = code.readBigUInt64LE(address + 8);
  const operation = Number(low & 0xfffn);
  const predicate = Number((low >> 12n) & 0xfn);
  const condition = predicate === 7 ? '' : `@${predicate & 8 ? '!' : ''}P${predicate & 7} `;
  const name = exact[operation] ?? byLowest[operation & 0x1ff] ?? `OP${operation.toString(16)}`;
  const size = (high >> 9n) & 7n;
  const sixteenBytes = name === 'LDGSTS' && size === (arch >= 100 ? 4n : 6n) ? '.128' : '';
  if (name !== 'BRA') return `${condition}${name}${sixteenBytes}`;
  // Where lanes may have diverged, and on a uniform predicate.
  const kind = (high >> 27n) & 1n ? '.DIV' : ((high >> 23n) & 0xfn) === 7n ? '' : '.U';
  const upper = ((high << 64n) | low) >> 34n;
  const field = arch >= 90 ? (upper << 8n) | ((low >> 16n) & 0xffn) : upper;
  const distance = Number(BigInt.asIntN(arch >= 90 ? 56 : 48, field)) * 4;
  return `${condition}${name}${kind} 0x${(address + 16 + distance).toString(16)}`;
}

const elf = readFileSync(process.argv[2]);
// The architecture is in the ELF's flags: the lowest byte, or the second from CUDA 13 on.
const flags = elf.readUInt32LE(48);
const arch = elf[8] >= 8 ? (flags >> 8) & 0xff : flags & 0xff;
for (const [name, code] of sections(elf)) {
  if (!name.startsWith('.text.')) continue;
  console.log(`\t\tFunction : ${name.slice('.text.'.length)}`);
  for (let address = 0; address < code.length; address += 16)
    console.log(`        /*${address.toString(16).padStart(4, '0')}*/ ${text(code, address, arch)} ;`);
}
