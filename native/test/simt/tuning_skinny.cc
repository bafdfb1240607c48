#include "backend/cuda/device/decode.cuh"
#include "backend/cuda/device/decode_f32.cuh"
#include "backend/cuda/device/skinny.cuh"
#include "test/simt/tuning.h"

namespace lora::simt {
namespace {

using namespace device;  // NOLINT: names of kernels

template <class P>
Tuning OfF32Decode(const char* kernel) {
  return {kernel, P::kThreads, P::kMinBlocks, P::kRows, 0, 0, 0, 0};
}
template <SkinnyForm kForm, class T>
Tuning OfSkinny(const char* kernel) {
  using P = SkinnyParams<kForm, T>;
  return {kernel, P::kThreads, P::kMinBlocks, P::kOuts, 0, P::kDepth, 0, 0};
}

}  // namespace

std::vector<Tuning> SkinnyTunings() {
  using Decode = DecodeParams<BF16, 1, false>;
  return {{"decode", Decode::kThreads, Decode::kMinBlocks, Decode::kRows, Decode::kColumns, 0, 0,
           Decode::kSharedBytes},
          OfF32Decode<DecodeF32Params<1>>("decode_f32 1"),
          OfF32Decode<DecodeF32Params<4>>("decode_f32 4"),
          OfSkinny<SkinnyForm::kDown, BF16>("skinny down"),
          OfSkinny<SkinnyForm::kGradient, BF16>("skinny gradient"),
          OfSkinny<SkinnyForm::kDown, float>("skinny down f32")};
}

}  // namespace lora::simt
