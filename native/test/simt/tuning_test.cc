// Pins numbers on which no result depends, only the speed on a GPU, which most machines that build
// this lack. A change of one is measured (docs/internals/cuda-kernels.md, scripts/gpu-check bench)
// and written here.
#include "test/simt/tuning.h"

#include <doctest/doctest.h>

#include "backend/cuda/attention_plan.h"
#include "backend/cuda/skinny.h"
#include "backend/cuda/skinny_plan.h"

namespace lora::simt {

namespace {

void CheckTunings(const std::vector<Tuning>& all, const std::vector<Tuning>& measured) {
  REQUIRE(all.size() == measured.size());
  for (size_t i = 0; i < all.size(); ++i) {
    CAPTURE(all[i].kernel);
    CHECK(all[i].kernel == measured[i].kernel);
    CHECK(all[i].threads == measured[i].threads);
    CHECK(all[i].blocks == measured[i].blocks);
    CHECK(all[i].rows == measured[i].rows);
    CHECK(all[i].columns == measured[i].columns);
    CHECK(all[i].depth == measured[i].depth);
    CHECK(all[i].stages == measured[i].stages);
    CHECK(all[i].shared_bytes == measured[i].shared_bytes);
  }
}

}  // namespace

TEST_CASE("tiles, stages and occupancy of products are those that were measured") {
  CheckTunings(GemmTunings(), {
                                  {"gemm_mma", 128, 2, 128, 128, 32, 3, 49152},
                                  {"gemm_mma", 128, 5, 64, 64, 32, 4, 32768},
                                  {"gemm_fma", 256, 2, 128, 128, 8, 2, 16896},
                                  {"gemm_fma", 256, 3, 64, 64, 16, 2, 17408},
                              });
  CheckTunings(SkinnyTunings(), {
                                    {"decode", 256, 2, 16, 128, 0, 0, 5760},
                                    {"decode_f32 1", 128, 6, 16, 0, 0, 0, 0},
                                    {"decode_f32 4", 128, 4, 16, 0, 0, 0, 0},
                                    {"skinny down", 128, 3, 128, 0, 64, 0, 0},
                                    {"skinny gradient", 128, 3, 128, 0, 64, 0, 0},
                                    {"skinny down f32", 128, 2, 128, 0, 32, 0, 0},
                                });
}

TEST_CASE("tiles and occupancy of attention are those that were measured") {
  CheckTunings(AttentionTunings(),
               {
                   {"attention_mma 64", 128, 3, 64, 64, 64, 0, 25088},
                   {"attention_mma, large 64", 128, 2, 128, 64, 64, 0, 33792},
                   {"attention_decode 64", 128, 5, 16, 64, 64, 0, 19072},
                   {"attention_fma 64", 256, 2, 64, 32, 64, 0, 44544},
                   {"key_gradients_mma 64", 128, 2, 48, 64, 64, 0, 42496},
                   {"query_gradients_mma 64", 128, 2, 64, 64, 64, 0, 41984},
                   {"attention_mma 128", 128, 2, 64, 64, 128, 0, 49664},
                   {"attention_mma, large 128", 256, 1, 128, 64, 128, 0, 66560},
                   {"attention_decode 128", 128, 3, 16, 64, 128, 0, 37504},
                   {"attention_fma 128", 256, 2, 64, 32, 128, 0, 77312},
                   {"key_gradients_mma 128", 128, 2, 32, 64, 128, 0, 66560},
                   {"key_gradients_mma, small 128", 128, 2, 16, 64, 128, 0, 49664},
                   {"query_gradients_mma 128", 128, 2, 64, 32, 128, 0, 50176},
                   {"attention_mma 256", 128, 2, 64, 32, 256, 0, 66048},
                   {"attention_decode 256", 128, 2, 16, 64, 256, 0, 74368},
                   {"attention_fma 256", 256, 2, 32, 16, 256, 0, 69376},
                   {"key_gradients_mma 256", 256, 1, 16, 64, 256, 0, 98816},
                   {"query_gradients_mma 256", 128, 1, 64, 16, 256, 0, 99328},
               });
}

TEST_CASE("tiles of a product start in groups of 8 rows, which share the columns of b in L2") {
  std::vector<std::pair<int, int>> expected;
  for (const auto& [first, rows] : {std::pair<int, int>{0, 8}, {8, 8}, {16, 3}})
    for (int column = 0; column < 5; ++column)
      for (int row = first; row < first + rows; ++row) expected.emplace_back(row, column);
  CHECK((TileOrder(19, 5) == expected));
  CHECK((TileOrder(1, 2) == std::vector<std::pair<int, int>>{{0, 0}, {0, 1}}));
}

TEST_CASE("the ways of decoding end where they were measured to") {
  CHECK(cuda::kMaxDecodeRows == 16);
  CHECK(cuda::kDecodeRows == 16);
  CHECK(cuda::kSkinnyOuts == 128);
  CHECK(cuda::kSkinnyMaxSplits == 32);
}

}  // namespace lora::simt
