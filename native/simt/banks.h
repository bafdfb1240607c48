// Counts bank conflicts of ordinary loads and stores of shared memory (ldmatrix counts its own).
#pragma once

#include "simt/state.h"

namespace lora::simt {

// Counts one thread's access. A thread runs alone until it waits, so what the lanes of a warp would
// do at once is put together again: the n-th time since its last barrier that each comes to that
// line.
void CountBanks(const void* p, int bytes, Site site);
// Ends a block: accesses that not every lane made are complete too.
void EndBanksOfBlock();
// Writes the worst site of the launch into its result.
void EndBanks(Result& result);

}  // namespace lora::simt
