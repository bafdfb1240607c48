// For p = lengths[b] − s + i, with rope's rotation by row table_start[b] + p of the tables:
//   y[b, i]                               = rotated q[b, i]
//   k_pool[page_table[b, p / 64], h, p % 64] ← rotated k[b, i, h]
//   v_pool[page_table[b, p / 64], h, p % 64] ← v[b, i, h]
#include <cstring>

#include "backend/cpu/elementwise/convert.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/runtime/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/layers/page_append.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "backend/cpu/layers/rotation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lora::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void AppendRows(const PageAppendArgs& args, size_t begin, size_t end) {
  const int64_t count = args.q.dim(1), columns = args.page_table.dim(1);
  const size_t q_heads = static_cast<size_t>(args.q.dim(2));
  const size_t heads = static_cast<size_t>(args.k.dim(2));
  const size_t dim = static_cast<size_t>(args.q.dim(3));
  const size_t pairs = static_cast<size_t>(args.cos.dim(1));
  for (size_t token = begin; token < end; ++token) {
    const int64_t b = static_cast<int64_t>(token) / count;
    const int64_t position =
        args.lengths.as<const int32_t>()[b] - count + static_cast<int64_t>(token) % count;
    const int32_t page = args.page_table.as<const int32_t>()[b * columns + position / kPageSize];
    const int64_t start = args.table_start ? args.table_start.as<const int32_t>()[b] : 0;
    const float* cos = args.cos.as<const float>() + static_cast<size_t>(start + position) * pairs;
    const float* sin = args.sin.as<const float>() + static_cast<size_t>(start + position) * pairs;
    for (size_t head = token * q_heads; head < (token + 1) * q_heads; ++head) {
      RotateHead(args.q.as<const T>() + head * dim, cos, sin, false, pairs, dim,
                 args.y.as<T>() + head * dim);
    }
    for (size_t h = 0; h < heads; ++h) {
      const size_t from = (token * heads + h) * dim;
      const auto to =
          static_cast<size_t>(PageOffset(args.k_pool, page, static_cast<int64_t>(h), position));
      RotateHead(args.k.as<const T>() + from, cos, sin, false, pairs, dim,
                 args.k_pool.as<T>() + to);
      std::memcpy(args.v_pool.as<T>() + to, args.v.as<const T>() + from, dim * sizeof(T));
    }
  }
}

}  // namespace

void PageAppendRows(const PageAppendArgs& args, size_t begin, size_t end) {
  if (args.q.dtype == DType::kBF16) {
    AppendRows<hwy::bfloat16_t>(args, begin, end);
  } else {
    AppendRows<float>(args, begin, end);
  }
}

}  // namespace lora::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lora::cpu {

HWY_EXPORT(PageAppendRows);

void Run(const PageAppendArgs& args, Scratch, Context& context) {
  RequireActivation("page_append", args.q.dtype);
  CheckPages("page_append", args.page_table, args.lengths, args.k_pool.dim(0), UsedBy(args));
  CheckTableStart(args);
  const int64_t heads = args.q.dim(2) + 2 * args.k.dim(2);
  ForRows(context, static_cast<size_t>(args.q.dim(0) * args.q.dim(1)),
          static_cast<size_t>(heads * args.q.dim(3)), kCheapGrain, [&](size_t begin, size_t end) {
            HWY_DYNAMIC_DISPATCH(PageAppendRows)(args, begin, end);
          });
}

template PlannedCall Plan(const PageAppendArgs&, int);
}  // namespace lora::cpu
#endif  // HWY_ONCE
