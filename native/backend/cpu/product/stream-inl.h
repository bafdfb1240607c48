// The product of one row of x by panels that come from memory: decoding with one sequence. Several
// panels are read side by side, since memory gives a core more in several streams than in one.
// Floats of another dtype are widened in registers. Codes are multiplied (block_stream-inl.h), and
// the values of quantized formats whose codes are not are expanded a piece at a time.
#if defined(LORA_BACKEND_CPU_PRODUCT_STREAM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_STREAM_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_STREAM_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_STREAM_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "backend/cpu/product/block_stream-inl.h"
#include "backend/cpu/product/panel_reader-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/simd/amx-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "core/maths/ceil_div.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// How many stored elements of all streams are prefetched before they are used.
constexpr size_t kStreamAhead = 24;
// Of one element of a panel.
constexpr size_t kPanelBytes = kPanelWidth * sizeof(uint32_t);
constexpr size_t kPanelLines = CeilDiv(kPanelBytes, kCacheLine);

// Panels that one row of x is multiplied by at the same time.
struct Streams {
  const uint32_t* x;
  const uint32_t* w;  // of the first panel
  size_t stride;      // from panel to panel
  size_t elements;    // of the product
  float* sums;        // [panels][kPanelWidth]
};

template <size_t kPanels>
using StreamSums = VF[kPanels][kVectors];

// Calls add(panel, vector, x, w) for the elements from `e` on that one stored element of each panel
// has: kPerStored, or `count` at the end of the reduction. The streams are prefetched `ahead`
// elements of 32 bits farther on.
template <bool kPairs, WeightFormat kFormat, size_t kPanels, class Count, class Add>
HWY_INLINE void AddStored(const Streams& s, size_t e, Count count, ptrdiff_t ahead,
                          const Add& add) {
  constexpr size_t kPer = kPerStored<kPairs, kFormat>;
  const DU du;
  const uint32_t* w = s.w + e / kPer * kPanelWidth;
  HWY_UNROLL(8)
  for (size_t p = 0; p < kPanels; ++p, w += s.stride) {
    HWY_UNROLL(8)
    for (size_t l = 0; l < kPanelLines; ++l) {
      hwy::Prefetch(reinterpret_cast<const std::byte*>(w + ahead) + l * kCacheLine);
    }
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVectors; ++j) {
      VU elements[kPer];
      Unpack<kPairs, kFormat>(hn::LoadU(du, w + j * kLanes), {}, 0, j * kLanes, elements);
      HWY_UNROLL(8)
      for (size_t i = 0; i < kPer; ++i) {
        if (i < count) add(p, j, hn::Set(du, s.x[e + i]), elements[i]);
      }
    }
  }
}

// The same for elements [begin, end). begin is a multiple of kPerStored; so is end, unless the
// reduction ends there.
template <bool kPairs, WeightFormat kFormat, size_t kPanels, class Add>
HWY_INLINE void AddElements(const Streams& s, size_t begin, size_t end, const Add& add) {
  constexpr size_t kPer = kPerStored<kPairs, kFormat>;
  constexpr size_t kAhead = CeilDiv(kStreamAhead, kPanels);
  constexpr ptrdiff_t kNear = kAhead * kPanelWidth;
  // The end of each panel prefetches the beginning of the one that its stream goes on with.
  const size_t stored = CeilDiv(s.elements, kPer);
  const ptrdiff_t next = kNear + static_cast<ptrdiff_t>(kPanels * s.stride) -
                         static_cast<ptrdiff_t>(stored * kPanelWidth);
  size_t e = begin;
  for (; e + kPer <= end; e += kPer) {
    const ptrdiff_t ahead = e / kPer + kAhead < stored ? kNear : next;
    AddStored<kPairs, kFormat, kPanels>(s, e, std::integral_constant<size_t, kPer>(), ahead, add);
  }
  if (e < end) AddStored<kPairs, kFormat, kPanels>(s, e, end - e, next, add);
}

