// What machine code must keep to that neither the emulator nor ptxas sees: the order of the instructions that the last block to arrive and
// programmatic launches rely on. A fence that is missing there, or an access on the wrong side of one, gives right sums on most runs.
import { successors } from './sass.mjs';

/** Whether an instruction writes to global memory. Through generic addresses, too. */
const isStore = ({ operation }) => /^(STG|ST|RED|REDG|ATOM|ATOMG)$/.test(operation);
const isLoad = ({ operation }) => /^(LDG|LD|LDGSTS)$/.test(operation);
const isConstantLoad = ({ operation, modifiers }) => operation === 'LDG' && /\.CONSTANT\b/.test(modifiers);
const isArrival = ({ operation }) => operation === 'ATOMG';

/**
 * What holds before each instruction on every way to it: `after(instruction, held)` says what holds behind one. undefined where no way leads.
 */
function onEveryWay(instructions, next, after) {
  const held = new Array(instructions.length).fill(undefined);
  held[0] = false;
  const work = [0];
  while (work.length > 0) {
    const i = work.pop();
    const out = after(instructions[i], held[i]);
    for (const j of next[i]) {
      const joined = held[j] === undefined ? out : held[j] && out;
      if (joined === held[j]) continue;
      held[j] = joined;
      work.push(j);
    }
  }
  return held;
}

/** The places that come after place `from`, up to and with the first of each way that `ends`. */
function reached(next, from, ends = () => false) {
  const seen = new Set();
  const work = [...next[from]];
  while (work.length > 0) {
    const i = work.pop();
    if (seen.has(i)) continue;
    seen.add(i);
    if (!ends(i)) work.push(...next[i]);
  }
  return seen;
}

/**
 * LastToArrive is an atomic with acquire and release. Its release is a MEMBAR behind all stores of the thread, its acquire a CCTL that
 * empties L1 before anything is loaded. Non-coherent loads look elsewhere, and must not follow at all.
 */
function arrivals(instructions, next) {
  const found = [];
  const fenced = onEveryWay(instructions, next, (one, held) =>
    one.operation === 'MEMBAR' && one.guard === '' ? true : held && !isStore(one),
  );
  const guarded = (one, like) => one.guard === '' || one.guard === like.guard;
  instructions.forEach((arrival, i) => {
    if (!isArrival(arrival) || fenced[i] === undefined) return;
    const before = instructions
      .slice(0, i)
      .findLastIndex((one) => isStore(one) || one.operation === 'MEMBAR');
    const sameGuard =
      before >= 0 && instructions[before].operation === 'MEMBAR' && guarded(instructions[before], arrival);
    if (!fenced[i] && !sameGuard)
      found.push([arrival, 'an arrival at a counter without MEMBAR between it and the stores before it']);
    const empties = (j) => instructions[j].operation === 'CCTL' && guarded(instructions[j], arrival);
    const early = (one) =>
      isLoad(one) || /^(BAR|RET)$/.test(one.operation) || (one.operation === 'EXIT' && one.guard === '');
    const ends = (j) => empties(j) || early(instructions[j]);
    for (const j of reached(next, i, ends))
      if (early(instructions[j]))
        found.push([
          instructions[j],
          `${instructions[j].operation} after an arrival at a counter, before CCTL`,
        ]);
    for (const j of reached(next, i))
      if (isConstantLoad(instructions[j]))
        found.push([instructions[j], 'a non-coherent load (LDG.CONSTANT) after an arrival at a counter']);
  });
  return found;
}

/**
 * Branches around a later wait alone: `if (!waited) wait`. Products wait in their loop, where they first read what the launch ahead of them
 * wrote, and behind it where they have not yet. Of a thread that does not come by the later one the flag says that it came by an earlier one:
 * that is taken for true here. The emulator reports a thread that never waits.
 */
function branchesAroundAnotherWait(instructions) {
  const isWait = (one) => one?.operation === 'ACQBULK' && one.guard === '';
  return new Set(
    instructions.filter(
      ({ operation, guard, target }, i) =>
        operation === 'BRA' &&
        guard !== '' &&
        isWait(instructions[i + 1]) &&
        target === instructions[i + 2]?.address &&
        instructions.slice(0, i).some(isWait),
    ),
  );
}

/** A programmatic launch may begin before the one ahead of it has ended: a kernel that waits for that stores nothing on any way before the wait. */
function waits(instructions, next) {
  if (!instructions.some(({ operation }) => operation === 'ACQBULK')) return [];
  const known = branchesAroundAnotherWait(instructions);
  const waited = onEveryWay(
    instructions,
    next,
    (one, held) => held || known.has(one) || (one.operation === 'ACQBULK' && one.guard === ''),
  );
  return instructions
    .map((one, i) => [one, i])
    .filter(([one, i]) => isStore(one) && waited[i] === false)
    .map(([one]) => [
      one,
      `${one.operation} that ACQBULK (griddepcontrol.wait) does not come before on every way`,
    ]);
}

/**
 * @param kernel { name, instructions } of a listing (sass.mjs)
 * @returns what its code gets wrong: '0x1a0: …'
 */
export function faultsOf({ instructions }) {
  if (instructions.length === 0) return [];
  const next = successors(instructions);
  return [...arrivals(instructions, next), ...waits(instructions, next)].map(
    ([{ address }, what]) => `0x${address.toString(16)}: ${what}`,
  );
}

/** How many arrivals and waits a kernel has: that a check finds nothing says little where there is nothing to check. */
export function checkedIn({ instructions }) {
  return {
    arrivals: instructions.filter(isArrival).length,
    waits: instructions.filter(({ operation }) => operation === 'ACQBULK').length,
  };
}
