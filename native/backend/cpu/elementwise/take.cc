// y[o, i, j] = x[o, at, j] with at = index[i] or index[o, i, j], and the gradient of x.
#include <algorithm>
#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/error.h"

namespace lora::cpu {
namespace {

// Checks all places before the first element is written, so that a failed op has written nothing.
void CheckPlaces(const TensorView& index, int64_t length) {
  const auto* place = index.as<const int32_t>();
  for (int64_t i = 0; i < index.numel(); ++i) {
    if (place[i] < 0 || place[i] >= length) {
      Throw("ERR_DATA", "take", "expected an index from 0 to ", length - 1, " but received ",
            place[i], " at position ", i);
    }
  }
}

// TakenLines in the type of offsets.
struct Lines {
  size_t length, inner, taken;
  bool shared;
  explicit Lines(const TakenLines& of)
      : length(static_cast<size_t>(of.length)),
        inner(static_cast<size_t>(of.inner)),
        taken(static_cast<size_t>(of.taken)),
        shared(of.shared) {}
};

// Takes rows of y, of `inner` elements each.
template <class T>
void TakeRows(const TakeArgs& args, const Lines& lines, size_t begin, size_t end) {
  const auto* index = args.index.as<const int32_t>();
  for (size_t row = begin; row < end; ++row) {
    const T* x = args.x.as<const T>() + row / lines.taken * lines.length * lines.inner;
    T* y = args.y.as<T>() + row * lines.inner;
    if (lines.shared) {
      const size_t at = static_cast<size_t>(index[row % lines.taken]);
      std::memcpy(y, x + at * lines.inner, lines.inner * sizeof(T));
    } else {
      for (size_t j = 0; j < lines.inner; ++j)
        y[j] = x[static_cast<size_t>(index[row * lines.inner + j]) * lines.inner + j];
    }
  }
}

// Adds to lines of dx, which are its elements without the indexed dimension.
void AddLines(const TakeBackwardArgs& args, const Lines& lines, size_t begin, size_t end) {
  const auto* index = args.index.as<const int32_t>();
  while (begin < end) {
    const size_t outer = begin / lines.inner, first = begin % lines.inner;
    const size_t last = std::min(lines.inner, first + end - begin);
    float* dx = args.dx.as<float>() + outer * lines.length * lines.inner;
    for (size_t i = 0; i < lines.taken; ++i) {
      const size_t row = outer * lines.taken + i;
      const float* g = args.g.as<const float>() + row * lines.inner;
      for (size_t j = first; j < last; ++j) {
        const int32_t at = index[lines.shared ? i : row * lines.inner + j];
        dx[static_cast<size_t>(at) * lines.inner + j] += g[j];
      }
    }
    begin += last - first;
  }
}

}  // namespace

void Run(const TakeArgs& args, Scratch, Context& context) {
  const TakenLines of = LinesOf(args.x.shape, args.index.shape, args.dim);
  CheckPlaces(args.index, of.length);
  if (args.y.numel() == 0) return;
  const Lines lines(of);
  const size_t size = SizeOf(args.x.dtype);
  ForRows(context, static_cast<size_t>(of.outer) * lines.taken, lines.inner, kCheapGrain,
          [&](size_t begin, size_t end) {
            if (size == 2) return TakeRows<uint16_t>(args, lines, begin, end);
            TakeRows<uint32_t>(args, lines, begin, end);
          });
}

void Run(const TakeBackwardArgs& args, Scratch, Context& context) {
  const TakenLines of = LinesOf(args.dx.shape, args.index.shape, args.dim);
  CheckPlaces(args.index, of.length);
  const Lines lines(of);
  const size_t grain = kCheapGrain / std::max<size_t>(lines.taken, 1) + 1;
  ForRange(context, static_cast<size_t>(of.outer) * lines.inner, grain, kLineElements,
           [&](size_t begin, size_t end) { AddLines(args, lines, begin, end); });
}

template PlannedCall Plan(const TakeArgs&, int);
template PlannedCall Plan(const TakeBackwardArgs&, int);
}  // namespace lora::cpu
