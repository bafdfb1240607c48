// y[o, i, j] = x[o, at, j] with at = index[i] or index[o, i, j], and the gradient of x.
#include <cstring>

#include "backend/reference/kernels.h"
#include "core/error.h"
#include "core/ops/element.h"

namespace lora::reference {
namespace {

// Calls f(element of y, element of x) in the order of y.
template <class F>
void ForEachTaken(const TakenLines& lines, const TensorView& index, const F& f) {
  const auto at = [&](int64_t i) {
    const int32_t place = index.as<int32_t>()[i];
    if (place < 0 || place >= lines.length) {
      Throw("ERR_DATA", "take", "expected an index from 0 to ", lines.length - 1, " but received ",
            place, " at position ", i);
    }
    return place;
  };
  for (int64_t i = 0; i < index.numel(); ++i) at(i);
  for (int64_t i = 0; i < lines.outer * lines.taken * lines.inner; ++i) {
    const int64_t column = i % lines.inner, row = i / lines.inner;
    const int64_t place = at(lines.shared ? row % lines.taken : i);
    f(i, (row / lines.taken * lines.length + place) * lines.inner + column);
  }
}

}  // namespace

void Run(const TakeArgs& args, Scratch, Context&) {
  const size_t size = SizeOf(args.x.dtype);
  ForEachTaken(LinesOf(args.x.shape, args.index.shape, args.dim), args.index,
               [&](int64_t to, int64_t from) {
                 std::memcpy(args.y.as<char>() + static_cast<size_t>(to) * size,
                             args.x.as<const char>() + static_cast<size_t>(from) * size, size);
               });
}

void Run(const TakeBackwardArgs& args, Scratch, Context&) {
  ForEachTaken(LinesOf(args.dx.shape, args.index.shape, args.dim), args.index,
               [&](int64_t from, int64_t to) {
                 Store(args.dx, to, Load(args.dx, to) + Load(args.g, from));
               });
}

template PlannedCall Plan(const TakeArgs&, int);
template PlannedCall Plan(const TakeBackwardArgs&, int);
}  // namespace lora::reference
