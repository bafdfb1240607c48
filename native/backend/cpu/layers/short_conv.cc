// With u = B·v of x = [B | C | v], or u = x, and z[t] = bias + Σ weight[:, k − 1 − j]·u[t − j]:
//   y = C·z, dC = g·z and dz = g·C,  or  y = silu(z) and dz = g·silu'(z)
//   du[t]      = Σ weight[:, k − 1 − j]·dz[t + j], of which dB = du·v and dv = du·B
//   dweight[j] = Σ dz[t]·u[t − (k − 1) + j],  dbias = Σ dz
//
// Vectors are of neighboring channels, for which the taps are transposed once in a call. A row
// computes u of the rows above again, which takes less than keeping it. A backward pass walks up
// a block of rows and of channels and keeps dz of the last k rows.
#include <algorithm>
#include <cstring>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/layers/short_conv.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/kinds-inl.h"
#include "backend/cpu/simd/vector-inl.h"

#ifndef LORA_BACKEND_CPU_LAYERS_SHORT_CONV_CC_
#define LORA_BACKEND_CPU_LAYERS_SHORT_CONV_CC_
namespace lora::cpu {

// What is added up before it is added to the sums of other rows, and what a task takes.
constexpr size_t kConvRows = 64, kConvChannels = 256;

// The parameters in f32.
struct ConvParameters {
  const float* taps;  // [k, c]
  const float* bias;  // [c], or null
};

// A block of a backward pass.
struct ConvBlock {
  size_t sequence, row, channel;  // where it begins
  float* sums;                    // [k + 1, c] of its rows: of each tap and of dz; or null
};

}  // namespace lora::cpu
#endif  // LORA_BACKEND_CPU_LAYERS_SHORT_CONV_CC_

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

// Calls f(i, n) for vectors of n = kLanes elements from [begin, end), and for the rest.
template <class F>
HWY_INLINE void ForVectors(size_t begin, size_t end, const F& f) {
  size_t i = begin;
  for (; i + kLanes <= end; i += kLanes) f(i, kLanes);
  if (i < end) f(i, end - i);
}
template <class T>
HWY_INLINE VF ReadUpTo(const T* p, size_t n) {
  return n == kLanes ? ReadVec(p) : ReadPart(p, n);
}
template <class T>
HWY_INLINE void WriteUpTo(VF v, T* p, size_t n) {
  if (n == kLanes) {
    WriteVec(v, p);
  } else {
    WritePart(v, p, n);
  }
}

// Kinds with the parts of a row of x [.., kParts·c].
struct GatedConv {
  static constexpr size_t kParts = 3;
  template <class T>
  static HWY_INLINE VF U(const T* x, size_t c, size_t i, size_t n) {
    return hn::Mul(ReadUpTo(x + i, n), ReadUpTo(x + 2 * c + i, n));
  }
  template <class T>
  static HWY_INLINE VF Y(const T* x, size_t c, size_t i, size_t n, VF z) {
    return hn::Mul(ReadUpTo(x + c + i, n), z);
  }
};
struct SiluConv {
  static constexpr size_t kParts = 1;
  template <class T>
  static HWY_INLINE VF U(const T* x, size_t, size_t i, size_t n) {
    return ReadUpTo(x + i, n);
  }
  template <class T>
  static HWY_INLINE VF Y(const T*, size_t, size_t, size_t, VF z) {
    const auto gate = gated::Silu::At(z);
    return hn::Mul(gate.z, gate.s);
  }
};

// Where a token finds u of its taps: taps before `first` do not exist, those before `in_x` lie in
// the rows of a state, and the others in rows of x.
struct TapPlaces {
  size_t first, in_x;
  const float* state = nullptr;  // [.., c], the row of tap 0
};
// The taps of position t of a text whose begin is `begin`, all in x.
HWY_INLINE TapPlaces PlacesFrom(int64_t begin, size_t t, size_t k) {
  const int64_t first =
      std::max<int64_t>(begin, 0) - static_cast<int64_t>(t + 1) + static_cast<int64_t>(k);
  const auto at = static_cast<size_t>(std::clamp<int64_t>(first, 0, static_cast<int64_t>(k)));
  return {at, at};
}

