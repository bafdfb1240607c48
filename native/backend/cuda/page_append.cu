#include "backend/cuda/device/pages.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/pages.h"

namespace lora::cuda {

static_assert(sizeof(device::PageReport) <= kPageCheckBytes && device::kPageKeys == kPageSize);

void RequirePages(const char* op, const TensorView& page_table, const TensorView& lengths,
                  int64_t pages, const UsedPositions& used, void* scratch, CudaContext& cuda) {
  if (lengths.numel() == 0 || used.count == 0) return;  // the op touches no page
  const TensorView known_table = page_table.on_host(), known_lengths = lengths.on_host();
  if (known_table && known_lengths) return CheckPages(op, known_table, known_lengths, pages, used);
  auto* report = static_cast<device::PageReport*>(scratch);
  const int64_t columns = page_table.dim(1);
  device::LaunchShape shape;
  shape.shared_bytes = device::CheckPagesParams::kSharedBytes;
  Launch<device::CheckPages>(
      op, cuda, shape,
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

namespace {

template <class T>
void Append(const PageAppendArgs& args, Context& context) {
  using Params = device::PageAppendParams<T>;
  Params params{};
  params.src = Data<const T>(args.src);
  params.pool = Data<T>(args.pool);
  params.table = Data<const int32_t>(args.page_table);
  params.lengths = Data<const int32_t>(args.lengths);
  params.vectors = static_cast<int64_t>(args.src.bytes() / sizeof(T));
  params.count = args.src.dim(1);
  params.heads = args.src.dim(2);
  params.width = args.src.dim(3) * static_cast<int64_t>(SizeOf(args.src.dtype)) /
                 static_cast<int64_t>(sizeof(T));
  params.max_pages = args.page_table.dim(1);
  Launch<device::PageAppend<T>>("page_append", context, Blocks(params.vectors, Params::kThreads),
                                params);
}

}  // namespace

size_t ScratchBytes(const PageAppendArgs&, int) { return kPageCheckBytes; }

void Run(const PageAppendArgs& args, Scratch scratch, Context& context) {
  RequirePages("page_append", args.page_table, args.lengths, args.pool.dim(0), UsedBy(args),
               scratch.data(), static_cast<CudaContext&>(context));
  if (args.src.numel() == 0) return;
  const size_t row = static_cast<size_t>(args.src.dim(3)) * SizeOf(args.src.dtype);
  const auto address = [](const TensorView& view) {
    return reinterpret_cast<uintptr_t>(view.data);
  };
  if (row % 16 == 0 && address(args.src) % 16 == 0 && address(args.pool) % 16 == 0)
    return Append<device::Vec16>(args, context);
  if (SizeOf(args.src.dtype) == 4) return Append<uint32_t>(args, context);
  Append<uint16_t>(args, context);
}

}  // namespace lora::cuda
