// y[i] = weight[ids[i]].
#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"
#include "core/error.h"

namespace lora::reference {

void Run(const EmbeddingArgs& args, Scratch, Context&) {
  const int64_t dim = args.weight.cols;
  for (int64_t i = 0; i < args.ids.dim(0); ++i) {
    const int32_t id = args.ids.as<int32_t>()[i];
    if (id < 0 || id >= args.weight.rows) {
      Throw("ERR_DATA", "embedding", "expected ids from 0 to ", args.weight.rows - 1,
            " but received ", id, " at position ", i);
    }
    StoreRange(args.y, i * dim, LoadRange(args.weight, id * dim, dim));
  }
}

}  // namespace lora::reference