// z of the token in row x.
template <class Conv, class T>
HWY_INLINE VF ConvolvedAt(const ConvParameters& p, const T* x, size_t c, size_t k,
                          const TapPlaces& places, size_t i, size_t n) {
  VF z = p.bias == nullptr ? hn::Zero(DF()) : ReadUpTo(p.bias + i, n);
  size_t j = places.first;
  for (; j < places.in_x; ++j)
    z = hn::MulAdd(ReadUpTo(p.taps + j * c + i, n), ReadUpTo(places.state + j * c + i, n), z);
  for (; j < k; ++j) {
    const T* const row = x - (k - 1 - j) * Conv::kParts * c;
    z = hn::MulAdd(ReadUpTo(p.taps + j * c + i, n), Conv::U(row, c, i, n), z);
  }
  return z;
}

template <class Conv, class T>
HWY_INLINE void ConvolveRow(const ConvParameters& p, const T* x, size_t c, size_t k,
                            const TapPlaces& places, T* y) {
  ForVectors(0, c, [&](size_t i, size_t n) HWY_ATTR {
    const VF z = ConvolvedAt<Conv>(p, x, c, k, places, i, n);
    WriteUpTo(Conv::Y(x, c, i, n, z), y + i, n);
  });
}

HWY_INLINE int64_t BeginOf(const TensorView& key_begin, size_t row) {
  return key_begin ? key_begin.as<const int32_t>()[row] : 0;
}

template <class Conv, class T>
void ForwardRowsOf(const ShortConvForwardArgs& args, const ConvParameters& p, size_t begin,
                   size_t end) {
  const auto s = static_cast<size_t>(args.x.dim(1)), c = static_cast<size_t>(args.weight.dim(0));
  const auto k = static_cast<size_t>(args.weight.dim(1));
  for (size_t row = begin; row < end; ++row)
    ConvolveRow<Conv>(p, args.x.as<const T>() + row * Conv::kParts * c, c, k,
                      PlacesFrom(BeginOf(args.key_begin, row), row % s, k),
                      args.y.as<T>() + row * c);
}

template <class Conv, class T>
void AppendRowsOf(const ShortConvAppendArgs& args, const ConvParameters& p, size_t begin,
                  size_t end) {
  const auto s = static_cast<size_t>(args.x.dim(1)), c = static_cast<size_t>(args.weight.dim(0));
  const auto k = static_cast<size_t>(args.weight.dim(1));
  for (size_t row = begin; row < end; ++row) {
    const size_t b = row / s, t = row % s;
    const auto position = static_cast<size_t>(args.lengths.as<const int32_t>()[b]) - s + t;
    TapPlaces places = PlacesFrom(0, position, k);
    if (t + 1 < k) {
      places.in_x = std::max(places.first, k - 1 - t);
      const auto slot = static_cast<size_t>(args.slots.as<const int32_t>()[b]);
      places.state = args.pool.as<const float>() + (slot * (k - 1) + t) * c;
    }
    ConvolveRow<Conv>(p, args.x.as<const T>() + row * Conv::kParts * c, c, k, places,
                      args.y.as<T>() + row * c);
  }
}

// Channels [begin, end) of the states behind the call.
template <class Conv, class T>
void KeepStatesOf(const ShortConvAppendArgs& args, size_t begin, size_t end) {
  const auto s = static_cast<size_t>(args.x.dim(1)), c = static_cast<size_t>(args.weight.dim(0));
  const auto kept = static_cast<size_t>(args.weight.dim(1)) - 1;
  for (size_t b = 0; b < static_cast<size_t>(args.x.dim(0)); ++b) {
    const auto length = static_cast<size_t>(args.lengths.as<const int32_t>()[b]);
    const auto slot = static_cast<size_t>(args.slots.as<const int32_t>()[b]);
    float* const state = args.pool.as<float>() + slot * kept * c;
    for (size_t i = 0; i < kept; ++i) {  // rising, so that a row moves before it is written
      float* const to = state + i * c;
      if (length + i < kept) {
        std::memset(to + begin, 0, (end - begin) * sizeof(float));
      } else if (i + s < kept) {
        std::memcpy(to + begin, state + (i + s) * c + begin, (end - begin) * sizeof(float));
      } else {
        const T* const x = args.x.as<const T>() + (b * s + i + s - kept) * Conv::kParts * c;
        ForVectors(begin, end, [&](size_t at, size_t n) HWY_ATTR {
          WriteUpTo(Conv::U(x, c, at, n), to + at, n);
        });
      }
    }
  }
}

