#include "backend/cpu/formats/pack.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "backend/cpu/kernels.h"
#include "core/error.h"
#include "core/maths/blocks.h"
#include "core/maths/ceil_div.h"
#include "core/runtime/platform/platform.h"

namespace lora::cpu {
namespace {

// Elements that are packed at a time from one source row. They fill a cache line, so that a line is
// not fetched again for each of them.
constexpr size_t kElementBlock = 16;

// Returns one element of the values at `from`, `from + step`, …, of which `count` exist.
template <class T>
uint32_t Element(const T* from, size_t step, size_t count) {
  uint32_t element = 0;
  for (size_t i = 0; i < count; ++i) {
    element |= static_cast<uint32_t>(from[i * step]) << (8 * sizeof(T) * i);
  }
  return element;
}

// Packs one panel of `rows` <= width outputs. Output j at reduction index l is
// src[j·row_step + l·k_step].
template <class T>
void PackPanel(const T* src, size_t row_step, size_t k_step, size_t rows, size_t k, size_t width,
               uint32_t* dst) {
  constexpr size_t kPer = 4 / sizeof(T);
  const size_t whole = k / kPer;  // elements without padding
  const auto put = [&](size_t j, size_t e) {
    dst[e * width + j] = Element<T>(src + j * row_step + e * kPer * k_step, k_step, kPer);
  };
  if (row_step == 1) {
    for (size_t e = 0; e < whole; ++e) {
      for (size_t j = 0; j < rows; ++j) put(j, e);
    }
  } else {
    for (size_t e0 = 0; e0 < whole; e0 += kElementBlock) {
      const size_t e1 = std::min(whole, e0 + kElementBlock);
      for (size_t j = 0; j < rows; ++j) {
        for (size_t e = e0; e < e1; ++e) put(j, e);
      }
    }
  }
  if (whole * kPer < k) {
    for (size_t j = 0; j < rows; ++j) {
      dst[whole * width + j] =
          Element<T>(src + j * row_step + whole * kPer * k_step, k_step, k - whole * kPer);
    }
  }
  const size_t elements = CeilDiv(k, kPer);
  if (rows < width) {
    for (size_t e = 0; e < elements; ++e) {
      std::fill(dst + e * width + rows, dst + (e + 1) * width, 0u);
    }
  }
}

template <class T>
void PackAll(const T* src, size_t row_step, size_t k_step, size_t n, size_t k, uint32_t* dst,
             CpuContext* context) {
  const size_t width = PanelWidth();
  const size_t panel = CeilDiv(k * sizeof(T), sizeof(uint32_t)) * width;
  ParallelFor(context, Panels(n, width), [&](size_t p, size_t) {
    PackPanel(src + p * width * row_step, row_step, k_step, std::min(width, n - p * width), k,
              width, dst + p * panel);
  });
}

// Packs one panel of codes, of the outputs from `first` on.
void PackCodes(const uint8_t* src, size_t first, size_t rows, size_t k, size_t width, uint32_t zero,
               uint32_t* dst) {
  constexpr size_t kPer = 8;
  for (size_t e = 0; e < CeilDiv(k, kPer); ++e) {
    for (size_t j = 0; j < width; ++j) {
      uint32_t element = 0;
      for (size_t v = 0; v < kPer; ++v) {
        const size_t l = e * kPer + v;
        const uint32_t code = j < rows && l < k ? CodeAt(src, (first + j) * k + l) : zero;
        element |= code << CodeShift(static_cast<int>(v));
      }
      dst[e * width + j] = element;
    }
  }
}

// Packs one panel of blocks, of the outputs from `first` on. Byte t of block b of output j becomes
// byte (b·bytes + t)·width + j.
void PackBlocks(const PackArgs& args, size_t first, size_t rows, size_t width, uint8_t* dst) {
  const BlockSize& block = TraitsOf(args.format).block;
  const size_t bytes = static_cast<size_t>(block.bytes);
  const size_t blocks = static_cast<size_t>(args.cols / block.values);
  const uint8_t* const src = args.src.as<uint8_t>() + first * blocks * bytes;
  for (size_t b = 0; b < blocks; ++b, dst += bytes * width) {
    if (rows < width) std::memset(dst, 0, bytes * width);
    for (size_t j = 0; j < rows; ++j) {
      const uint8_t* const from = src + (j * blocks + b) * bytes;
      for (size_t t = 0; t < bytes; ++t) dst[t * width + j] = from[t];
    }
  }
}

// Returns the rows of scales that a panel has. Elements are whole, also the one at the end of k.
size_t ScaleRows(size_t k, WeightFormat format) {
  if (TraitsOf(format).scales != Scales::kBlocks) return HasScales(format) ? 1 : 0;
  return RoundUp(k, 8) / ScaleGroup(k);
}

// dst [ScaleRows][width] ← the scales of one panel, zero where there is no output or no value.
void PackScales(const PackArgs& args, size_t first, size_t rows, size_t width, float* dst) {
  const size_t k = static_cast<size_t>(args.cols), group = ScaleGroup(k);
  const bool by_row = TraitsOf(args.format).scales == Scales::kRows;
  const float* scales = args.scales.as<float>();
  for (size_t r = 0; r < ScaleRows(k, args.format); ++r) {
    for (size_t j = 0; j < width; ++j) {
      const size_t i = first + j, block = (i * k + r * group) / kBlockValues;
      const bool exists = j < rows && (by_row || r * group < k);
      dst[r * width + j] = exists ? scales[by_row ? i : block] : 0.0f;
    }
  }
}

// Calls use(l, bits) with the stored bits of output j of a panel, for l in [0, k).
template <class T, class Use>
void ForEachValue(const uint32_t* panel, size_t j, size_t width, size_t k, const Use& use) {
  constexpr size_t kPer = 4 / sizeof(T);
  for (size_t l = 0; l < k; ++l) {
    use(l, static_cast<T>(panel[l / kPer * width + j] >> (8 * sizeof(T) * (l % kPer))));
  }
}

void StoreValue(DType dtype, void* dst, size_t l, float value) {
  if (dtype == DType::kBF16) {
    static_cast<uint16_t*>(dst)[l] = BF16FromF32(value);
  } else {
    static_cast<float*>(dst)[l] = value;
  }
}

// dst [cols] of w.dtype ← output j of a panel of blocks.
void UnpackBlocks(const PackedView& w, const uint8_t* panel, size_t j, void* dst) {
  const size_t per_block = static_cast<size_t>(TraitsOf(w.format).block.values);
  const size_t bytes = static_cast<size_t>(TraitsOf(w.format).block.bytes);
  float values[kMaxBlockValues];
  uint8_t block[kMaxBlockBytes];
  for (size_t l = 0; l < static_cast<size_t>(w.cols); l += per_block) {
    CopyBlocksOf(panel, l / per_block, 1, bytes, j, PanelWidth(), block);
    DecodeGroups(w.format, block, bytes, 0, per_block / kGroupValues, values);
    for (size_t i = 0; i < per_block; ++i) StoreValue(w.dtype, dst, l + i, values[i]);
  }
}

// dst [end - begin][cols] of w.dtype ← outputs [begin, end).
void UnpackOutputs(const PackedView& w, size_t begin, size_t end, std::byte* dst) {
  const size_t k = static_cast<size_t>(w.cols), width = PanelWidth();
  const PanelSource source = PanelsOf(w);
  for (size_t i = begin; i < end; ++i, dst += k * SizeOf(w.dtype)) {
    const uint32_t* panel = source.panels + i / width * source.stride;
    const size_t j = i % width;
    const float* scales =
        source.scales ? source.scales + i / width * source.scale_stride + j : nullptr;
    if (HasBlocks(w.format)) {
      UnpackBlocks(w, reinterpret_cast<const uint8_t*>(panel), j, dst);
    } else if (w.format == WeightFormat::kI8Rows) {
      ForEachValue<uint8_t>(panel, j, width, k, [&](size_t l, uint8_t bits) {
        StoreValue(w.dtype, dst, l, static_cast<float>(static_cast<int8_t>(bits)) * *scales);
      });
    } else if (source.codes) {
      for (size_t l = 0; l < k; ++l) {
        const uint32_t code = panel[l / 8 * width + j] >> CodeShift(static_cast<int>(l % 8)) & 15;
        StoreValue(w.dtype, dst, l,
                   source.codes->values[code] * scales[(l >> source.scale_shift) * width]);
      }
    } else if (source.expanded) {
      ForEachValue<uint16_t>(panel, j, width, k, [&](size_t l, uint16_t bits) {
        StoreValue(w.dtype, dst, l,
                   w.format == WeightFormat::kBF16 ? F32FromBF16(bits) : F32FromF16(bits));
      });
    } else if (SizeOf(w.dtype) == 2) {
      ForEachValue<uint16_t>(panel, j, width, k, [&](size_t l, uint16_t bits) {
        reinterpret_cast<uint16_t*>(dst)[l] = bits;
      });
    } else {
      ForEachValue<uint32_t>(panel, j, width, k, [&](size_t l, uint32_t bits) {
        reinterpret_cast<uint32_t*>(dst)[l] = bits;
      });
    }
  }
}

}  // namespace

size_t PanelBytes(size_t n, size_t k, DType dtype) {
  const size_t width = PanelWidth();
  return Panels(n, width) * width * Elements(k, dtype) * sizeof(uint32_t);
}

void PackPanels(const void* src, size_t ld, bool transposed, size_t n, size_t k, DType dtype,
                void* dst, CpuContext* context) {
  if (k == 0) return;  // not one panel after the other, of which there may be 2³²
  const size_t row_step = transposed ? 1 : ld, k_step = transposed ? ld : 1;
  uint32_t* elements = static_cast<uint32_t*>(dst);
  if (SizeOf(dtype) == 1) {
    PackAll(static_cast<const uint8_t*>(src), row_step, k_step, n, k, elements, context);
  } else if (SizeOf(dtype) == 2) {
    PackAll(static_cast<const uint16_t*>(src), row_step, k_step, n, k, elements, context);
  } else {
    PackAll(static_cast<const uint32_t*>(src), row_step, k_step, n, k, elements, context);
  }
}

void UnpackRow(const PackedView& w, int64_t row, void* dst) {
  UnpackOutputs(w, static_cast<size_t>(row), static_cast<size_t>(row) + 1,
                static_cast<std::byte*>(dst));
}

size_t PackedBytes(int64_t rows, int64_t cols, WeightFormat format) {
  const size_t k = static_cast<size_t>(cols), width = PanelWidth();
  return Panels(static_cast<size_t>(rows), width) * width *
         (Elements(k, format) + ScaleRows(k, format)) * sizeof(uint32_t);
}

PanelSource PanelsOf(const PackedView& w, size_t n0) {
  const size_t width = PanelWidth(), n = static_cast<size_t>(w.rows);
  PanelSource source;
  source.columns = static_cast<size_t>(w.cols);
  source.stride = Elements(source.columns, w.format) * width;
  source.format = w.format;
  source.expanded = w.format != FormatOf(w.dtype);
  const uint32_t* panels = static_cast<const uint32_t*>(w.data);
  source.panels = panels + n0 / width * source.stride;
  source.codes = TraitsOf(w.format).codes;
  if (HasScales(w.format)) {
    const uint32_t* end = panels + Panels(n, width) * source.stride;
    source.scale_stride = ScaleRows(source.columns, w.format) * width;
    source.scales = reinterpret_cast<const float*>(end) + n0 / width * source.scale_stride;
    source.scale_shift = source.codes ? std::countr_zero(ScaleGroup(source.columns)) : 63;
  }
  return source;
}

PanelSource TransposedPanelsOf(const PackedView& w, size_t n0) {
  PanelSource source = PanelsOf(w, n0);
  source.transposed = true;
  return source;
}

void Run(const PackArgs& args, Scratch, Context& context) {
  const size_t rows = static_cast<size_t>(args.rows), cols = static_cast<size_t>(args.cols);
  const size_t width = PanelWidth();
  const size_t stride = Elements(cols, args.format) * width;
  // A matrix of no columns may have 2³² rows, and codes have panels of no bytes then.
  if (PackedBytes(args.rows, args.cols, args.format) == 0) return;
  auto* const panels = static_cast<uint32_t*>(args.dst);
  auto* const host = static_cast<CpuContext*>(&context);
  // A product that streams a large matrix once spends 5 to 15 % less time with huge pages.
  platform::AdviseHugePages(args.dst, PackedBytes(args.rows, args.cols, args.format));
  if (HasBlocks(args.format)) {
    return ParallelFor(host, Panels(rows, width), [&](size_t p, size_t) {
      const size_t first = p * width;
      PackBlocks(args, first, std::min(width, rows - first), width,
                 reinterpret_cast<uint8_t*>(panels + p * stride));
    });
  }
  if (!HasCodes(args.format)) {
    PackPanels(args.src.data, cols, false, rows, cols, args.src.dtype, args.dst, host);
  }
  if (!HasScales(args.format)) return;
  auto* const scales = reinterpret_cast<float*>(panels + Panels(rows, width) * stride);
  ParallelFor(host, Panels(rows, width), [&](size_t p, size_t) {
    const size_t first = p * width, count = std::min(width, rows - first);
    if (HasCodes(args.format)) {
      PackCodes(args.src.as<uint8_t>(), first, count, cols, width, TraitsOf(args.format).zero,
                panels + p * stride);
    }
    PackScales(args, first, count, width, scales + p * ScaleRows(cols, args.format) * width);
  });
}

void Run(const UnpackArgs& args, Scratch, Context& context) {
  if (args.src.cols == 0) return;
  const size_t rows = static_cast<size_t>(args.src.rows), width = PanelWidth();
  const size_t row_bytes = static_cast<size_t>(args.src.cols) * SizeOf(args.dst.dtype);
  static_cast<CpuContext&>(context).ParallelFor(Panels(rows, width), [&](size_t p, size_t) {
    const size_t begin = p * width, end = std::min(rows, begin + width);
    UnpackOutputs(args.src, begin, end, args.dst.as<std::byte>() + begin * row_bytes);
  });
}

template PlannedCall Plan(const PackArgs&, int);
template PlannedCall Plan(const UnpackArgs&, int);
}  // namespace lora::cpu
