#include <algorithm>

#include "backend/cuda/device/pages.cuh"
#include "backend/cuda/ids.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/pages.h"
#include "backend/cuda/rope.h"

namespace lora::cuda {

static_assert(sizeof(device::PageReport) <= kPageCheckBytes && device::kPageKeys == kPageSize);

void RequirePages(const char* op, const TensorView& page_table, const TensorView& lengths,
                  int64_t pages, const UsedPositions& used, void* scratch, CudaContext& cuda) {
  if (lengths.numel() == 0 || used.count == 0) return;  // the op touches no page
  const TensorView known_table = page_table.on_host(), known_lengths = lengths.on_host();
  if (known_table && known_lengths) return CheckPages(op, known_table, known_lengths, pages, used);
  auto* report = static_cast<device::PageReport*>(scratch);
  const int64_t columns = page_table.dim(1);
  Launch<device::CheckPages>(
      op, cuda, {},
      device::CheckPagesParams{Data<int32_t>(page_table), Data<int32_t>(lengths), lengths.dim(0),
                               columns, pages, used.count, used.window, report});
  device::PageReport read{device::kNoBadId, 0};
  cuda.ReadNow(&read, report, sizeof read);
  if (read.first_bad == device::kNoBadId) return;
  const int64_t at = static_cast<int64_t>(read.first_bad), b = at / (columns + 1);
  const int64_t entry = at % (columns + 1);
  if (entry == 0) ThrowLength(op, b, read.bad, used.count, columns * kPageSize);
  ThrowPage(op, b, entry - 1, read.bad, pages);
}

size_t ScratchBytes(const PageAppendArgs&, int) { return std::max(kPageCheckBytes, kIdCheckBytes); }

void Run(const PageAppendArgs& args, Scratch scratch, Context& context) {
  auto& cuda = static_cast<CudaContext&>(context);
  RequirePages("page_append", args.page_table, args.lengths, args.k_pool.dim(0), UsedBy(args),
               scratch.data(), cuda);
  const IdCheck starts = CheckIds("page_append", args.table_start, LastTableStart(args) + 1,
                                  kIgnoreNone, scratch.data(), cuda);
  if (starts.first_bad >= 0) ThrowTableStart(args, starts.first_bad, starts.bad);
  RopeCall call;
  call.q = args.q;
  call.rotated_q = args.y;
  call.k = args.k;
  call.rotated_k = args.k_pool;
  call.v = args.v;
  call.v_pool = args.v_pool;
  call.cos = args.cos;
  call.sin = args.sin;
  call.page_table = args.page_table;
  call.lengths = args.lengths;
  call.table_start = args.table_start;
  LaunchRope("page_append", call, context);
}

template PlannedCall Plan(const PageAppendArgs&, int);
}  // namespace lora::cuda
