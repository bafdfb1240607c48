// How many blocks of a kernel fit on a multiprocessor.

// What a multiprocessor has: registers are given to a warp in units of 256, shared memory to a block in units of 128
// bytes beside 1 KiB that the system takes. CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
const limits = {
  80: { threads: 2048, blocks: 32, shared: 164 },
  86: { threads: 1536, blocks: 16, shared: 100 },
  87: { threads: 1536, blocks: 16, shared: 164 },
  89: { threads: 1536, blocks: 24, shared: 100 },
  90: { threads: 2048, blocks: 32, shared: 228 },
  100: { threads: 2048, blocks: 32, shared: 228 },
  103: { threads: 2048, blocks: 32, shared: 228 },
  110: { threads: 1536, blocks: 24, shared: 228 },
  120: { threads: 1536, blocks: 24, shared: 100 },
  121: { threads: 1536, blocks: 24, shared: 100 },
};

/** The blocks of a kernel that a multiprocessor holds, and the share of its threads. */
export function occupancy(arch, { registers, threads, shared }) {
  const limit = limits[arch];
  const warps = Math.ceil(threads / 32);
  const byRegisters = Math.floor(65536 / (Math.ceil((registers * 32) / 256) * 256 * warps));
  const byShared = shared
    ? Math.floor((limit.shared * 1024) / (Math.ceil(shared / 128) * 128 + 1024))
    : Infinity;
  const blocks = Math.min(byRegisters, byShared, limit.blocks, Math.floor(limit.threads / (warps * 32)));
  return { blocks, share: (blocks * warps * 32) / limit.threads };
}

/** Dynamic shared memory is known to the host alone; that of the GEMM follows from its tile. */
export function sharedBytes(name) {
  const tile = /^Gemm\w*<\w+, GemmTile<(\d+), (\d+), (\d+)/.exec(name);
  return tile ? (Number(tile[1]) + Number(tile[2])) * 32 * 2 * Number(tile[3]) : undefined;
}
