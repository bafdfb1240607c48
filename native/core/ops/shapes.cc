#include "core/ops/shapes.h"

#include <algorithm>

#include "core/error.h"

namespace lora {

Shape BroadcastShapes(const char* op, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape result;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const int64_t da = ia < 0 ? 1 : a[ia], db = ib < 0 ? 1 : b[ib];
    LORA_CHECK(da == db || da == 1 || db == 1, op, "expected shapes that broadcast but received ",
               a, " and ", b);
    result.push_back(da == 1 ? db : da);
  }
  return result;
}

Shape MatmulShape(const Shape& a, const Shape& b, bool trans_a, bool trans_b) {
  const char* op = "matmul";
  LORA_CHECK(a.rank() >= 2 && b.rank() >= 2, op,
             "expected a and b of at least 2 dimensions but received ", a, " and ", b);
  const int64_t m = a[trans_a ? -1 : -2], ka = a[trans_a ? -2 : -1];
  const int64_t kb = b[trans_b ? -1 : -2], n = b[trans_b ? -2 : -1];
  LORA_CHECK(ka == kb, op, "expected b with an inner dimension of ", ka, " (that of a ", a,
             ") but received ", b);
  Shape lead_a, lead_b;
  for (int i = 0; i < a.rank() - 2; ++i) lead_a.push_back(a[i]);
  for (int i = 0; i < b.rank() - 2; ++i) lead_b.push_back(b[i]);
  Shape result = BroadcastShapes(op, lead_a, lead_b);
  result.push_back(m);
  result.push_back(n);
  return result;
}

Shape TransposedShape(const Shape& shape, const std::vector<int>& perm) {
  const char* op = "transpose";
  LORA_CHECK(static_cast<int>(perm.size()) == shape.rank(), op, "expected a permutation of ",
             shape.rank(), " dimensions but received ", perm.size());
  Shape result;
  unsigned seen = 0;
  for (const int d : perm) {
    LORA_CHECK(d >= 0 && d < shape.rank() && !(seen >> d & 1u), op,
               "expected each dimension of 0 to ", shape.rank() - 1, " once but received ", d);
    seen |= 1u << d;
    result.push_back(shape[d]);
  }
  return result;
}

}  // namespace lora
