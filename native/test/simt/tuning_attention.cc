#include "backend/cuda/device/attention_backward_mma.cuh"
#include "backend/cuda/device/attention_decode.cuh"
#include "backend/cuda/device/attention_fma.cuh"
#include "backend/cuda/device/attention_mma.cuh"
#include "test/simt/tuning.h"

namespace lora::simt {
namespace {

using namespace device;  // NOLINT: names of kernels

template <class P>
Tuning Of(const std::string& kernel, int d) {
  return {kernel + ' ' + std::to_string(d),
          P::kThreads,
          P::kMinBlocks,
          P::kRows,
          P::kKeys,
          d,
          0,
          P::kSharedBytes};
}
template <int kD>
void Add(std::vector<Tuning>& all) {
  all.push_back(Of<AttentionMmaParams<BF16, kD, 64>>("attention_mma", kD));
  if constexpr (kD <= 128)
    all.push_back(Of<AttentionMmaParams<BF16, kD, 128>>("attention_mma, large", kD));
  all.push_back(Of<AttentionDecodeParams<BF16, kD>>("attention_decode", kD));
  all.push_back(Of<AttentionFmaParams<float, kD>>("attention_fma", kD));
  all.push_back(Of<KeyGradientsMmaParams<BF16, kD, kStageRows<kD>>>("key_gradients_mma", kD));
  if (kSmallStageRows<kD> < kStageRows<kD>)
    all.push_back(
        Of<KeyGradientsMmaParams<BF16, kD, kSmallStageRows<kD>>>("key_gradients_mma, small", kD));
  all.push_back(Of<QueryGradientsMmaParams<BF16, kD>>("query_gradients_mma", kD));
}

}  // namespace

std::vector<Tuning> AttentionTunings() {
  std::vector<Tuning> all;
  Add<64>(all);
  Add<128>(all);
  Add<256>(all);
  return all;
}

}  // namespace lora::simt