// One block of channels on its way up the rows of a sequence.
template <class Conv, class T>
class Upwards {
 public:
  Upwards(const ShortConvBackwardArgs& args, const ConvParameters& p, const ConvBlock& block)
      : args_(args),
        p_(p),
        block_(block),
        s_(static_cast<size_t>(args.x.dim(1))),
        c_(static_cast<size_t>(args.weight.dim(0))),
        k_(static_cast<size_t>(args.weight.dim(1))),
        end_(std::min(block.channel + kConvChannels, c_)) {}

  void Walk() {
    const size_t end = std::min(block_.row + kConvRows, s_);
    if (block_.sums)
      for (size_t j = 0; j <= k_; ++j)
        std::memset(block_.sums + j * c_ + block_.channel, 0,
                    (end_ - block_.channel) * sizeof(float));
    for (size_t t = std::min(end + k_ - 1, s_); t-- > block_.row;) {
      const bool own = t < end;
      const TapPlaces places =
          PlacesFrom(BeginOf(args_.key_begin, block_.sequence * s_ + t), t, k_);
      OutputGradient(t, places, own);
      if (!own) continue;
      if (block_.sums) WeightGradient(t, places);
      if (args_.dx) InputGradient(t);
    }
  }

 private:
  const T* Row(const TensorView& x, size_t t) const {
    return x.as<const T>() + (block_.sequence * s_ + t) * Conv::kParts * c_;
  }
  float* Kept(size_t t) { return dz_ + t % k_ * kConvChannels; }

  // dz of row t, and dC where the row is one of the block.
  void OutputGradient(size_t t, const TapPlaces& places, bool own) {
    const T* const x = Row(args_.x, t);
    const T* const g = args_.g.as<const T>() + (block_.sequence * s_ + t) * c_;
    float* const dz = Kept(t) - block_.channel;
    ForVectors(block_.channel, end_, [&](size_t i, size_t n) HWY_ATTR {
      const VF of_y = ReadUpTo(g + i, n);
      if constexpr (Conv::kParts == 3) {
        WriteUpTo(hn::Mul(of_y, ReadUpTo(x + c_ + i, n)), dz + i, n);
        if (!own || !args_.dx) return;
        const VF z = ConvolvedAt<Conv>(p_, x, c_, k_, places, i, n);
        WriteUpTo(hn::Mul(of_y, z), const_cast<T*>(Row(args_.dx, t)) + c_ + i, n);
      } else {
        const auto gate = gated::Silu::At(ConvolvedAt<Conv>(p_, x, c_, k_, places, i, n));
        WriteUpTo(hn::Mul(hn::Mul(of_y, gate.s), gate.slope), dz + i, n);
      }
    });
  }

  void WeightGradient(size_t t, const TapPlaces& places) {
    const float* const dz = Kept(t) - block_.channel;
    for (size_t j = places.first; j <= k_; ++j) {
      float* const sums = block_.sums + j * c_;
      const T* const row = Row(args_.x, j < k_ ? t + j - (k_ - 1) : t);
      ForVectors(block_.channel, end_, [&](size_t i, size_t n) HWY_ATTR {
        const VF d = ReadUpTo(dz + i, n), sum = ReadUpTo(sums + i, n);
        WriteUpTo(j < k_ ? hn::MulAdd(d, Conv::U(row, c_, i, n), sum) : hn::Add(d, sum), sums + i,
                  n);
      });
    }
  }