// The sums have the bits that tile registers give more rows: for each tile of pairs, the products
// of the first and of the second halves are summed apart, from zero.
template <WeightFormat kFormat, size_t kPanels>
HWY_INLINE void MultiplyStreamsOfTiles(const Streams& s) {
  const DF df;
  const VU high = hn::Set(DU(), 0xffff0000u);
  for (size_t begin = 0; begin < s.elements; begin += kAmxPairs) {
    StreamSums<kPanels> first, second, sums;
    ZeroAccumulators(first);
    ZeroAccumulators(second);
    AddElements<true, kFormat, kPanels>(
        s, begin, std::min(s.elements, begin + kAmxPairs),
        [&](size_t p, size_t j, VU x, VU w) HWY_ATTR {
          first[p][j] = hn::MulAdd(hn::BitCast(df, hn::ShiftLeft<16>(x)),
                                   hn::BitCast(df, hn::ShiftLeft<16>(w)), first[p][j]);
          second[p][j] = hn::MulAdd(hn::BitCast(df, hn::And(x, high)),
                                    hn::BitCast(df, hn::And(w, high)), second[p][j]);
        });
    LoadSums(s.sums, sums);
    HWY_UNROLL(8)
    for (size_t p = 0; p < kPanels; ++p) {
      HWY_UNROLL(8)
      for (size_t j = 0; j < kVectors; ++j) {
        sums[p][j] = hn::Add(sums[p][j], hn::Add(first[p][j], second[p][j]));
      }
    }
    StoreSums(sums, s.sums);
  }
}

// sums += x · kPanels panels. Every output is one chain of sums over the elements, whatever kPanels
// is.
template <bool kPairs, WeightFormat kFormat, size_t kPanels>
HWY_NOINLINE void MultiplyStreams(const Streams& s) {
  if constexpr (kPairs && kMultipliesTiles) {
    MultiplyStreamsOfTiles<kFormat, kPanels>(s);
  } else {
    StreamSums<kPanels> sums;
    LoadSums(s.sums, sums);
    AddElements<kPairs, kFormat, kPanels>(s, 0, s.elements,
                                          [&](size_t p, size_t j, VU x, VU w) HWY_ATTR {
                                            sums[p][j] = MulAddElements<kPairs>(x, w, sums[p][j]);
                                          });
    StoreSums(sums, s.sums);
  }
}

// The same of panels whose values are expanded, in pieces of whole tiles.
template <bool kPairs>
HWY_NOINLINE void AddExpanded(const Step& step, size_t panel, size_t panels, float* sums) {
  constexpr size_t kPiece = 64;
  static_assert(kPiece % kAmxPairs == 0);
  constexpr WeightFormat kOwn = kPairs ? WeightFormat::kBF16 : WeightFormat::kF32;
  HWY_ALIGN uint32_t piece[(kPiece + 3) * kPanelWidth];
  for (size_t p = 0; p < panels; ++p) {
    for (size_t e = 0; e < step.elements; e += kPiece) {
      const size_t count = std::min(kPiece, step.elements - e);
      ExpandPanel<kPairs>(step.w, panel + p, step.w.first + e, count, piece);
      const SubnormalsOfTiles<kPairs> subnormals;
      MultiplyStreams<kPairs, kOwn, 1>({step.x + e, piece, 0, count, sums + p * kPanelWidth});
    }
  }
}

// MultiplyStreams for kStreams panels or 1.
template <bool kPairs, WeightFormat kFormat>
HWY_INLINE void MultiplyPanelsOf(Streams s, size_t panels) {
  if (kSideBySide > 1 && panels == kStreams) {
    return MultiplyStreams<kPairs, kFormat, kSideBySide>(s);
  }
  for (size_t p = 0; p < panels; ++p) {
    MultiplyStreams<kPairs, kFormat, 1>(s);
    s.w += s.stride;
    s.sums += kPanelWidth;
  }
}

// sums [panels][kPanelWidth] += x · the panels from `panel` on, which are kStreams or 1.
template <bool kPairs>
HWY_INLINE void AddStreams(const Step& step, size_t panel, size_t panels, float* sums) {
  const PanelSource& w = step.w;
  if (MultipliesCodes(w)) return AddBlockStreams<kPairs>(step, panel, panels, sums);
  if (IsQuantized(w.format)) return AddExpanded<kPairs>(step, panel, panels, sums);
  ForFloats<kPairs>(w.format, [&](auto format) HWY_ATTR {
    const SubnormalsOfTiles<kPairs> subnormals;
    const uint32_t* const first =
        w.panels + panel * w.stride + w.first / kPerStored<kPairs, format()> * kPanelWidth;
    MultiplyPanelsOf<kPairs, format()>({step.x, first, w.stride, step.elements, sums}, panels);
  });
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
