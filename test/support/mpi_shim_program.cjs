// Calls the shim of MPI as a rank of three, without the rest of the package: prints what is wrong, and a line when it is done.
const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const shim = require(process.env.LORA_MPI_SHIM);

async function sums(rank, size) {
  for (const n of [0, 1, 2, 3, 10, 1001]) {
    // In the order of ranks and in double precision 1e8 − 1e8 leaves the small numbers whole.
    const values = Float32Array.from({ length: n }, (_, i) => [1e8, i + 0.5, -1e8][rank]);
    await shim.sum(values, false);
    assert.deepEqual(
      [...values],
      Array.from({ length: n }, (_, i) => i + 0.5),
      `sums of ${n}`,
    );
  }
  const zero = Float32Array.of(-0);
  await shim.sum(zero, false);
  assert.ok(Object.is(zero[0], -0), 'a sum of -0');
  const large = Float32Array.of([1, 2 ** 53, -(2 ** 53)][rank]);
  await shim.sum(large, false);
  assert.equal(large[0], 0, 'the order of ranks, in which 2⁵³ takes 1 in');
  await roundedSums(rank);
  const all = new Uint8Array(2 * size);
  await shim.exchange(Uint8Array.of(rank, 7), all);
  assert.deepEqual([...all], [0, 7, 1, 7, 2, 7]);
}

/** In bf16 1 + 2⁻⁸ is 1, a tie, and 1 + 3·2⁻⁸ is 1 + 2⁻⁶; 3 times 1 + 2⁻⁷ is 3.0234375, whose nearest is 3.03125 and not 3.015625. */
async function roundedSums(rank) {
  const given = [1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -7, -Infinity, 2 ** 100 * (1 + 2 ** -8), NaN, -0];
  const expected = [3, 3.046875, 3.03125, -Infinity, 3 * 2 ** 100, NaN, -0];
  for (const n of [0, 1, 2, 10, 1001]) {
    const values = Float32Array.from({ length: n }, (_, i) => given[i % given.length]);
    await shim.sum(values, true);
    assert.deepEqual(
      [...values],
      Array.from({ length: n }, (_, i) => expected[i % expected.length]),
      `sums of ${n} in bf16`,
    );
  }
  // Small beside the others: in f64 it is there, and its rank rounds it once.
  const odd = Float32Array.of([2 ** 30, 1 + 2 ** -7, -(2 ** 30)][rank]);
  await shim.sum(odd, true);
  assert.equal(odd[0], 1 + 2 ** -7);
  const denormal = new Float32Array(Uint32Array.of(0x7f800001).buffer); // NaN whose last bits alone say so
  await shim.sum(denormal, true);
  assert.ok(Number.isNaN(denormal[0]), 'NaN');
}

/** Each byte, the seed and the length count, wherever the byte lies in a block of 32. */
async function digests() {
  const found = new Set();
  let asked = 0;
  const add = async (bytes, seed) => {
    found.add(await shim.digest(bytes, seed));
    asked++;
  };
  for (const length of [1, 31, 32, 64, 77]) {
    const bytes = new Uint8Array(length);
    for (const seed of [0n, 1n, 2n ** 63n]) await add(bytes, seed);
    for (let i = 0; i < length; i++) {
      bytes[i] = 1;
      await add(bytes, 0n);
      bytes[i] = 0;
    }
  }
  assert.equal(found.size, asked, 'digests that differ');
  assert.equal(await shim.digest(new Uint8Array(77), 1n), await shim.digest(new Uint8Array(77), 1n));
}

/** A rank whose count stays is told apart from those whose counts move, although all live. */
async function progress(rank, size) {
  for (let i = 0; i < 32; i++) {
    if (rank !== 1) shim.setProgress(i);
    await sleep(100);
  }
  const peers = Array.from({ length: size }, (_, r) => [...shim.peers().subarray(4 * r, 4 * r + 3)]);
  for (const [r, [, quiet, stalled]] of peers.entries()) {
    if (r === rank) continue;
    assert.ok(quiet < 2, `rank ${r} was quiet for ${quiet} s`);
    assert.ok(r === 1 ? stalled > 2.5 : stalled < 2, `rank ${r} was stalled for ${stalled} s`);
  }
}

/** A message that is longer than what rank 0 has room for is an error of MPI, which ends no process. */
async function failure(rank, size) {
  const length = rank === 0 ? 4 : 8;
  const call = shim.exchange(new Uint8Array(length), new Uint8Array(length * size));
  const error = await call.catch((caught) => caught);
  if (rank === 0) assert.match(error.message, /^MPI_\w+: .*\w+/);
}

(async () => {
  const { rank, size, localRank, localSize } = await shim.start();
  assert.deepEqual([size, localRank, localSize], [3, rank, 3]);
  await sums(rank, size);
  await digests();
  await progress(rank, size);
  await failure(rank, size);
  console.log(`rank ${rank} is done`);
  await sleep(1000); // the launcher ends all when the first one leaves
  process.exit(0); // after an error of MPI nobody finalizes
})().catch((error) => {
  console.log(`rank failed: ${error.message}`);
  process.exit(1);
});
