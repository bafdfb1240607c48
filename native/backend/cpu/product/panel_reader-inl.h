// Reads a block of a panel for the product: in place, or in scratch where W is kept in another
// format or the product is x·W. W [n, k] has the element (i, l) in panel i / width, so the block of
// x·W for outputs [c, c + width) and reduction rows [i, i + count) is made of the transposes of
// contiguous pieces. A format appears in ExpandElements and block_panels-inl.h only, the values of
// codes in codes-inl.h.
#if defined(LORA_BACKEND_CPU_PRODUCT_PANEL_READER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORA_BACKEND_CPU_PRODUCT_PANEL_READER_INL_H_
#undef LORA_BACKEND_CPU_PRODUCT_PANEL_READER_INL_H_
#else
#define LORA_BACKEND_CPU_PRODUCT_PANEL_READER_INL_H_
#endif

#include <algorithm>

#include "backend/cpu/formats/block_panels-inl.h"
#include "backend/cpu/formats/codes-inl.h"
#include "backend/cpu/product/panels.h"
#include "backend/cpu/simd/bf16-inl.h"
#include "backend/cpu/simd/simd-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {

// Transposes two rows of bf16 pairs, whose lanes are outputs of W. Of each two neighboring lanes,
// (a, b) and (c, d) become (a, c) and (b, d); these 64 bits are then transposed. Row f of dst takes
// the lanes 2f and 2f + 1, at two columns for each row of src.
template <class D>
HWY_INLINE void TransposePairRows(D d, const uint32_t* HWY_RESTRICT row0,
                                  const uint32_t* HWY_RESTRICT row1, uint32_t* HWY_RESTRICT dst,
                                  size_t dst_stride) {
  const hn::Repartition<uint8_t, D> d8;
  const hn::Repartition<uint64_t, D> d64;
  const auto order =
      hn::Dup128VecFromValues(d8, 0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
  const auto swap = [&](const uint32_t* from) HWY_ATTR {
    return hn::BitCast(d64, hn::TableLookupBytes(hn::BitCast(d8, hn::LoadU(d, from)), order));
  };
  const auto r0 = swap(row0), r1 = swap(row1);
  const auto even = hn::BitCast(d, hn::InterleaveLower(d64, r0, r1));
  const auto odd = hn::BitCast(d, hn::InterleaveUpper(d64, r0, r1));
  const hn::FixedTag<uint32_t, 4> d4;
  constexpr int kBlocks = HWY_MAX_LANES_D(D) / 4;
  const auto store = [&](auto block) HWY_ATTR {
    constexpr int kBlock = decltype(block)::value;
    if constexpr (kBlock < kBlocks) {
      uint32_t* at = dst + 2 * kBlock * dst_stride;
      hn::StoreU(hn::ExtractBlock<kBlock>(even), d4, at);
      hn::StoreU(hn::ExtractBlock<kBlock>(odd), d4, at + dst_stride);
    }
  };
  store(std::integral_constant<int, 0>());
  store(std::integral_constant<int, 1>());
  store(std::integral_constant<int, 2>());
  store(std::integral_constant<int, 3>());
}

// dst [lanes / 2][2·rows] ← the pairs of src [rows][lanes], whose pairs go along the rows of dst
// afterwards. lanes is a multiple of 4. Meanwhile the same rows are fetched of what lies `ahead`
// elements behind src, and is read next.
HWY_INLINE void TransposePairs(const uint32_t* HWY_RESTRICT src, size_t src_stride, size_t rows,
                               size_t lanes, uint32_t* HWY_RESTRICT dst, size_t dst_stride,
                               size_t ahead) {
  for (size_t e = 0; e < rows; e += 2) {
    const uint32_t* row0 = src + e * src_stride;
    const uint32_t* row1 = e + 1 < rows ? row0 + src_stride : row0;
    uint32_t* to = dst + 2 * e;
    size_t l = 0;
    for (; l + kLanes <= lanes; l += kLanes) {
      hwy::Prefetch(row0 + ahead + l);
      hwy::Prefetch(row1 + ahead + l);
      TransposePairRows(DU(), row0 + l, row1 + l, to + l / 2 * dst_stride, dst_stride);
    }
    for (; l < lanes; l += 4) {
      TransposePairRows(hn::FixedTag<uint32_t, 4>(), row0 + l, row1 + l, to + l / 2 * dst_stride,
                        dst_stride);
    }
  }
}

// ---- expansion: elements of another format become those of the product -------------------------

// Returns value kIndex of each int8 quad times the scale of its lane.
template <int kIndex>
HWY_INLINE VF Int8Value(VU quad, VF scale) {
  const DI di;
  const auto top = hn::BitCast(di, hn::ShiftLeft<24 - 8 * kIndex>(quad));
  return hn::Mul(hn::ConvertTo(DF(), hn::ShiftRight<24>(top)), scale);
}

template <int kIndex>
using Place = std::integral_constant<int, kIndex>;

// All formats with codes are read by the functions of this one.
constexpr WeightFormat kCoded = WeightFormat::kNF4;

// How many elements of the product one stored element has.
template <bool kPairs, WeightFormat kFormat>
constexpr size_t kPerStored = kFormat == WeightFormat::kF32      ? 1
                              : kFormat == kCoded                ? (kPairs ? 4 : 8)
                              : kFormat == WeightFormat::kI8Rows ? (kPairs ? 2 : 4)
                              : kPairs                           ? 1
                                                                 : 2;

// elements ← those of the product that a vector of stored ones has, in their order. Its lanes are
// the outputs from j on of a panel, and `value` is the place of its first value along k.
template <bool kPairs, WeightFormat kFormat>
HWY_INLINE void Unpack(VU stored, const Scaling& scaling, size_t value, size_t j,
                       VU (&elements)[kPerStored<kPairs, kFormat>]) {
  const DU du;
  // Writes values v, v + 1 to their elements.
  const auto put = [&](size_t v, VF low, VF high) HWY_ATTR {
    if constexpr (kPairs) {
      elements[v / 2] = JoinUpperHalves(RoundNumber(low), RoundNumber(high));
    } else {
      elements[v] = hn::BitCast(du, low);
      elements[v + 1] = hn::BitCast(du, high);
    }
  };
  if constexpr (kPerStored<kPairs, kFormat> == 1) {
    elements[0] = stored;
  } else if constexpr (kFormat == WeightFormat::kBF16) {
    elements[0] = hn::ShiftLeft<16>(stored);
    elements[1] = hn::And(stored, hn::Set(du, 0xffff0000u));
  } else if constexpr (kFormat == WeightFormat::kF16) {
    elements[0] = hn::BitCast(du, F16Value<0>(stored));
    elements[1] = hn::BitCast(du, F16Value<1>(stored));
  } else if constexpr (kFormat == kCoded) {
    const VF scale = scaling.Of(value, j);
    const auto coded = [&](auto index) HWY_ATTR {
      return CodedValue<index()>(stored, scaling, scale, value, j);
    };
    put(0, coded(Place<0>()), coded(Place<1>()));
    put(2, coded(Place<2>()), coded(Place<3>()));
    put(4, coded(Place<4>()), coded(Place<5>()));
    put(6, coded(Place<6>()), coded(Place<7>()));
  } else {
    const VF scale = scaling.Of(value, j);
    put(0, Int8Value<0>(stored, scale), Int8Value<1>(stored, scale));
    put(2, Int8Value<2>(stored, scale), Int8Value<3>(stored, scale));
  }
}

// Calls of<kFormat>() for a format of floats that products read (lora_linear and gemm refuse
// others).
template <bool kPairs, class Of>
HWY_INLINE void ForFloats(WeightFormat format, const Of& of) {
  if (kPairs || format == WeightFormat::kBF16) {
    of(std::integral_constant<WeightFormat, WeightFormat::kBF16>());
  } else if (format == WeightFormat::kF16) {
    of(std::integral_constant<WeightFormat, WeightFormat::kF16>());
  } else {
    of(std::integral_constant<WeightFormat, WeightFormat::kF32>());
  }
}

// The same for int8 and codes too.
template <bool kPairs, class Of>
HWY_INLINE void ForFormat(WeightFormat format, const Of& of) {
  if (format == WeightFormat::kI8Rows) {
    of(std::integral_constant<WeightFormat, WeightFormat::kI8Rows>());
  } else if (HasCodes(format)) {
    of(std::integral_constant<WeightFormat, kCoded>());
  } else {
    ForFloats<kPairs>(format, of);
  }
}

// Returns how many elements of the product are in one stored element.
template <bool kPairs>
HWY_INLINE size_t ElementsPerStored(WeightFormat format) {
  size_t per = 1;
  ForFormat<kPairs>(format, [&](auto known) { per = kPerStored<kPairs, known()>; });
  return per;
}

// Returns the bytes of a panel that elements of the product are read from.
template <bool kPairs>
HWY_INLINE size_t StoredBytes(WeightFormat format, size_t elements) {
  if (HasBlocks(format)) {
    const BlockSize& block = TraitsOf(format).block;
    const size_t values = elements * (kPairs ? 2 : 1) * kPanelWidth;
    return values * static_cast<size_t>(block.bytes) / static_cast<size_t>(block.values);
  }
  return CeilDiv(elements, ElementsPerStored<kPairs>(format)) * kPanelWidth * sizeof(uint32_t);
}

// dst [count][kPanelWidth] ← elements [first, first + count) of the panel at `panel`. first is a
// multiple of kPerStored, to which count is rounded up. What lies `ahead` stored elements behind
// those that are read is prefetched.
template <bool kPairs>
HWY_INLINE void ExpandElements(WeightFormat format, const uint32_t* HWY_RESTRICT panel,
                               const Scaling& scaling, size_t first, size_t count,
                               uint32_t* HWY_RESTRICT dst, ptrdiff_t ahead) {
  ForFormat<kPairs>(format, [&](auto known) HWY_ATTR {
    constexpr WeightFormat kFormat = known();
    constexpr size_t kPer = kPerStored<kPairs, kFormat>;
    size_t e = 0;
    while (e < count) {
      const uint32_t* const from = panel + (first + e) / kPer * kPanelWidth;
      uint32_t* const to = dst + e * kPanelWidth;
      if constexpr (kPairs && kFormat == kCoded) {
        if (const size_t run = CodedRun(scaling, first + e, count - e); run != 0) {
          ExpandRun(from, scaling, first + e, run, to, ahead);
          e += run;
          continue;
        }
      }
      HWY_UNROLL(8)
      for (size_t j = 0; j < kPanelWidth; j += kLanes) {
        hwy::Prefetch(from + ahead + j);
        VU elements[kPer];
        Unpack<kPairs, kFormat>(hn::LoadU(DU(), from + j), scaling, (first + e) * (kPairs ? 2 : 1),
                                j, elements);
        HWY_UNROLL(8)
        for (size_t i = 0; i < kPer; ++i) {
          hn::StoreU(elements[i], DU(), to + i * kPanelWidth + j);
        }
      }
      e += kPer;
    }
  });
}

constexpr ptrdiff_t kExpandAhead = 16 * kPanelWidth;

// The same for panel `panel` of a source.
template <bool kPairs>
HWY_INLINE void ExpandPanel(const PanelSource& w, size_t panel, size_t first, size_t count,
                            uint32_t* HWY_RESTRICT dst, ptrdiff_t ahead = kExpandAhead) {
  const uint32_t* const from = w.panels + panel * w.stride;
  if (HasBlocks(w.format)) return ExpandBlocks<kPairs>(w.format, from, first, count, dst);
  ExpandElements<kPairs>(w.format, from, ScalingOf(w, panel), first, count, dst, ahead);
}

// ---- blocks ------------------------------------------------------------------------------------

// block [elements rounded up to 4][kPanelWidth] ← panel `panel` of x·W. Columns beyond those of W
// are left as they are.
template <bool kPairs>
HWY_INLINE void TransposePanel(const PanelSource& w, size_t panel, size_t elements,
                               uint32_t* HWY_RESTRICT block) {
  constexpr size_t kPer = kPairs ? 2 : 1;
  const size_t column = panel * kPanelWidth;
  const size_t rows = CeilDiv(std::min(kPanelWidth, w.columns - column), kPer);
  HWY_ALIGN uint32_t expanded[(kPanelWidth / kPer + 3) * kPanelWidth];
  size_t done = 0, at = w.first * kPer;  // reduction rows
  while (done < elements * kPer) {
    const size_t source = at / kPanelWidth, lane = at % kPanelWidth;
    const size_t left = RoundUp(elements * kPer - done, 4);
    const size_t lanes = std::min(kPanelWidth - lane, left);
    const uint32_t* src = w.panels + source * w.stride + column / kPer * kPanelWidth;
    if (w.expanded) {
      ExpandPanel<kPairs>(w, source, column / kPer, rows, expanded);
      src = expanded;
    }
    uint32_t* dst = block + done / kPer * kPanelWidth;
    if constexpr (kPairs) {
      TransposePairs(src + lane, kPanelWidth, rows, lanes, dst, kPanelWidth,
                     w.expanded ? 0 : w.stride);
    } else {
      TransposeElements(src + lane, kPanelWidth, rows, lanes, dst, kPanelWidth);
    }
    done += lanes;
    at += lanes;
  }
}

// Returns where the elements of a step's panel are: in W itself, or in `block`, which they are
// written to. block has room for 3 elements more.
template <bool kPairs>
HWY_INLINE const uint32_t* ReadPanel(const Step& step, size_t panel, uint32_t* block) {
  const PanelSource& w = step.w;
  if (step.elements == 0) return nullptr;
  if (w.in_place()) return w.panels + panel * w.stride + w.first * kPanelWidth;
  if (w.transposed) {
    TransposePanel<kPairs>(w, panel, step.elements, block);
  } else {
    ExpandPanel<kPairs>(w, panel, w.first, step.elements, block);
  }
  return block;
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