  void InputGradient(size_t t) {
    // Of the rows below to whose text row t belongs: dz, and the tap by which t reaches them.
    const float *dz[kMaxTaps], *taps[kMaxTaps];
    size_t count = 0;
    for (size_t j = 0; j < k_ && t + j < s_; ++j) {
      if (BeginOf(args_.key_begin, block_.sequence * s_ + t + j) > static_cast<int64_t>(t))
        continue;
      dz[count] = Kept(t + j) - block_.channel;
      taps[count++] = p_.taps + (k_ - 1 - j) * c_;
    }
    const T* const x = Row(args_.x, t);
    T* const dx = const_cast<T*>(Row(args_.dx, t));
    ForVectors(block_.channel, end_, [&](size_t i, size_t n) HWY_ATTR {
      VF du = hn::Zero(DF());
      for (size_t r = 0; r < count; ++r)
        du = hn::MulAdd(ReadUpTo(taps[r] + i, n), ReadUpTo(dz[r] + i, n), du);
      if constexpr (Conv::kParts == 3) {
        WriteUpTo(hn::Mul(du, ReadUpTo(x + 2 * c_ + i, n)), dx + i, n);
        WriteUpTo(hn::Mul(du, ReadUpTo(x + i, n)), dx + 2 * c_ + i, n);
      } else {
        WriteUpTo(du, dx + i, n);
      }
    });
  }

  const ShortConvBackwardArgs& args_;
  const ConvParameters& p_;
  const ConvBlock& block_;
  const size_t s_, c_, k_, end_;
  alignas(64) float dz_[kMaxTaps * kConvChannels];  // of row t at t % k
};

// Calls f<kind, type of the elements>().
template <class F>
void ForConvTypes(ShortConvKind kind, DType dtype, const F& f) {
  const auto of_type = [&]<class T>() {
    if (kind == ShortConvKind::kGated) {
      f.template operator()<GatedConv, T>();
    } else {
      f.template operator()<SiluConv, T>();
    }
  };
  if (dtype == DType::kBF16) {
    of_type.template operator()<hwy::bfloat16_t>();
  } else {
    of_type.template operator()<float>();
  }
}

}  // namespace

void ShortConvForwardRows(const ShortConvForwardArgs& args, const ConvParameters& p, size_t begin,
                          size_t end) {
  ForConvTypes(args.kind, args.x.dtype,
               [&]<class Conv, class T>() { ForwardRowsOf<Conv, T>(args, p, begin, end); });
}

void ShortConvAppendRows(const ShortConvAppendArgs& args, const ConvParameters& p, size_t begin,
                         size_t end) {
  ForConvTypes(args.kind, args.x.dtype,
               [&]<class Conv, class T>() { AppendRowsOf<Conv, T>(args, p, begin, end); });
}

void ShortConvKeepStates(const ShortConvAppendArgs& args, size_t begin, size_t end) {
  ForConvTypes(args.kind, args.x.dtype,
               [&]<class Conv, class T>() { KeepStatesOf<Conv, T>(args, begin, end); });
}

void ShortConvBackwardBlock(const ShortConvBackwardArgs& args, const ConvParameters& p,
                            const ConvBlock& block) {
  ForConvTypes(args.kind, args.x.dtype,
               [&]<class Conv, class T>() { Upwards<Conv, T>(args, p, block).Walk(); });
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {
namespace {

// Takes the parameters in f32 from the arena, in which they are written where there is memory.
template <class Args>
ConvParameters ParametersOf(const Args& args, Arena& arena, Context* context) {
  const auto c = static_cast<size_t>(args.weight.dim(0)),
             k = static_cast<size_t>(args.weight.dim(1));
  const float* const weight = RowAsF32(args.weight, arena);
  float* const taps = arena.Take<float>(c * k);
  const float* const bias = RowAsF32(args.bias, arena);
  if (context)
    ForRange(*context, c, kCostlyGrain, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i)
        for (size_t j = 0; j < k; ++j) taps[j * c + i] = weight[i * k + j];
    });
  return {taps, bias};
}

template <class Args>
size_t ParameterBytes(const Args& args) {
  Arena arena;
  ParametersOf(args, arena, nullptr);
  return arena.bytes();
}

// The blocks of rows that have sums of their own.
size_t BlocksOfRows(const ShortConvBackwardArgs& args) {
  return static_cast<size_t>(args.x.dim(0)) *
         CeilDiv(static_cast<size_t>(args.x.dim(1)), kConvRows);
}
float* SumsOf(const ShortConvBackwardArgs& args, Arena& arena) {
  if (!args.dweight && !args.dbias) return nullptr;
  return arena.Take<float>(BlocksOfRows(args) *
                           static_cast<size_t>((args.weight.dim(1) + 1) * args.weight.dim(0)));
}

}  // namespace

