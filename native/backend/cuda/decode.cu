// The linear layer of decoding (skinny.h): up to 16 rows in a launch.
#include <algorithm>

#include "backend/cuda/device/decode.cuh"
#include "backend/cuda/device/decode_f32.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/scaled.h"
#include "backend/cuda/skinny.h"

namespace lora::cuda {
namespace {

// Rows of x of one launch.
struct DecodeRows {
  int64_t first, count;
};

// Fills one launch after the other with the branches that kKernel reads: those whose formats have
// scales, or the others. Params belong to kKernel.
template <auto kKernel, class Params, class T>
void LaunchDecode(const DecodeArgs& args, DecodeRows rows, Context& context) {
  constexpr bool kScaled = requires(Params params) { params.scaled; };
  Params params{};
  params.x = static_cast<const T*>(args.x) + rows.first * args.k;
  params.m = static_cast<int>(rows.count);
  params.k = args.k;
  params.slots = Offset(args.slots, rows.first);
  params.sites = args.sites;
  int64_t blocks = 0;
  const auto flush = [&] {
    device::LaunchShape shape;
    shape.grid_x = static_cast<unsigned>(blocks);
    shape.programmatic = args.programmatic;
    Launch<kKernel>("decode", context, shape, params);
    params.branches = 0;
    blocks = 0;
  };
  for (const DecodeBranch& branch : args.branches) {
    if (branch.n == 0 || static_cast<bool>(branch.scaled) != kScaled) continue;
    if (params.branches == device::kDecodeBranches) flush();
    if constexpr (kScaled) params.scaled[params.branches] = ScaledOf(branch.scaled);
    params.branch[params.branches++] = {branch.w,
                                        branch.n,
                                        branch.factor,
                                        branch.bias,
                                        branch.a,
                                        Offset(branch.h, rows.first * branch.rank),
                                        static_cast<T*>(branch.y) + rows.first * branch.n,
                                        branch.site,
                                        blocks,
                                        static_cast<int>(branch.rank),
                                        branch.scale,
                                        branch.bias_f32 ? 1 : 0,
                                        branch.w_dtype,
                                        {}};
    blocks += (branch.n + Params::kRows - 1) / Params::kRows;
  }
  flush();
}

template <class T, int kXTiles, bool kScaled>
void LaunchDecodeMma(const DecodeArgs& args, DecodeRows rows, Context& context) {
  using Params = device::DecodeParams<T, kXTiles, kScaled>;
  LaunchDecode<device::Decode<T, kXTiles, kScaled>, Params, T>(args, rows, context);
}

template <class T>
void DecodeSomeRows(const DecodeArgs& args, DecodeRows rows, Context& context) {
  if constexpr (std::is_same_v<T, float>) {
    if (rows.count == 1) {
      LaunchDecode<device::DecodeF32<1>, device::DecodeF32Params<1>, T>(args, rows, context);
    } else {
      LaunchDecode<device::DecodeF32<16>, device::DecodeF32Params<16>, T>(args, rows, context);
    }
  } else {
    rows.count <= 8 ? LaunchDecodeMma<T, 1, false>(args, rows, context)
                    : LaunchDecodeMma<T, 2, false>(args, rows, context);
  }
  // One form for any number of rows: every kernel makes the binary larger.
  if constexpr (std::is_same_v<T, device::BF16>) LaunchDecodeMma<T, 2, true>(args, rows, context);
}

}  // namespace

void DecodeLinear(const DecodeArgs& args, Context& context) {
  ForFloat(args.dtype, [&]<class T>() {
    for (int64_t first = 0; first < args.m; first += kMaxDecodeRows)
      DecodeSomeRows<T>(args, {first, std::min(kMaxDecodeRows, args.m - first)}, context);
  });
}

}  // namespace lora::cuda
