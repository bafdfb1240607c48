// y[i] = weight[ids[i]], and the gradient of weight.
#include <map>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"
#include "core/error.h"

namespace lora::reference {
namespace {

// Returns ids[i]; throws where it is outside [0, rows).
int64_t IdAt(const TensorView& ids, int64_t i, int64_t rows) {
  const int32_t id = ids.as<int32_t>()[i];
  if (id < 0 || id >= rows) {
    Throw("ERR_DATA", "embedding", "expected ids from 0 to ", rows - 1, " but received ", id,
          " at position ", i);
  }
  return id;
}

}  // namespace

void Run(const EmbeddingArgs& args, Scratch, Context&) {
  const int64_t dim = args.weight.cols;
  for (int64_t i = 0; i < args.ids.dim(0); ++i) {
    const int64_t id = IdAt(args.ids, i, args.weight.rows);
    StoreRange(args.y, i * dim, LoadRange(args.weight, id * dim, dim));
  }
}

void Run(const EmbeddingBackwardArgs& args, Scratch, Context&) {
  const int64_t dim = args.dw.dim(1), n = args.ids.dim(0);
  std::map<int64_t, Vector> sums;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t id = IdAt(args.ids, i, args.dw.dim(0));
    const auto [found, is_new] = sums.try_emplace(id);
    if (is_new) found->second = LoadRange(args.dw, id * dim, dim);
    for (int64_t j = 0; j < dim; ++j) {
      found->second[static_cast<size_t>(j)] += Load(args.g, i * dim + j);
    }
  }
  for (const auto& [id, sum] : sums) StoreRange(args.dw, id * dim, sum);
}

template PlannedCall Plan(const EmbeddingArgs&, int);
template PlannedCall Plan(const EmbeddingBackwardArgs&, int);
}  // namespace lora::reference
