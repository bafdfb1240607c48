// transpose: the cases of every backend.
#pragma once

#include <vector>

#include "core/ops/tensor_view.h"

namespace lora::test {

struct TransposeCase {
  Shape shape;
  std::vector<int> perm;
};

inline std::vector<TransposeCase> TransposeCases() {
  return {
      {{}, {}},
      {{5}, {0}},
      {{1, 1}, {1, 0}},
      {{3, 5}, {1, 0}},
      {{3, 5}, {0, 1}},
      {{0, 5}, {1, 0}},
      {{31, 33}, {1, 0}},
      {{32, 64}, {1, 0}},
      {{65, 1}, {1, 0}},
      {{307, 401}, {1, 0}},  // enough for three threads
      {{2, 70, 3, 16}, {0, 2, 1, 3}},
      {{2, 70, 3, 16}, {0, 2, 3, 1}},
      {{2, 70, 3, 16}, {3, 2, 1, 0}},
      {{2, 70, 3, 16}, {2, 3, 0, 1}},
      {{4, 1, 6}, {2, 1, 0}},
      {{3, 64, 65}, {1, 0, 2}},
      {{9, 41, 300}, {0, 2, 1}},
      {{2, 3, 1, 2, 3, 2, 1, 2}, {7, 1, 3, 0, 2, 5, 6, 4}},
  };
}

}  // namespace lora::test
