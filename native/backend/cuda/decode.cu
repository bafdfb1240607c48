// The linear layer of decoding (skinny.h): up to 16 rows in a launch.
#include <algorithm>

#include "backend/cuda/device/decode.cuh"
#include "backend/cuda/device/decode_blocks.cuh"
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

// Fills one launch after the other with the branches that are read(branch), as kKernel does. Params
// belong to kKernel.
template <auto kKernel, class Params, class T, class Read>
void LaunchDecode(const DecodeArgs& args, DecodeRows rows, Context& context, const Read& read) {
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
    if (branch.n == 0 || !read(branch)) continue;
    if (params.branches == device::kDecodeBranches) flush();
    if constexpr (requires { params.scaled; })
      params.scaled[params.branches] = ScaledOf(branch.packed);
    params.branch[params.branches++] = {branch.packed ? branch.packed.data : branch.w,
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

bool IsPlain(const DecodeBranch& branch) { return !branch.packed; }

// One launch for each of these formats that a branch has.
template <int kXTiles, size_t kNumber = 0>
void LaunchDecodeBlocks(const DecodeArgs& args, DecodeRows rows, Context& context) {
  if constexpr (kNumber < std::size(kDecodedBlocks)) {
    constexpr WeightFormat kFormat = kDecodedBlocks[kNumber];
    LaunchDecode<device::DecodeBlocks<kXTiles, kFormat>,
                 device::DecodeBlocksParams<kXTiles, kFormat>, device::BF16>(
        args, rows, context, [](const DecodeBranch& branch) {
          return branch.packed && branch.packed.format == kFormat;
        });
    LaunchDecodeBlocks<kXTiles, kNumber + 1>(args, rows, context);
  }
}

template <class T, int kXTiles>
void LaunchDecodeMma(const DecodeArgs& args, DecodeRows rows, Context& context) {
  const auto launch = [&]<bool kScaled>(const auto& read) {
    using Params = device::DecodeParams<T, kXTiles, kScaled>;
    LaunchDecode<device::Decode<T, kXTiles, kScaled>, Params, T>(args, rows, context, read);
  };
  launch.template operator()<false>(IsPlain);
  if constexpr (std::is_same_v<T, device::BF16>) {
    launch.template operator()<true>([](const DecodeBranch& branch) {
      return branch.packed && HasScales(branch.packed.format);
    });
    LaunchDecodeBlocks<kXTiles>(args, rows, context);
  }
}

template <class T>
void DecodeSomeRows(const DecodeArgs& args, DecodeRows rows, Context& context) {
  if constexpr (std::is_same_v<T, float>) {
    if (rows.count == 1) {
      LaunchDecode<device::DecodeF32<1>, device::DecodeF32Params<1>, T>(args, rows, context,
                                                                        IsPlain);
    } else {
      LaunchDecode<device::DecodeF32<16>, device::DecodeF32Params<16>, T>(args, rows, context,
                                                                          IsPlain);
    }
  } else if (rows.count <= 8) {
    LaunchDecodeMma<T, 1>(args, rows, context);
  } else {
    LaunchDecodeMma<T, 2>(args, rows, context);
  }
}

}  // namespace

void DecodeLinear(const DecodeArgs& args, Context& context) {
  ForFloat(args.dtype, [&]<class T>() {
    for (int64_t first = 0; first < args.m; first += kMaxDecodeRows)
      DecodeSomeRows<T>(args, {first, std::min(kMaxDecodeRows, args.m - first)}, context);
  });
}

}  // namespace lora::cuda