HWY_EXPORT(ShortConvForwardRows);
HWY_EXPORT(ShortConvAppendRows);
HWY_EXPORT(ShortConvKeepStates);
HWY_EXPORT(ShortConvBackwardBlock);

size_t ScratchBytes(const ShortConvForwardArgs& args, int) { return ParameterBytes(args); }

void Run(const ShortConvForwardArgs& args, Scratch scratch, Context& context) {
  RequireActivation("short_conv", args.x.dtype);
  Arena arena(scratch);
  const ConvParameters p = ParametersOf(args, arena, &context);
  ForRows(context, static_cast<size_t>(args.x.dim(0) * args.x.dim(1)),
          static_cast<size_t>(args.weight.dim(0)), kCostlyGrain, [&](size_t begin, size_t end) {
            HWY_DYNAMIC_DISPATCH(ShortConvForwardRows)(args, p, begin, end);
          });
}

size_t ScratchBytes(const ShortConvAppendArgs& args, int) { return ParameterBytes(args); }

void Run(const ShortConvAppendArgs& args, Scratch scratch, Context& context) {
  RequireActivation("short_conv_append", args.x.dtype);
  CheckSlots("short_conv_append", args.slots, args.lengths, args.pool.dim(0), args.x.dim(1));
  if (args.x.numel() == 0) return;
  Arena arena(scratch);
  const ConvParameters p = ParametersOf(args, arena, &context);
  const auto batch = static_cast<size_t>(args.x.dim(0)),
             c = static_cast<size_t>(args.weight.dim(0));
  ForRows(context, batch * static_cast<size_t>(args.x.dim(1)), c, kCostlyGrain,
          [&](size_t begin, size_t end) {
            HWY_DYNAMIC_DISPATCH(ShortConvAppendRows)(args, p, begin, end);
          });
  const size_t kept = batch * static_cast<size_t>(args.weight.dim(1) - 1);
  if (kept == 0) return;
  ForRange(context, c, kCheapGrain / kept + 1, kLineElements, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(ShortConvKeepStates)(args, begin, end);
  });
}

size_t ScratchBytes(const ShortConvBackwardArgs& args, int) {
  Arena arena;
  ParametersOf(args, arena, nullptr);
  SumsOf(args, arena);
  return arena.bytes();
}

void Run(const ShortConvBackwardArgs& args, Scratch scratch, Context& context) {
  RequireActivation("short_conv", args.x.dtype);
  Arena arena(scratch);
  const ConvParameters p = ParametersOf(args, arena, &context);
  float* const sums = SumsOf(args, arena);
  const auto c = static_cast<size_t>(args.weight.dim(0)),
             k = static_cast<size_t>(args.weight.dim(1));
  const size_t rows = CeilDiv(static_cast<size_t>(args.x.dim(1)), kConvRows);
  const size_t across = CeilDiv(c, kConvChannels), of_block = (k + 1) * c;
  const size_t blocks = BlocksOfRows(args);
  auto& cpu = static_cast<CpuContext&>(context);
  cpu.ParallelFor(blocks * across, [&](size_t task, size_t) {
    const size_t block = task / across;
    HWY_DYNAMIC_DISPATCH(ShortConvBackwardBlock)
    (args, p,
     ConvBlock{block / rows, block % rows * kConvRows, task % across * kConvChannels,
               sums ? sums + block * of_block : nullptr});
  });
  if (!sums) return;
  ForRange(context, c, kCheapGrain / std::max<size_t>(blocks * (k + 1), 1) + 1, 1,
           [&](size_t begin, size_t end) {
             for (size_t i = begin; i < end; ++i)
               for (size_t j = 0; j <= k; ++j) {
                 double sum = 0;
                 for (size_t block = 0; block < blocks; ++block)
                   sum += static_cast<double>(sums[block * of_block + j * c + i]);
                 const auto rounded = static_cast<float>(sum);
                 if (j < k && args.dweight) args.dweight.as<float>()[i * k + j] = rounded;
                 if (j == k && args.dbias) args.dbias.as<float>()[i] = rounded;
               }
           });
}

template PlannedCall Plan(const ShortConvForwardArgs&, int);
template PlannedCall Plan(const ShortConvBackwardArgs&, int);
template PlannedCall Plan(const ShortConvAppendArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
