// Returns the sizes that the kernels were tuned to on a GPU, and the order of a product's tiles.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "simt/simt.h"

namespace lora::simt {

struct Tuning {
  std::string kernel;
  int threads = 0, blocks = 0;           // of a block; of a multiprocessor at once, at least
  int rows = 0, columns = 0, depth = 0;  // of a tile; columns are keys where it is attention
  int stages = 0;                        // of the ring that copies fill; 0 where there is none
  int shared_bytes = 0;                  // 0 where it depends on the problem
  bool operator==(const Tuning&) const = default;
};
std::vector<Tuning> GemmTunings();
std::vector<Tuning> SkinnyTunings();
std::vector<Tuning> AttentionTunings();

// Returns tile row and column of each block of a product of tiles_m by tiles_n tiles of 64×64, in
// the order in which blocks start.
std::vector<std::pair<int, int>> TileOrder(int tiles_m, int tiles_n);

}  // namespace lora::simt
