#include "backend/cpu/pack.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/maths/ceil_div.h"
#include "core/runtime/platform/platform.h"

namespace lora::cpu {
namespace {

// Elements that are packed at a time from one source row. They fill a cache line, so that a line is
// not fetched again for each of them.
constexpr size_t kElementBlock = 16;

template <class T>
uint32_t Element(T low, T high) {
  if constexpr (sizeof(T) == 4) {
    return low;
  } else {
    return static_cast<uint32_t>(low) | static_cast<uint32_t>(high) << 16;
  }
}

// Packs one panel of `rows` <= width outputs. Output j at reduction index l is
// src[j·row_step + l·k_step].
template <class T>
void PackPanel(const T* src, size_t row_step, size_t k_step, size_t rows, size_t k, size_t width,
               uint32_t* dst) {
  constexpr size_t kPer = 4 / sizeof(T);
  const size_t whole = k / kPer;  // elements without padding
  const auto put = [&](size_t j, size_t e) {
    const T* s = src + j * row_step + e * kPer * k_step;
    dst[e * width + j] = Element<T>(s[0], s[(kPer - 1) * k_step]);
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
      dst[whole * width + j] = Element<T>(src[j * row_step + (k - 1) * k_step], T{0});
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
  const size_t panel = (k * sizeof(T) + 3) / 4 * width;
  ParallelFor(context, Panels(n, width), [&](size_t p, size_t) {
    PackPanel(src + p * width * row_step, row_step, k_step, std::min(width, n - p * width), k,
              width, dst + p * panel);
  });
}

// dst[l] ← output j of a panel, for l in [0, k).
template <class T>
void UnpackOutput(const uint32_t* panel, size_t j, size_t width, size_t k, T* dst) {
  constexpr size_t kPer = 4 / sizeof(T);
  for (size_t l = 0; l < k; ++l) {
    const uint32_t element = panel[l / kPer * width + j];
    dst[l] = static_cast<T>(l % kPer == 0 ? element : element >> 16);
  }
}

void UnpackOutputs(const PackedView& w, size_t begin, size_t end, void* dst) {
  const size_t k = static_cast<size_t>(w.cols), width = PanelWidth();
  const size_t panel = Elements(k, w.dtype) * width;
  for (size_t i = begin; i < end; ++i) {
    const uint32_t* src = static_cast<const uint32_t*>(w.data) + i / width * panel;
    if (SizeOf(w.dtype) == 2) {
      UnpackOutput(src, i % width, width, k, static_cast<uint16_t*>(dst) + (i - begin) * k);
    } else {
      UnpackOutput(src, i % width, width, k, static_cast<uint32_t*>(dst) + (i - begin) * k);
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
  const size_t row_step = transposed ? 1 : ld, k_step = transposed ? ld : 1;
  uint32_t* elements = static_cast<uint32_t*>(dst);
  if (SizeOf(dtype) == 2) {
    PackAll(static_cast<const uint16_t*>(src), row_step, k_step, n, k, elements, context);
  } else {
    PackAll(static_cast<const uint32_t*>(src), row_step, k_step, n, k, elements, context);
  }
}

void UnpackRow(const PackedView& w, int64_t row, void* dst) {
  UnpackOutputs(w, static_cast<size_t>(row), static_cast<size_t>(row) + 1, dst);
}

size_t PackedBytes(int64_t rows, int64_t cols, DType dtype, Direction direction) {
  const size_t r = static_cast<size_t>(rows), c = static_cast<size_t>(cols);
  return direction == Direction::kForward ? PanelBytes(r, c, dtype) : PanelBytes(c, r, dtype);
}

void Run(const PackArgs& args, Scratch, Context& context) {
  const size_t rows = static_cast<size_t>(args.src.dim(0));
  const size_t cols = static_cast<size_t>(args.src.dim(1));
  const DType dtype = args.src.dtype;
  const bool backward = args.direction == Direction::kBackward;
  // A product that streams a large matrix once spends 5 to 15 % less time with huge pages.
  platform::AdviseHugePages(args.dst,
                            PackedBytes(args.src.dim(0), args.src.dim(1), dtype, args.direction));
  PackPanels(args.src.data, cols, backward, backward ? cols : rows, backward ? rows : cols, dtype,
             args.dst, static_cast<CpuContext*>(&context));
}

void Run(const UnpackArgs& args, Scratch, Context& context) {
  LORA_CHECK(args.src.direction == Direction::kForward, "unpack",
             "expected a matrix packed for the forward product");
  const size_t rows = static_cast<size_t>(args.src.rows), width = PanelWidth();
  const size_t row_bytes = static_cast<size_t>(args.src.cols) * SizeOf(args.src.dtype);
  static_cast<CpuContext&>(context).ParallelFor(Panels(rows, width), [&](size_t p, size_t) {
    const size_t begin = p * width, end = std::min(rows, begin + width);
    UnpackOutputs(args.src, begin, end, args.dst.as<std::byte>() + begin * row_bytes);
  });
}

}  // namespace lora::cpu
