// y = a ∘ b with NumPy's broadcasting. Loops are merged where both operands allow it (nest.h), so
// that tensors of equal shape are one long row, and a row vector on a matrix is one row per line.
// The innermost loop runs over blocks of f32 (vector-inl.h), in which an operand either advances or
// repeats one value.
#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/elementwise/nest.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise/binary.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/simd/kinds-inl.h"
#include "backend/cpu/simd/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

template <class Kind>
struct BinaryValue {
  HWY_INLINE VF operator()(DF, VF a, VF b) const { return Kind::Value(a, b); }
};
template <class F>
struct WithScalarA {
  F f;
  float a;
  HWY_INLINE VF operator()(DF d, VF b) const { return f(d, hn::Set(d, a), b); }
};
template <class F>
struct WithScalarB {
  F f;
  float b;
  HWY_INLINE VF operator()(DF d, VF a) const { return f(d, a, hn::Set(d, b)); }
};

struct Operand {
  const TensorView& view;
  size_t offset;
  bool advances;
  const float* Read(size_t i, size_t n, float* buffer) const {
    return ReadBlock(view.data, view.dtype, offset + (advances ? i : 0), advances ? n : 1, buffer);
  }
};

// Computes elements [0, count) of one row.
template <class F>
void Row(const F& f, const Operand& a, const Operand& b, const TensorView& y, size_t y_offset,
         size_t count) {
  HWY_ALIGN float as[kBlock], bs[kBlock], ys[kBlock];
  for (size_t i = 0; i < count; i += kBlock) {
    const size_t n = std::min(kBlock, count - i);
    const WriteBlock out(y.data, y.dtype, y_offset + i, ys);
    const float *pa = a.Read(i, n, as), *pb = b.Read(i, n, bs);
    if (a.advances && b.advances) {
      Map(f, n, out.to(), pa, pb);
    } else if (a.advances) {
      Map(WithScalarB<F>{f, *pb}, n, out.to(), pa);
    } else if (b.advances) {
      Map(WithScalarA<F>{f, *pa}, n, out.to(), pb);
    } else {  // both repeat: a single element
      Map(f, n, out.to(), pa, pb);
    }
    out.Finish(n);
  }
}

template <class F>
void Rows(const F& f, const BinaryArgs& args, const Nest<2>& nest, size_t begin, size_t end) {
  const size_t width = nest.inner_size();
  const auto inner = nest.inner_stride();
  while (begin < end) {
    const size_t row = begin / width, column = begin % width;
    const size_t count = std::min(width - column, end - begin);
    const auto offset = nest.RowOffset(row);
    const Operand a{args.a, offset[0] + column * inner[0], inner[0] != 0};
    const Operand b{args.b, offset[1] + column * inner[1], inner[1] != 0};
    Row(f, a, b, args.y, begin, count);
    begin += count;
  }
}

}  // namespace

void BinaryRange(const BinaryArgs& args, const Nest<2>& nest, size_t begin, size_t end) {
  binary::ForKind(args.kind,
                  [&]<class Kind>() { Rows(BinaryValue<Kind>(), args, nest, begin, end); });
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(BinaryRange);

void Run(const BinaryArgs& args, Scratch, Context& context) {
  for (const TensorView* view : {&args.a, &args.b, &args.y}) RequireFloat("binary", view->dtype);
  const auto a = BroadcastStrides(args.a.shape, args.y.shape);
  const auto b = BroadcastStrides(args.b.shape, args.y.shape);
  Nest<2> nest;
  for (int i = 0; i < args.y.shape.rank(); ++i) {
    const size_t d = static_cast<size_t>(i);
    nest.Add(static_cast<size_t>(args.y.dim(i)), {a[d], b[d]});
  }
  ForRange(
      context, static_cast<size_t>(args.y.numel()), kCheapGrain, kLineElements,
      [&](size_t begin, size_t end) { HWY_DYNAMIC_DISPATCH(BinaryRange)(args, nest, begin, end); });
}

template PlannedCall Plan(const BinaryArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
