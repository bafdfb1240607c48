// Machine code of cubins as text, as `cuobjdump --dump-sass` prints it, as far as the report reads it, because the toolkits that CI and pip
// install have no disassembler; and that text as instructions.
//
// Instructions are 128 bits from sm_70 on: the operation in bits 0 to 11, the predicate in 12 to 15, the target of a branch, in units of 4
// bytes from the next instruction on, in 34 to 81, and from sm_90 on its lowest 8 bits in 16 to 23; the size of an access in 73 to 75 and its
// order in 77 to 80. Found by assembling single instructions of PTX (nvcc 13.0).

// By all 12 bits, or by the lowest 9 where the form of the operands is in the others. Any other operation is a number.
const exact = {
  0x83b: 'LDSM',
  0xfae: 'LDGSTS',
  0xb1d: 'BAR',
  0x941: 'BSYNC',
  0x942: 'BREAK',
  0x945: 'BSSY',
  0x947: 'BRA',
  0x547: 'BRA',
  0x94d: 'EXIT',
  0x981: 'LDG',
  0x984: 'LDS',
  0x988: 'STS',
  0x986: 'STG',
  0x385: 'ST',
  0x985: 'ST',
  0x98e: 'RED',
  0x9a8: 'ATOMG',
  0x9a9: 'ATOMG', // compare and swap
  0x98f: 'CCTL',
  0x992: 'MEMBAR',
  0x9ab: 'ERRBAR',
  0x983: 'LDL',
  0x387: 'STL',
  0x950: 'RET',
  0x919: 'S2R',
  0x9c3: 'S2UR',
  0x82e: 'ACQBULK',
  0x82d: 'PREEXIT',
};
const byLowest = {
  0x009: 'FMNMX',
  0x00c: 'ISETP',
  0x010: 'IADD3',
  0x011: 'LEA',
  0x012: 'LOP3',
  0x016: 'PRMT',
  0x020: 'FMUL',
  0x021: 'FADD',
  0x023: 'FFMA',
  0x024: 'IMAD',
  0x03c: 'HMMA',
  0x03e: 'F2FP',
  0x045: 'I2FP',
  0x106: 'I2F',
};
const sizes = ['.U8', '.S8', '.U16', '.S16', '', '.64', '.128', ''];
const sized = new Set(['LDG', 'LDS', 'STG', 'STS']);

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

/** The size and the order of an access, as modifiers. */
function modifiers(name, high, arch) {
  const size = Number((high >> 9n) & 7n);
  if (name === 'LDGSTS') return size === (arch >= 100 ? 4 : 6) ? '.128' : '';
  if (!sized.has(name)) return '';
  const constant = name === 'LDG' && ((high >> 13n) & 0xfn) === 4n ? '.CONSTANT' : '';
  return `${sizes[size]}${constant}`;
}

function text(code, address, arch) {
  const low = code.readBigUInt64LE(address);
  const high = code.readBigUInt64LE(address + 8);
  const operation = Number(low & 0xfffn);
  const predicate = Number((low >> 12n) & 0xfn);
  const condition = predicate === 7 ? '' : `@${predicate & 8 ? '!' : ''}P${predicate & 7} `;
  const name = exact[operation] ?? byLowest[operation & 0x1ff] ?? `OP${operation.toString(16)}`;
  const barrier = `B${(low >> 16n) & 0xfn}`;
  if (name === 'BSYNC' || name === 'BREAK') return `${condition}${name} ${barrier}`;
  const isBranch = name === 'BRA';
  if (!isBranch && name !== 'BSSY') return `${condition}${name}${modifiers(name, high, arch)}`;
  const upper = ((high << 64n) | low) >> 34n;
  const wide = isBranch && arch >= 90;
  const field = wide ? (upper << 8n) | ((low >> 16n) & 0xffn) : upper;
  const distance = Number(BigInt.asIntN(isBranch ? (wide ? 56 : 48) : 30, field)) * 4;
  const target = `0x${(address + 16 + distance).toString(16)}`;
  if (!isBranch) return `${condition}BSSY ${barrier}, ${target}`;
  // Where lanes may have diverged, and on a uniform predicate.
  const kind = (high >> 27n) & 1n ? '.DIV' : ((high >> 23n) & 0xfn) === 7n ? '' : '.U';
  return `${condition}BRA${kind} ${target}`;
}

/** The architecture of a cubin: in the ELF's flags, the lowest byte, or the second from CUDA 13 on. */
export function architectureOf(elf) {
  const flags = elf.readUInt32LE(48);
  return elf[8] >= 8 ? (flags >> 8) & 0xff : flags & 0xff;
}

/** The text of all kernels of a cubin. */
export function listing(elf) {
  const arch = architectureOf(elf);
  const lines = [];
  for (const [name, code] of sections(elf)) {
    if (!name.startsWith('.text.')) continue;
    lines.push(`\t\tFunction : ${name.slice('.text.'.length)}`);
    for (let address = 0; address < code.length; address += 16)
      lines.push(`        /*${address.toString(16).padStart(4, '0')}*/ ${text(code, address, arch)} ;`);
  }
  return `${lines.join('\n')}\n`;
}

/**
 * The kernels of a listing: { name, instructions }. An instruction has its address, its operation and its modifiers, whether a predicate
 * guards it (`guard`, '' where none does), the address that it names (`target`) and the barrier (`barrier`, 'B0').
 */
export function functionsIn(listed) {
  const functions = [];
  for (const line of listed.split('\n')) {
    const begins = /Function : (\S+)/.exec(line);
    if (begins) functions.push({ name: begins[1], instructions: [] });
    const one = /^\s*\/\*([0-9a-f]+)\*\/\s+\{?\s*(@!?U?P\w+\s+)?([A-Z]\w*)([.\w]*)([^;]*);/.exec(line);
    if (!one) continue;
    functions.at(-1).instructions.push({
      address: parseInt(one[1], 16),
      // A uniform predicate is an operand of a branch: BRA.U !UP0, 0x40.
      guard: (one[2] ?? '').trim() || (/^BRA$/.test(one[3]) ? (/!?UP\d/.exec(one[5])?.[0] ?? '') : ''),
      operation: one[3],
      modifiers: one[4],
      barrier: /\bB\d+\b/.exec(one[5])?.[0],
      target: /^(BRA|BSSY)$/.test(one[3]) ? parseInt(/0x([0-9a-f]+)\s*$/.exec(one[5])?.[1] ?? '', 16) : NaN,
    });
  }
  return functions;
}

/** For each instruction of a kernel the places of those that may come next. */
export function successors(instructions) {
  const place = new Map(instructions.map(({ address }, i) => [address, i]));
  const meets = new Map(); // of a barrier: where those go on that wait at it
  for (const { operation, barrier, target } of instructions)
    if (operation === 'BSSY') meets.set(barrier, [...(meets.get(barrier) ?? []), target]);
  return instructions.map(({ operation, modifiers, guard, barrier, target }, i) => {
    const to = [];
    const conditional = guard !== '' || /\.(U|DIV)\b/.test(modifiers);
    if (operation === 'BRA') to.push(target);
    const next = instructions[i + 1]?.address;
    // Several regions have one barrier, one after the other; most end right before where they go on.
    const met = meets.get(barrier) ?? [];
    if (operation === 'BSYNC') to.push(...(met.includes(next) ? [next] : met));
    const ends = /^(BRA|EXIT|RET|BRX|JMP|BSYNC)$/.test(operation);
    if ((!ends || conditional) && next !== undefined) to.push(next);
    return [...new Set(to.map((address) => place.get(address)).filter((j) => j !== undefined))];
  });
}
