// y[i_perm...] = x[i...]. Elements of y are written in order. Where neighbors of y are far
// apart in x, tiles of kSide × kSide keep the lines of both in L1. Elements are moved by their
// size, of 2, 4 or 8 bytes.
#include <cstring>

#include "backend/cpu/elementwise/nest.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"
#include "core/error.h"

namespace lora::cpu {
namespace {

constexpr size_t kSide = 32;

template <class T>
void MoveRows(const T* x, const Nest<1>& nest, T* y, size_t begin, size_t end) {
  const size_t width = nest.inner_size();
  for (size_t row = begin; row < end; ++row) {
    std::memcpy(y + row * width, x + nest.RowOffset(row)[0], width * sizeof(T));
  }
}

// The loops of y, except its innermost one (n, read with stride `step`) and
// the one that walks x by 1 (p).
struct Plane {
  Nest<2> outer;  // strides in x and y
  size_t n = 1, step = 0;
  size_t p = 1, p_step = 0;  // p_step: in y
};

Plane PlaneOf(const Nest<1>& nest) {
  Plane plane;
  plane.n = nest.inner_size();
  plane.step = nest.inner_stride()[0];
  std::array<size_t, kMaxDims> y_stride{};
  size_t stride = 1;
  for (int i = nest.rank - 1; i >= 0; --i) {
    y_stride[static_cast<size_t>(i)] = stride;
    stride *= nest.size[static_cast<size_t>(i)];
  }
  for (int i = 0; i + 1 < nest.rank; ++i) {
    const size_t d = static_cast<size_t>(i);
    if (nest.stride[d][0] == 1) {
      plane.p = nest.size[d];
      plane.p_step = y_stride[d];
    } else {
      plane.outer.Add(nest.size[d], {nest.stride[d][0], y_stride[d]});
    }
  }
  return plane;
}

template <class T>
void MoveTiles(const T* x, const Plane& plane, T* y, size_t begin, size_t end) {
  const size_t strips = (plane.p + kSide - 1) / kSide;
  for (size_t task = begin; task < end; ++task) {
    const auto offset = plane.outer.OffsetOf(task / strips, plane.outer.rank);
    const size_t p_begin = task % strips * kSide, p_end = std::min(p_begin + kSide, plane.p);
    const T* from = x + offset[0];
    T* to = y + offset[1];
    for (size_t n_begin = 0; n_begin < plane.n; n_begin += kSide) {
      const size_t n_end = std::min(n_begin + kSide, plane.n);
      for (size_t p = p_begin; p < p_end; ++p) {
        for (size_t n = n_begin; n < n_end; ++n)
          to[p * plane.p_step + n] = from[n * plane.step + p];
      }
    }
  }
}

template <class T>
void Move(const TransposeArgs& args, const Nest<1>& nest, Context& context) {
  const T* x = args.x.as<const T>();
  T* y = args.y.as<T>();
  if (nest.rank == 0 || nest.inner_stride()[0] == 1) {
    ForRows(context, nest.rows(), nest.inner_size(), kCheapGrain,
            [&](size_t begin, size_t end) { MoveRows(x, nest, y, begin, end); });
    return;
  }
  const Plane plane = PlaneOf(nest);
  const size_t strips = (plane.p + kSide - 1) / kSide;
  ForRows(context, plane.outer.count(plane.outer.rank) * strips, kSide * plane.n, kCheapGrain,
          [&](size_t begin, size_t end) { MoveTiles(x, plane, y, begin, end); });
}

}  // namespace

void Run(const TransposeArgs& args, Scratch, Context& context) {
  if (args.y.numel() == 0) return;
  std::array<size_t, kMaxDims> stride{};
  size_t step = 1;
  for (int i = args.x.shape.rank() - 1; i >= 0; --i) {
    stride[static_cast<size_t>(i)] = step;
    step *= static_cast<size_t>(args.x.dim(i));
  }
  Nest<1> nest;
  for (int i = 0; i < args.y.shape.rank(); ++i) {
    const size_t from = static_cast<size_t>(args.perm[static_cast<size_t>(i)]);
    nest.Add(static_cast<size_t>(args.y.dim(i)), {stride[from]});
  }
  switch (SizeOf(args.y.dtype)) {
    case 2:
      return Move<uint16_t>(args, nest, context);
    case 4:
      return Move<uint32_t>(args, nest, context);
    case 8:
      return Move<uint64_t>(args, nest, context);
    default:
      Throw("ERR_UNSUPPORTED", "transpose", "no kernel for dtype ", NameOf(args.y.dtype));
  }
}

template PlannedCall Plan(const TransposeArgs&, int);
}  // namespace lora::cpu
